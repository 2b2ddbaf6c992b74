"""The continuous Bernoulli: a density on [0, 1] from logits."""

from typing import Any

import keras
from keras import ops

from kvae.distributions.base import Distribution
from kvae.distributions.noise import Seed, uniform

BELOW_ONE = 1 - 2.0**-24  # the largest float32 below 1


def log_one_minus_exp_over(a: Any) -> Any:
    """Return log((1 − e^−a) / a) for a >= 0. Below a = 1, use the series of log(sinh(a/2) / (a/2)) − a/2."""
    small = a < 1
    y2 = ops.square(ops.where(small, a, 0.0) / 2)
    series = y2 * (1 / 6 - y2 * (1 / 180 - y2 * (1 / 2835 - y2 / 37800))) - a / 2
    large = ops.where(small, 1.0, a)
    return ops.where(small, series, ops.log(1 - ops.exp(-large)) - ops.log(large))


@keras.saving.register_keras_serializable("kvae")
class ContinuousBernoulli(Distribution):
    """Continuous Bernoulli likelihood for grey values in [0, 1]: the decoder returns the logit l of each pixel.

    p(x) = C eˣˡ / (1 + eˡ), with the normaliser C = l / tanh(l/2), which a Bernoulli "likelihood" of grey values lacks
    (Loaiza-Ganem & Cunningham 2019, https://arxiv.org/abs/1907.06845, eq. 6–8). In short, p(x) = eˣˡ l / (eˡ − 1), an
    exponential density cut off at 0 and 1. The log-density is in nats for x in [0, 1].

    Example:

        >>> p = ContinuousBernoulli()
        >>> p.log_prob(ops.zeros((1, 3)), ops.ones((1, 3))).numpy(), p.mean(ops.zeros((1, 2))).numpy()  # uniform
        (array([0.], dtype=float32), array([[0.5, 0.5]], dtype=float32))
    """

    support = "unit"
    roles = ("likelihood",)
    unbounded = "logits"

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        return event_shape[-1]

    def entry_log_prob(self, params: Any, value: Any) -> Any:
        # log ((eˡ − 1) / l) = max(l, 0) + log ((1 − e^−|l|) / |l|)
        logits = ops.cast(params, "float32")
        log_normaliser = ops.maximum(logits, 0.0) + log_one_minus_exp_over(ops.maximum(logits, -logits))
        return ops.cast(value, "float32") * logits - log_normaliser

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        # The inverse of F(x) = (1 − e^−ax) / (1 − e^−a) for l = −a <= 0, mirrored for l > 0.
        logits = ops.cast(params, "float32")
        u = uniform((n, *ops.shape(logits)), seed)
        a = ops.maximum(ops.abs(logits), 1e-3)
        v = ops.minimum(ops.where(logits > 0, 1 - u, u), BELOW_ONE)
        x = -ops.log1p(v * ops.expm1(-a)) / a
        x = ops.where(logits > 0, 1 - x, x)
        return ops.where(ops.abs(logits) < 1e-3, u + 0.5 * logits * u * (1 - u), x)  # to the second order in l

    def mean(self, params: Any) -> Any:
        # 1 / (1 − e^−l) − 1 / l; for l = −a it is 1 / a − e^−a / (1 − e^−a)
        logits = ops.cast(params, "float32")
        a = ops.abs(logits)
        small = a < 1
        s, large = ops.where(small, a, 0.0), ops.where(small, 1.0, a)
        s2, decay = ops.square(s), ops.exp(-large)
        series = 1 / 2 - s * (1 / 12 - s2 * (1 / 720 - s2 * (1 / 30240 - s2 / 1209600)))
        mean = ops.where(small, series, 1 / large - decay / (1 - decay))
        return ops.where(logits > 0, 1 - mean, mean)

    def variance(self, params: Any) -> Any:
        # 1 / a² − e^−a / (1 − e^−a)² for a = |l|
        a = ops.abs(ops.cast(params, "float32"))
        small = a < 1
        s2, large = ops.square(ops.where(small, a, 0.0)), ops.where(small, 1.0, a)
        decay = ops.exp(-large)
        series = 1 / 12 - s2 * (1 / 240 - s2 * (1 / 6048 - s2 / 172800))
        return ops.where(small, series, 1 / ops.square(large) - decay / ops.square(1 - decay))
