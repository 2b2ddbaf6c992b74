"""Families of distributions: posteriors q(z|x), likelihoods p(x|z), and the table of closed-form KLs."""

from kvae.distributions.autoregressive import InverseAutoregressive
from kvae.distributions.base import Distribution
from kvae.distributions.bernoulli import Bernoulli
from kvae.distributions.columns import Columns
from kvae.distributions.continuous_bernoulli import ContinuousBernoulli
from kvae.distributions.diagonal_normal import DiagonalNormal
from kvae.distributions.discretized_logistic import DiscretizedLogistic
from kvae.distributions.discretized_logistic_mixture import DiscretizedLogisticMixture
from kvae.distributions.full_covariance_normal import FullCovarianceNormal
from kvae.distributions.kl import closed_form_kl, register_kl
from kvae.distributions.laplace import DiagonalLaplace, Laplace
from kvae.distributions.low_rank_normal import LowRankNormal
from kvae.distributions.noise import IndexedNoise, Noise, Seed, standard_normal, uniform
from kvae.distributions.normal import Normal
from kvae.distributions.optimal_normal import OptimalNormal
from kvae.distributions.quantile import normal_from_words, uniform_from_words
from kvae.distributions.scaled import Scaled
from kvae.distributions.threefry import random_words, seed_words
from kvae.distributions.top_down_normal import TopDownNormal

__all__ = [
    "Bernoulli",
    "Columns",
    "ContinuousBernoulli",
    "DiagonalLaplace",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Distribution",
    "FullCovarianceNormal",
    "IndexedNoise",
    "InverseAutoregressive",
    "Laplace",
    "LowRankNormal",
    "Noise",
    "Normal",
    "OptimalNormal",
    "Scaled",
    "Seed",
    "TopDownNormal",
    "closed_form_kl",
    "normal_from_words",
    "random_words",
    "register_kl",
    "seed_words",
    "standard_normal",
    "uniform",
    "uniform_from_words",
]
