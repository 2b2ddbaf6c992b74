"""LiteRT files that compute only with integers, for processors without floats such as NPUs."""

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
#: endpoints that can compute with integers; the others draw noise or return nats, which need more than eight bits
ENDPOINTS = ("decode", "encode", "classify")

_FLOATS = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.FLOAT64)
_LOWEST = {schema.TensorType.INT8: -128, schema.TensorType.UINT8: 0}


def integer(
    saved_model: Path, named: flatbuffer.Named, calibration: Sequence[dict[str, np.ndarray]], io: str = "int8"
) -> bytes:
    """Convert one signature of the SavedModel to a LiteRT file with only integer operators.

    Weights, activations, inputs and outputs have eight bits: a number is `scale * (integer - zero_point)`, with the
    scale and the zero point of its tensor. Activation functions are tables. The file has one subgraph with the
    signature `serving_default`. With "uint8", inputs and outputs are mapped to int8 and back; nothing else changes.

    Args:
        saved_model: folder of the SavedModel.
        named: a signature of fixed shapes of one of `ENDPOINTS`, with its inputs and outputs in the order of the file.
            Outputs may be left out, with their operators: without its `variance`, `encode` doesn't need EXP, which few
            processors and not TFLite 2.10 have in eight bits.
        calibration: inputs of single calls. They set the ranges; values outside are clipped.
        io: dtype of inputs and outputs, one of `IO`.

    Raises:
        ValueError: if the dtype is unknown, or there is no calibration.
        ExportError: if operators require floats; the message names them and their layers.
    """
    if io not in IO:
        raise ValueError(f"Argument `io` must be one of {IO}. Received: {io!r}")
    if not calibration:
        raise ValueError("Argument `calibration` must have at least one call. Received: none")
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


#: operators whose versions are equivalent; some kernels only support the first
_ONE_VERSION = ("DEPTH_TO_SPACE",)


def _in_integers(calibration: Sequence[dict[str, np.ndarray]], io: str, converter: Any) -> None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: iter(calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = getattr(tf, io)
    # Older runtimes support one scale per dense layer; with more, their results are wrong.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True


def _keep_needed(subgraph: Any) -> None:
    """Remove operators that no output of the subgraph depends on."""
    needed, kept = set(subgraph.outputs), []
    for operator in reversed(subgraph.operators):
        if needed.intersection(operator.outputs):
            needed.update(operator.inputs)
            kept.append(operator)
    subgraph.operators = kept[::-1]


def _check(subgraph: Any, kinds: Sequence[str], name: str) -> None:
    """Raise an ExportError if an operator uses floats."""
    received = {}
    for operator in subgraph.operators:
        kind = kinds[operator.opcodeIndex]
        if kind in ("QUANTIZE", "DEQUANTIZE"):  # converts between integers and an operator that requires floats
            continue
        tensors = [subgraph.tensors[i] for i in (*operator.outputs, *operator.inputs) if i >= 0]
        if any(tensor.type in _FLOATS for tensor in tensors):
            layer = tensors[0].name.decode().split(";")[0].rpartition("/")[0]
            received[kind + (f" in layer '{layer}'" if layer else "")] = kind
    if received:
        raise ExportError(
            f"Expected '{name}' to compute only with integers. Received operators that require floats "
            f"({'; '.join(received)}): {operators.remedy(' '.join(received.values()))}, or use the precision full_int8"
        )
    floats = [
        t.name.decode() for i in (*subgraph.inputs, *subgraph.outputs) if (t := subgraph.tensors[i]).type in _FLOATS
    ]
    if floats:
        raise ExportError(f"Expected inputs and outputs of '{name}' to be integers. Received: floats in {floats}")


def _narrow(tensor: Any, limit: float) -> None:
    """Restrict the range of a tensor to ±limit."""
    scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    lowest = _LOWEST[tensor.type]
    low, high = (np.clip((end - zero) * scale, -limit, limit) for end in (lowest, lowest + 255))
    narrow = float(high - low) / 255
    if 0 < narrow < scale:
        tensor.quantization.scale = [narrow]
        tensor.quantization.zeroPoint = [int(np.clip(round(lowest - low / narrow), lowest, lowest + 255))]
