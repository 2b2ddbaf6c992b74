"""A prior for the top level of a hierarchy, and N(0, I) for the other latents."""

from typing import Any

import keras
import numpy as np
from keras import ops

from kvae.arguments import integer
from kvae.distributions import normal_from_words
from kvae.distributions.diagonal_normal import normal_log_density
from kvae.priors.base import Prior


@keras.saving.register_keras_serializable("kvae")
class TopLevel(Prior):
    """p(z) = p(z₁ … z_size) · N(z_size+1 … z_D; 0, I): a prior of the first latents.

    In a hierarchy (`kvae.networks.TopDown`), the first latents are those of the top level, and the others are noise
    relative to the latents above. A prior fitted to the top level after training makes the content of samples more
    like that of the data, and doesn't change the details.

    Args:
        prior: the prior of the first latents.
        size: their number, >= 1.

    Raises:
        ValueError: if size < 1, or not less than the number of latents.

    Example:

        >>> from kvae.priors import FixedMixture
        >>> p = TopLevel(FixedMixture(components=3), size=2)
        >>> p.build((None, 5))
        >>> p.sample(4, seed=0).shape, p.log_prob(ops.zeros((4, 5))).shape
        (TensorShape([4, 5]), TensorShape([4]))
    """

    def __init__(self, prior: Prior, size: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.prior, self.size = prior, integer("size", size, least=1)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        if not self.size < self.latent_dim:
            raise ValueError(
                f"Argument `size` must be less than the number of latents, {self.latent_dim}. Received: "
                f"size={self.size}"
            )
        if not self.prior.built:
            self.prior.build((None, self.size))
        elif self.prior.latent_dim != self.size:
            raise ValueError(
                f"Expected a prior of {self.size} latents. Received: a prior that is built for {self.prior.latent_dim}"
            )

    def fixed(self) -> "Prior":
        fixed = self.prior.fixed()
        if fixed is self.prior:
            return self
        made = TopLevel(fixed, self.size)
        made.build((None, self.latent_dim))
        return made

    def log_prob(self, z: Any, condition: Any = None) -> Any:
        z = ops.cast(z, "float32")
        details = ops.sum(normal_log_density(z[..., self.size :], 0.0, 0.0), axis=-1)
        return self.prior.log_prob(z[..., : self.size], condition) + details

    @property
    def num_words(self) -> int:
        return int(self.prior.num_words) + self.latent_dim - self.size

    def from_words(self, words: Any, temperature: Any = 1.0, condition: Any = None) -> Any:
        of_top, of_details = temperature, temperature
        if np.ndim(temperature) and temperature.shape[-1] == self.latent_dim:  # one for each latent
            of_top, of_details = temperature[..., : self.size], temperature[..., self.size :]
        count = self.prior.num_words
        top = self.prior.from_words(words[:, :count], of_top, condition)
        return ops.concatenate([top, of_details * normal_from_words(words[:, count:])], axis=-1)
