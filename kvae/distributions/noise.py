"""Random numbers that are a function of (seed, step)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
from keras import ops

from kvae.distributions.quantile import normal_from_words, uniform_from_words
from kvae.distributions.threefry import random_words

Seed: TypeAlias = int | keras.random.SeedGenerator


class Noise(keras.random.SeedGenerator):
    """A source of random numbers without state: the numbers are a function of the seed and the step.

    A `keras.random.SeedGenerator` counts in a variable that a `.keras` file doesn't contain, so a resumed training run
    draws other numbers than an uninterrupted one. A model with its own step counter (a saved weight) draws from
    `Noise(seed, step)` instead, so that resuming doesn't change the numbers.

    A replica gets the rows of its own examples from the numbers that one replica would draw for the whole batch, so
    that training doesn't depend on the number of replicas.

    Args:
        seed: integer.
        step: integer or scalar tensor.
        rows: `(first, own, total)` of a replica that has `own` of the batch's `total` examples, after the first `first`
            examples.

    Example:

        >>> from kvae.distributions import Noise, standard_normal
        >>> whole = standard_normal((1, 4, 2), Noise(0, step=3))
        >>> half = standard_normal((1, 2, 2), Noise(0, step=3, rows=(2, 2, 4)))
        >>> bool(ops.all(half == whole[:, 2:]))
        True
    """

    def __init__(self, seed: int, step: Any = 0, rows: tuple[Any, Any, Any] | None = None):
        # Deliberately no super().__init__(): it would create the variable that this class avoids.
        self.seed, self.step, self.rows = seed, step, rows
        self.draws = 0

    def next(self, ordered: bool = True) -> Any:
        """Return the two seed words of the next draw. Draws of one step differ in the first word."""
        self.draws += 1
        word = (self.seed + 0x9E3779B1 * self.draws) % 0x7FFFFFFF
        return ops.stack([ops.cast(word, "int32"), ops.cast(self.step, "int32")])

    def normal(self, shape: Sequence[Any]) -> Any:
        """Return float32 numbers from N(0, 1) of shape `(n, batch, …)`; `batch` is a multiple of the examples."""
        return self._draw(keras.random.normal, shape)

    def uniform(self, shape: Sequence[Any]) -> Any:
        """Return float32 numbers from U(0, 1) of shape `(n, batch, …)`; `batch` is a multiple of the examples."""
        return self._draw(keras.random.uniform, shape)

    def _draw(self, sampler: Callable[..., Any], shape: Sequence[Any]) -> Any:
        if self.rows is None:
            return sampler(shape, dtype="float32", seed=self)
        n, batch, *event = shape
        first, own, total = self.rows
        times = batch // ops.maximum(own, 1)  # rows per example: more than one if an example is repeated for each class
        whole = sampler((n, total * times, *event), dtype="float32", seed=self)
        return ops.take(whole, first * times + ops.arange(batch, dtype="int32"), axis=1)


class IndexedNoise(Noise):
    """Noise whose row i depends only on the seed and `index[i]`, bit for bit the same on every platform.

    Exported files draw from the same numbers (`kvae.distributions.threefry`), so they are compared with this noise.

    Args:
        seed: int32 `(2,)`. For an integer, use `kvae.distributions.seed_words`.
        index: int32 `(B,)`, one for each row of the batch.

    Example:

        >>> import numpy as np
        >>> from kvae.distributions import seed_words, standard_normal
        >>> noise = standard_normal((1, 3, 2), IndexedNoise(seed_words(7), np.array([0, 1, 1], "int32")))
        >>> bool(ops.all(noise[:, 1] == noise[:, 2])), bool(ops.any(noise[:, 0] == noise[:, 1]))
        (True, False)
    """

    def __init__(self, seed: Any, index: Any):
        super().__init__(0)
        self.seed = seed
        self.index = ops.convert_to_tensor(index, "int32")

    def normal(self, shape: Sequence[Any]) -> Any:
        return self._transformed(normal_from_words, shape)

    def uniform(self, shape: Sequence[Any]) -> Any:
        return self._transformed(uniform_from_words, shape)

    def _transformed(self, transform: Callable[..., Any], shape: Sequence[Any]) -> Any:
        n, _, *event = shape
        self.draws += 1  # stream 0 is the prior's
        words = random_words(self.seed, self.index, n * math.prod(event), stream=self.draws)
        return ops.swapaxes(ops.reshape(transform(words), (-1, n, *event)), 0, 1)


def standard_normal(shape: Sequence[Any], seed: Seed) -> Any:
    """Return float32 numbers from N(0, 1) of shape `(n, batch, …)`. `seed` is an int, a `SeedGenerator` or `Noise`."""
    return seed.normal(shape) if isinstance(seed, Noise) else keras.random.normal(shape, dtype="float32", seed=seed)


def uniform(shape: Sequence[Any], seed: Seed) -> Any:
    """Return float32 numbers from U[0, 1) of shape `(n, batch, …)`. `seed` is an int, a `SeedGenerator` or `Noise`."""
    return seed.uniform(shape) if isinstance(seed, Noise) else keras.random.uniform(shape, dtype="float32", seed=seed)
