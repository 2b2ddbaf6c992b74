"""Families for p(x|z): what the decoder's output means."""

from kvae.distributions import (
    Bernoulli,
    ContinuousBernoulli,
    DiagonalLaplace,
    DiagonalNormal,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Distribution,
    Laplace,
    LowRankNormal,
    Normal,
    OptimalNormal,
)

__all__ = [
    "Bernoulli",
    "ContinuousBernoulli",
    "DiagonalLaplace",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Distribution",
    "Laplace",
    "LowRankNormal",
    "Normal",
    "OptimalNormal",
]
