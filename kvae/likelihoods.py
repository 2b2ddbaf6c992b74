"""Families for p(x|z): what the decoder's output means."""

from kvae.distributions import Bernoulli, DiagonalNormal, Distribution, Normal

__all__ = ["Bernoulli", "DiagonalNormal", "Distribution", "Normal"]
