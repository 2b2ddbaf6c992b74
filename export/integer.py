"""LiteRT files that compute in integers alone, for processors that have no floats: NPUs and their like."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from kvae.export import flatbuffer, litert, networks, operators
from kvae.export.errors import ExportError

#: dtypes of inputs and outputs
IO = ("int8", "uint8")
#: endpoints that can compute in integers; the others draw noise, or give nats, which eight bits can't hold
ENDPOINTS = ("decode", "encode", "classify")

_FLOATS = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.FLOAT64)
_LOWEST = {schema.TensorType.INT8: -128, schema.TensorType.UINT8: 0}


def integer(
    saved_model: Path, named: flatbuffer.Named, calibration: Sequence[dict[str, np.ndarray]], io: str = "int8"
) -> bytes:
    """One signature of the SavedModel as a LiteRT file of integer operators only.

    Weights, activations, inputs and outputs have eight bits: a number is `scale * (integer - zero_point)`, which the
    tensors of the file say. Activation functions are tables. The file has one subgraph with the signature
    `serving_default`. With "uint8", inputs and outputs are mapped to int8 and back, and nothing else changes.

    Args:
        saved_model: folder.
        named: a signature of fixed shapes, of one of `ENDPOINTS`, with its inputs and outputs in the order of the file.
            Outputs may be left out, and what computes them: without its `variance`, `encode` needs no EXP, which few
            processors have in eight bits, nor has TFLite 2.10.
        calibration: inputs of single calls. They set the ranges: what is beyond them is cut off.
        io: dtype of inputs and outputs, one of `IO`.

    Raises:
        ValueError: for another dtype, or without calibration.
        ExportError: naming the operators that need floats, and their layers.
    """
    if io not in IO:
        raise ValueError(f"Argument `io` must be one of {IO}. Received: {io!r}")
    if not calibration:
        raise ValueError("Argument `calibration` must have one call or more. Received: none")
    converted = litert.convert(saved_model, [named.name], functools.partial(_in_integers, calibration, io))
    file = flatbuffer.Editable(converted)
    file.arrange([named])
    file.isolate(named.name)
    limits = networks.saturated(bytes(file))
    (subgraph,) = file.model.subgraphs
    _keep_needed(subgraph)
    _check(subgraph, file.kinds, named.name)
    for code, kind in zip(file.model.operatorCodes, file.kinds):
        if kind in _ONE_VERSION:
            code.version = 1
    for tensor in subgraph.tensors:
        if tensor.name.decode() in limits:
            _narrow(tensor, limits[tensor.name.decode()])
    return bytes(file)


#: operators whose versions do the same, and of which some kernels only know the first
_ONE_VERSION = ("DEPTH_TO_SPACE",)


def _in_integers(calibration: Sequence[dict[str, np.ndarray]], io: str, converter: Any) -> None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: iter(calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = getattr(tf, io)
    # Older runtimes know one scale for each dense layer; with more, they compute something else.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True


def _keep_needed(subgraph: Any) -> None:
    """Leave out operators of which no output of the subgraph needs anything."""
    needed, kept = set(subgraph.outputs), []
    for operator in reversed(subgraph.operators):
        if needed.intersection(operator.outputs):
            needed.update(operator.inputs)
            kept.append(operator)
    subgraph.operators = kept[::-1]


def _check(subgraph: Any, kinds: Sequence[str], name: str) -> None:
    """ExportError if an operator has a float."""
    received = {}
    for operator in subgraph.operators:
        kind = kinds[operator.opcodeIndex]
        if kind in ("QUANTIZE", "DEQUANTIZE"):  # what stands between integers and the one that matters
            continue
        tensors = [subgraph.tensors[i] for i in (*operator.outputs, *operator.inputs) if i >= 0]
        if any(tensor.type in _FLOATS for tensor in tensors):
            layer = tensors[0].name.decode().split(";")[0].rpartition("/")[0]
            received[kind + (f" in layer '{layer}'" if layer else "")] = kind
    if received:
        raise ExportError(
            f"Expected '{name}' to compute in integers alone. Received operators that need floats "
            f"({'; '.join(received)}): {operators.remedy(' '.join(received.values()))}, or use the precision full_int8"
        )
    floats = [
        t.name.decode() for i in (*subgraph.inputs, *subgraph.outputs) if (t := subgraph.tensors[i]).type in _FLOATS
    ]
    if floats:
        raise ExportError(f"Expected inputs and outputs of '{name}' to be integers. Received: floats in {floats}")


def _narrow(tensor: Any, limit: float) -> None:
    """Give a tensor the part of its range that is within ±limit."""
    scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    lowest = _LOWEST[tensor.type]
    low, high = (np.clip((end - zero) * scale, -limit, limit) for end in (lowest, lowest + 255))
    narrow = float(high - low) / 255
    if 0 < narrow < scale:
        tensor.quantization.scale = [narrow]
        tensor.quantization.zeroPoint = [int(np.clip(round(lowest - low / narrow), lowest, lowest + 255))]
