"""A SavedModel with named signatures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.export.console import quiet
from kvae.export.endpoints import INFO, Signature, signatures_of
from kvae.export.errors import ExportError, one_line
from kvae.models import float32_compute


def trace(model: Any, signatures: Sequence[Signature] | None = None) -> dict[str, Any]:
    """Trace the signatures (None: all endpoints, any batch size) as graphs by name; raise an ExportError on failure."""
    wanted = signatures_of(model) if signatures is None else signatures
    with quiet(), float32_compute(model):
        return {signature.name: signature.endpoint.trace(model, signature.batch) for signature in wanted}


def write(model: Any, directory: Path, info: bytes, traced: dict[str, Any] | None = None) -> None:
    """Write `model` as a SavedModel to `directory`: the traced graphs (by default all endpoints) and `info`.

    Raises:
        ExportError: if an endpoint can't become a graph or TensorFlow can't save it.
    """
    text = tf.constant(np.frombuffer(info, np.uint8))
    with quiet(), float32_compute(model):
        signatures = dict(traced or trace(model))
        signatures[INFO] = tf.function(lambda: {"json": text}, input_signature=[]).get_concrete_function()
        module = tf.Module()
        # Keras variables aren't tf.Variables: untracked, the converter would leave out the weights without a message.
        module.weights = [variable.value for variable in model.variables]
        try:
            tf.saved_model.save(module, str(directory), signatures=signatures)
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise ExportError(f"TensorFlow can't save the model. Its message: {one_line(error)}") from error
