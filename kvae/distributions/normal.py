"""N(mean, scale²) with one scale for all pixels."""

import math
from typing import Any

import keras
from keras import ops

from kvae.distributions.base import Distribution
from kvae.distributions.diagonal_normal import normal_log_density, soft_clip
from kvae.distributions.noise import Seed, standard_normal

MIN_SCALE, MAX_SCALE = 1e-3, 1e3
LOW, HIGH = math.log(MIN_SCALE), math.log(MAX_SCALE)


@keras.saving.register_keras_serializable("kvae")
class Normal(Distribution):
    """Normal likelihood: the decoder gives the mean of x, and one standard deviation serves every pixel.

    Fixed, it weighs the squared error (a fixed scale σ is the same trade as β = 2σ² in front of the KL term);
    learned, the data decide (Rybkin et al. 2021, "σ-VAE", https://arxiv.org/abs/2006.13202, §3.1). The density
    keeps its constants, so that the ELBO is a bound on log p(x) for x in [0, 1]. For a variance for each pixel
    take `DiagonalNormal`.

    Args:
        scale: standard deviation (initial value, if learned), > 0.
        learned: whether the scale is a weight that is trained.

    Raises:
        ValueError: if scale is not a number between 0.001 and 1000.

    Example:

        >>> p = Normal(scale=0.5)
        >>> p.build((None, 8, 8, 1))
        >>> p.log_prob(ops.zeros((1, 8, 8, 1)), ops.zeros((2, 8, 8, 1))).shape
        TensorShape([2])
    """

    def __init__(self, scale: float = 1.0, learned: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        if not MIN_SCALE < scale < MAX_SCALE:
            raise ValueError(
                f"Argument `scale` must be between {MIN_SCALE} and {MAX_SCALE:.0f}. Received: scale={scale}"
            )
        self.scale, self.learned = scale, learned

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if self.learned:
            bound = LOW if self.scale < 1 else HIGH
            raw = bound * math.atanh(math.log(self.scale) / bound)  # the inverse of soft_clip
            self.raw_log_scale = self.add_weight(
                name="raw_log_scale", shape=(), initializer=keras.initializers.Constant(raw)
            )
        super().build(input_shape)

    @property
    def log_scale(self) -> Any:
        """Logarithm of the standard deviation, a scalar."""
        if not self.learned:
            return math.log(self.scale)
        return soft_clip(ops.convert_to_tensor(self.raw_log_scale), LOW, HIGH)

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        return event_shape[-1]

    def log_prob(self, params: Any, value: Any) -> Any:
        return self.sum_event(normal_log_density(ops.cast(value, "float32"), self.mean(params), self.log_scale))

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        mean = self.mean(params)
        return mean + ops.exp(self.log_scale) * standard_normal((n, *ops.shape(mean)), seed)

    def mean(self, params: Any) -> Any:
        return ops.cast(params, "float32")

    def variance(self, params: Any) -> Any:
        return ops.ones_like(self.mean(params)) * ops.exp(2 * self.log_scale)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "learned": self.learned}
