"""LiteRT files (`.tflite`): float32 from TensorFlow's converter, int8 from the AI Edge Quantizer."""

import re
from pathlib import Path

import tensorflow as tf

from kvae.export.console import quiet
from kvae.export.endpoints import ENDPOINTS
from kvae.export.errors import ExportError, one_line

PRECISIONS = ("float32", "int8")


def convert(saved_model: Path) -> bytes:
    """The SavedModel as one float32 LiteRT file: all signatures over shared weights, any batch size.

    Built-in operators only, so that it runs wherever LiteRT does. The same model gives the same bytes.

    Raises:
        ExportError: naming the operators that have no built-in counterpart.
    """
    with quiet() as log:
        try:
            converter = tf.lite.TFLiteConverter.from_saved_model(
                str(saved_model), signature_keys=[endpoint.name for endpoint in ENDPOINTS]
            )
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            return converter.convert()
        except Exception as error:
            log.flush()
            log.seek(0)
            raise ExportError(_reason(f"{error}\n{log.read()}")) from error


def quantize(float32: bytes) -> bytes:
    """The file with int8 weights, float32 in and out ("dynamic range" quantisation): needs no data.

    Convolutions get one scale per channel. Dense layers get one per layer: per channel, a wide one costs 12
    bytes per output and signature, and gains nothing that can be measured here.

    Raises:
        ExportError: if the quantizer refuses the file.
    """
    from ai_edge_quantizer import qtyping, quantizer

    every, dense = qtyping.TFLOperationName.ALL_SUPPORTED, qtyping.TFLOperationName.FULLY_CONNECTED
    with quiet():
        try:
            recipe = quantizer.Quantizer(bytearray(float32))
            recipe.add_dynamic_config(".*", every, num_bits=8)
            recipe.add_dynamic_config(".*", dense, num_bits=8, granularity=qtyping.QuantGranularity.TENSORWISE)
            result = recipe.quantize(enable_progress_bar=False, enable_progress_report=False)
        except Exception as error:
            raise ExportError(
                "The AI Edge Quantizer refuses the float32 file: export precisions=('float32',) only. It "
                "says: " + one_line(error)
            ) from error
    if result.quantized_model is None:
        raise ExportError("The AI Edge Quantizer gave no file: export precisions=('float32',) only.")
    return bytes(result.quantized_model)


def _reason(message: str) -> str:
    """One line out of the converter's several hundred."""
    found = {
        match[1]: ", ".join(dict.fromkeys(name.strip() for name in match[2].split(",")))
        for match in re.finditer(r"^\s*(TF Select ops|Custom ops): *(\S.*)$", message, re.MULTILINE)
    }
    if found:
        operators = "; ".join(f"{kind}: {names}" for kind, names in found.items())
        return (
            "Expected a model of built-in LiteRT operators only. Received operators without a built-in "
            f"counterpart ({operators}): replace the layer they come from"
        )
    return f"TensorFlow's LiteRT converter failed. It says: {one_line(message)}"
