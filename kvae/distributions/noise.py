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
    """A source of random numbers with no state: they are a function of the two words that it is given.

    A `keras.random.SeedGenerator` counts in a variable that a `.keras` file leaves out, so a resumed training
    draws other numbers than an unbroken one. A model that owns its step counter (a saved weight) draws from
    `Noise(seed, step)` instead and loses nothing.

    A replica gets the rows of its own examples, of what one replica would have drawn for the whole batch, so that
    training doesn't depend on the number of replicas.

    Args:
        seed: integer.
        step: integer or scalar tensor.
        rows: `(first, own, total)` of a replica that has `own` of the batch's `total` examples, behind `first` others.

    Example:

        >>> from kvae.distributions import Noise, standard_normal
        >>> whole = standard_normal((1, 4, 2), Noise(0, step=3))
        >>> half = standard_normal((1, 2, 2), Noise(0, step=3, rows=(2, 2, 4)))
        >>> bool(ops.all(half == whole[:, 2:]))
        True
    """

    def __init__(self, seed: int, step: Any = 0, rows: tuple[Any, Any, Any] | None = None):
        # Deliberately no super().__init__(): it would create the variable that this class does without.
        self.seed, self.step, self.rows = seed, step, rows
        self.draws = 0

    def next(self, ordered: bool = True) -> Any:
        """The two seed words of the next draw; draws of one step differ in the first."""
        self.draws += 1
        word = (self.seed + 0x9E3779B1 * self.draws) % 0x7FFFFFFF
        return ops.stack([ops.cast(word, "int32"), ops.cast(self.step, "int32")])

    def normal(self, shape: Sequence[Any]) -> Any:
        """float32 numbers from N(0, 1) of shape `(n, batch, …)`; `batch` is a multiple of the examples."""
        return self._draw(keras.random.normal, shape)

    def uniform(self, shape: Sequence[Any]) -> Any:
        """float32 numbers from U(0, 1) of shape `(n, batch, …)`; `batch` is a multiple of the examples."""
        return self._draw(keras.random.uniform, shape)

    def _draw(self, sampler: Callable[..., Any], shape: Sequence[Any]) -> Any:
        if self.rows is None:
            return sampler(shape, dtype="float32", seed=self)
        n, batch, *event = shape
        first, own, total = self.rows
        times = batch // ops.maximum(own, 1)  # rows of an example: more than one where it stands for each class
        whole = sampler((n, total * times, *event), dtype="float32", seed=self)
        return ops.take(whole, first * times + ops.arange(batch, dtype="int32"), axis=1)


class IndexedNoise(Noise):
    """Noise of which row i depends on the seed and `index[i]` alone, bit for bit the same on every platform.

    It is what exported files draw from (`kvae.distributions.threefry`), and so what they are compared with.

    Args:
        seed: int32 `(2,)`; of an integer: `kvae.distributions.seed_words`.
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
    """float32 numbers from N(0, 1) of shape `(n, batch, …)`; `seed` is an int, a `SeedGenerator` or `Noise`."""
    return seed.normal(shape) if isinstance(seed, Noise) else keras.random.normal(shape, dtype="float32", seed=seed)


def uniform(shape: Sequence[Any], seed: Seed) -> Any:
    """float32 numbers from U[0, 1) of shape `(n, batch, …)`; `seed` is an int, a `SeedGenerator` or `Noise`."""
    return seed.uniform(shape) if isinstance(seed, Noise) else keras.random.uniform(shape, dtype="float32", seed=seed)
