"""Grids of images: reconstructions, samples, the manifold, traversals."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kvae.arguments import decimal
from kvae.evaluation.codes import as_codes
from kvae.features.levels import redraw
from kvae.plotting import series
from kvae.plotting.style import MAX_LEGEND, as_args, rgb_of, tiled, z_name


def _is_series(model: Any) -> bool:
    return len(getattr(model, "event_shape", ())) == 2


def image_grid(images: Any, columns: int | None = None) -> Figure:
    """Draw images `(N, H, W, C)` as a grid, row by row; every image pixel is a whole number of screen pixels.

    Args:
        images: images in [0, 1]. Two channels are drawn in red and cyan; of four or more channels, the first three are
            drawn in red, green and blue.
        columns: number of columns (default: the grid is about square).

    Raises:
        ValueError: if there are no images, or the shape is wrong.

    Example:

        >>> figure = image_grid(np.zeros((6, 8, 8, 1)), columns=3)
        >>> figure.axes[0].images[0].get_array().shape  # 2 × 3 images, gaps of one pixel, RGB
        (17, 26, 3)
    """
    images = np.asarray(images)
    if images.ndim != 4 or not images.size or (columns is not None and columns < 1):
        raise ValueError(
            f"Expected images of shape (N, H, W, C) with N >= 1 and columns >= 1. Received: {images.shape}, "
            f"columns={columns}"
        )
    n, height, width, channels = images.shape
    columns = min(n, columns or max(1, round(math.sqrt(n * height / width))))
    rows = -(-n // columns)
    tiles = np.ones((rows * columns, height, width, 3))  # white where there is no image
    tiles[:n] = rgb_of(images)
    return tiled(tiles.reshape(rows, columns, height, width, 3), channels=channels)


def reconstructions(model: Any, images: Any, columns: int = 8, condition: Any = None) -> Figure:
    """Draw images `(N, H, W, C)` above their reconstructions, in bands of `columns` pairs; series as lines."""
    if _is_series(model):
        return series.series_reconstructions(model, images, min(4, columns), condition)
    images = np.asarray(images)
    rebuilt = model.reconstruct(images, *as_args(condition))
    pairs = np.stack([rgb_of(images), rgb_of(rebuilt, like=images)])  # (2, N, H, W, 3)
    columns = min(columns, len(images))
    bands = -(-len(images) // columns)
    tiles = np.ones((2, bands * columns, *pairs.shape[2:]))
    tiles[:, : len(images)] = pairs
    tiles = tiles.reshape(2, bands, columns, *pairs.shape[2:]).swapaxes(0, 1)
    labels = ["original", "reconstruction"] * bands
    return tiled(tiles.reshape(-1, *tiles.shape[2:]), labels, band=2, channels=images.shape[-1])


def levels(model: Any, images: Any, columns: int = 10, seed: int = 0) -> Figure:
    """Draw images, and below them what the top levels of a hierarchy keep of them.

    Each row keeps one more level of the image's latents; the latents of the other levels are drawn from the prior
    (`kvae.features.redraw`). The last row are the reconstructions.

    Args:
        model: a VAE with a hierarchy of latents, without conditions.
        images: `(N, H, W, C)`; the first `columns` are drawn.
        seed: seed of the latents from the prior.

    Raises:
        ValueError: for a model without levels.
    """
    images = np.asarray(images)[:columns]
    count = len(model.decoder.level_sizes)
    rows = [images, *(redraw(model, images, keep, seed) for keep in range(1, count + 1))]
    labels = ["original", *(f"to {height}×{width}" for height, width in model.decoder.level_grids)]
    tiles = np.stack([rgb_of(row, like=images) for row in rows])
    return tiled(tiles, labels, channels=images.shape[-1])


def samples(model: Any, n: int = 64, seed: int = 0, condition: Any = None) -> Figure:
    """Draw a grid of `n` images from the prior: the mean of p(x|z) for each z ~ p(z). TypeError for an autoencoder.

    Of series, the first four are drawn as lines.
    """
    if _is_series(model):
        return series.series_samples(model, min(4, n), seed, condition)
    return image_grid(
        model.generate(n, seed=seed) if condition is None else model.generate(n, seed, condition=condition)
    )


def class_samples(model: Any, columns: int = 10, seed: int = 0, names: Sequence[str] = ()) -> Figure:
    """Draw the same latents for every class of a conditional model.

    Each row is a class (the first 20 are drawn), and each column is one latent vector.

    Args:
        columns: number of latents drawn from the prior.
        names: names of the classes.

    Raises:
        ValueError: if the model isn't conditional.
    """
    if model.condition_dim is None:
        raise ValueError(
            "Expected a conditional model. "
            f"Received: {type(model).__name__} with condition_dim=None; draw its images with `samples`"
        )
    classes = range(min(model.condition_dim, MAX_LEGEND))
    images = np.concatenate([model.generate(columns, seed, condition=c) for c in classes])
    labels = [str(names[c]) if c < len(names) else str(c) for c in classes]
    tiles = rgb_of(images).reshape(len(classes), columns, *images.shape[1:3], 3)
    return tiled(tiles, labels, channels=images.shape[-1])


def manifold(model: Any, steps: int = 20, condition: Any = None) -> Figure:
    """Draw the images of a two-dimensional latent space (Kingma & Welling 2014, figure 4).

    Latents are the quantiles (i + ½) / steps of the standard normal on each axis, so that every tile has the same prior
    probability. z₀ grows to the right, z₁ upwards.

    Raises:
        ValueError: if the model has no prior, or the number of latent dimensions isn't 2.
    """
    if model.latent_dim != 2 or not hasattr(model, "prior"):
        raise ValueError(
            "Expected a model with a prior and latent_dim=2. "
            f"Received: {type(model).__name__} with latent_dim={model.latent_dim}; draw its images with `traversals`"
        )
    quantiles = [NormalDist().inv_cdf((i + 0.5) / steps) for i in range(steps)]
    z = np.array([(x, y) for y in reversed(quantiles) for x in quantiles], "float32")  # top row: largest z₁
    images = np.asarray(model.decode(z, *as_args(condition)))
    tiles = rgb_of(images).reshape(steps, steps, *images.shape[1:3], 3)
    shown = {0, steps // 4, steps - 1 - steps // 4, steps - 1}
    ticks = [decimal(v) if i in shown else "" for i, v in enumerate(quantiles)]
    across = [f"{z_name(0)} →" if i == steps // 2 else tick for i, tick in enumerate(ticks)]
    up = [f"{z_name(1)} ↑" if i == steps // 2 else tick for i, tick in enumerate(ticks)]
    return tiled(tiles, up[::-1], across, gap=0, channels=images.shape[-1])


def traversals(
    model: Any,
    image: Any = None,
    dimensions: int | Sequence[int] = 8,
    steps: int = 11,
    kl: Any = None,
    latents: Any = None,
    condition: Any = None,
) -> Figure:
    """Draw a row for each latent dimension, which varies from −3 to 3 standard deviations; series as lines.

    Args:
        image: `(H, W, C)`: the other latents are those of this image (default: all at their mean).
        dimensions: the dimensions, in this order; or their number, the largest `kl` first.
        steps: number of images in a row.
        kl: `(D,)` nats, shown beside each row.
        latents: `(N, D)` latents of images, for the mean and standard deviation of each dimension (default: 0
            and 1, those of the standard normal prior). An autoencoder requires them.
        condition: condition of all images of a conditional model.

    Raises:
        ValueError: if a dimension is missing, there are fewer than 2 steps, or latents are not finite.
    """
    size = model.latent_dim
    if isinstance(dimensions, int):
        ranked = np.arange(size) if kl is None else np.argsort(-np.asarray(kl), kind="stable")
        dimensions = [int(d) for d in ranked[:dimensions]]
    if not len(dimensions) or min(dimensions) < 0 or max(dimensions) >= size or steps < 2:
        raise ValueError(f"Expected dimensions from 0 to {size - 1} and steps >= 2. Received: {dimensions}, {steps}")
    center = np.zeros(size) if latents is None else as_codes(latents).mean(axis=0)
    scale = np.ones(size) if latents is None else as_codes(latents).std(axis=0)
    base = center if image is None else np.asarray(model.encode_mean(np.asarray(image)[None], *as_args(condition)))[0]
    if _is_series(model):
        return series.series_traversals(model, dimensions, base, scale, kl, condition)
    offsets = np.linspace(-3.0, 3.0, steps)
    z = np.tile(base, (len(dimensions), steps, 1))  # (rows, steps, D)
    for row, d in enumerate(dimensions):
        z[row, :, d] = center[d] + offsets * scale[d]
    images = np.asarray(model.decode(z.reshape(-1, size).astype("float32"), *as_args(condition)))
    tiles = rgb_of(images).reshape(*z.shape[:2], *images.shape[1:3], 3)
    labels = [z_name(d) if kl is None else f"{z_name(d)} · {kl[d]:.2f} nats" for d in dimensions]
    return tiled(tiles, labels, [f"{decimal(v, 1)}σ" for v in offsets], channels=images.shape[-1])


def interpolations(model: Any, first: Any, second: Any, steps: int = 8, condition: Any = None) -> Figure:
    """Draw interpolations between images on straight lines in latent space.

    Each row is a pair of images, with the originals at both ends.

    Args:
        first, second: `(H, W, C)` or `(B, H, W, C)`.
        steps: number of images between the originals, including both reconstructions.
    """
    first, second = (np.asarray(x).reshape(-1, *np.shape(x)[-3:]) for x in (first, second))
    between = np.asarray(model.interpolate_images(first, second, steps, *as_args(condition)))  # (B, steps, H, W, C)
    tiles = np.concatenate([first[:, None], between, second[:, None]], axis=1)
    shares = [f"{100 * i / (steps - 1):.0f} %" for i in range(steps)]
    return tiled(rgb_of(tiles), (), ["original", *shares, "original"], channels=tiles.shape[-1])
