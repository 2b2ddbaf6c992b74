"""Figures of a model and of its training: each function returns a `matplotlib.figure.Figure`.

Figures are built without pyplot: they choose no backend and need not be closed.

    >>> import numpy as np
    >>> from kvae import plotting
    >>> plotting.image_grid(np.zeros((6, 8, 8, 1)), columns=3).axes[0].images[0].get_array().shape
    (17, 26, 3)

Grey images on a black ground (digits) are drawn dark on light, other images unchanged. Pixels are clipped to [0, 1],
and NaN is magenta. Two channels are drawn in red and cyan; of four or more channels, the first three are drawn in red,
green and blue. A note below the images describes these colours. Latents are counted from 0.
"""

from kvae.plotting.charts import kl_per_dimension, latent_map, layer_rates, learning_curves
from kvae.plotting.exploration import direction_slider, directions, latent_arithmetic, neighbours, thumbnail_map
from kvae.plotting.grids import (
    class_samples,
    image_grid,
    interpolations,
    levels,
    manifold,
    reconstructions,
    samples,
    traversals,
)
from kvae.plotting.maps import anomaly_maps
from kvae.plotting.rows import marginals
from kvae.plotting.series import alarm_history, series_reconstructions, series_samples, series_traversals
from kvae.plotting.style import FAINT, INK, PALETTE, TRAIN, VALIDATION, save

__all__ = [
    "FAINT",
    "INK",
    "PALETTE",
    "TRAIN",
    "VALIDATION",
    "alarm_history",
    "anomaly_maps",
    "class_samples",
    "direction_slider",
    "directions",
    "image_grid",
    "interpolations",
    "kl_per_dimension",
    "latent_arithmetic",
    "latent_map",
    "layer_rates",
    "learning_curves",
    "levels",
    "manifold",
    "marginals",
    "neighbours",
    "reconstructions",
    "samples",
    "save",
    "series_reconstructions",
    "series_samples",
    "series_traversals",
    "thumbnail_map",
    "traversals",
]
