"""Codes `(N, D)` that may be degenerate: constant, equal, or with few values."""

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

ROUNDING = 4 * float(np.finfo(np.float32).eps)  # relative difference below which float32 values count as equal

FEW = 5000  # with fewer examples, threads wait longer than they work: up to 50 times as long on a busy machine


def threads_for(count: int) -> threadpool_limits:
    """Limit libraries of linear algebra to one thread inside the block if there are few examples.

    Example:

        >>> with threads_for(600):
        ...     _ = np.linalg.svd(np.zeros((600, 8)))
    """
    return threadpool_limits(1 if count < FEW else None)


def as_codes(codes: Any, name: str = "latents") -> np.ndarray:
    """Return codes `(N, D)` as floats; a column that varies only by rounding becomes constant.

    Args:
        codes: numbers of any type.
        name: name of the codes for the message.

    Raises:
        ValueError: if the shape is wrong, there are no codes, or values are not finite.

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
        raise ValueError(f"Expected finite {name}. Received: {bad.sum()} of {len(codes)} rows with NaN or infinity")
    constant = np.ptp(codes, axis=0) <= ROUNDING * np.abs(codes).max(axis=0)
    return np.where(constant, codes[0], codes) if constant.any() else codes


def principal_components(codes: np.ndarray, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates `(N, count)` along the directions of most variance, and their variance shares `(count,)`.

    Missing directions (with fewer latents, fewer codes, or codes that are equal up to rounding) have coordinates and
    shares of 0. The largest coefficient of each direction is positive.

    Args:
        codes: result of `as_codes`.
        count: number of directions.

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
