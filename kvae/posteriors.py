"""Families of distributions for q(z|x), whose parameters are the encoder's output."""

from kvae.distributions import DiagonalNormal, Distribution, FullCovarianceNormal, InverseAutoregressive, TopDownNormal

__all__ = ["DiagonalNormal", "Distribution", "FullCovarianceNormal", "InverseAutoregressive", "TopDownNormal"]
