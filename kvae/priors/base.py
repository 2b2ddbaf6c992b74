"""What a prior must provide."""

from typing import Any

import keras

from kvae.distributions import Seed


class Prior(keras.layers.Layer):
    """p(z): a density and a sampler of latents. Called as a layer, it gives the log-density.

    A subclass writes `log_prob` and `sample`; learned priors `add_weight` in `build((None, latent_dim))`.
    """

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """`input_shape` is `(batch, latent_dim)`."""
        self.latent_dim = input_shape[-1]
        self.built = True

    def log_prob(self, z: Any) -> Any:
        """Log-density in nats of `z` `(…, D)`: `(…,)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `log_prob`.")

    def sample(self, n: int, seed: Seed) -> Any:
        """`n` latents, `(n, D)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `sample`.")

    def call(self, z: Any) -> Any:
        return self.log_prob(z)
