"""kvae: variational autoencoders for Keras 3 / TensorFlow: training, evaluation and export.

A VAE has six parts: encoder, decoder, posterior, likelihood, prior and objective. A variant replaces one of
them and needs no new class.

    >>> import kvae
    >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
    >>> vae.compile(optimizer="adam")
    >>> vae.generate(4, seed=7).shape
    TensorShape([4, 8, 8, 1])

Importing `kvae` imports neither TensorFlow nor Keras: each name below is loaded when it is first used.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# In a source checkout, `kvae.export` is the folder `export/` next to `kvae/`; an installed package contains it.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "setup.cfg").is_file() and (_ROOT / "export" / "__init__.py").is_file():
    __path__.append(str(_ROOT))

_NAMES = {
    "Autoencoder": "kvae.models",
    "Decoder": "kvae.networks",
    "Encoder": "kvae.networks",
    "SemiSupervisedVAE": "kvae.models",
    "VAE": "kvae.models",
    "load": "kvae.models",
}
_MODULES = (
    "callbacks",
    "data",
    "distributions",
    "evaluation",
    "export",
    "features",
    "likelihoods",
    "models",
    "networks",
    "objectives",
    "optimizers",
    "plotting",
    "posteriors",
    "priors",
    "recipes",
    "report",
    "schedules",
    "training",
)
__all__ = [*_NAMES, *_MODULES]

if TYPE_CHECKING:
    from kvae import (
        callbacks as callbacks,
        data as data,
        distributions as distributions,
        evaluation as evaluation,
        export as export,
        features as features,
        likelihoods as likelihoods,
        models as models,
        networks as networks,
        objectives as objectives,
        optimizers as optimizers,
        plotting as plotting,
        posteriors as posteriors,
        priors as priors,
        recipes as recipes,
        report as report,
        schedules as schedules,
        training as training,
    )
    from kvae.models import VAE as VAE, Autoencoder as Autoencoder, SemiSupervisedVAE as SemiSupervisedVAE, load as load
    from kvae.networks import Decoder as Decoder, Encoder as Encoder


if not TYPE_CHECKING:  # where a wrong name is an error

    def __getattr__(name: str) -> Any:
        if name in _NAMES:
            value = getattr(importlib.import_module(_NAMES[name]), name)
        elif name in _MODULES:
            value = importlib.import_module(f"kvae.{name}")
        else:
            raise AttributeError(f"module 'kvae' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
