"""Figures of a model and of its training: each function gives a `matplotlib.figure.Figure`.

Figures are built without pyplot: no backend is chosen, nothing is registered, and nothing has to be closed.

    >>> import numpy as np
    >>> from kvae import plotting
    >>> plotting.image_grid(np.zeros((6, 8, 8, 1)), columns=3).axes[0].images[0].get_array().shape
    (17, 26, 3)

Grey images on a black ground (digits) are drawn dark on light, other images as they are; pixels are clipped to
[0, 1], and a pixel that isn't a number is magenta. Latents are counted from 0, as in code.
"""

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from kvae.files import atomic_file

DPI = 128  # a power of two: pixels / DPI * DPI is exact, so that image pixels land on whole screen pixels
WIDTH, TILE = 1100, 160  # screen pixels: of a grid of images, and of one image at most
INK, FAINT, TRAIN, VALIDATION = "#2b2f36", "#c9cdd3", "#0072b2", "#d55e00"  # the last two: Okabe & Ito
# Petroff 2021, https://arxiv.org/abs/2107.02270: ten colours chosen for people with any colour vision.
PALETTE = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
           "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")  # fmt: skip
ACTIVE_NATS = 0.01
MAX_LEGEND = 20
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
TITLES = {"distortion": "Distortion  −E log p(x|z)", "rate": "Rate  KL(q ‖ p)", "elbo": "ELBO"}


class _Figure(Figure):
    """A figure that a notebook shows without `%matplotlib inline`."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi="figure")
        return buffer.getvalue()


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as a PNG, whole or not at all; folders are made as needed. Returns the path."""
    options: dict[str, Any] = {"format": "png", "dpi": "figure", "metadata": {"Software": None}}
    with atomic_file(path) as temporary:
        figure.savefig(temporary, **options)
    return Path(path)


# Charts.


