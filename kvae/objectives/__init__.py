"""Objectives: what a VAE minimises."""

from kvae.objectives.base import Objective, Terms
from kvae.objectives.elbo import ELBO

__all__ = ["ELBO", "Objective", "Terms"]
