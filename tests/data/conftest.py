"""The folder of prepared TensorFlow Datasets, if there is one."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tfds_dir() -> str:
    folder = os.environ.get("TFDS_DATA_DIR", "")
    if not (Path(folder) / "mnist").is_dir():
        pytest.skip("TFDS_DATA_DIR is not a folder with a prepared mnist")
    return folder