def learning_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Distortion, rate and ELBO by epoch, training and validation, in nats per image.

    Args:
        history: `model.fit(...).history`, or the columns of a `CSVLogger` file: `distortion`, `rate`, `elbo`
            (those that are there), the same with `val_`, and `epoch`, counted from 0, if known. First epochs
            far above the others leave the frame.

    Raises:
        ValueError: if there is none of the three.

    Example:

        >>> figure = learning_curves({"distortion": [9.0, 7.0], "val_distortion": [9.5, 8.0], "rate": [1.0, 2.0]})
        >>> len(figure.axes)
        2
    """
    names = [name for name in TITLES if len(history.get(name, ()))]
    if not names:
        raise ValueError(f"A history must have one of {', '.join(TITLES)}. Received: {sorted(history)}")
    figure = _Figure(figsize=(3.3 * len(names) + 0.4, 3.2), dpi=DPI, facecolor="white", layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for name, axes in zip(names, panels):
        _style(axes, TITLES[name], "epoch", "nats per image" if name == names[0] else "")
        for key, label, color in ((name, "training", TRAIN), (f"val_{name}", "validation", VALIDATION)):
            values = history.get(key, ())
            epochs = [epoch + 1 for epoch in history.get("epoch", range(len(values)))]
            if len(values):
                marker = "o" if len(values) < 12 else None
                axes.plot(epochs, values, color=color, label=label, marker=marker, linewidth=1.8, markersize=4)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(color=FAINT, lw=0.5, alpha=0.6)
        axes.set_ylim(_frame([history[key] for key in (name, f"val_{name}") if key in history]))
    panels[0].legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _frame(curves: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Limits of the y axis that show how learning ends, where the first tenth would take up most of the height."""
    late = np.concatenate([curve[max(1, len(curve) // 10) :] for curve in curves])
    everything = np.concatenate(curves)
    late, everything = late[np.isfinite(late)], everything[np.isfinite(everything)]
    if len(late) < 6 or np.ptp(everything) <= 3 * np.ptp(late) or not np.ptp(late):
        return None
    return late.min() - 0.08 * np.ptp(late), late.max() + 0.08 * np.ptp(late)


def kl_per_dimension(kl: Any, active: Any = None) -> Figure:
    """KL(q(z_d|x) ‖ N(0, 1)) of each latent dimension, in nats, the largest first.

    Args:
        kl: `(D,)`, means over images.
        active: `(D,)` booleans, which dimensions to call active (default: more than 0.01 nats).

    Raises:
        ValueError: for another shape.

    Example:

        >>> kl_per_dimension([0.0, 1.5, 0.7]).axes[0].get_title(loc="left")
        '2 of 3 dimensions active · 2.2 nats in all'
    """
    kl = np.asarray(kl, "float64")
    active = kl > ACTIVE_NATS if active is None else np.asarray(active, bool)
    if kl.ndim != 1 or not kl.size or active.shape != kl.shape:
        raise ValueError(f"Expected `kl` and `active` of shape (D,). Received: {kl.shape} and {active.shape}")
    order = np.argsort(-kl, kind="stable")
    figure, axes = _chart((7.2, 3.2))
    heights, colors = kl[order], np.where(active[order], TRAIN, FAINT)
    axes.bar(range(len(kl)), heights, color=colors, width=0.8 if len(kl) <= 64 else 1.0)
    total = f"{active.sum()} of {len(kl)} dimensions active · {kl.sum():.1f} nats in all"
    _style(axes, total, "latent dimension, by its KL", "nats per image")
    shown = np.unique(np.linspace(0, len(kl) - 1, min(len(kl), 24)).astype(int))
    axes.set_xticks(shown, [str(order[i]) for i in shown])
    axes.set_xlim(-0.7, max(len(kl), 4) - 0.3)
    finite = kl[np.isfinite(kl)]
    axes.set_ylim(min([0.0, *finite]), max([10 * ACTIVE_NATS, *(1.08 * finite)]))
    return figure


def latent_map(means: Any, labels: Any = None, label_names: Sequence[str] = ()) -> Figure:
    """Where images lie in latent space: a scatter of their latents, coloured by label.

    Two dimensions are drawn as they are, more as their two principal components (the axes say which share of
    the variance each has), one as a strip with a row for each label.

    Args:
        means: `(N, D)`, for example `vae.encode(images).mean`.
        labels: `(N,)` integers, or None.
        label_names: name of label 0, 1, …; numbers are shown where there is none.

    Raises:
        ValueError: for other shapes.

    Example:

        >>> figure = latent_map(np.eye(5), labels=[0, 0, 1, 1, 1], label_names=("cat", "dog"))
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['cat', 'dog']
    """
    means = np.asarray(means, "float64")
    labels = None if labels is None else np.asarray(labels).reshape(-1).astype(int)
    if means.ndim != 2 or not means.size or (labels is not None and len(labels) != len(means)):
        raise ValueError(
            f"Expected `means` of shape (N, D) and `labels` of shape (N,). Received: {means.shape} and "
            f"{None if labels is None else labels.shape}"
        )
    points, names = _plane(means, labels)
    figure, axes = _chart((7.2, 6.0 if means.shape[1] > 1 else 3.4))
    _style(axes, "", *names)
    strip = means.shape[1] == 1
    if strip:
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    else:
        axes.set_aspect("equal", adjustable="datalim")
    dots: dict[str, Any] = {"s": float(np.clip(16000 / len(points), 4, 36)), "alpha": 0.75, "lw": 0}
    classes = [] if labels is None else sorted({int(label) for label in labels})
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], color=TRAIN, **dots)
    elif len(classes) > MAX_LEGEND:
        drawn = axes.scatter(points[:, 0], points[:, 1], c=labels, cmap="viridis", **dots)
        figure.colorbar(drawn, ax=axes, label="label", shrink=0.6)
    else:
        colors = PALETTE if len(classes) <= len(PALETTE) else matplotlib.colormaps["tab20"](range(20))
        for color, label in zip(colors, classes):
            name = str(label_names[label]) if 0 <= label < len(label_names) else str(label)
            x, y = points[labels == label].T
            axes.scatter(x, y, color=color, label=name, **dots)
            halo = [withStroke(linewidth=3, foreground="white")]
            if not strip:
                middle = float(np.median(x)), float(np.median(y))
                axes.text(*middle, name, ha="center", va="center", size=11, weight="bold", color=INK, path_effects=halo)
        legend = figure.legend(loc="outside right center", frameon=False, fontsize=9, labelcolor=INK)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set(alpha=1.0, sizes=[30])
    return figure


def _plane(means: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, tuple[str, str]]:
    """Points `(N, 2)` for latents `(N, D)`, and what the two axes are."""
    if means.shape[1] == 1:
        row = np.zeros(len(means)) if labels is None else np.searchsorted(np.unique(labels), labels)
        jitter = np.random.default_rng(0).uniform(-0.35, 0.35, len(means))
        return np.stack([means[:, 0], jitter - row], axis=1), ("z", "")
    if means.shape[1] == 2:
        return means, (_z(0), _z(1))
    centred = means - means.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    share = s**2 / max(float(np.sum(s**2)), 1e-30)
    points = np.zeros((len(means), 2))
    points[:, : min(2, len(s))] = (u * s)[:, :2]
    percent = [f"{100 * share[i]:.0f} % of the variance" if i < len(s) else "nothing left" for i in range(2)]
    of = f"of {means.shape[1]} latent dimensions"
    return points, (f"principal component 1 {of} ({percent[0]})", f"principal component 2 ({percent[1]})")


# Images.


def image_grid(images: Any, columns: int | None = None) -> Figure:
    """Images `(N, H, W, C)` as a grid, row by row; every image pixel is a whole number of screen pixels.

    Args:
        images: in [0, 1]; with C other than 1 and 3, the mean over channels is drawn.
        columns: how many (default: as many as make the grid about square).

    Raises:
        ValueError: for no images or another shape.

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
    n, height, width, _ = images.shape
    columns = min(n, columns or max(1, round(math.sqrt(n * height / width))))
    rows = -(-n // columns)
    tiles = np.ones((rows * columns, height, width, 3))  # white where there is no image
    tiles[:n] = _rgb(images)
    return _tiled(tiles.reshape(rows, columns, height, width, 3))


def reconstructions(model: Any, images: Any, columns: int = 8, condition: Any = None) -> Figure:
    """Images `(N, H, W, C)` above what the model makes of them, in bands of `columns` pairs."""
    images = np.asarray(images)
    rebuilt = model.reconstruct(images, *_given(condition))
    pairs = np.stack([_rgb(images), _rgb(rebuilt, like=images)])  # (2, N, H, W, 3)
    columns = min(columns, len(images))
    bands = -(-len(images) // columns)
    tiles = np.ones((2, bands * columns, *pairs.shape[2:]))
    tiles[:, : len(images)] = pairs
    tiles = tiles.reshape(2, bands, columns, *pairs.shape[2:]).swapaxes(0, 1)
    return _tiled(tiles.reshape(-1, *tiles.shape[2:]), ["original", "reconstruction"] * bands, band=2)


def samples(model: Any, n: int = 64, seed: int = 0, condition: Any = None) -> Figure:
    """A grid of `n` images from the prior: the mean of p(x|z) for each z ~ p(z). TypeError for an autoencoder."""
    return image_grid(model.sample(n, seed=seed) if condition is None else model.sample(n, seed, condition=condition))


def class_samples(model: Any, columns: int = 10, seed: int = 0, names: Sequence[str] = ()) -> Figure:
    """The same latents as every class of a conditional model: a row for each class (the first 20), z by column.

    Args:
        columns: latents drawn from the prior.
        names: of the classes.

    Raises:
        ValueError: if the model takes no condition.
    """
    if model.condition_dim is None:
        raise ValueError(
            "Samples of each class need a conditional model (`samples` shows others). Received: "
            f"{type(model).__name__} with condition_dim=None"
        )
    classes = range(min(model.condition_dim, MAX_LEGEND))
    images = np.concatenate([model.sample(columns, seed, condition=c) for c in classes])
    labels = [str(names[c]) if c < len(names) else str(c) for c in classes]
    return _tiled(_rgb(images).reshape(len(classes), columns, *images.shape[1:3], 3), labels)


def manifold(model: Any, steps: int = 20, condition: Any = None) -> Figure:
    """The images of a two-dimensional latent space (Kingma & Welling 2014, figure 4).

    Latents are the quantiles (i + ½) / steps of the standard normal on each axis, so that every tile stands for
    the same prior probability. z₀ grows to the right, z₁ upwards.

    Raises:
        ValueError: if the model has no prior, or another number of latent dimensions.
    """
    if model.latent_dim != 2 or not hasattr(model, "prior"):
        raise ValueError(
            "A manifold needs a model with a prior and latent_dim=2 (`traversals` shows others). Received: "
            f"{type(model).__name__} with latent_dim={model.latent_dim}"
        )
    quantiles = [NormalDist().inv_cdf((i + 0.5) / steps) for i in range(steps)]
    z = np.array([(x, y) for y in reversed(quantiles) for x in quantiles], "float32")  # top row: largest z₁
    images = np.asarray(model.decode(z, *_given(condition)))
    tiles = _rgb(images).reshape(steps, steps, *images.shape[1:3], 3)
    shown = {0, steps // 4, steps - 1 - steps // 4, steps - 1}
    ticks = [_number(v) if i in shown else "" for i, v in enumerate(quantiles)]
    across = [f"{_z(0)} →" if i == steps // 2 else tick for i, tick in enumerate(ticks)]
    up = [f"{_z(1)} ↑" if i == steps // 2 else tick for i, tick in enumerate(ticks)]
    return _tiled(tiles, up[::-1], across, gap=0)


def traversals(
    model: Any,
    image: Any = None,
    dimensions: int | Sequence[int] = 8,
    steps: int = 11,
    kl: Any = None,
    latents: Any = None,
    condition: Any = None,
) -> Figure:
    """One latent dimension at a time from −3 to 3 standard deviations: a row each.

    Args:
        image: `(H, W, C)`: the other latents are those of this image (default: all at their mean).
        dimensions: which, in this order; or how many, the largest `kl` first.
        steps: images in a row.
        kl: `(D,)` nats, said beside each row.
        latents: `(N, D)` latents of images that tell mean and standard deviation of each dimension (default: 0
            and 1, those of the standard normal prior). An autoencoder needs them.
        condition: of all images of a conditional model.

    Raises:
        ValueError: for a dimension that isn't there, or fewer than 2 steps.
    """
    size = model.latent_dim
    if isinstance(dimensions, int):
        ranked = np.arange(size) if kl is None else np.argsort(-np.asarray(kl), kind="stable")
        dimensions = [int(d) for d in ranked[:dimensions]]
    if not len(dimensions) or min(dimensions) < 0 or max(dimensions) >= size or steps < 2:
        raise ValueError(f"Expected dimensions from 0 to {size - 1} and steps >= 2. Received: {dimensions}, {steps}")
    center = np.zeros(size) if latents is None else np.mean(latents, axis=0)
    scale = np.ones(size) if latents is None else np.std(latents, axis=0)
    base = center if image is None else np.asarray(model.encode_mean(np.asarray(image)[None], *_given(condition)))[0]
    offsets = np.linspace(-3.0, 3.0, steps)
    z = np.tile(base, (len(dimensions), steps, 1))  # (rows, steps, D)
    for row, d in enumerate(dimensions):
        z[row, :, d] = center[d] + offsets * scale[d]
    images = np.asarray(model.decode(z.reshape(-1, size).astype("float32"), *_given(condition)))
    tiles = _rgb(images).reshape(*z.shape[:2], *images.shape[1:3], 3)
    labels = [_z(d) if kl is None else f"{_z(d)} · {kl[d]:.2f} nats" for d in dimensions]
    return _tiled(tiles, labels, [f"{_number(v, 1)}σ" for v in offsets])


def interpolations(model: Any, first: Any, second: Any, steps: int = 8, condition: Any = None) -> Figure:
    """From one image to another on a straight line in latent space: a row for each pair, originals at the ends.

    Args:
        first, second: `(H, W, C)` or `(B, H, W, C)`.
        steps: images between the originals, reconstructions of both included.
    """
    first, second = (np.asarray(x).reshape(-1, *np.shape(x)[-3:]) for x in (first, second))
    between = np.asarray(model.interpolate(first, second, steps, *_given(condition)))  # (B, steps, H, W, C)
    tiles = np.concatenate([first[:, None], between, second[:, None]], axis=1)
    shares = [f"{100 * i / (steps - 1):.0f} %" for i in range(steps)]
    rgb = _rgb(tiles.reshape(-1, *tiles.shape[2:])).reshape(*tiles.shape[:-1], 3)
    return _tiled(rgb, (), ["original", *shares, "original"])


def _given(condition: Any) -> tuple[Any, ...]:
    """The last argument of a model's methods, for one that takes it."""
    return () if condition is None else (condition,)


def _rgb(images: Any, like: Any = None) -> np.ndarray:
    """Images `(N, H, W, C)` as they are shown, `(N, H, W, 3)`; whether grey is inverted is as for `like`."""
    images = np.asarray(images, "float64")
    if images.shape[-1] != 3:
        images = images.mean(axis=-1, keepdims=True)
        like = images if like is None else np.asarray(like).mean(axis=-1, keepdims=True)
        border = np.concatenate([like[:, [0, -1]].ravel(), like[:, :, [0, -1]].ravel()])
        images = 1 - images if np.median(border) < 0.1 else images
        images = images.repeat(3, axis=-1)
    bad = ~np.isfinite(images).all(axis=-1, keepdims=True)
    return np.where(bad, (1.0, 0.0, 1.0), np.clip(images, 0.0, 1.0))


def _tiled(
    tiles: np.ndarray,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    gap: int | None = None,
    band: int = 0,
) -> Figure:
    """Tiles `(R, C, H, W, 3)` as one figure, with labels outside; after every `band` rows, more space."""
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
    size = left + round(w * scale) + right, top + round(h * scale)
    figure = _Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((left / size[0], 0, w * scale / size[0], h * scale / size[1]))
    axes.imshow(mosaic, interpolation="nearest" if scale >= 1 else "antialiased", aspect="auto")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK, top=True, labeltop=True, labelbottom=False)
    axes.set_yticks([t + (height - 1) / 2 for t in tops], row_labels or [""] * rows)
    axes.set_xticks([x + (width - 1) / 2 for x in lefts], column_labels or [""] * columns)
    return figure


def _chart(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = _Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    return figure, figure.subplots()


def _style(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_facecolor("white")
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=10)
    axes.set_xlabel(x, fontsize=10, color=INK)
    axes.set_ylabel(y, fontsize=10, color=INK)
    axes.tick_params(labelsize=9, colors=INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)


def _z(dimension: int) -> str:
    return "z" + str(dimension).translate(SUBSCRIPTS)


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", "−")
