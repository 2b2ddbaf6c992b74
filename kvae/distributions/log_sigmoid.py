"""The logarithm of the logistic function, which the densities of pixels are made of."""

import math
from typing import Any

from keras import ops

MOST_FACTORS = 112  # 2¹¹² is in the range of float32, with room for what is multiplied on


@ops.custom_gradient
def log_sigmoid(x: Any) -> Any:
    """log σ(x), finite for every x, also in LiteRT.

    Its derivative is σ(−x), written down: that of each operation in turn takes four times as long.

    Example:

        >>> [round(float(log_sigmoid(ops.convert_to_tensor(x))), 4) for x in (-1e3, 0.0, 10.0)]
        [-1000.0, -0.6931, -0.0]
    """

    def gradient(*args: Any, upstream: Any = None) -> Any:
        (given,) = args or (upstream,)
        return given * ops.sigmoid(-x)

    return ops.minimum(x, 0.0) - ops.log1p(ops.exp(-ops.abs(x))), gradient


def sum_log_sigmoid(x: Any, plus: Any, rank: int) -> Any:
    """Σ plus + log σ(x) over the last `rank` axes, whose sizes are known; `plus` has the shape of `x`.

    Σ log(1 + e^−|x|) is a logarithm of products: a factor lies in (1, 2], and up to 112 of them stay in the range of
    float32. A logarithm for each group in place of one for each number takes half of the time.

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
            (given,) = args or (upstream,)
            given = ops.expand_dims(given, axes) * ops.ones_like(x)
            return given * ops.sigmoid(-x), given

        groups = (*ops.shape(x)[:-rank], factors, size // factors)
        product = ops.prod(ops.reshape(1.0 + ops.exp(-ops.abs(x)), groups), axis=-2)
        return ops.sum(plus + ops.minimum(x, 0.0), axis=axes) - ops.sum(ops.log(product), axis=-1), gradient

    return total(x, plus)
