"""Kernels of vectors, for the maximum mean discrepancy."""

from typing import Any

import keras
from keras import ops

from kvae.saving import Saved


class Kernel(Saved):
    """A function k(x, y) of the squared distance, with a width.

    The width is `scale` · 2D. 2D is the mean of |x − y|² under N(0, I). A subclass defines `of`.

    Args:
        scale: scale of the width, > 0.

    Raises:
        ValueError: if scale <= 0.
    """

    def __init__(self, scale: float = 1.0):
        if not scale > 0:
            raise ValueError(f"Argument `scale` must be > 0. Received: scale={scale}")
        self.scale = float(scale)

    def of(self, distance: Any) -> Any:
        """Return the kernel for |x − y|² / width."""
        raise NotImplementedError(f"{type(self).__name__} must define `of`.")

    def __call__(self, x: Any, y: Any) -> Any:
        """Return the kernel of every row of `x` `(…, B, D)` and every row of `y` `(…, C, D)`: `(…, B, C)`."""
        product = ops.matmul(x, ops.swapaxes(y, -1, -2))
        squares = ops.sum(ops.square(x), axis=-1)[..., :, None] + ops.sum(ops.square(y), axis=-1)[..., None, :]
        return self.of(ops.maximum(squares - 2 * product, 0.0) / (self.scale * 2 * x.shape[-1]))


@keras.saving.register_keras_serializable("kvae")
class RBF(Kernel):
    """The Gaussian kernel, exp(−|x − y|² / width). It ignores distant points.

    Example:

        >>> RBF()(ops.zeros((1, 2)), ops.convert_to_tensor([[0.0, 0.0], [2.0, 0.0]])).numpy().round(3)
        array([[1.   , 0.368]], dtype=float32)
    """

    def of(self, distance: Any) -> Any:
        return ops.exp(-distance)


@keras.saving.register_keras_serializable("kvae")
class IMQ(Kernel):
    """The inverse multiquadric kernel, width / (width + |x − y|²). Its heavy tails pull outliers in.

    Example:

        >>> IMQ()(ops.zeros((1, 2)), ops.convert_to_tensor([[0.0, 0.0], [2.0, 0.0]])).numpy()
        array([[1. , 0.5]], dtype=float32)
    """

    def of(self, distance: Any) -> Any:
        return 1 / (1 + distance)
