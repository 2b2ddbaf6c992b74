"""Parts of all figures: colours, tiles, labels, and saving."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kvae.files import atomic_file

DPI = 128  # a power of two: pixels / DPI * DPI is exact, so that image pixels land on whole screen pixels
WIDTH, TILE = 1100, 160  # largest width of a grid of images, and largest side of an image, in screen pixels
INK, FAINT, TRAIN, VALIDATION = "#2b2f36", "#c9cdd3", "#0072b2", "#d55e00"  # the last two: Okabe & Ito
# Petroff 2021, https://arxiv.org/abs/2107.02270: ten colours chosen for people with any colour vision.
PALETTE = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
           "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")  # fmt: skip
ACTIVE_NATS = 0.01
MAX_LEGEND = 20
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
TITLES = {"distortion": "Distortion  −E log p(x|z)", "rate": "Rate  KL(q ‖ p)", "elbo": "ELBO"}


class PlainFigure(Figure):
    """A figure that a notebook shows without `%matplotlib inline`."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi="figure")
        return buffer.getvalue()


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as a PNG atomically, make missing folders, and return the path."""
    options: dict[str, Any] = {"format": "png", "dpi": "figure", "metadata": {"Software": None}}
    with atomic_file(path) as temporary:
        figure.savefig(temporary, **options)
    return Path(path)


def as_args(condition: Any) -> tuple[Any, ...]:
    """Return the last argument of a model's methods, or no argument for a model without conditions."""
    return () if condition is None else (condition,)


def rgb_of(images: Any, like: Any = None) -> np.ndarray:
    """Convert images `(…, H, W, C)` to RGB `(…, H, W, 3)`; grey images are inverted if `like` would be.

    With two channels, the first is red and the second cyan, so that a pixel with 1 in both is white. With four or more
    channels, the first three are red, green and blue. (`channel_note` describes this.)
    """
    images = np.asarray(images, "float64")
    if images.shape[-1] == 2:
        images = images[..., [0, 1, 1]]
    elif images.shape[-1] > 3:
        images = images[..., :3]
    elif images.shape[-1] == 1:
        like = images if like is None else np.asarray(like)
        border = np.concatenate([like[..., [0, -1], :, :].ravel(), like[..., [0, -1], :].ravel()])
        images = 1 - images if np.median(border) < 0.1 else images
        images = images.repeat(3, axis=-1)
    bad = ~np.isfinite(images).all(axis=-1, keepdims=True)
    return np.where(bad, (1.0, 0.0, 1.0), np.clip(images, 0.0, 1.0))


def channel_note(channels: int) -> str:
    """Return a note with the colours of the channels, unless they are grey or RGB.

    Example:

        >>> channel_note(2), channel_note(3), channel_note(13)
        ('channel 0 red, 1 cyan', '', 'channels 0, 1, 2 of 13 as red, green, blue')
    """
    if channels == 2:
        return "channel 0 red, 1 cyan"
    return f"channels 0, 1, 2 of {channels} as red, green, blue" if channels > 3 else ""


def tiled(
    tiles: np.ndarray,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    gap: int | None = None,
    band: int = 0,
    channels: int = 3,
) -> Figure:
    """Draw tiles `(R, C, H, W, 3)` as one figure, with labels outside and more space after every `band` rows.

    A note below the tiles describes the colours, unless the images have one or three `channels`.
    """
    rows, columns, height, width, _ = tiles.shape
    gap = max(1, round(height / 24)) if gap is None else gap
    tops = [r * (height + gap) + (2 * gap * (r // band) if band else 0) for r in range(rows)]
    lefts = [c * (width + gap) for c in range(columns)]
    mosaic = np.ones((tops[-1] + height, lefts[-1] + width, 3))
    for r, top in enumerate(tops):
        for c, left in enumerate(lefts):
            mosaic[top : top + height, left : left + width] = tiles[r, c]
    h, w, _ = mosaic.shape
    scale = max(1, min(WIDTH // w, TILE // max(height, width))) if w <= WIDTH else min(1.0, 2 * WIDTH / w)
    left = 30 + max(map(len, row_labels)) * 9 if any(row_labels) else 0
    top, right = (30, 24) if any(column_labels) else (0, 0)
    note = channel_note(channels)
    bottom = 24 if note else 0
    size = max(left + round(w * scale) + right, 7 * len(note)), top + round(h * scale) + bottom
    figure = PlainFigure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI, facecolor="white")
    figure.text(left / size[0], 7 / size[1], note, fontsize=8, color=INK)
    axes = figure.add_axes((left / size[0], bottom / size[1], w * scale / size[0], h * scale / size[1]))
    axes.imshow(mosaic, interpolation="nearest" if scale >= 1 else "antialiased", aspect="auto")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK, top=True, labeltop=True, labelbottom=False)
    axes.set_yticks([t + (height - 1) / 2 for t in tops], row_labels or [""] * rows)
    axes.set_xticks([x + (width - 1) / 2 for x in lefts], column_labels or [""] * columns)
    return figure


def class_name(label: int, names: Sequence[str]) -> str:
    """Return the name of a class, or its number if the name is missing; a label below 0 is "unlabelled"."""
    return "unlabelled" if label < 0 else str(names[label]) if label < len(names) else str(label)


def class_colours(labels: np.ndarray) -> dict[int, Any]:
    """Return a colour for each class in the order of the legend; unlabelled images are grey and come last."""
    classes = [int(label) for label in np.unique(labels) if label >= 0]
    colours = PALETTE if len(classes) <= len(PALETTE) else matplotlib.colormaps["tab20"](range(20))
    unlabelled = {-1: FAINT} if np.any(labels < 0) else {}
    return {label: colours[i % len(colours)] for i, label in enumerate(classes)} | unlabelled


def chart(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = PlainFigure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    return figure, figure.subplots()


def style(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_facecolor("white")
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=10)
    axes.set_xlabel(x, fontsize=10, color=INK)
    axes.set_ylabel(y, fontsize=10, color=INK)
    axes.tick_params(labelsize=9, colors=INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)


def z_name(dimension: int) -> str:
    return "z" + str(dimension).translate(SUBSCRIPTS)
