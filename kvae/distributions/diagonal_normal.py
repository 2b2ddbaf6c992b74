"""N(mean, diag(scale²)), both from the network: a posterior, or a likelihood with a variance for each pixel."""

import math
from typing import Any

import keras
from keras import ops

from kvae.distributions.base import Distribution
from kvae.distributions.noise import Seed, standard_normal

LOG_2PI = math.log(2 * math.pi)


def normal_log_density(value: Any, mean: Any, log_scale: Any) -> Any:
    """Elementwise log N(value; mean, exp(log_scale)²), constants included."""
    return -0.5 * (LOG_2PI + ops.square((value - mean) * ops.exp(-log_scale))) - log_scale


def soft_clip(x: Any, low: float, high: float) -> Any:
    """Smoothly bounded to (low, high), low < 0 < high; the identity near 0."""
    return ops.where(x > 0, high * ops.tanh(x / high), low * ops.tanh(x / low))


@keras.saving.register_keras_serializable("kvae")
class DiagonalNormal(Distribution):
    """Normal distribution with a diagonal covariance; the network gives `[mean, raw log-scale]`.

    As a posterior it is eq. 10 of Kingma & Welling 2014 (https://arxiv.org/abs/1312.6114); as a likelihood, a
    decoder that gives a mean and a variance for each pixel. The scale is bounded smoothly, so that neither an
    untrained network nor a constant pixel gives an infinite density.

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

    def __init__(self, min_scale: float = 1e-3, max_scale: float = 1e3, **kwargs: Any):
        super().__init__(**kwargs)
        if not 0 < min_scale < 1 < max_scale:
            raise ValueError(
                "Arguments `min_scale` and `max_scale` must satisfy 0 < min_scale < 1 < max_scale. "
                f"Received: min_scale={min_scale}, max_scale={max_scale}"
            )
        self.min_scale, self.max_scale = min_scale, max_scale

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        return 2 * event_shape[-1]

    def split(self, params: Any) -> tuple[Any, Any]:
        """Mean and log-scale, each of the shape of the event."""
        mean, raw = ops.split(ops.cast(params, "float32"), 2, axis=-1)
        return mean, soft_clip(raw, math.log(self.min_scale), math.log(self.max_scale))

    def log_prob(self, params: Any, value: Any) -> Any:
        return self.sum_event(normal_log_density(ops.cast(value, "float32"), *self.split(params)))

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        mean, log_scale = self.split(params)
        epsilon = standard_normal((n, *ops.shape(mean)), seed)  # (n, B, …)
        return mean + ops.exp(log_scale) * epsilon  # the reparametrised sample

    def mean(self, params: Any) -> Any:
        return self.split(params)[0]

    def variance(self, params: Any) -> Any:
        return ops.exp(2 * self.split(params)[1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "min_scale": self.min_scale, "max_scale": self.max_scale}
