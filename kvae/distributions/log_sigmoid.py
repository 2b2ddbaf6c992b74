"""The logarithm of the logistic function, which the densities of pixels are made of."""

from typing import Any

from keras import ops


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
