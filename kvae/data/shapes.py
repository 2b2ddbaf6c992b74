"""White shapes on black, rendered from known factors."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from kvae.data.errors import DataError

CLASSES = ("square", "ellipse", "heart")
FACTORS = {"shape": 3, "scale": 6, "orientation": 8, "x": 16, "y": 16}
SIDE, STEPS = 32, 16  # pixels of an image, positions along each axis
BOX = 17  # side in pixels of a box around the largest shape
RADIUS = 8.0  # pixels, of a disc around the largest shape: no shape is cut off
SUBPIXELS = 8  # sample points along each side of a pixel


class FactorData(NamedTuple):
    """Images and their factors: integers 0 … size − 1, or continuous values, which have no sizes."""

    images: np.ndarray  # (N, H, W, C) float32 in [0, 1]
    factors: np.ndarray  # (N, F) int64, or float32 if they are continuous
    names: tuple[str, ...]
    sizes: tuple[int, ...]  # number of values of each factor; empty if they are continuous
    categorical: tuple[int, ...]  # indices of the factors whose values have no order


def shapes(n: int | None = None, seed: int = 0) -> FactorData:
    """Render squares, ellipses and hearts, 32×32×1, after dSprites (Matthey et al. 2017), in half a second.

    Five independent factors, 36,864 images in all: shape (3), scale (6, from half to full size), orientation (8
    over a quarter turn, within which no shape repeats itself), x and y (16 each, one pixel apart, y downwards).
    `kvae.data.load("shapes")` returns the same images with the shape as label.

    Args:
        n: number of images, drawn without replacement; None for all, in the order of the factors, the last one
            fastest.
        seed: seed of the draw.

    Raises:
        DataError: if n is not in 1 … 36,864.

    Example:
        >>> data = shapes(100, seed=1)
        >>> data.images.shape, data.factors.shape
        ((100, 32, 32, 1), (100, 5))
        >>> dict(zip(data.names, data.sizes))
        {'shape': 3, 'scale': 6, 'orientation': 8, 'x': 16, 'y': 16}
    """
    factors = grid()
    if n is not None:
        if not 1 <= n <= len(factors):
            raise DataError(f"Argument 'n' must be in 1 … {len(factors):,}. Received: {n}")
        factors = factors[np.random.default_rng(seed).choice(len(factors), n, replace=False)]
    return FactorData(render(factors) / np.float32(255), factors, tuple(FACTORS), tuple(FACTORS.values()), (0,))


def grid() -> np.ndarray:
    """Return all combinations of the factors, (36864, 5) int64."""
    return np.indices(tuple(FACTORS.values())).reshape(len(FACTORS), -1).T


def render(factors: np.ndarray) -> np.ndarray:
    """Render factors (N, 5) as images (N, 32, 32, 1) uint8."""
    shape, scale, orientation, x, y = factors.T
    windows = np.lib.stride_tricks.sliding_window_view(_sprites(), (SIDE, SIDE), axis=(-2, -1))
    return windows[shape, scale, orientation, STEPS - 1 - y, STEPS - 1 - x][..., np.newaxis]


@cache
def _sprites() -> np.ndarray:
    """Render every shape, scale and orientation, uint8, with a black margin from which windows of SIDE are cut.

    The grey value is the fraction of a pixel's SUBPIXELS² sample points inside the shape.
    """
    axis = (np.arange(BOX * SUBPIXELS) + 0.5) / SUBPIXELS - BOX / 2
    right, up = axis[np.newaxis, :], -axis[:, np.newaxis]  # pixels from the centre
    sprites = np.empty((*list(FACTORS.values())[:3], BOX, BOX), np.uint8)
    for i, radius in enumerate(np.linspace(RADIUS / 2, RADIUS, FACTORS["scale"])):
        for j, angle in enumerate(np.arange(FACTORS["orientation"]) * (np.pi / 2 / FACTORS["orientation"])):
            u = (np.cos(angle) * right + np.sin(angle) * up) / radius
            v = (np.cos(angle) * up - np.sin(angle) * right) / radius
            for k, inside in enumerate(_inside(u, v)):
                pixels = inside.reshape(BOX, SUBPIXELS, BOX, SUBPIXELS)
                sprites[k, i, j] = np.rint(255 * pixels.mean(axis=(1, 3)))
    margin = (SIDE + STEPS - 1 - BOX) // 2
    return np.pad(sprites, [(0, 0)] * 3 + [(margin, margin)] * 2)


def _inside(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return whether points are in each shape of `CLASSES`; all three lie in the unit disc."""
    square = np.maximum(np.abs(u), np.abs(v)) <= np.sqrt(0.5)
    ellipse = u**2 + (2 * v) ** 2 <= 1
    a, b = (1.45 * u) ** 2, 1.45 * v
    heart = (a + b**2 - 1) ** 3 <= a * b**3
    return square, ellipse, heart
