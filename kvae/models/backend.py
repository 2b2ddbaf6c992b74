"""The check that Keras runs on TensorFlow: importing this module raises a BackendError for any other backend.

Models require TensorFlow. Densities, priors, objectives and networks are written in `keras.ops`, and don't.
"""

import os


class BackendError(ImportError):
    """Keras runs on a backend that kvae's models don't support."""


def _backend() -> str:
    try:
        import keras
    except (ImportError, ValueError) as error:  # a backend that isn't installed or doesn't exist
        if getattr(error, "name", None) == "keras":
            raise
        return os.environ.get("KERAS_BACKEND", str(error))
    return keras.config.backend()


if (found := _backend()) != "tensorflow":
    raise BackendError(
        f"Expected Keras to run on TensorFlow. Received: the backend {found!r}. Set KERAS_BACKEND=tensorflow in the "
        "environment, before Keras is imported"
    )
