"""Figures of series: lines with bands, samples, traversals, and the history of alarms."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure

from kvae.arguments import decimal
from kvae.plotting.style import DPI, FAINT, INK, TRAIN, VALIDATION, PlainFigure, as_args, style, z_name

FEATURES = 6  # rows of a figure at most
PANEL = 2.6, 1.15  # inches
BAND = 2.0  # standard deviations on either side of the mean


def feature_names(model: Any) -> tuple[str, ...]:
    """Return the names of a model's features: those of its likelihood, or their numbers."""
    count = model.event_shape[-1]
    return getattr(model.likelihood, "names", None) or tuple(f"feature {number}" for number in range(count))


def series_reconstructions(model: Any, series: Any, columns: int = 4, condition: Any = None) -> Figure:
    """Draw series, and the mean of p(x|z) with a band of two standard deviations, at the mean z of q(z|x).

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder` of series.
        series: `(N, T, F)`; the first `columns` are drawn, one in each column, with a row for each of the first six
            features.
        columns: number of columns.
        condition: conditions of the series, for a conditional model.

    Example:

        >>> import kvae
        >>> normal = kvae.likelihoods.DiagonalNormal()
        >>> vae = kvae.VAE(latent_dim=2, event_shape=(20, 3), likelihood=normal, bounded=False)
        >>> len(series_reconstructions(vae, np.zeros((5, 20, 3)), columns=2).axes)
        6
    """
    series = np.asarray(series, "float32")[:columns]
    c = model.condition(None if condition is None else condition[: len(series)], len(series))
    params = model.reconstruction_params(model.check_images(series), c)
    mean, variance = (np.asarray(value) for value in model.likelihood.moments(params))
    figure, panels = _panels(len(series), feature_names(model))
    for number, row in enumerate(panels):
        for axes, x, m, v in zip(row, series, mean, variance):
            steps, m, width = np.arange(len(x)), m[:, number], BAND * np.sqrt(v[:, number])
            axes.fill_between(steps, m - width, m + width, color=TRAIN, alpha=0.18, lw=0, label="± 2 σ of p(x|z)")
            axes.plot(steps, m, color=TRAIN, lw=1.3, label="reconstruction")
            axes.plot(steps, x[:, number], color=INK, lw=0.9, label="original")
    _legend(figure, panels[0][0])
    return figure


def series_samples(model: Any, n: int = 4, seed: int = 0, condition: Any = None) -> Figure:
    """Draw samples from the prior: the mean of p(x|z), and one draw from it, for each z ~ p(z).

    Args:
        model: a `kvae.VAE` of series.
        n: number of samples, one in each column.
        seed: seed of the latents and of the draw.
        condition: condition of a conditional model.

    Example:

        >>> import kvae
        >>> normal = kvae.likelihoods.DiagonalNormal()
        >>> vae = kvae.VAE(latent_dim=2, event_shape=(20, 3), likelihood=normal, bounded=False)
        >>> len(series_samples(vae, n=2).axes)
        6
    """
    options = {} if condition is None else {"condition": condition}
    mean = np.asarray(model.generate(n, seed=seed, **options))
    drawn = np.asarray(model.generate(n, seed=seed, pixel_noise=True, **options))
    figure, panels = _panels(n, feature_names(model))
    for number, row in enumerate(panels):
        for axes, m, x in zip(row, mean, drawn):
            axes.plot(x[:, number], color=FAINT, lw=0.9, label="x ~ p(x|z)")
            axes.plot(m[:, number], color=TRAIN, lw=1.3, label="mean of p(x|z)")
    _legend(figure, panels[0][0])
    return figure


def series_traversals(
    model: Any, dimensions: Sequence[int], center: Any, scale: Any, kl: Any = None, condition: Any = None
) -> Figure:
    """Draw the mean of p(x|z) while one latent varies from −3 to 3 standard deviations.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder` of series.
        dimensions: latents, one in each column; the first five are drawn.
        center, scale: `(D,)`, mean and standard deviation of the latents.
        kl: `(D,)` nats, shown above the columns.
        condition: condition of a conditional model.
    """
    dimensions, offsets = list(dimensions)[:5], np.linspace(-3.0, 3.0, 7)
    z = np.tile(np.asarray(center, "float32"), (len(dimensions), len(offsets), 1))
    for column, d in enumerate(dimensions):
        z[column, :, d] += offsets * np.asarray(scale)[d]
    drawn = np.asarray(model.decode(z.reshape(-1, z.shape[-1]), *as_args(condition)))
    drawn = drawn.reshape(len(dimensions), len(offsets), *drawn.shape[1:])
    colours, limits = matplotlib.colormaps["coolwarm"], Normalize(-3, 3)
    figure, panels = _panels(len(dimensions), feature_names(model))
    for number, row in enumerate(panels):
        for axes, lines in zip(row, drawn):
            for offset, line in zip(offsets, lines):
                axes.plot(line[:, number], color=colours(limits(offset)), lw=1.1)
    for axes, d in zip(panels[0], dimensions):
        axes.set_title(z_name(d) + ("" if kl is None else f" · {kl[d]:.2f} nats"), fontsize=9, color=INK)
    bar = figure.colorbar(ScalarMappable(limits, colours), ax=panels, shrink=0.8, aspect=40, pad=0.01)
    bar.set_ticks([-3, 0, 3], labels=[f"{decimal(v, 1)}σ" for v in (-3, 0, 3)], fontsize=8)
    bar.outline.set_visible(False)
    return figure


