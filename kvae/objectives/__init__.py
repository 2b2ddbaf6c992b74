"""Objectives: the training losses of VAEs."""

from kvae.objectives.base import Objective, Terms
from kvae.objectives.capacity import Capacity
from kvae.objectives.criterion import Criterion
from kvae.objectives.dip import DIP
from kvae.objectives.dreg import DReG
from kvae.objectives.elbo import ELBO
from kvae.objectives.free_bits import FreeBits
from kvae.objectives.gradients import GradientScale
from kvae.objectives.groups import CIWAE, MIWAE, PIWAE
from kvae.objectives.iwae import IWAE
from kvae.objectives.kernels import IMQ, RBF, Kernel
from kvae.objectives.mmd import MMD
from kvae.objectives.target_rate import TargetRate
from kvae.objectives.total_correlation import TotalCorrelation

__all__ = [
    "CIWAE",
    "DIP",
    "ELBO",
    "IMQ",
    "IWAE",
    "MIWAE",
    "MMD",
    "PIWAE",
    "RBF",
    "Capacity",
    "Criterion",
    "DReG",
    "FreeBits",
    "GradientScale",
    "Kernel",
    "Objective",
    "TargetRate",
    "Terms",
    "TotalCorrelation",
]
