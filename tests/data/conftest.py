"""The folder of prepared TensorFlow Datasets, where there is one."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tfds_dir() -> str:
    folder = os.environ.get("TFDS_DATA_DIR", "")
    if not (Path(folder) / "mnist").is_dir():
        pytest.skip("TFDS_DATA_DIR names no folder with a prepared mnist")
    return folder
