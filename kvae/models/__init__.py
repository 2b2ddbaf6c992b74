"""The models: `VAE`, `SemiSupervisedVAE` for few labels, and `Autoencoder` for comparison."""

from kvae.models.autoencoder import Autoencoder
from kvae.models.base import LatentModel
from kvae.models.loading import load
from kvae.models.metrics import ActiveUnits
from kvae.models.precision import float32_compute
from kvae.models.semi_supervised import SemiSupervisedVAE
from kvae.models.vae import VAE, Posterior

__all__ = [
    "VAE",
    "ActiveUnits",
    "Autoencoder",
    "LatentModel",
    "Posterior",
    "SemiSupervisedVAE",
    "float32_compute",
    "load",
]
