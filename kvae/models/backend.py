"""Models run on Keras with TensorFlow: importing this module raises where Keras runs on anything else.

Densities, priors, objectives and networks are written in `keras.ops`, and need not be.
"""

import os


class BackendError(ImportError):
    """Keras runs on a backend that kvae's models don't."""


def _backend() -> str:
    try:
        import keras
    except (ImportError, ValueError) as error:  # of a backend that isn't installed, or isn't one
        if getattr(error, "name", None) == "keras":
            raise
        return os.environ.get("KERAS_BACKEND", str(error))
    return keras.config.backend()


if (found := _backend()) != "tensorflow":
    raise BackendError(
        f"Expected Keras to run on TensorFlow. Received: the backend {found!r}. Set KERAS_BACKEND=tensorflow in the "
        "environment, before Keras is imported"
    )
