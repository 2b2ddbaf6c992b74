"""What a prior must provide."""

from typing import Any

import keras
from keras import ops

from kvae.distributions import random_words, seed_words

PIECE = 4096  # latents that are drawn at a time


class Prior(keras.layers.Layer):
    """p(z): a density and a sampler of latents. Called as a layer, it gives the log-density.

    A subclass writes `log_prob` and `from_words`, by which latents are drawn in Keras and on a phone alike (or `fixed`,
    which gives another prior that does); learned priors `add_weight` in `build((None, latent_dim))`. `condition` is
    that of a conditional model, float32 `(B, condition_dim)`, or None; a prior that takes no notice of it is the same
    for all.
    """

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """`input_shape` is `(batch, latent_dim)`."""
        assert input_shape[-1] is not None
        self.latent_dim = input_shape[-1]
        self.built = True

    def connect(self, model: Any) -> None:
        """Meet the VAE that the prior belongs to, before it is built, or with its weights there: for a prior made of
        the model's own parts, which may refuse another model."""

    def fixed(self) -> "Prior":
        """The same distribution as a prior that needs nothing of the model: what is sampled and exported.

        It may compute values of weights: not to be called inside a `tf.function`.
        """
        return self

    def log_prob(self, z: Any, condition: Any = None) -> Any:
        """Log-density in nats of `z` `(…, B, D)`: `(…, B)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `log_prob`.")

    @property
    def num_words(self) -> int:
        """Random words that one latent vector takes."""
        return self.latent_dim

    def from_words(self, words: Any, temperature: Any = 1.0, condition: Any = None) -> Any:
        """Latents for int32 random words `(B, num_words)`, each uniform over all 2³² values: `(B, D)`.

        It is traced into exported files, where only the built-in operators of LiteRT are at hand. For bit-equal
        latents on every platform it takes its numbers from `kvae.distributions.normal_from_words` or
        `uniform_from_words`, and after them does only what `kvae.distributions.exact` says. `temperature` scales the
        noise: 1 is the prior, 0 its typical point.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `from_words` or `fixed`.")

    def draw(self, seed: Any, index: Any, temperature: Any = 1.0, condition: Any = None) -> Any:
        """Latents `(B, D)` for the int32 words of a seed `(2,)` and int32 `index` `(B,)`.

        Row i depends on the seed and index[i] (and condition[i]) alone.
        """
        prior = self.fixed()
        return prior.from_words(random_words(seed, index, prior.num_words), temperature, condition)

    def sample(self, n: int, seed: int, temperature: float = 1.0, condition: Any = None) -> Any:
        """`n` latents, `(n, D)`; those of the same seed are the same on every platform, whatever `n` is."""
        prior, pieces = self.fixed(), []
        for i in range(0, n, PIECE):
            index = ops.arange(i, min(i + PIECE, n), dtype="int32")
            c = None if condition is None else condition[i : i + PIECE]
            pieces.append(prior.draw(seed_words(seed), index, temperature, c))
        return ops.concatenate(pieces, axis=0)

    def call(self, z: Any, condition: Any = None) -> Any:
        return self.log_prob(z, condition)
