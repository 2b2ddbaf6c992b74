"""Priors p(z)."""

from kvae.priors.base import Prior
from kvae.priors.conditional_normal import ConditionalNormal
from kvae.priors.fixed_mixture import FixedMixture, fit_mixture
from kvae.priors.flow_matching import FlowMatching, fit_flow_matching
from kvae.priors.mixture import Mixture
from kvae.priors.real_nvp import RealNVP
from kvae.priors.standard_normal import StandardNormal
from kvae.priors.top_level import TopLevel
from kvae.priors.vamp import VampPrior

__all__ = [
    "ConditionalNormal",
    "FixedMixture",
    "FlowMatching",
    "Mixture",
    "Prior",
    "RealNVP",
    "StandardNormal",
    "TopLevel",
    "VampPrior",
    "fit_flow_matching",
    "fit_mixture",
]
