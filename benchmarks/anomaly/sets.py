"""Tables and series with known outliers, and their splits: the same arrays for every detector.

Requires NumPy and scikit-learn. Series are there after `series.py` has written them.

Real tables: one class of a table of scikit-learn is the outliers. Synthetic outliers follow ADBench (Han et al. 2022,
https://arxiv.org/abs/2206.09426, §3.2), with a Gaussian mixture as the model of ordinary rows:

* local: the covariances of the mixture are multiplied by 5;
* global: uniform in a box that is 1.1 times as large as that of the ordinary rows;
* cluster: the means of the mixture are multiplied by 5;
* dependency: each column is drawn independently of the others, from its own values.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine, make_blobs, make_moons
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

SERIES_FILE = Path(__file__).resolve().parents[2] / "build" / "anomaly_series.npz"
SEEDS = range(5)
PROTOCOLS = ("contaminated", "novelty")
TEST_SHARE = 0.3
OUTLIERS = 0.1  # outliers for each ordinary row, at most
ROWS = 500  # ordinary rows of a generated table

Table = tuple[np.ndarray, np.ndarray]  # rows (N, columns), and whether each is an outlier (N,)


def real(load: Callable[..., Table], outlying: list[int], ordinary: list[int] | None = None) -> Callable[[int], Table]:
    """Return a table whose outliers are the rows of some classes, a random part of them for each seed."""

    def table(seed: int) -> Table:
        x, y = load(return_X_y=True)
        inliers = x[np.isin(y, ordinary) if ordinary else ~np.isin(y, outlying)]
        outliers = np.random.default_rng(seed).permutation(x[np.isin(y, outlying)])
        return _joined(inliers, outliers[: round(OUTLIERS * len(inliers))])

    return table


def clusters(seed: int) -> GaussianMixture:
    """Return a mixture of three correlated normal distributions in 10 dimensions."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(3, 10, 4))
    rows = [
        center + rng.normal(size=(1000, 4)) @ factor.T + 0.3 * rng.normal(size=(1000, 10))
        for center, factor in zip(3 * rng.normal(size=(3, 10)), factors, strict=True)
    ]
    return GaussianMixture(3, random_state=seed).fit(np.concatenate(rows))


def diabetes(seed: int) -> GaussianMixture:
    """Return a mixture fitted to the standardised columns of the diabetes table, without the binary column."""
    x = np.delete(load_diabetes(return_X_y=True)[0], 1, axis=1)
    return GaussianMixture(3, random_state=seed, reg_covar=1e-2).fit(StandardScaler().fit_transform(x))


def synthetic(mixture: Callable[[int], GaussianMixture], kind: str, rows: int = ROWS) -> Callable[[int], Table]:
    """Return a table of rows of a mixture, and outliers of one of the kinds above."""

    def table(seed: int) -> Table:
        model, rng, count = mixture(seed), np.random.default_rng(seed), round(OUTLIERS * rows)
        inliers = model.sample(rows)[0]
        if kind == "local":
            model.covariances_ = 5 * model.covariances_
            outliers = model.sample(count)[0]
        elif kind == "global":
            outliers = in_box(inliers, count, rng)
        elif kind == "cluster":
            model.means_ = 5 * model.means_
            outliers = model.sample(count)[0]
        else:
            outliers = np.stack([rng.choice(column, count) for column in inliers.T], axis=1)
        return _joined(inliers, outliers)

    return table


def in_box(inliers: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return rows that are uniform in a box around `inliers`, 1.1 times as large as theirs."""
    center, half = (inliers.max(axis=0) + inliers.min(axis=0)) / 2, np.ptp(inliers, axis=0) / 2
    return center + 1.1 * half * rng.uniform(-1, 1, (count, inliers.shape[1]))


def moons(seed: int) -> Table:
    inliers = make_moons(ROWS, noise=0.05, random_state=seed)[0]
    return _joined(inliers, in_box(inliers, round(OUTLIERS * ROWS), np.random.default_rng(seed)))


def blobs(seed: int) -> Table:
    inliers = make_blobs(ROWS, n_features=4, centers=8, random_state=seed)[0]
    return _joined(inliers, in_box(inliers, round(OUTLIERS * ROWS), np.random.default_rng(seed)))


def series(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the series `(N, T, F)` of a data set, whether each is an outlier, and its training series, if it has some.

    They don't depend on a seed.
    """
    with np.load(SERIES_FILE) as arrays:
        return arrays[f"{name}/x"], arrays[f"{name}/outlying"] > 0, arrays.get(f"{name}/train")


def _joined(inliers: np.ndarray, outliers: np.ndarray) -> Table:
    return np.concatenate([inliers, outliers]), np.repeat([False, True], [len(inliers), len(outliers)])


KINDS = ("local", "global", "cluster", "dependency")
#: the tables on which defaults were chosen
CHOSEN_ON: dict[str, Callable[[int], Table]] = {
    "wine": real(load_wine, [0]),
    "breast_cancer": real(load_breast_cancer, [0]),
    "digits, 0 is the outlier": real(load_digits, [0]),
    **{f"clusters, {kind}": synthetic(clusters, kind, rows=1000) for kind in KINDS},
}
#: tables that no choice depends on
HELD_OUT: dict[str, Callable[[int], Table]] = {
    "digits, 9 is the outlier": real(load_digits, [9]),
    "digits, only 3 is ordinary": real(load_digits, [0, 1, 2, 4, 5, 6, 7, 8, 9], [3]),
    **{f"diabetes, {kind}": synthetic(diabetes, kind) for kind in KINDS},
    "moons": moons,
    "blobs": blobs,
}
TABLES = CHOSEN_ON | HELD_OUT
SERIES = (
    "ArrowHead", "BasicMotions", "GunPoint", "ItalyPowerDemand", "JapaneseVowels", "OSULeaf", "mnist1d", "ecg",
    "InternalBleeding",
)  # fmt: skip
#: names of the tables, and of the series if there are some
NAMES = (*TABLES, *(SERIES if SERIES_FILE.is_file() else ()))


def protocols(name: str) -> tuple[str, ...]:
    """Return the protocols of a table or of series."""
    return ("novelty",) if name in SERIES else PROTOCOLS


def split(name: str, protocol: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return training rows, test rows, and whether each test row is an outlier.

    "contaminated": 70% of all rows, then the other 30%. "novelty": 70% of the ordinary rows, then the other 30% and all
    outliers. Data sets with training series of their own keep these. Columns, or the features of series, have mean 0
    and variance 1 over the training rows.
    """
    x, y, known = series(name) if name in SERIES else (*TABLES[name](seed), None)
    if known is not None:
        return *_standardised(known, x), y
    train, test = train_test_split(np.arange(len(x)), test_size=TEST_SHARE, stratify=y, random_state=seed)
    if protocol == "novelty":
        train, test = train[~y[train]], np.concatenate([test, train[y[train]]])
    return *_standardised(x[train], x[test]), y[test]


def _standardised(known: np.ndarray, unseen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return training and test rows with the means and variances of the training rows removed, as float32."""
    scaler, columns = StandardScaler(), known.shape[-1]
    scaler.fit(known.reshape(-1, columns))
    known, unseen = (scaler.transform(part.reshape(-1, columns)).reshape(part.shape) for part in (known, unseen))
    return known.astype("float32"), unseen.astype("float32")