def alarm_history(scores: Any, p_values: Any, alpha: float, times: Any = None, faults: Any = None) -> Figure:
    """Draw the scores of consecutive windows, and their p-values with the windows that raise an alarm.

    Args:
        scores: `(N,)` −ELBO in nats.
        p_values: `(N,)` conformal p-values, such as from `kvae.features.AnomalyDetector.p_values`.
        alpha: windows with a p-value of at most alpha raise an alarm.
        times: `(N,)` times of the windows; None numbers them.
        faults: `(N,)` booleans, the windows with known faults, shaded; None for none.

    Raises:
        ValueError: if the lengths differ.

    Example:

        >>> figure = alarm_history([10.0, 11.0, 90.0], [0.6, 0.4, 0.01], alpha=0.05)
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['−ELBO, nats', 'p-value']
    """
    scores, p_values = np.asarray(scores, "float64"), np.asarray(p_values, "float64")
    times = np.arange(len(scores)) if times is None else np.asarray(times)
    if not len(scores) == len(p_values) == len(times):
        raise ValueError(
            "Expected one score, p-value and time for each window. "
            f"Received: {len(scores)} scores, {len(p_values)} p-values, {len(times)} times"
        )
    figure = PlainFigure(figsize=(8.6, 4.2), dpi=DPI, facecolor="white", layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    alarms = p_values <= alpha
    style(upper, "Score of each window", "", "−ELBO, nats")
    style(lower, "", "time" if times.dtype.kind == "M" else "window", "p-value")
    upper.plot(times, scores, color=INK, lw=0.9)
    upper.scatter(times[alarms], scores[alarms], color=VALIDATION, s=14, zorder=3, label=f"alarm: p ≤ {alpha:.3g}")
    typical, largest = max(1.0, float(np.median(np.abs(scores)))), float(np.max(np.abs(scores)))
    if largest > 20 * typical:  # the axis is linear up to a power of ten, and its ticks begin there
        decades = 10.0 ** np.arange(np.ceil(np.log10(typical)), np.log10(largest))
        upper.set_yscale("symlog", linthresh=decades[0])
        upper.set_yticks([tick for tick in (*-decades, 0.0, *decades) if tick >= scores.min()])
    lower.plot(times, p_values, ".", color=INK, ms=3)
    lower.plot(times[alarms], p_values[alarms], ".", color=VALIDATION, ms=6)
    lower.axhline(alpha, color=VALIDATION, lw=1, ls="--")
    lower.set_yscale("log")
    if faults is not None:
        for axes in (upper, lower):
            axes.fill_between(
                times, 0, 1, where=np.asarray(faults, bool), transform=axes.get_xaxis_transform(), step="mid",
                color=VALIDATION, alpha=0.12, lw=0, label="known fault" if axes is upper else None,
            )  # fmt: skip
    if times.dtype.kind == "M":
        lower.xaxis.set_major_formatter(ConciseDateFormatter(lower.xaxis.get_major_locator()))  # type: ignore[no-untyped-call]
    _legend(figure, upper)
    return figure


def _panels(columns: int, names: Sequence[str]) -> tuple[Figure, np.ndarray]:
    """Return a figure with a row of axes for each of the first features, and its axes `(rows, columns)`."""
    shown = names[:FEATURES]
    note = 0.25 if len(names) > len(shown) else 0.0
    size = columns * PANEL[0] + 0.6, len(shown) * PANEL[1] + 0.5 + note
    figure = PlainFigure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    panels = figure.subplots(len(shown), columns, sharex=True, sharey="row", squeeze=False)
    for row, name in zip(panels, shown):
        row[0].set_ylabel(name if len(name) < 18 else f"{name[:16]}…", fontsize=8, color=INK)
        for axes in row:
            axes.tick_params(labelsize=7, colors=INK, length=2)
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color(FAINT)
            axes.margins(x=0)
    figure.supxlabel("step" if not note else f"step; {len(shown)} of {len(names)} features", fontsize=8, color=INK)
    return figure, panels


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize=8, labelcolor=INK
    )
