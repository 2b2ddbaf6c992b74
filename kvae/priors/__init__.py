"""Priors p(z)."""

from kvae.priors.base import Prior
from kvae.priors.standard_normal import StandardNormal

__all__ = ["Prior", "StandardNormal"]
