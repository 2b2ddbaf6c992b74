"""Families of distributions for p(x|z), whose parameters are the decoder's output."""

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
    Scaled,
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
    "Scaled",
]
