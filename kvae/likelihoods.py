"""Families of distributions for p(x|z), whose parameters are the decoder's output."""

from kvae.distributions import (
    Bernoulli,
    Columns,
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
    Scaled,
)

__all__ = [
    "Bernoulli",
    "Columns",
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
    "Scaled",
]
