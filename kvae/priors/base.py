"""The interface of priors."""

from typing import Any

from keras import ops

from kvae.distributions import random_words, seed_words
from kvae.distributions.base import Part

PIECE = 4096  # latents per draw


class Prior(Part):
    """A density p(z) and a sampler of latents. Called as a layer, a prior returns the log-density.

    A subclass defines `log_prob` and `from_words`. `from_words` draws latents, both in Keras and on a phone. Instead of
    `from_words`, a subclass can define `fixed`, which returns another prior. Learned priors `add_weight` in
    `build((None, latent_dim))`. `condition` is the condition of a conditional model, float32 `(B, condition_dim)`, or
    None. A prior that ignores it is the same for all conditions.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build for the `input_shape` `(batch, latent_dim)`."""
        assert input_shape[-1] is not None
        self.latent_dim = input_shape[-1]
        self.built = True

    def add_constant(
        self, name: str, shape: tuple[int, ...], initializer: Any = "zeros", dtype: str = "float32"
    ) -> Any:
        """Return a new weight that isn't trained."""
        return self.add_weight(name=name, shape=shape, dtype=dtype, trainable=False, initializer=initializer)

    def connect(self, model: Any) -> None:
        """Connect the prior to its VAE, before the prior is built or after its weights exist.

        A prior that uses parts of the model overrides this method. It can refuse another model.
        """

    def fixed(self) -> "Prior":
        """Return the same distribution as a prior that is independent of the model. It is sampled and exported.

        The method may compute values of weights. Don't call it inside a `tf.function`.
        """
        return self

    def log_prob(self, z: Any, condition: Any = None) -> Any:
        """Return the log-density in nats of `z` `(…, B, D)`: `(…, B)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `log_prob`.")

    @property
    def num_words(self) -> int:
        """Number of random words for one latent vector."""
        return self.latent_dim

    def from_words(self, words: Any, temperature: Any = 1.0, condition: Any = None) -> Any:
        """Return latents `(B, D)` for int32 random words `(B, num_words)`, each uniform over all 2³² values.

        The method is traced into exported files, which can use only the built-in operators of LiteRT. For bit-equal
        latents on every platform, take the numbers from `kvae.distributions.normal_from_words` or
        `uniform_from_words`, and then use only the arithmetic of `kvae.distributions.exact`. `temperature` scales the
        noise: 1 is the prior, 0 its typical point.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `from_words` or `fixed`.")

    def draw(self, seed: Any, index: Any, temperature: Any = 1.0, condition: Any = None) -> Any:
        """Return latents `(B, D)` for the int32 words of a seed `(2,)` and int32 `index` `(B,)`.

        Row i depends only on the seed, index[i] and condition[i].
        """
        prior = self.fixed()
        return prior.from_words(random_words(seed, index, prior.num_words), temperature, condition)

    def sample(self, n: int, seed: int, temperature: float = 1.0, condition: Any = None) -> Any:
        """Return `n` latents, `(n, D)`. The same seed gives the same latents on every platform, for any `n`."""
        prior, pieces = self.fixed(), []
        for i in range(0, n, PIECE):
            index = ops.arange(i, min(i + PIECE, n), dtype="int32")
            c = None if condition is None else condition[i : i + PIECE]
            pieces.append(prior.draw(seed_words(seed), index, temperature, c))
        return ops.concatenate(pieces, axis=0)

    def call(self, z: Any, condition: Any = None) -> Any:
        return self.log_prob(z, condition)
