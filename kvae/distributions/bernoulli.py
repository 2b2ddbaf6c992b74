"""Independent coin flips, from logits."""

from typing import Any

import keras
from keras import ops

from kvae.distributions.base import Distribution
from kvae.distributions.log_sigmoid import log_sigmoid, sum_log_sigmoid
from kvae.distributions.noise import Seed, uniform


@keras.saving.register_keras_serializable("kvae")
class Bernoulli(Distribution):
    """Bernoulli likelihood: the decoder returns the logit of each pixel (Kingma & Welling 2014, appendix C.1).

    For x in {0, 1}, `log_prob` is log p(x|z). For grey values between 0 and 1, it is the usual cross-entropy: finite
    and widely used, but not a normalised density of x. To quote the number, binarise the data or use
    `ContinuousBernoulli`.

    Example:

        >>> p = Bernoulli()
        >>> float(p.log_prob(ops.zeros((1, 3)), ops.ones((1, 3)))[0])  # 3 log ½
        -2.079441547393799
    """

    support = "binary"
    roles = ("likelihood",)
    unbounded = "logits"

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        return event_shape[-1]

    def log_prob(self, params: Any, value: Any) -> Any:
        # x log σ(l) + (1 − x) log σ(−l) = x·l + log σ(−l)
        logits = ops.cast(params, "float32")
        return sum_log_sigmoid(-logits, ops.cast(value, "float32") * logits, self.event_rank)

    def entry_log_prob(self, params: Any, value: Any) -> Any:
        logits = ops.cast(params, "float32")
        return ops.cast(value, "float32") * logits + log_sigmoid(-logits)

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        probability = self.mean(params)
        return ops.cast(uniform((n, *ops.shape(probability)), seed) < probability, "float32")

    def mean(self, params: Any) -> Any:
        return ops.sigmoid(ops.cast(params, "float32"))

    def from_mean(self, mean: Any) -> Any:
        mean = ops.clip(mean, 1e-7, 1 - 1e-7)
        return ops.log(mean) - ops.log1p(-mean)

    def variance(self, params: Any) -> Any:
        probability = self.mean(params)
        return probability * (1 - probability)
