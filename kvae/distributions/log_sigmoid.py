"""The logarithm of the logistic function, for the densities of pixels."""

import math
from typing import Any

import keras
from keras import ops

MOST_FACTORS = 112  # 2¹¹² is in the range of float32, with a margin


def log_sigmoid(x: Any) -> Any:
    """Return log σ(x), finite for every x, also in LiteRT.

    Its derivative is defined as σ(−x). Differentiating each operation would take four times as long.

    Example:

        >>> [round(float(log_sigmoid(ops.convert_to_tensor(x))), 4) for x in (-1e3, 0.0, 10.0)]
        [-1000.0, -0.6931, -0.0]
    """

    @ops.custom_gradient
    def function(x: Any) -> Any:
        def gradient(*args: Any, upstream: Any = None) -> Any:
            (incoming,) = args or (upstream,)
            return incoming * ops.sigmoid(-x)

        return _log_sigmoid(x), gradient

    return _log_sigmoid(x) if _is_symbolic(x) else function(x)


def _log_sigmoid(x: Any) -> Any:
    return ops.minimum(x, 0.0) - ops.log1p(ops.exp(-ops.abs(x)))


def _is_symbolic(x: Any) -> bool:
    """Return whether `x` is a symbolic tensor of a functional model, which a custom gradient doesn't accept."""
    return isinstance(x, keras.KerasTensor)


def sum_log_sigmoid(x: Any, plus: Any, rank: int) -> Any:
    """Return Σ plus + log σ(x) over the last `rank` axes, whose sizes are known. `plus` has the shape of `x`.

    Σ log(1 + e^−|x|) is computed as a sum of logarithms of products. Each factor lies in (1, 2], so a product of up to
    112 factors stays in the range of float32. One logarithm per group instead of one per number takes half the time.

    Example:

        >>> float(sum_log_sigmoid(ops.zeros((1, 2, 3)), ops.zeros((1, 2, 3)), rank=2)[0])  # 6 log ½
        -4.158883094787598
    """
    axes = tuple(range(-rank, 0))
    size = math.prod(x.shape[-rank:])
    factors = max(n for n in range(1, MOST_FACTORS + 1) if size % n == 0)

    @ops.custom_gradient
    def total(x: Any, plus: Any) -> Any:
        def gradient(*args: Any, upstream: Any = None) -> Any:
            (incoming,) = args or (upstream,)
            incoming = ops.expand_dims(incoming, axes) * ops.ones_like(x)
            return incoming * ops.sigmoid(-x), incoming

        groups = (*ops.shape(x)[:-rank], factors, size // factors)
        product = ops.prod(ops.reshape(1.0 + ops.exp(-ops.abs(x)), groups), axis=-2)
        return ops.sum(plus + ops.minimum(x, 0.0), axis=axes) - ops.sum(ops.log(product), axis=-1), gradient

    return ops.sum(plus + _log_sigmoid(x), axis=axes) if _is_symbolic(x) else total(x, plus)
