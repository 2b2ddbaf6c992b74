"""N(mean, diag(scale²)) with mean and scale from the network."""

import math
from typing import Any

import keras
from keras import ops

from kvae.distributions.location_scale import NetworkScale
from kvae.distributions.noise import standard_normal

LOG_2PI = math.log(2 * math.pi)


def normal_log_density(value: Any, mean: Any, log_scale: Any) -> Any:
    """Return the elementwise log N(value; mean, exp(log_scale)²), including constants."""
    return -0.5 * (LOG_2PI + ops.square((value - mean) * ops.exp(-log_scale))) - log_scale


def standard_kl(mean: Any, log_scale: Any) -> Any:
    """Return the elementwise KL(N(mean, exp(log_scale)²) ‖ N(0, 1)), Kingma & Welling 2014, appendix B."""
    return 0.5 * (ops.square(mean) + ops.exp(2 * log_scale) - 1 - 2 * log_scale)


@keras.saving.register_keras_serializable("kvae")
class DiagonalNormal(NetworkScale):
    """Normal distribution with a diagonal covariance; the network returns `[mean, raw log-scale]`.

    As a posterior it is eq. 9 of Kingma & Welling 2014 (https://arxiv.org/abs/1312.6114). As a likelihood, it has a
    mean and a variance for each pixel. The scale is bounded smoothly, so that neither an untrained network nor a
    constant pixel gives an infinite density.

    Args:
        min_scale, max_scale: bounds of the standard deviation, 0 < min_scale < 1 < max_scale.

    Raises:
        ValueError: for other bounds.

    Example:

        >>> import numpy as np
        >>> q = DiagonalNormal()
        >>> params = np.zeros((1, 4), "float32")            # two means, two raw log-scales
        >>> q.mean(params).shape, q.sample(params, 3, seed=0).shape
        (TensorShape([1, 2]), TensorShape([3, 1, 2]))
        >>> float(q.log_prob(params, np.zeros((1, 2)))[0])  # −log 2π
        -1.8378770351409912
    """

    log_density = staticmethod(normal_log_density)
    noise = staticmethod(standard_normal)
