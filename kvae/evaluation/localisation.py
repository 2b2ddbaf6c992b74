"""How well maps of anomaly scores find the defective pixels: pixel AUROC and per-region overlap."""

from typing import Any

import numpy as np
from scipy.ndimage import label

from kvae.arguments import numbers, shown

#: a pixel and its eight neighbours in the same image are connected, as in the evaluation code of MVTec AD
NEIGHBOURS = np.pad(np.ones((1, 3, 3), bool), ((1, 1), (0, 0), (0, 0)))


def pixel_auroc(maps: Any, masks: Any) -> float:
    """Return the probability that a defective pixel has a higher score than an ordinary one; a tie counts half.

    It is the area under the ROC curve of all pixels of all images together (Bergmann et al. 2019, "MVTec AD",
    https://doi.org/10.1109/CVPR.2019.00982, section 4). Large defects dominate it; `per_region_overlap` gives every
    defect the same weight.

    Args:
        maps: anomaly score of each pixel, `(N, H, W)` or `(N, H, W, 1)` in any unit; higher is more anomalous. Sum over
            the channels of `kvae.features.AnomalyDetector.contributions` first.
        masks: whether each pixel is defective, booleans or 0 and 1 of the same shape, such as from
            `kvae.data.Data.masks`. Images without a defect count, too.

    Raises:
        ValueError: if the shapes differ, a score is NaN or infinite, a mask has other values than 0 and 1, or no pixel
            or every pixel is defective.

    Example:

        >>> maps = np.array([[[0.1, 0.2], [0.9, 0.8]]])
        >>> pixel_auroc(maps, [[[0, 0], [1, 0]]]), pixel_auroc(maps, [[[0, 0], [0, 1]]]).__round__(3)
        (1.0, 0.667)
    """
    from sklearn.metrics import roc_auc_score

    scores, defective = _checked(maps, masks)
    return float(roc_auc_score(defective.ravel(), scores.ravel()))


def per_region_overlap(maps: Any, masks: Any, max_false_positive_rate: float = 0.3) -> float:
    """Return the normalised area under the curve of the per-region overlap (AU-PRO), from 0 to 1.

    A region C_k is a connected set of defective pixels of one image (diagonal neighbours are connected), k = 1 … K. At
    a threshold t, P(t) are the pixels with scores >= t, and O the ordinary pixels of all images:

        PRO(t) = 1/K Σ_k |P(t) ∩ C_k| / |C_k|,    FPR(t) = |P(t) ∩ O| / |O|.

    The result is the integral of PRO over FPR from 0 to `max_false_positive_rate`, divided by that rate. Between two
    thresholds the curve is a straight line, so that equal scores count as if their order were random. A map without
    information has about half of that rate (0.15), not 0.5. The metric is that of Bergmann et al. 2020, "Uninformed
    Students", https://arxiv.org/abs/1911.02357, and of the benchmark of MVTec AD (Bergmann et al. 2021,
    https://doi.org/10.1007/s11263-020-01400-4, section on performance metrics), whose limit is 0.3.

    Args:
        maps: anomaly score of each pixel, `(N, H, W)` or `(N, H, W, 1)` in any unit; higher is more anomalous.
        masks: whether each pixel is defective, booleans or 0 and 1 of the same shape.
        max_false_positive_rate: end of the integral, above 0 and at most 1. The size of a good map's result depends on
            it: compare only results with the same limit.

    Raises:
        ValueError: if the limit is out of range, or as `pixel_auroc`.

    Example:

        >>> masks = np.zeros((2, 4, 4), bool)
        >>> masks[0, 0, 0] = masks[0, 2:, 2:] = True  # a small and a large defect; the second image has none
        >>> large = masks & (np.arange(4) >= 2)
        >>> per_region_overlap(masks, masks), per_region_overlap(large, masks).__round__(3)
        (1.0, 0.575)
    """
    if not 0 < max_false_positive_rate <= 1:
        raise ValueError(
            "Argument `max_false_positive_rate` must be above 0 and at most 1. "
            f"Received: max_false_positive_rate={max_false_positive_rate}"
        )
    scores, defective = _checked(maps, masks)
    regions, count = label(defective, NEIGHBOURS)  # 0 is ordinary, 1 … K are the regions
    sizes = np.bincount(regions.ravel())
    order = np.argsort(-scores, axis=None, kind="stable")  # the threshold falls
    descending, region = scores.ravel()[order], regions.ravel()[order]
    is_last = np.append(descending[1:] != descending[:-1], True)  # of the pixels with equal scores
    ordinary = region == 0
    false_positive_rate = np.cumsum(ordinary)[is_last] / sizes[0]
    overlap = np.cumsum(np.where(ordinary, 0.0, 1.0 / sizes[region]))[is_last] / count
    x, y = np.append(0.0, false_positive_rate), np.append(0.0, overlap)
    end = np.searchsorted(x, max_false_positive_rate, side="right")
    y_end = np.interp(max_false_positive_rate, x[end - 1 : end + 1], y[end - 1 : end + 1])
    area = np.trapezoid(np.append(y[:end], y_end), np.append(x[:end], max_false_positive_rate))
    return float(min(1.0, area / max_false_positive_rate))


def _checked(maps: Any, masks: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return scores `(N, H, W)` float64 and masks `(N, H, W)` bool."""
    wanted = "must be an array of shape (N, H, W) or (N, H, W, 1)"
    scores = _plane("maps", numbers(f"Argument `maps` {wanted}", maps), wanted)
    found = _plane("masks", numbers(f"Argument `masks` {wanted}", masks), wanted)
    if scores.shape != found.shape:
        raise ValueError(
            "Expected `maps` and `masks` of the same shape; resize the masks with the nearest neighbour, as "
            f"`kvae.data.Data.masks` does. Received: maps of shape {scores.shape}, masks of shape {found.shape}"
        )
    if bad := np.count_nonzero(~np.isfinite(scores)):
        raise ValueError(f"Argument `maps` must be finite. Received: {bad} NaN or infinite scores")
    if not np.isin(found, (0, 1)).all():
        others = np.unique(found[~np.isin(found, (0, 1))])
        raise ValueError(
            "Argument `masks` must be booleans, or 0 and 1; threshold other values, such as `masks > 0` of files with "
            f"0 and 255. Received: {shown(others[0])}"
        )
    defective = found.astype(bool)
    if not defective.any() or defective.all():
        which = "every pixel is defective" if defective.any() else "no pixel is defective"
        raise ValueError(f"Expected masks with defective pixels and ordinary pixels. Received: {which}")
    return scores.astype(np.float64), defective


def _plane(name: str, array: np.ndarray, wanted: str) -> np.ndarray:
    if array.ndim == 4 and array.shape[-1] == 1:
        return array[..., 0]
    if array.ndim != 3:
        hint = f"; sum over the channels: {name}.sum(axis=-1)" if array.ndim == 4 and name == "maps" else ""
        raise ValueError(f"Argument `{name}` {wanted}{hint}. Received: shape {array.shape}")
    return array
