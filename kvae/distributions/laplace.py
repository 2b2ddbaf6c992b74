"""Laplace densities, with one scale for all pixels or with a scale from the network."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kvae.distributions.location_scale import NetworkScale, SharedScale
from kvae.distributions.noise import Seed, uniform


def laplace_log_density(value: Any, mean: Any, log_scale: Any) -> Any:
    """Return the elementwise logarithm of exp(−|value − mean| / b) / 2b for b = exp(log_scale)."""
    return -ops.abs(value - mean) * ops.exp(-log_scale) - log_scale - math.log(2)


def standard_laplace(shape: Sequence[Any], seed: Seed) -> Any:
    """Return float32 numbers from the Laplace distribution of scale 1, by its inverse distribution function."""
    u = 2 * uniform(shape, seed) - 1
    return -ops.sign(u) * ops.log1p(-ops.minimum(ops.abs(u), 1 - 2.0**-24))


@keras.saving.register_keras_serializable("kvae")
class Laplace(SharedScale):
    """Laplace likelihood: the absolute error, which is less sensitive to outliers than the squared error of `Normal`.

    log p(x|z) = −Σ (|x − μ| / b + log 2b), nats. The decoder returns μ; all pixels have the same scale b. The standard
    deviation is √2 · b. For a scale from the network, use `DiagonalLaplace`.

    Args:
        scale: scale b (initial value, if learned), > 0.
        learned: whether the scale is a trainable weight.
        per_pixel: whether each pixel has its own learned scale, the same for all images.

    Raises:
        ValueError: if scale is not a number between 0.001 and 1000, or if `per_pixel` is true and `learned` is not.

    Example:

        >>> p = Laplace(scale=0.5)
        >>> p.build((None, 2))
        >>> p.log_prob(ops.zeros((1, 2)), ops.convert_to_tensor([[0.5, -1.0]])).numpy()
        array([-3.], dtype=float32)
    """

    log_density = staticmethod(laplace_log_density)
    noise = staticmethod(standard_laplace)
    unit_variance = 2.0


@keras.saving.register_keras_serializable("kvae")
class DiagonalLaplace(NetworkScale):
    """Laplace likelihood with a scale for each pixel; the network returns `[mean, raw log-scale]`.

    log p(x|z) = −Σ (|x − μ| / b + log 2b), nats: an absolute error with weights from the decoder (Kendall & Gal 2017,
    https://arxiv.org/abs/1703.04977, §4).

    Args:
        min_scale, max_scale: smooth bounds of b, 0 < min_scale < 1 < max_scale.

    Raises:
        ValueError: for other bounds.

    Example:

        >>> p = DiagonalLaplace()
        >>> params = ops.zeros((1, 4))  # two means, two raw log-scales
        >>> p.log_prob(params, ops.ones((1, 2))).numpy().round(4), p.variance(params).numpy()
        (array([-3.3863], dtype=float32), array([[2., 2.]], dtype=float32))
    """

    roles = ("likelihood",)

    log_density = staticmethod(laplace_log_density)
    noise = staticmethod(standard_laplace)
    unit_variance = 2.0
