"""Figures of tables: the distribution of each column, in the data and in samples of the model."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kvae.plotting.style import DPI, FAINT, INK, TRAIN, PlainFigure

PANELS, ACROSS = 12, 4  # columns that are drawn, and panels in a row of the figure
LEVELS = 12  # categories that are drawn, the most frequent ones
BINS = 30


def marginals(model: Any, rows: Any, n: int = 2000, seed: int = 0) -> Figure:
    """Draw the distribution of each column, of rows and of samples from the model (x ~ p(x|z), z ~ p(z)).

    Numbers are drawn as histograms, categories as bars; missing values are left out. The first 12 columns are drawn.

    Args:
        model: a `kvae.VAE` of rows, with any likelihood; that of a table has the names of its columns.
        rows: `(N, columns)`, such as test rows.
        n: number of samples.
        seed: seed of the samples.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, event_shape=(3,), likelihood=kvae.likelihoods.DiagonalNormal(), bounded=False)
        >>> figure = marginals(vae, np.random.default_rng(0).normal(size=(50, 3)), n=100)
        >>> [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
        ['column 0', 'column 1', 'column 2']
    """
    rows = np.asarray(rows)
    drawn = np.asarray(model.generate(n, seed=seed, pixel_noise=True))
    described = getattr(model.likelihood, "columns", None)
    columns = described or [{"name": f"column {i}", "type": "number"} for i in range(rows.shape[1])]
    shown = columns[:PANELS]
    across = min(ACROSS, len(shown))
    down = -(-len(shown) // across)
    figure = PlainFigure(figsize=(2.7 * across, 1.9 * down + 0.4), dpi=DPI, facecolor="white", layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for i, (axes, column) in enumerate(zip(panels, shown)):
        found = [values[:, i][np.isfinite(values[:, i])] for values in (rows, drawn)]
        draw = _bars if column["type"] in ("category", "boolean") else _histogram
        draw(axes, column, *found)
        name = str(column["name"])
        axes.set_title(name if len(name) < 24 else f"{name[:22]}…", loc="left", fontsize=9, color=INK)
        axes.tick_params(labelsize=7, colors=INK, length=2)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(FAINT)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=8, labelcolor=INK)
    if len(columns) > len(shown):
        figure.supxlabel(f"{len(shown)} of {len(columns)} columns", fontsize=8, color=INK)
    return figure


def _histogram(axes: Axes, column: Any, real: np.ndarray, samples: np.ndarray) -> None:
    low, high = np.quantile(real, [0.001, 0.999]) if len(real) else (0.0, 1.0)
    edges: Any = np.linspace(low, high if high > low else low + 1, BINS + 1)
    if column["type"] == "count" and high - low < BINS:
        edges = np.arange(np.floor(low) - 0.5, np.ceil(high) + 1)
    for values, color, label, filled in ((real, FAINT, "data", True), (samples, TRAIN, "samples", False)):
        weights = np.full(len(values), 1 / max(1, len(values)))  # values outside the edges are left out
        kind: Any = "stepfilled" if filled else "step"
        axes.hist(values, edges, weights=weights, histtype=kind, color=color, label=label, lw=1.3)
    if column["type"] == "date":
        axes.set_xlabel(f"{column.get('unit', 'days')} since {str(column.get('origin'))[:10]}", fontsize=7, color=INK)


def _bars(axes: Axes, column: Any, real: np.ndarray, samples: np.ndarray) -> None:
    names = list(column.get("categories") or ("no", "yes"))
    shares = [np.bincount(values.astype(int), minlength=len(names)) / max(1, len(values)) for values in (real, samples)]
    in_order = column["type"] == "boolean" or column.get("category_dtype", "str") != "str"
    order = (np.arange(len(names)) if in_order else np.argsort(-shares[0], kind="stable"))[:LEVELS]
    place = np.arange(len(order))
    for offset, share, color, label in ((-0.2, shares[0], FAINT, "data"), (0.2, shares[1], TRAIN, "samples")):
        axes.bar(place + offset, share[order], width=0.4, color=color, label=label)
    texts = [str(names[k]) if len(str(names[k])) < 11 else f"{str(names[k])[:9]}…" for k in order]
    axes.set_xticks(place, texts, rotation=0 if len(order) <= 3 else 40, ha="center" if len(order) <= 3 else "right")
