"""Families of distributions: posteriors q(z|x) and likelihoods p(x|z), and the table of closed-form KLs."""

from kvae.distributions.base import Distribution
from kvae.distributions.bernoulli import Bernoulli
from kvae.distributions.diagonal_normal import DiagonalNormal
from kvae.distributions.kl import closed_form_kl, register_kl
from kvae.distributions.noise import Noise, Seed, standard_normal, uniform
from kvae.distributions.normal import Normal

__all__ = [
    "Bernoulli",
    "DiagonalNormal",
    "Distribution",
    "Noise",
    "Normal",
    "Seed",
    "closed_form_kl",
    "register_kl",
    "standard_normal",
    "uniform",
]
