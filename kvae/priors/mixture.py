"""A learned mixture of normals."""

from typing import Any

import keras
from keras import initializers, ops

from kvae.arguments import at_least
from kvae.distributions.exact import log_rational_scale, rational_scale
from kvae.priors.base import Prior
from kvae.priors.fixed_mixture import FixedMixture, mixture_log_density

SPREAD, SCALE = 0.6, 0.8  # initial scales of the means and of each component; the mixture has the variance of N(0, I)
RAW = 1 - 1 / SCALE


@keras.saving.register_keras_serializable("kvae")
class Mixture(Prior):
    """Learned mixture of diagonal normals, p(z) = Σₖ wₖ N(z; μₖ, diag(sₖ²)), with w = softmax of the logits.

    The scales are s = `rational_scale(raw)`. The mixture starts with equal weights and the variance of N(0, I).

    Args:
        components: number of components, K.
        seed: seed of the initial means.

    Raises:
        ValueError: if components < 1.

    Example:

        >>> p = Mixture(components=3)
        >>> p.build((None, 2))
        >>> p.log_prob(ops.zeros((4, 2))).shape, p.sample(5, seed=0).shape
        (TensorShape([4]), TensorShape([5, 2]))
    """

    def __init__(self, components: int = 10, seed: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.components, self.seed = at_least("components", components, 1), seed

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        shape = (self.components, self.latent_dim)
        means = initializers.RandomNormal(stddev=SPREAD, seed=self.seed)
        self.logits = self.add_weight(name="logits", shape=shape[:1], initializer="zeros")
        self.means = self.add_weight(name="means", shape=shape, initializer=means)
        self.raw_scales = self.add_weight(name="raw_scales", shape=shape, initializer=initializers.Constant(RAW))

    def log_prob(self, z: Any, condition: Any = None) -> Any:
        raw = ops.convert_to_tensor(self.raw_scales)
        return mixture_log_density(z, ops.log_softmax(self.logits), self.means, log_rational_scale(raw))

    def fixed(self) -> FixedMixture:
        logits, means, raw = map(ops.convert_to_tensor, (self.logits, self.means, self.raw_scales))
        return FixedMixture.of(logits, means, rational_scale(raw))
