"""Codes `(N, D)` that may be degenerate: constant, equal, or a few values only."""

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

ROUNDING = 4 * float(np.finfo(np.float32).eps)  # relative: what float32 can't tell from equal

FEW = 5000  # examples: for fewer, threads wait for each other longer than they work; on a busy machine 50 times as long


def threads_for(count: int) -> threadpool_limits:
    """Inside, libraries of linear algebra compute in one thread if there are few examples.

    Example:

        >>> with threads_for(600):
        ...     _ = np.linalg.svd(np.zeros((600, 8)))
    """
    return threadpool_limits(1 if count < FEW else None)


def as_codes(codes: Any, name: str = "latents") -> np.ndarray:
    """Codes `(N, D)` as floats; a column that varies by rounding alone becomes constant.

    Args:
        codes: numbers of any type.
        name: what they are, for the message.

    Raises:
        ValueError: for another shape, no codes, or values that are not finite.

    Example:

        >>> as_codes([[1, 5.0], [2, 5.0 + 1e-9]]).tolist()
        [[1.0, 5.0], [2.0, 5.0]]
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or not codes.size:
        raise ValueError(f"Expected {name} of shape (N, D). Received: shape {codes.shape}")
    codes = codes.astype(np.result_type(codes, np.float32), copy=False)
    bad = ~np.isfinite(codes).all(axis=1)
    if bad.any():
        raise ValueError(f"Expected finite {name}. Received: {bad.sum()} of {len(codes)} with NaN or infinite values")
    constant = np.ptp(codes, axis=0) <= ROUNDING * np.abs(codes).max(axis=0)
    return np.where(constant, codes[0], codes) if constant.any() else codes


def principal_components(codes: np.ndarray, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along the directions of most variance, `(N, count)`, and their shares of the variance, `(count,)`.

    Directions that aren't there (fewer latents, fewer codes, codes that are equal but for rounding) have coordinates
    and shares of 0. Each points to where the latent that it has most of grows.

    Args:
        codes: from `as_codes`.
        count: how many directions.

    Example:

        >>> points, shares = principal_components(np.array([[0.0, 2.0, 1.0], [0.0, -2.0, 1.0], [0.0, 0.0, 1.0]]))
        >>> (points + 0.0).tolist(), shares.tolist()
        ([[2.0, 0.0], [-2.0, 0.0], [0.0, 0.0]], [1.0, 0.0])
    """
    points, shares = np.zeros((len(codes), count)), np.zeros(count)
    centred = np.where(np.ptp(codes, axis=0) > 0, codes - codes.mean(axis=0, dtype=np.float64), 0.0)
    scale = np.abs(centred).max()
    if scale > ROUNDING * np.abs(codes).max():
        with threads_for(len(codes)):
            u, s, v = np.linalg.svd(centred / scale, full_matrices=False)
        found = min(count, len(s))
        signs = np.sign(np.take_along_axis(v, np.abs(v).argmax(axis=1)[:, None], axis=1))[:, 0]
        points[:, :found] = (scale * u * s * signs)[:, :found]
        shares[:found] = (s**2 / np.sum(s**2))[:found]
    return points, shares
