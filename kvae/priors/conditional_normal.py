"""A normal prior that depends on the condition."""

from typing import Any

import keras
from keras import ops

from kvae.arguments import at_least
from kvae.distributions import DiagonalNormal, normal_from_words, register_kl
from kvae.distributions.diagonal_normal import normal_log_density
from kvae.distributions.exact import exact_dense, exact_stretch, log_rational_scale, on_grid
from kvae.priors.base import Prior


@keras.saving.register_keras_serializable("kvae")
class ConditionalNormal(Prior):
    """Normal prior of a conditional model, p(z|c) = N(m(c), diag(s(c)²)).

    This is the prior of Sohn et al. 2015 ("Learning structured output representation using deep conditional generative
    models", eq. 4) with the simplest network: [m, raw] = c · kernel + bias, and s = `rational_scale(raw)`. It starts as
    N(0, I) for every condition.

    Args:
        condition_dim: size of the condition, C. None takes the value of the model.

    Raises:
        ValueError: if the model has no conditions, or conditions of another size.

    Example:

        >>> p = ConditionalNormal(condition_dim=10)
        >>> p.build((None, 2))
        >>> p.sample(3, seed=0, condition=ops.eye(10)[:3]).shape
        TensorShape([3, 2])
    """

    def __init__(self, condition_dim: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.condition_dim = None if condition_dim is None else at_least("condition_dim", condition_dim, 1)

    def connect(self, model: Any) -> None:
        if model.condition_dim is None or self.condition_dim not in (None, model.condition_dim):
            raise ValueError(
                "ConditionalNormal requires a conditional model with a condition of the same size, "
                f"`VAE(..., condition_dim={self.condition_dim or '...'})`. "
                f"Received: condition_dim={model.condition_dim}"
            )
        self.condition_dim = model.condition_dim

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if self.condition_dim is None:
            raise ValueError("ConditionalNormal requires a `condition_dim`. Received: condition_dim=None")
        super().build(input_shape)
        shape = (self.condition_dim, 2 * self.latent_dim)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=shape[1:], initializer="zeros")

    def log_prob(self, z: Any, condition: Any = None) -> Any:
        return ops.sum(normal_log_density(ops.cast(z, "float32"), *self.moments(condition)), axis=-1)

    def moments(self, condition: Any) -> tuple[Any, Any]:
        """Return the mean and the log-scale for each condition, `(B, D)`."""
        mean, raw = ops.split(ops.matmul(self._check_condition(condition), self.kernel) + self.bias, 2, axis=-1)
        return mean, log_rational_scale(raw)

    def from_words(self, words: Any, temperature: Any = 1.0, condition: Any = None) -> Any:
        kernel = ops.reshape(self.kernel, (1, -1))
        mean, raw = ops.split(exact_dense(self._check_condition(condition), kernel, self.bias), 2, axis=-1)
        return mean + exact_stretch(on_grid(temperature * normal_from_words(words)), raw)

    def _check_condition(self, condition: Any) -> Any:
        if condition is None:
            raise ValueError(f"Expected a condition, (B, {self.condition_dim}). Received: condition=None")
        return ops.cast(condition, "float32")


@register_kl(DiagonalNormal, ConditionalNormal)
def kl_diagonal_conditional(posterior: DiagonalNormal, params: Any, prior: ConditionalNormal, condition: Any) -> Any:
    """Return KL(N(μ, σ²) ‖ N(m, s²)) = Σ (log s/σ + (σ² + (μ − m)²) / 2s² − ½)."""
    (mean, log_scale), (prior_mean, prior_log_scale) = posterior.split(params), prior.moments(condition)
    ratio = log_scale - prior_log_scale
    distance = (mean - prior_mean) * ops.exp(-prior_log_scale)
    return ops.sum(0.5 * (ops.exp(2 * ratio) + ops.square(distance) - 1) - ratio, axis=-1)
