"""Training: the settings of a run, the routine that fits a model, and the description of the result.

Importing this package imports neither TensorFlow nor Keras: each name below is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

_NAMES = {
    "Settings": "kvae.training.settings",
    "Trained": "kvae.training.loop",
    "describe_run": "kvae.training.describe",
    "fit": "kvae.training.loop",
    "learning_rate_schedule": "kvae.training.loop",
    "train_run": "kvae.training.job",
    "with_fitted_prior": "kvae.training.fitted_prior",
}
__all__ = ["Settings", "Trained", "describe_run", "fit", "learning_rate_schedule", "train_run", "with_fitted_prior"]

if TYPE_CHECKING:
    from kvae.training.describe import describe_run
    from kvae.training.fitted_prior import with_fitted_prior
    from kvae.training.job import train_run
    from kvae.training.loop import Trained, fit, learning_rate_schedule
    from kvae.training.settings import Settings


if not TYPE_CHECKING:  # where a wrong name is an error

    def __getattr__(name: str) -> Any:
        if name not in _NAMES:
            raise AttributeError(f"module 'kvae.training' has no attribute {name!r}")
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
