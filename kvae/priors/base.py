"""What a prior must provide."""

from typing import Any

import keras
from keras import ops

from kvae.distributions import random_words, seed_words


class Prior(keras.layers.Layer):
    """p(z): a density and a sampler of latents. Called as a layer, it gives the log-density.

    A subclass writes `log_prob` and `from_words`, by which latents are drawn in Keras and on a phone alike;
    learned priors `add_weight` in `build((None, latent_dim))`.
    """

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """`input_shape` is `(batch, latent_dim)`."""
        assert input_shape[-1] is not None
        self.latent_dim = input_shape[-1]
        self.built = True

    def log_prob(self, z: Any) -> Any:
        """Log-density in nats of `z` `(…, D)`: `(…,)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `log_prob`.")

    @property
    def num_words(self) -> int:
        """Random words that one latent vector takes."""
        return self.latent_dim

    def from_words(self, words: Any, temperature: Any = 1.0) -> Any:
        """Latents for int32 random words `(B, num_words)`, each uniform over all 2³² values: `(B, D)`.

        It is traced into exported files, where only the built-in operators of LiteRT are at hand. For bit-equal
        latents on every platform it takes its numbers from `kvae.distributions.normal_from_words` or
        `uniform_from_words`, and has no logarithm, root or trigonometric function after them. `temperature`
        scales the noise: 1 is the prior, 0 its typical point.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `from_words`.")

    def draw(self, seed: Any, index: Any, temperature: Any = 1.0) -> Any:
        """Latents `(B, D)` for the int32 words of a seed `(2,)` and int32 `index` `(B,)`.

        Row i depends on the seed and index[i] alone.
        """
        return self.from_words(random_words(seed, index, self.num_words), temperature)

    def sample(self, n: int, seed: int, temperature: float = 1.0) -> Any:
        """`n` latents, `(n, D)`; those of the same seed are the same on every platform, whatever `n` is."""
        return self.draw(seed_words(seed), ops.arange(n, dtype="int32"), temperature)

    def call(self, z: Any) -> Any:
        return self.log_prob(z)
