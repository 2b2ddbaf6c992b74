"""The standard normal prior, N(0, I)."""

from typing import Any

import keras
from keras import ops

from kvae.distributions import DiagonalNormal, FullCovarianceNormal, normal_from_words, register_kl
from kvae.distributions.diagonal_normal import normal_log_density, standard_kl
from kvae.priors.base import Prior


@keras.saving.register_keras_serializable("kvae")
class StandardNormal(Prior):
    """The standard normal prior p(z) = N(0, I).

    Example:

        >>> p = StandardNormal()
        >>> p.build((None, 2))
        >>> p.sample(3, seed=0).shape, p.log_prob(ops.zeros((3, 2))).shape
        (TensorShape([3, 2]), TensorShape([3]))
    """

    def log_prob(self, z: Any, condition: Any = None) -> Any:
        return ops.sum(normal_log_density(ops.cast(z, "float32"), 0.0, 0.0), axis=-1)

    def from_words(self, words: Any, temperature: Any = 1.0, condition: Any = None) -> Any:
        return temperature * normal_from_words(words)


@register_kl(DiagonalNormal, StandardNormal)
def kl_diagonal_standard(posterior: DiagonalNormal, params: Any, prior: StandardNormal, condition: Any = None) -> Any:
    """Return KL(N(μ, σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² − 1 − log σ²), Kingma & Welling 2014, appendix B."""
    mean, log_scale = posterior.split(params)
    return ops.sum(standard_kl(mean, log_scale), axis=-1)


@register_kl(FullCovarianceNormal, StandardNormal)
def kl_full_standard(posterior: FullCovarianceNormal, params: Any, prior: StandardNormal, condition: Any = None) -> Any:
    """Return KL(N(μ, L Lᵀ) ‖ N(0, I)) = ½ Σ (μ² + (L Lᵀ)ᵢᵢ − 1 − log Lᵢᵢ²)."""
    mean, log_scale, _ = posterior.split(params)
    return 0.5 * ops.sum(ops.square(mean) + posterior.variance(params) - 1 - 2 * log_scale, axis=-1)
