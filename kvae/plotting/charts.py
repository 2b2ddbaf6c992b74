"""Charts: learning curves, the KL of each latent, a map of latents."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from kvae.evaluation.codes import as_codes, principal_components
from kvae.plotting.style import (
    ACTIVE_NATS,
    DPI,
    FAINT,
    INK,
    MAX_LEGEND,
    PALETTE,
    TITLES,
    TRAIN,
    VALIDATION,
    PlainFigure,
    chart,
    class_colours,
    class_name,
    style,
    z_name,
)


def learning_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Draw distortion, rate and ELBO by epoch, for training and validation, in nats per image.

    Args:
        history: `model.fit(...).history`, or the columns of a `CSVLogger` file: at least one of `distortion`, `rate`
            and `elbo`, optionally the same with `val_`, and `epoch`, counted from 0. First epochs far above the others
            are outside the frame.

    Raises:
        ValueError: if all three are missing.

    Example:

        >>> figure = learning_curves({"distortion": [9.0, 7.0], "val_distortion": [9.5, 8.0], "rate": [1.0, 2.0]})
        >>> len(figure.axes)
        2
    """
    names = [name for name in TITLES if len(history.get(name, ()))]
    if not names:
        raise ValueError(f"Expected a history with one of {', '.join(TITLES)}. Received: {sorted(history)}")
    figure = PlainFigure(figsize=(3.3 * len(names) + 0.4, 3.2), dpi=DPI, facecolor="white", layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for name, axes in zip(names, panels):
        style(axes, TITLES[name], "epoch", "nats per image" if name == names[0] else "")
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
    """Return limits of the y axis without the first tenth of the epochs, if it would take up most of the height."""
    late = np.concatenate([curve[max(1, len(curve) // 10) :] for curve in curves])
    everything = np.concatenate(curves)
    late, everything = late[np.isfinite(late)], everything[np.isfinite(everything)]
    if len(late) < 6 or np.ptp(everything) <= 3 * np.ptp(late) or not np.ptp(late):
        return None
    return late.min() - 0.08 * np.ptp(late), late.max() + 0.08 * np.ptp(late)


def kl_per_dimension(kl: Any, active: Any = None) -> Figure:
    """Draw KL(q(z_d|x) ‖ N(0, 1)) of each latent dimension, in nats, the largest first.

    Args:
        kl: `(D,)`, means over images.
        active: `(D,)` booleans, the active dimensions (default: more than 0.01 nats).

    Raises:
        ValueError: if a shape is wrong.

    Example:

        >>> kl_per_dimension([0.0, 1.5, 0.7]).axes[0].get_title(loc="left")
        '2 of 3 dimensions active · 2.2 nats in all'
    """
    kl = np.asarray(kl, "float64")
    active = kl > ACTIVE_NATS if active is None else np.asarray(active, bool)
    if kl.ndim != 1 or not kl.size or active.shape != kl.shape:
        raise ValueError(f"Expected `kl` and `active` of shape (D,). Received: {kl.shape} and {active.shape}")
    order = np.argsort(-kl, kind="stable")
    figure, axes = chart((7.2, 3.2))
    heights, colors = kl[order], np.where(active[order], TRAIN, FAINT)
    axes.bar(range(len(kl)), heights, color=colors, width=0.8 if len(kl) <= 64 else 1.0)
    total = f"{active.sum()} of {len(kl)} dimensions active · {kl.sum():.1f} nats in all"
    style(axes, total, "latent dimension, by its KL", "nats per image")
    shown = np.unique(np.linspace(0, len(kl) - 1, min(len(kl), 24)).astype(int))
    axes.set_xticks(shown, [str(order[i]) for i in shown])
    axes.set_xlim(-0.7, max(len(kl), 4) - 0.3)
    finite = kl[np.isfinite(kl)]
    axes.set_ylim(min([0.0, *finite]), max([10 * ACTIVE_NATS, *(1.08 * finite)]))
    return figure


def layer_rates(rates: Any, levels: Sequence[tuple[str, int]]) -> Figure:
    """Draw the rate of each stochastic layer of a hierarchy, in nats, from the top.

    Args:
        rates: `(L,)`, means over images, such as `layer_rates` of `kvae.evaluation.evaluate`.
        levels: name and number of layers of each level, from the top.

    Raises:
        ValueError: if the number of rates isn't that of the layers.

    Example:

        >>> layer_rates([5.0, 4.0, 9.0], [("7×7", 2), ("14×14", 1)]).axes[0].get_title(loc="left")
        '18.0 nats in 3 layers'
    """
    rates = np.asarray(rates, "float64")
    if rates.ndim != 1 or len(rates) != sum(count for _, count in levels):
        raise ValueError(f"Expected a rate for each layer of {list(levels)}. Received: shape {rates.shape}")
    figure, axes = chart((7.2, 3.2))
    colors = PALETTE
    start = 0
    for i, (name, count) in enumerate(levels):
        places = range(start, start + count)
        own = rates[start : start + count]
        axes.bar(places, own, color=colors[i % len(colors)], label=f"{name}: {own.sum():.1f} nats")
        start += count
    style(axes, f"{rates.sum():.1f} nats in {len(rates)} layers", "stochastic layer, from the top", "nats per image")
    shown = np.unique(np.linspace(0, len(rates) - 1, min(len(rates), 24)).astype(int))
    axes.set_xticks(shown, [str(i + 1) for i in shown])
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def latent_map(means: Any, labels: Any = None, label_names: Sequence[str] = ()) -> Figure:
    """Draw a scatter plot of the latents of images, coloured by label.

    Two dimensions are drawn directly. More dimensions are drawn as their two principal components, and the axes show
    the share of the variance of each. One dimension is drawn as a strip with a row for each label.

    Args:
        means: `(N, D)`, for example `vae.encode(images).mean`.
        labels: `(N,)` integers, or None; below 0 for an image without a label.
        label_names: names of the labels 0, 1, …; labels without a name are shown as numbers.

    Raises:
        ValueError: if a shape is wrong, or latents are not finite.

    Example:

        >>> figure = latent_map(np.eye(5), labels=[0, 0, 1, 1, 1], label_names=("cat", "dog"))
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['cat', 'dog']
    """
    means = np.asarray(means, "float64")
    labels = None if labels is None else np.maximum(np.asarray(labels).reshape(-1).astype(int), -1)
    if means.ndim != 2 or not means.size or (labels is not None and len(labels) != len(means)):
        raise ValueError(
            f"Expected `means` of shape (N, D) and `labels` of shape (N,). Received: {means.shape} and "
            f"{None if labels is None else labels.shape}"
        )
    points, names = _plane(as_codes(means, "`means`"), labels)
    figure, axes = chart((7.2, 6.0 if means.shape[1] > 1 else 3.4))
    style(axes, "", *names)
    strip = means.shape[1] == 1
    if strip:
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    else:
        axes.set_aspect("equal", adjustable="datalim")
    dots: dict[str, Any] = {"s": float(np.clip(16000 / len(points), 4, 36)), "alpha": 0.75, "lw": 0}
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], color=TRAIN, **dots)
    elif len(colours := class_colours(labels)) > MAX_LEGEND:
        known = labels >= 0
        axes.scatter(points[~known, 0], points[~known, 1], color=FAINT, **dots)
        drawn = axes.scatter(points[known, 0], points[known, 1], c=labels[known], cmap="viridis", **dots)
        figure.colorbar(drawn, ax=axes, label="label", shrink=0.6)
    else:
        for label, colour in colours.items():
            name = class_name(label, label_names)
            x, y = points[labels == label].T
            axes.scatter(x, y, color=colour, label=name, zorder=1 if label >= 0 else 0.5, **dots)
            halo = [withStroke(linewidth=3, foreground="white")]
            if label >= 0 and not strip:
                middle = float(np.median(x)), float(np.median(y))
                axes.text(*middle, name, ha="center", va="center", size=11, weight="bold", color=INK, path_effects=halo)
        legend = figure.legend(loc="outside right center", frameon=False, fontsize=9, labelcolor=INK)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set(alpha=1.0, sizes=[30])
    return figure


def _plane(means: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, tuple[str, str]]:
    """Return points `(N, 2)` for latents `(N, D)`, and the names of the two axes."""
    if means.shape[1] == 1:
        row = np.zeros(len(means)) if labels is None else np.searchsorted(np.unique(labels), labels)
        jitter = np.random.default_rng(0).uniform(-0.35, 0.35, len(means))
        return np.stack([means[:, 0], jitter - row], axis=1), ("z", "")
    if means.shape[1] == 2:
        return means, (z_name(0), z_name(1))
    points, shares = principal_components(means)
    percent = [f"{100 * share:.0f} % of the variance" if share > 0 else "nothing left" for share in shares]
    of = f"of {means.shape[1]} latent dimensions"
    return points, (f"principal component 1 {of} ({percent[0]})", f"principal component 2 ({percent[1]})")
