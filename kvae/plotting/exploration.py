"""Figures of latent space: neighbours, directions, arithmetic, a map of thumbnails."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kvae.arguments import decimal
from kvae.features.directions import AttributeDirection, Direction, arithmetic, move
from kvae.features.maps import latent_plane
from kvae.features.search import latents_of, nearest
from kvae.plotting.style import (
    DPI,
    FAINT,
    INK,
    MAX_LEGEND,
    PlainFigure,
    channel_note,
    class_colours,
    class_name,
    rgb_of,
    tiled,
)

STEPS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
MAP_CELLS = 22  # thumbnails along a side of the map, at most
MAP_ASPECT = 4.0  # largest ratio of the sides of the map; longer images are compressed


def neighbours(images: Any, latents: Any, queries: Sequence[int] = range(6), k: int = 8) -> Figure:
    """Draw images, each beside its nearest neighbours in latent space.

    Args:
        images: `(N, H, W, C)`, two or more.
        latents: `(N, D)`, their latent means.
        queries: positions of the images whose neighbours are shown.
        k: number of neighbours of each image (N − 1 at most).

    Raises:
        ValueError: if there are fewer than two images, or latents are not finite.

    Example:

        >>> rng = np.random.default_rng(0)
        >>> figure = neighbours(rng.random((20, 8, 8, 1)), rng.normal(size=(20, 2)), queries=[3, 5], k=2)
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['image', 'nearest', '2.']
    """
    images, latents = np.asarray(images), np.asarray(latents)
    if len(images) < 2:
        raise ValueError(f"Expected two images or more. Received: {len(images)}")
    queries, k = [i for i in queries if i < len(images)], min(k, len(images) - 1)
    found = nearest(None, latents, latents[queries], k + 1).indices
    rows = [[i, *[j for j in others if j != i][:k]] for i, others in zip(queries, found, strict=True)]
    tiles = rgb_of(images)[np.array(rows)]  # (Q, k + 1, H, W, 3)
    return tiled(tiles, (), ["image", "nearest", *(f"{i}." for i in range(2, k + 1))], channels=images.shape[-1])


def direction_slider(
    model: Any, images: Any, along: Direction | AttributeDirection, steps: Sequence[float] = STEPS
) -> Figure:
    """Draw images moved along a direction in latent space.

    Each row begins with the original image; step 0 is its reconstruction.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder` without conditions.
        images: `(N, H, W, C)`.
        along: the result of `kvae.features.direction` or `kvae.features.attribute_direction`; a step of 1 is the
            distance between its two groups.
        steps: S multiples of the direction.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> along = Direction(np.array([1.0, 0.0], "float32"), 2.0)
        >>> len(direction_slider(vae, np.zeros((3, 8, 8, 1)), along).axes[0].get_xticks())
        7
    """
    images = np.asarray(images)
    moved = move(model, images, along, steps)
    shown = np.concatenate([images[:, None], moved], axis=1)
    labels = ["original", *(decimal(step, 1) if step else "0" for step in steps)]
    return tiled(rgb_of(shown, like=images), (), labels, channels=images.shape[-1])


def directions(model: Any, image: Any, found: Sequence[AttributeDirection], columns: int = 9) -> Figure:
    """Draw an image moved along several directions, one in each row, each from the low to the high end of its range.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder` without conditions.
        image: `(H, W, C)`.
        found: results of `kvae.features.attribute_direction`.
        columns: number of positions.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> labels = np.arange(50) % 2
        >>> z = 0.1 * np.random.default_rng(0).normal(size=(50, 2)) + labels[:, None]
        >>> smile = kvae.features.attribute_direction(vae, (z, labels), 1, "smile")
        >>> [text.get_text() for text in directions(vae, np.zeros((8, 8, 1)), [smile]).axes[0].get_yticklabels()]
        ['smile']
    """
    image = np.asarray(image)[None]
    z = latents_of(model, image)
    ends = [np.linspace(along.low, along.high, columns) - along.position(z[0]) for along in found]
    rows = [move(model, z, along, steps)[0] for along, steps in zip(found, ends)]
    return tiled(rgb_of(np.stack(rows), like=image), [along.name for along in found], channels=image.shape[-1])


def latent_arithmetic(model: Any, a: Any, b: Any, c: Any) -> Figure:
    """Draw a row for each three images a, b and c, with the decoded z(a) − z(b) + z(c), which is to c as a is to b.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder` without conditions.
        a, b, c: images `(N, H, W, C)`; images with the same position form a row.

    Raises:
        ValueError: if a shape is wrong.

    Example:

        >>> import kvae
        >>> vae, x = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1)), np.zeros((3, 8, 8, 1))
        >>> [label.get_text() for label in latent_arithmetic(vae, x, x, x).axes[0].get_xticklabels()]
        ['a', '− b', '+ c', '= a − b + c']
    """
    terms = [np.asarray(images) for images in (a, b, c)]
    if any(images.shape != terms[0].shape or images.ndim != 4 or not images.size for images in terms):
        raise ValueError(
            "Expected the same number of images (N, H, W, C), one or more, for a, b and c. "
            f"Received: {', '.join(str(images.shape) for images in terms)}"
        )
    originals = np.stack(terms, axis=1)  # (N, 3, H, W, C)
    latents = latents_of(model, originals.reshape(-1, *originals.shape[2:])).reshape(len(originals), 3, 1, -1)
    results = np.stack([arithmetic(model, *row) for row in latents])  # (N, 1, H, W, C)
    shown = np.concatenate([originals, results], axis=1)
    labels = ["a", "− b", "+ c", "= a − b + c"]
    return tiled(rgb_of(shown, like=originals), (), labels, channels=originals.shape[-1])


def thumbnail_map(
    images: Any, latents: Any, labels: Any = None, label_names: Sequence[str] = (), method: str = "tsne", seed: int = 0
) -> Figure:
    """Draw images at the position of their latents on a plane, as many as fit without overlap.

    Args:
        images: `(N, H, W, C)`.
        latents: `(N, D)`, their latent means.
        labels: `(N,)` integers that colour the frames; below 0 for an image without a label.
        label_names: names of the labels for the legend.
        method: "tsne" or "pca", see `kvae.features.latent_plane`.
        seed: seed of t-SNE.

    Example:

        >>> rng = np.random.default_rng(0)
        >>> figure = thumbnail_map(rng.random((40, 8, 8, 1)), rng.normal(size=(40, 4)), method="pca")
        >>> len(figure.axes[0].images) <= 40
        True
    """
    images, latents = np.asarray(images), np.asarray(latents)
    points = latent_plane(latents, method, seed)
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    cells = int(np.clip(round(1.3 * len(images) ** 0.5), 4, MAP_CELLS))
    places = np.where(span > 0, (points - low) / np.where(span > 0, span, 1), 0.5) * (cells - 1)
    nearest_cell = np.round(places).astype(int)
    off = np.abs(places - nearest_cell).max(axis=1)
    taken: dict[tuple[int, int], int] = {}
    for i in np.argsort(off, kind="stable"):  # each cell shows the image closest to its centre
        taken.setdefault((int(nearest_cell[i, 0]), int(nearest_cell[i, 1])), int(i))

    rgb, aspect = rgb_of(images), float(np.clip(images.shape[1] / images.shape[2], 1 / MAP_ASPECT, MAP_ASPECT))
    labels = None if labels is None else np.maximum(np.asarray(labels).reshape(-1).astype(int), -1)
    colours = {} if labels is None else class_colours(labels)
    legend = 1.3 if 1 < len(colours) <= MAX_LEGEND else 0.0
    side = 8.4
    figure = PlainFigure(figsize=(side + legend, side * aspect), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, side / (side + legend), 1))
    axes.axis("off")
    for (column, row), i in taken.items():
        frame = (column - 0.44, column + 0.44, row - 0.44, row + 0.44)
        axes.imshow(rgb[i], extent=frame, aspect="auto", interpolation="antialiased", zorder=1)
        colour = FAINT if labels is None else colours[int(labels[i])]
        axes.add_patch(
            Rectangle((frame[0], frame[2]), 0.88, 0.88, fill=False, edgecolor=colour, lw=0.8 if labels is None else 1.8)
        )
    axes.set(xlim=(-0.6, cells - 0.4), ylim=(-0.6, cells - 0.4))
    figure.text(0.01, 0.005, channel_note(images.shape[-1]), fontsize=8, color=INK)
    if legend:
        names = [class_name(label, label_names) for label in colours]
        handles = [Rectangle((0, 0), 1, 1, fill=False, edgecolor=colour, lw=2) for colour in colours.values()]
        figure.legend(handles, names, loc="center right", frameon=False, fontsize=9, labelcolor=INK, handlelength=0.9)
    return figure
