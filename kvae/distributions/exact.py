"""Arithmetic of samplers that gives the same bits on every platform.

Of float32 numbers, one sum, difference, product or quotient is rounded the same way everywhere, and so are comparisons,
selections and roundings down to integers. What differs is the last bit of exponentials, logarithms and roots, the order
in which a sum is taken, and whether a product is rounded before something is added to it: compilers fuse the two. So a
product is rounded down to a grid before it is added to anything, and sums of many products are taken in integers.
"""

from typing import Any

import numpy as np
from keras import ops

GRID = 2.0**-24  # of products
UNIT = 2.0**-17  # of the terms of a sum
LARGEST = 2.0**31 - 2.0**10  # of a sum, in units, with room for how float32 rounds a part of it


def on_grid(x: Any) -> Any:
    """`x` rounded down to a multiple of 2⁻²⁴; numbers of magnitude 1 and more are left as they are.

    Between a product and a sum it keeps compilers from fusing them.
    """
    return ops.floor(x * (1 / GRID)) * GRID


def exact_dense(x: Any, kernel: Any, bias: Any = None) -> Any:
    """x · kernel + bias for `x` `(B, I)`: `(B, O)`.

    Each product is cut to a multiple of 2⁻¹⁷, and their sum is exact. Products, and the bias, beyond ±2¹⁴ / (I + 1)
    are clipped. Quantised files round what goes through a matrix product, or a change of shape, to 8 bits: the first
    isn't used, and shapes are changed of integers alone.

    Args:
        kernel: the matrix `(I, O)` row by row, `(1, I·O)`, or one for each row of `x`, `(B, I·O)`.
        bias: `(O,)`.

    Example:

        >>> exact_dense(ops.ones((1, 2)), ops.convert_to_tensor([[0.5, 0.25]]), ops.ones(1)).numpy()
        array([[1.75]], dtype=float32)
    """
    rows = x.shape[-1]
    columns, largest = kernel.shape[-1] // rows, LARGEST // (rows + 1)

    def units(value: Any) -> Any:
        return ops.cast(ops.clip(value * (1 / UNIT), -largest, largest), "int32")

    products = units(ops.take(x, np.repeat(np.arange(rows), columns), axis=1) * kernel)  # (B, I·O)
    total = ops.sum(ops.reshape(products, (-1, rows, columns)), axis=1)
    if bias is not None:
        total = total + units(ops.convert_to_tensor(bias))
    return ops.cast(total, "float32") * UNIT


def rational_scale(raw: Any) -> Any:
    """A positive scale from a real number: 1 + r for r >= 0, 1/(1 − r) below; smooth, and without an exponential.

    Growing linearly where an exponential would explode, it is also the same to the last bit on every platform.

    Example:

        >>> rational_scale(ops.convert_to_tensor([-1.0, 0.0, 1.0])).numpy()
        array([0.5, 1. , 2. ], dtype=float32)
    """
    return ops.where(raw >= 0, 1.0 + raw, 1.0 / (1.0 + ops.abs(raw)))


def log_rational_scale(raw: Any) -> Any:
    """Logarithm of `rational_scale`: sign(r) · log(1 + |r|), with its gradient, 1, at r = 0."""
    return ops.where(raw >= 0, ops.log1p(ops.maximum(raw, 0.0)), -ops.log1p(ops.maximum(-raw, 0.0)))


def exact_stretch(x: Any, raw: Any) -> Any:
    """`x` times `rational_scale(raw)`, ready to be added to something; neither may be a constant.

    The reciprocal of the scale isn't taken: graph optimisers replace it by an approximation.

    Example:

        >>> exact_stretch(ops.ones(3), ops.convert_to_tensor([-1.0, 0.0, 1.0])).numpy()
        array([0.5, 1. , 2. ], dtype=float32)
    """
    return ops.where(raw >= 0, on_grid(x * (1.0 + raw)), x / (1.0 + ops.abs(raw)))
