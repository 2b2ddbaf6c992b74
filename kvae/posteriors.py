"""Families for q(z|x): what the encoder's output means."""

from kvae.distributions import DiagonalNormal, Distribution, FullCovarianceNormal, InverseAutoregressive

__all__ = ["DiagonalNormal", "Distribution", "FullCovarianceNormal", "InverseAutoregressive"]
