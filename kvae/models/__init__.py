"""The models: `VAE`, `SemiSupervisedVAE` for few labels, and `Autoencoder` for comparison."""

from typing import Any

import keras

from kvae.models.autoencoder import Autoencoder
from kvae.models.base import LatentModel
from kvae.models.metrics import ActiveUnits
from kvae.models.semi_supervised import SemiSupervisedVAE
from kvae.models.vae import VAE, Posterior

__all__ = ["VAE", "ActiveUnits", "Autoencoder", "LatentModel", "Posterior", "SemiSupervisedVAE", "load"]


def load(path: Any) -> Any:
    """Load a model from a `.keras` file: `keras.models.load_model`, with kvae's classes registered."""
    return keras.models.load_model(path)
