"""Linear probes: the accuracy of linear classifiers on features, compared with controls."""

from typing import Any, NamedTuple

import numpy as np

from kvae.evaluation.codes import as_codes, threads_for

C_GRID = (0.01, 0.1, 1.0, 10.0)


class ProbeRow(NamedTuple):
    """A row of the probe's table."""

    features: str
    size: int
    accuracy: float


def linear_probe(
    train: dict[str, np.ndarray],
    train_labels: np.ndarray,
    test: dict[str, np.ndarray],
    test_labels: np.ndarray,
) -> list[ProbeRow]:
    """Return the test accuracy of logistic regression on each set of features (Alain & Bengio 2016).

    Features are not rescaled, because an inactive latent scaled to unit variance would be noise. The strength of the
    L2 penalty is chosen from `C_GRID` on the last fifth of each class's training examples, for each set of features.

    Args:
        train, test: arrays `(N, …)` by name; all axes except the first are flattened.
        train_labels, test_labels: integers `(N,)`; examples with a label below 0 are unlabelled and left out.

    Raises:
        ValueError: if there are fewer than 10 labelled training examples, if no two classes have two of them each, if
            there is no labelled test example, or if features are not finite.

    Example:

        >>> from sklearn.datasets import load_digits
        >>> x, y = load_digits(return_X_y=True)
        >>> [row] = linear_probe({"raw pixels": x[:1000] / 16}, y[:1000], {"raw pixels": x[1000:] / 16}, y[1000:])
        >>> row.size, row.accuracy > 0.85
        (64, True)
    """
    rows = []
    for name, x in train.items():
        probe = fit_probe(x, train_labels, name)
        rows.append(ProbeRow(name, probe.n_features_in_, score_probe(probe, test[name], test_labels, name)))
    return rows


def fit_probe(features: np.ndarray, labels: np.ndarray, name: str = "features") -> Any:
    """Fit the logistic regression of `linear_probe` on one set of features, called `name` in messages."""
    known = np.asarray(labels) >= 0
    y = np.asarray(labels)[known]
    counts = np.unique(y, return_counts=True)[1]
    if len(y) < 10 or np.sum(counts > 1) < 2:
        raise ValueError(
            "Expected at least 10 labelled training examples, two or more in each of two classes. "
            f"Received: {len(y)} examples of {len(counts)} classes"
        )
    x, held_out = as_codes(_flat(features), name)[known], last_fifth(y)
    with threads_for(len(y)):
        scores = [_fit(x[~held_out], y[~held_out], c).score(x[held_out], y[held_out]) for c in C_GRID]
        return _fit(x, y, C_GRID[int(np.argmax(scores))])


def score_probe(probe: Any, features: np.ndarray, labels: np.ndarray, name: str = "features") -> float:
    """Return the accuracy of a fitted probe on the labelled examples."""
    known = np.asarray(labels) >= 0
    if not known.any():
        raise ValueError(f"Expected labelled test examples. Received: {len(known)} examples without a label")
    x = as_codes(_flat(features), name)[known]
    with threads_for(len(x)):
        return float(probe.score(x, np.asarray(labels)[known]))


def probe_with_controls(
    train: dict[str, np.ndarray],
    train_images: np.ndarray,
    test: dict[str, np.ndarray],
    test_images: np.ndarray,
) -> list[ProbeRow]:
    """Probe z mean and the last hidden layer; the controls are raw pixels and as many principal components as latents.

    Args:
        train, test: results of `kvae.features.extract` with `label`.
        train_images, test_images: the same images, `(N, H, W, C)`.
    """
    from sklearn.decomposition import PCA

    raw, raw_test = _flat(train_images), _flat(test_images)
    size = min(train["mean"].shape[1], *raw.shape)
    # Equal images have no variance to divide by.
    with np.errstate(divide="ignore", invalid="ignore"), threads_for(len(raw)):
        pca = PCA(size, random_state=0).fit(raw)
    features = {"z mean": (train["mean"], test["mean"])}
    if "hidden" in train:
        features["last hidden layer"] = (train["hidden"], test["hidden"])
    features["PCA (control)"] = (pca.transform(raw), pca.transform(raw_test))
    features["raw pixels (control)"] = (raw, raw_test)
    return linear_probe(
        {name: pair[0] for name, pair in features.items()},
        train["label"],
        {name: pair[1] for name, pair in features.items()},
        test["label"],
    )


def _flat(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32).reshape(len(x), -1)


def last_fifth(y: np.ndarray) -> np.ndarray:
    """Return the last fifth of each class, `(N,)` bool: at least one example of a class with two or more."""
    held_out = np.zeros(len(y), bool)
    for label in np.unique(y):
        own = np.flatnonzero(y == label)
        held_out[own[max(1, len(own) * 4 // 5) :]] = True
    return held_out


def _fit(x: np.ndarray, y: np.ndarray, c: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, max_iter=300).fit(x, y)
