"""A SavedModel with one named signature per endpoint and batch size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.export.console import quiet
from kvae.export.endpoints import INFO, endpoints_of
from kvae.export.errors import ExportError, one_line
from kvae.models import float32_compute


def trace(model: Any, batch_sizes: Sequence[int | None] = (None,)) -> dict[str, Any]:
    """The model's endpoints for each batch size (None is any) as graphs, by signature; ExportError if that can't be."""
    with quiet(), float32_compute(model):
        return {
            endpoint.signature(batch): endpoint.trace(model, batch)
            for endpoint in endpoints_of(model)
            for batch in batch_sizes
        }


def write(
    model: Any,
    directory: Path,
    info: bytes,
    batch_sizes: Sequence[int | None] = (None,),
    traced: dict[str, Any] | None = None,
) -> None:
    """Write `model` as a SavedModel to `directory`: its endpoints for each batch size, as traced, and `info`.

    Raises:
        ExportError: if an endpoint can't become a graph or TensorFlow can't save it.
    """
    text = tf.constant(np.frombuffer(info, np.uint8))
    with quiet(), float32_compute(model):
        signatures = dict(traced or trace(model, batch_sizes))
        signatures[INFO] = tf.function(lambda: {"json": text}, input_signature=[]).get_concrete_function()
        module = tf.Module()
        # Keras variables are no tf.Variables: untracked, the converter would leave the weights out unasked.
        module.weights = [variable.value for variable in model.variables]
        try:
            tf.saved_model.save(module, str(directory), signatures=signatures)
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise ExportError(f"TensorFlow can't save the model. It says: {one_line(error)}") from error
