"""Standard normal and uniform numbers from random words, the same to the last bit on every platform."""

import functools
from statistics import NormalDist
from typing import Any

import numpy as np
from keras import ops

_BITS = 6  # bits of the mantissa that select the bin: 64 bins in each octave of the probability
_HALF = 126  # stored float32 exponent of 0.5


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Return base and slope of |Φ⁻¹(u)| in each bin, for probabilities u from 2⁻³³ to ½. The last bin is ½ itself.

    The base lies half a step inside the bin. Slopes have 12 bits, so that slope · step (12 bits) is exact. So the
    result doesn't change if a compiler fuses the multiplication with the addition.
    """
    edges = np.concatenate([2.0 ** (octave - 33) * (1 + np.arange(2**_BITS) / 2**_BITS) for octave in range(32)])
    z = np.array([abs(NormalDist().inv_cdf(u)) for u in [*edges, 0.5]])
    slope = np.append(np.diff(z) / 2**12, 0.0)
    mantissa, exponent = np.frexp(slope)
    slope = np.ldexp(np.round(mantissa * 2**12), exponent - 12)
    return (z + slope / 2).astype(np.float32), slope.astype(np.float32)


def normal_from_words(words: Any) -> Any:
    """Return float32 numbers from N(0, 1) for int32 random words, by the inverse of the distribution function.

    The numbers are bit for bit the same on every platform, unlike the logarithms and roots of other methods: they come
    from a table and a linear interpolation with exact products. They are within 2·10⁻⁵ of the true quantile, and within
    ±6.34 (probability 2⁻³³).

    Example:

        >>> words = ops.convert_to_tensor(np.array([0, 2**30, 2**31 - 1, -1], "int32"))
        >>> [round(float(z), 4) for z in normal_from_words(words)]
        [6.338, 0.6745, 0.0, -6.338]
    """
    signed = ops.cast(words, "float32") + 0.5  # ±½ … ±2³¹; the magnitude is 2³² times the probability
    bits = ops.view(ops.absolute(signed), "int32")
    bin_ = ops.bitwise_right_shift(bits, 23 - _BITS)
    step = ops.bitwise_right_shift(bits, 11 - _BITS) - bin_ * 2**12
    base, slope = (ops.convert_to_tensor(column) for column in _table())
    bin_ = bin_ - _HALF * 2**_BITS
    z = ops.take(base, bin_, axis=0) + ops.take(slope, bin_, axis=0) * ops.cast(step, "float32")
    return z * ops.sign(signed)


def uniform_from_words(words: Any) -> Any:
    """Return float32 numbers from U(0, 1) for int32 random words: odd multiples of 2⁻²⁴, never 0 or 1.

    Example:

        >>> [float(u) for u in uniform_from_words(ops.convert_to_tensor(np.array([0, -(2**31)], "int32")))]
        [0.5000000596046448, 5.960464477539063e-08]
    """
    return (ops.cast(ops.bitwise_right_shift(words, 9), "float32") + 0.5) * 2.0**-23 + 0.5
