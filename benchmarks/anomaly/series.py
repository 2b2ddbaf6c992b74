"""Series with known outliers, from the files in the PyPI packages aeon and mnist1d.

Run it in an environment of its own:

    python -m venv .venv-peers-series
    .venv-peers-series/bin/pip install aeon mnist1d
    .venv-peers-series/bin/python benchmarks/anomaly/series.py

It writes build/anomaly_series.npz, which `sets.py` reads, so that `run.py` and `peers.py` get the same arrays. The
packages contain the data; nothing is downloaded.

* Classes: the series of one or two classes are the outliers, and the others are ordinary.
* Long series: windows of 100 rows, one for each 10 rows. A window is an outlier if it contains a row that the data set
  marks. The training windows are those of its training series, which has no marked row.
"""

from importlib.metadata import version
from pathlib import Path

import aeon
import numpy as np
from aeon.datasets import load_classification
from mnist1d.data import get_dataset_args, make_dataset
from sets import SERIES_FILE

WINDOW, STRIDE = 100, 10
DATA = Path(aeon.__file__).parent / "datasets" / "data"
#: the classes that are outliers
CLASSES = {
    "ArrowHead": ["1", "2"],
    "BasicMotions": ["badminton"],
    "GunPoint": ["2"],
    "ItalyPowerDemand": ["2"],
    "JapaneseVowels": ["1"],
    "OSULeaf": ["6"],
}
#: files of the training and the test series
LONG = {
    "ecg": ("UnitTest/ecg-diff-count-3_TRAIN_NA.csv", "UnitTest/ecg-diff-count-3_TEST.csv"),
    "InternalBleeding": tuple(
        f"KDD-TSAD_135/135_UCR_Anomaly_InternalBleeding16_{part}.csv" for part in ("TRAIN", "TEST")
    ),
}


def windows(file: str) -> tuple[np.ndarray, np.ndarray]:
    """Return windows `(N, T, F)` of a file whose last column marks outliers, and whether each has a marked row."""
    rows = np.genfromtxt(DATA / file, delimiter=",", skip_header=1)[:, 1:]
    cut = np.lib.stride_tricks.sliding_window_view(rows, WINDOW, axis=0)[::STRIDE].swapaxes(1, 2)
    return cut[..., :-1], cut[..., -1].any(axis=1)


if __name__ == "__main__":
    arrays = {}
    for name, outlying in CLASSES.items():
        x, y = load_classification(name, load_equal_length=True)
        arrays |= {f"{name}/x": x.swapaxes(1, 2), f"{name}/outlying": np.isin(y, outlying)}
    digits = make_dataset(get_dataset_args())  # its seed is 42
    arrays |= {"mnist1d/x": digits["x"][..., None], "mnist1d/outlying": digits["y"] == 0}
    for name, (train, test) in LONG.items():
        (known, marked), (x, outlying) = windows(train), windows(test)
        assert not marked.any()
        arrays |= {f"{name}/train": known, f"{name}/x": x, f"{name}/outlying": outlying}
    SERIES_FILE.parent.mkdir(exist_ok=True)
    with SERIES_FILE.open("wb") as file:
        np.savez_compressed(file, **{key: value.astype("float32") for key, value in arrays.items()})
    for key, value in arrays.items():
        print(key, value.shape, int(value.sum()) if key.endswith("/outlying") else "")
    print({name: version(name) for name in ("aeon", "mnist1d")})
