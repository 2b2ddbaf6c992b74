"""Families for q(z|x): what the encoder's output means."""

from kvae.distributions import DiagonalNormal, Distribution

__all__ = ["DiagonalNormal", "Distribution"]
