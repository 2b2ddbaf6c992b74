"""The linear probe: what a linear classifier can read from the features, beside its controls."""

from typing import Any, NamedTuple

import numpy as np

C_GRID = (0.01, 0.1, 1.0, 10.0)


class ProbeRow(NamedTuple):
    """One line of the probe's table."""

    features: str
    size: int
    accuracy: float


def linear_probe(
    train: dict[str, np.ndarray],
    train_labels: np.ndarray,
    test: dict[str, np.ndarray],
    test_labels: np.ndarray,
) -> list[ProbeRow]:
    """Test accuracy of logistic regression on each set of features (Alain & Bengio 2016).

    Features are not rescaled: scaling a dead latent up to unit variance makes it noise. The strength of the
    L2 penalty is chosen from `C_GRID` on the last fifth of the training examples, for every set alike.

    Args:
        train, test: arrays `(N, …)` by name; anything but the first axis is flattened.
        train_labels, test_labels: integers `(N,)`.

    Raises:
        ValueError: if there are fewer than 10 training examples or only one class.

    Example:

        >>> from sklearn.datasets import load_digits
        >>> x, y = load_digits(return_X_y=True)
        >>> [row] = linear_probe({"raw pixels": x[:1000] / 16}, y[:1000], {"raw pixels": x[1000:] / 16}, y[1000:])
        >>> row.size, row.accuracy > 0.85
        (64, True)
    """
    if len(train_labels) < 10 or len(np.unique(train_labels)) < 2:
        raise ValueError(
            "A probe needs at least 10 labelled training examples of two classes. "
            f"Received: {len(train_labels)} examples of {len(np.unique(train_labels))} classes"
        )
    return [
        ProbeRow(name, _flat(x).shape[1], _accuracy(_flat(x), train_labels, _flat(test[name]), test_labels))
        for name, x in train.items()
    ]


def probe_with_controls(
    train: dict[str, np.ndarray],
    train_images: np.ndarray,
    test: dict[str, np.ndarray],
    test_images: np.ndarray,
) -> list[ProbeRow]:
    """The probe on z mean and the last hidden layer, beside raw pixels and as many principal components as latents.

    Args:
        train, test: what `kvae.features.extract` returns, with `label`.
        train_images, test_images: the same images, `(N, H, W, C)`.
    """
    from sklearn.decomposition import PCA

    raw, raw_test = _flat(train_images), _flat(test_images)
    size = min(train["mean"].shape[1], *raw.shape)
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


def _accuracy(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> float:
    cut = len(x) * 4 // 5
    scores = [_fit(x[:cut], y[:cut], c).score(x[cut:], y[cut:]) for c in C_GRID]
    return float(_fit(x, y, C_GRID[int(np.argmax(scores))]).score(x_test, y_test))


def _fit(x: np.ndarray, y: np.ndarray, c: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, max_iter=300).fit(x, y)
