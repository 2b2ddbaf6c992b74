"""Models: `VAE`, `SemiSupervisedVAE` for few labels, and `Autoencoder` for comparison."""

import importlib

from kvae.models import backend  # noqa: F401  # first: it refuses other backends
from kvae.models.autoencoder import Autoencoder
from kvae.models.base import LatentModel, Posterior
from kvae.models.loading import load
from kvae.models.metrics import ActiveUnits
from kvae.models.precision import float32_compute
from kvae.models.semi_supervised import SemiSupervisedVAE
from kvae.models.vae import VAE

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

# A saved model may use classes of these modules; `keras.models.load_model` finds only imported classes.
for _module in ("kvae.callbacks", "kvae.features.classifiers", "kvae.optimizers", "kvae.schedules"):
    importlib.import_module(_module)
