"""Synthetic anomalies, by which a detector chooses its score without a known anomaly."""

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

BLOCKS = 4  # along each axis, for shuffling
PATCH = 3  # the part of each axis that a patch covers is 1/3


def synthetic_anomalies(images: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Return three kinds of anomalies, made from ordinary images alone.

    * "smooth": blurred images, simpler than the ordinary ones (a Gaussian with σ = an eighth of the size);
    * "shuffled": blocks of the rows and of the columns in another order, more complicated ones;
    * "pasted": a patch of another image in a random place, local defects (CutPaste, Li et al. 2021,
      https://arxiv.org/abs/2104.04015, §3.1).

    Args:
        images: `(N, H, W, C)`, two or more.
        seed: seed of the random choices.

    Returns:
        Arrays with the shape of `images`, by kind.

    Example:

        >>> images = np.random.default_rng(0).random((10, 28, 28, 1))
        >>> {kind: made.shape for kind, made in synthetic_anomalies(images).items()}
        {'smooth': (10, 28, 28, 1), 'shuffled': (10, 28, 28, 1), 'pasted': (10, 28, 28, 1)}
    """
    rng = np.random.default_rng(seed)
    _, height, width, _ = images.shape
    shuffled, pasted = images.copy(), images.copy()
    rows, columns = max(1, height // PATCH), max(1, width // PATCH)
    for i in range(len(images)):
        for axis in (0, 1):
            blocks = np.array_split(shuffled[i], BLOCKS, axis)
            shuffled[i] = np.concatenate([blocks[k] for k in np.roll(rng.permutation(BLOCKS), 1)], axis)
        other = images[(i + rng.integers(1, len(images))) % len(images)]
        (top, down), (left, right) = rng.integers(height - rows + 1, size=2), rng.integers(width - columns + 1, size=2)
        pasted[i, top : top + rows, left : left + columns] = other[down : down + rows, right : right + columns]
    smooth = gaussian_filter(images, sigma=(0, height / 8, width / 8, 0))
    return {"smooth": smooth, "shuffled": shuffled, "pasted": pasted}


def auroc_by_criterion(
    ordinary: Mapping[str, np.ndarray], anomalous: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, dict[str, float]]:
    """Return the AUROC of each criterion for each kind of anomaly.

    Args:
        ordinary: scores of ordinary images by criterion, `(N,)` each; higher is more anomalous.
        anomalous: the same for each kind of anomaly.

    Example:

        >>> auroc_by_criterion({"elbo": np.array([1.0, 2.0])}, {"smooth": {"elbo": np.array([0.0, 3.0])}})
        {'elbo': {'smooth': 0.5}}
    """
    found: dict[str, dict[str, float]] = {}
    for criterion, known in ordinary.items():
        for kind, scores in anomalous.items():
            labels = np.repeat([0, 1], [len(known), len(scores[criterion])])
            both = np.nan_to_num(np.concatenate([known, scores[criterion]]), nan=0.0)
            found.setdefault(criterion, {})[kind] = float(roc_auc_score(labels, both))
    return found
