"""The negative binomial distribution of counts, without the logarithm of the gamma function."""

import math
from typing import Any

from keras import ops

from kvae.distributions.diagonal_normal import LOG_2PI

SHIFT = 4  # Stirling's series is evaluated at numbers above this


def negative_binomial_log_prob(count: Any, log_mean: Any, log_dispersion: Any) -> Any:
    """Return the elementwise log-probability of counts x >= 0 with the mean μ and the variance μ + μ²/r, in nats.

    With the dispersion r > 0 (Hilbe 2011, "Negative Binomial Regression", eq. 8.8)

        log p(x) = log Γ(x + r) − log Γ(r) − log Γ(x + 1) − r log(1 + μ/r) − x log(1 + r/μ).

    LiteRT has no operator for log Γ, and the difference of large values of it would lose all digits in float32. So the
    three terms are one expression, from Stirling's series t ↦ (t − ½) log t − t + ½ log 2π + 1/(12 t) − 1/(360 t³) at
    r + 4, x + r + 4 and x + 5, whose large parts cancel exactly.

    Args:
        count: x, numbers >= 0.
        log_mean, log_dispersion: log μ and log r.

    Example:

        >>> import numpy as np
        >>> x = np.arange(200, dtype="float32")
        >>> p = np.exp(negative_binomial_log_prob(x, np.float32(np.log(3)), np.float32(np.log(2))))
        >>> round(float(p.sum()), 4), round(float((p * x).sum()), 3)
        (1.0, 3.0)
    """
    x, log_r, log_mu = count, log_dispersion, log_mean
    r = ops.exp(log_r)
    a, b, c = r + SHIFT, x + r + SHIFT, x + (1 + SHIFT)
    rising = 1.0  # Π (1 + x / (r + i)) / (x + i + 1), i = 0 … 3
    for i in range(SHIFT):
        rising = rising * (1 + x / (r + i)) / (x + (i + 1))
    log_coefficient = (
        (a - 0.5) * ops.log1p(x / a)
        + x * ops.log(b / c)
        - (SHIFT + 0.5) * ops.log(c)
        + (SHIFT + 1 - 0.5 * LOG_2PI)
        + _remainder(b)
        - _remainder(a)
        - _remainder(c)
        - ops.log(rising)
    )
    return log_coefficient - r * _log1p_exp(log_mu - log_r) - x * _log1p_exp(log_r - log_mu)


def _remainder(t: Any) -> Any:
    """Return the end of Stirling's series."""
    return (1 / 12 - 1 / (360 * t * t)) / t


def _log1p_exp(x: Any) -> Any:
    """Return log(1 + eˣ), finite for every x, also in LiteRT."""
    return ops.maximum(x, 0.0) + ops.log1p(ops.exp(-ops.abs(x)))


#: bounds of log μ and log r; μ from 5·10⁻⁵ to 22,026, r from 10⁻² to 10³
LOG_MEAN, LOG_DISPERSION = (-10.0, 10.0), (math.log(1e-2), math.log(1e3))
