"""Arithmetic of samplers that gives the same bits on every platform.

For float32 numbers, one sum, difference, product or quotient is the same everywhere, and so are comparisons, selections
and rounding down to integers. Platforms differ in the last bit of exponentials, logarithms and roots, in the order of
the terms of a sum, and in the rounding of a product before an addition, because compilers fuse the two. So a product is
rounded down to a grid before it is added to anything, and sums of many products are computed in integers.
"""

from typing import Any

import numpy as np
from keras import ops

GRID = 2.0**-24  # grid of products
UNIT = 2.0**-17  # unit of the terms of a sum
LARGEST = 2.0**31 - 2.0**10  # largest sum in units, with room for float32 rounding of its terms


def on_grid(x: Any) -> Any:
    """Round `x` down to a multiple of 2⁻²⁴. Numbers of magnitude 1 and more don't change.

    Between a product and a sum, it keeps compilers from fusing them.
    """
    return ops.floor(x * (1 / GRID)) * GRID


def exact_dense(x: Any, kernel: Any, bias: Any = None) -> Any:
    """Return x · kernel + bias for `x` `(B, I)`: `(B, O)`.

    Each product is cut to a multiple of 2⁻¹⁷, and the sum of the products is exact. Products and biases beyond
    ±2¹⁴ / (I + 1) are clipped. Quantised files round the inputs of matrix products and of shape changes to 8 bits. So
    this function uses no matrix product, and changes shapes only of integers.

    Args:
        kernel: the matrix `(I, O)` row by row, `(1, I·O)`, or one matrix for each row of `x`, `(B, I·O)`.
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
    """Return a positive scale for a real number r: 1 + r for r >= 0, and 1/(1 − r) for r < 0.

    The scale is smooth. It grows linearly instead of exponentially, and is the same to the last bit on every platform.

    Example:

        >>> rational_scale(ops.convert_to_tensor([-1.0, 0.0, 1.0])).numpy()
        array([0.5, 1. , 2. ], dtype=float32)
    """
    return ops.where(raw >= 0, 1.0 + raw, 1.0 / (1.0 + ops.abs(raw)))


def log_rational_scale(raw: Any) -> Any:
    """Return the logarithm of `rational_scale`: sign(r) · log(1 + |r|), with the gradient 1 at r = 0."""
    return ops.where(raw >= 0, ops.log1p(ops.maximum(raw, 0.0)), -ops.log1p(ops.maximum(-raw, 0.0)))


def exact_stretch(x: Any, raw: Any) -> Any:
    """Return `x` times `rational_scale(raw)`, safe to add to another number. Neither argument may be a constant.

    The function doesn't compute the reciprocal of the scale, because graph optimisers replace it by an approximation.

    Example:

        >>> exact_stretch(ops.ones(3), ops.convert_to_tensor([-1.0, 0.0, 1.0])).numpy()
        array([0.5, 1. , 2. ], dtype=float32)
    """
    return ops.where(raw >= 0, on_grid(x * (1.0 + raw)), x / (1.0 + ops.abs(raw)))
