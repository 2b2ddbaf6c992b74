"""A SavedModel with one named signature per endpoint."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from kvae.export.console import quiet
from kvae.export.endpoints import ENDPOINTS, float32_compute
from kvae.export.errors import ExportError, one_line


def write(model: Any, directory: Path) -> None:
    """Write `model` as a SavedModel to `directory`: the signatures of `ENDPOINTS`, for any batch size.

    Raises:
        ExportError: if an endpoint can't become a graph or TensorFlow can't save it.
    """
    with quiet(), float32_compute(model):
        signatures = {endpoint.name: endpoint.trace(model) for endpoint in ENDPOINTS}
        module = tf.Module()
        # Keras variables are no tf.Variables: untracked, the converter would leave the weights out unasked.
        module.weights = [variable.value for variable in model.variables]
        try:
            tf.saved_model.save(module, str(directory), signatures=signatures)
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise ExportError(
                "TensorFlow can't save the model: each weight must belong to a layer that the model holds as "
                f"an attribute. TensorFlow says: {one_line(error)}"
            ) from error
