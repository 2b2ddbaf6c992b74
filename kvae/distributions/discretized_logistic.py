"""Probabilities of 8-bit (or other) grey levels: a logistic density, cut into bins."""

import math
from typing import Any

import keras
from keras import ops

from kvae.distributions.base import Distribution
from kvae.distributions.continuous_bernoulli import log_one_minus_exp_over
from kvae.distributions.location_scale import soft_clip
from kvae.distributions.log_sigmoid import log_sigmoid
from kvae.distributions.noise import Seed, uniform

MOST_LEVELS = 2**16  # levels of 16-bit images
LOW, HIGH = -7.0, 3.0  # bounds of the log-scale: from a seventh of an 8-bit level to ten times the whole range


class Levels(Distribution):
    """Values k / (levels − 1), k = 0 … levels − 1. Images have them in [0, 1]; the formulas use y in [−1, 1].

    A logistic variable X has mean μ, scale s and the distribution function σ((X − μ) / s). It is rounded to the
    nearest level. Values beyond the range are rounded to the lowest or the highest level.
    """

    support = "levels"
    roles = ("likelihood",)
    unbounded = "means and log-scales"

    def __init__(self, levels: int = 256, **kwargs: Any):
        super().__init__(**kwargs)
        if not 2 <= levels <= MOST_LEVELS:
            raise ValueError(f"Argument `levels` must be from 2 to {MOST_LEVELS}. Received: levels={levels}")
        self.levels = levels

    def rounded(self, y: Any) -> Any:
        """Return the level nearest to y, in [−1, 1]."""
        k = ops.round((ops.clip(y, -1.0, 1.0) + 1) * (0.5 * (self.levels - 1)))
        return k * (2 / (self.levels - 1)) - 1

    def log_bin(self, y: Any, mean: Any, log_scale: Any) -> Any:
        """Return the elementwise log-probability of the level y."""
        # σ(b) − σ(a) = σ(b) σ(−a) (1 − e^(a−b)) for the ends a < b of a bin: exact, without a small difference.
        half = 1 / (self.levels - 1)
        inverse = ops.exp(-log_scale)
        upper = log_sigmoid((y + half - mean) * inverse)
        lower = log_sigmoid((mean - y + half) * inverse)
        width = math.log(2 * half) - log_scale
        inner = upper + lower + width + log_one_minus_exp_over(ops.exp(width))
        return ops.where(y < half - 1, upper, ops.where(y > 1 - half, lower, inner))

    def clipped_mean(self, mean: Any, log_scale: Any) -> Any:
        """Return E[clip(X, −1, 1)] = 1 − s (log(1 + e^((1−μ)/s)) − log(1 + e^((−1−μ)/s))), elementwise."""
        inverse = ops.exp(-log_scale)
        # log(1 + eˣ) = x − log σ(x)
        rest = log_sigmoid((-1 - mean) * inverse) - log_sigmoid((1 - mean) * inverse)
        return ops.clip(-1 - ops.exp(log_scale) * rest, -1.0, 1.0)

    def level_moments(self, mean: Any, log_scale: Any) -> tuple[Any, Any]:
        """Return the exact elementwise mean and variance of the level, as sums over all levels."""
        inverse, step = ops.exp(-log_scale), 2 / (self.levels - 1)

        def add(k: Any, sums: tuple[Any, Any]) -> tuple[Any, Any]:
            # E[y] = −1 + Σ step · P(y > k), and E[(y + 1)²] = Σ step² (2k + 1) · P(y > k).
            k = ops.cast(k, "float32")
            above = ops.sigmoid((mean + 1 - (k + 0.5) * step) * inverse)
            return sums[0] + step * above, sums[1] + step**2 * (2 * k + 1) * above

        zeros = ops.zeros_like(mean + log_scale)
        first, second = ops.fori_loop(0, self.levels - 1, add, (zeros, zeros))
        return first - 1, ops.maximum(second - ops.square(first), 0.0)

    def draw(self, u: Any, mean: Any, log_scale: Any) -> Any:
        """Return the level for u from U(0, 1), by the inverse of the distribution function."""
        u = ops.clip(u, 2.0**-24, 1 - 2.0**-24)
        return self.rounded(mean + ops.exp(log_scale) * (ops.log(u) - ops.log1p(-u)))


def bounded_log_scale(raw: Any) -> Any:
    return soft_clip(raw, LOW, HIGH)


@keras.saving.register_keras_serializable("kvae")
class DiscretizedLogistic(Levels):
    """Probabilities of the grey levels of an image (Kingma et al. 2016, https://arxiv.org/abs/1606.04934, C.1).

    The network returns `[mean, raw log-scale]` of a logistic variable for every pixel and channel, both for values
    y = 2x − 1 in [−1, 1]. The probabilities of the levels are P(y) = σ((y + h − μ) / s) − σ((y − h − μ) / s) with
    h = 1 / (levels − 1), and the tails for the lowest and the highest level. They sum to 1. −log p(x|z) in nats,
    divided by ln 2, is therefore a number of bits of a lossless code, which can be compared with published bits per
    dimension of 8-bit data. Values of x between two levels are rounded. The log-scale is smoothly bounded to (−7, 3).

    `mean` is the mean of the logistic variable clipped to the range, in closed form. It is within half a level of the
    mean of the levels. `variance` is a sum over all levels, with an error of about 1e-7.

    Args:
        levels: number of levels of x in [0, 1], from 2 to 65,536.

    Raises:
        ValueError: for another number of levels.

    Example:

        >>> p = DiscretizedLogistic(levels=3)
        >>> x = ops.convert_to_tensor([[0.0], [0.5], [1.0]])
        >>> ops.exp(p.log_prob(ops.zeros((3, 2)), x)).numpy().round(4)
        array([0.3775, 0.2449, 0.3775], dtype=float32)
    """

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        return 2 * event_shape[-1]

    def split(self, params: Any) -> tuple[Any, Any]:
        """Return the mean and the log-scale, each with the shape of the event."""
        mean, raw = ops.split(ops.cast(params, "float32"), 2, axis=-1)
        return mean, bounded_log_scale(raw)

    def entry_log_prob(self, params: Any, value: Any) -> Any:
        y = self.rounded(2 * ops.cast(value, "float32") - 1)
        return self.log_bin(y, *self.split(params))

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        mean, log_scale = self.split(params)
        return 0.5 * self.draw(uniform((n, *ops.shape(mean)), seed), mean, log_scale) + 0.5

    def mean(self, params: Any) -> Any:
        return 0.5 * self.clipped_mean(*self.split(params)) + 0.5

    def variance(self, params: Any) -> Any:
        return 0.25 * self.level_moments(*self.split(params))[1]
