"""Random words that are the same everywhere: a function of a seed and a counter, in int32 arithmetic."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from kvae.arguments import integer

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY, _TOP = 0x1BD11BDA, 0x80000000
_FEW = 64  # words of a latent vector of 128


def threefry(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Compute Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

    Words of 32 bits are int32 tensors: additions and multiplications wrap. All operators are exact in every backend and
    built into LiteRT: add, multiply, exclusive or, arithmetic shift.

    Args:
        key, counter: two int32 words each, with shapes that broadcast.

    Returns:
        Two words for each counter.

    Example:

        >>> zero = ops.zeros((), "int32")
        >>> [hex(int(word) % 2**32) for word in threefry((zero, zero), (zero, zero))]
        ['0x6b200159', '0x99ba4efe']
    """
    like = _constants(tuple((key[0] + counter[0] + counter[1]).shape))
    # Differences instead of sums, because LiteRT computes them in half the time.
    parity = ops.bitwise_xor(ops.bitwise_xor(key[0], key[1]), _int32(_PARITY))
    minus = [like(0) - word for word in (*key, parity)]
    # y has its top bit flipped. Adding y to x flips the top bit of x, and the next addition flips it back.
    x, y, x_flipped = counter[0] - minus[0], counter[1] - (minus[1] - like(_TOP)), False
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            x, x_flipped = x + y, not x_flipped
            # The bits of y rotated to the left are y·2ᵇ + (y >>> 32 − b). With the top bit flipped, the available
            # arithmetic shift gives 2ᵇ⁻¹ less than the logical shift.
            rotated = ops.bitwise_right_shift(y, like(32 - bits)) - y * like(-(2**bits))
            y = ops.bitwise_xor(rotated - like((0 if x_flipped else _TOP) - 2 ** (bits - 1)), x)
        x = x - minus[(group + 1) % 3]
        y = y - (minus[(group + 2) % 3] - like(group + 1 + (_TOP if group == 4 else 0)))
    return x, y


def _constants(shape: tuple[int | None, ...]) -> Callable[[int], Any]:
    """Return a function that makes int32 constants for arrays of this shape.

    The constants are scalars. For a few words they are arrays, because LiteRT is faster without broadcasting.
    """
    few = math.prod(_FEW + 1 if size is None else size for size in shape) <= _FEW
    return lambda value: _int32(np.full(shape, value) if few else value)


def seed_words(seed: int) -> np.ndarray:
    """Return the two int32 words of an integer seed, high and low, `(2,)`, as in `jax.random.key`.

    Raises:
        ValueError: if seed doesn't fit into 64 bits.

    Example:

        >>> seed_words(7), seed_words(-1)
        (array([0, 7], dtype=int32), array([-1, -1], dtype=int32))
    """
    seed = integer("seed", seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"Argument `seed` must fit into 64 bits. Received: seed={seed}")
    return np.array([seed % 2**64], np.uint64).view(np.uint32)[::-1].astype(np.uint32).view(np.int32)


def random_words(seed: Any, index: Any, count: int, stream: int = 0) -> Any:
    """Return `count` independent random words for each index. Row i depends only on `seed` and `index[i]`.

    Args:
        seed: int32 `(2,)`. For an integer, use `seed_words`.
        index: int32 `(B,)`.
        count: number of words per index.
        stream: number of the stream. Words of different streams are independent.

    Returns:
        int32 `(B, count)`, uniform over all 2³² words.
    """
    blocks = (count + 1) // 2
    block = _int32(np.arange(blocks) + stream * 2**24)
    first, second = threefry((seed[0:1], seed[1:2]), (index[:, None], block[None]))  # (B, blocks)
    return ops.concatenate([first, second], axis=1)[:, :count]


def _int32(value: Any) -> Any:
    return ops.convert_to_tensor(np.asarray(value, np.int64).astype(np.int32))
