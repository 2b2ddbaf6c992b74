"""LiteRT files (`.tflite`): float32 from TensorFlow's converter, smaller ones from the AI Edge Quantizer."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.export import operators
from kvae.export.console import quiet
from kvae.export.errors import ExportError, one_line

#: float16: 16-bit weights, computed in float32. int8: 8-bit weights, activations quantised on the fly. full_int8:
#: 8-bit weights and activations, with ranges seen in calibration. Inputs and outputs are float32 in all of them.
PRECISIONS = ("float32", "float16", "int8", "full_int8")

#: by signature, inputs of single calls
Calibration = dict[str, list[dict[str, np.ndarray]]]


def convert(saved_model: Path, signatures: Sequence[str]) -> bytes:
    """The SavedModel as one float32 LiteRT file: the named signatures over shared weights.

    Built-in operators only, so that it runs wherever LiteRT does. The same model gives the same bytes.

    Raises:
        ExportError: naming the operators that have no built-in counterpart.
    """
    with quiet() as log:
        try:
            converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=list(signatures))
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            return converter.convert()
        except OSError:  # a disk that is full
            raise
        except Exception as error:
            log.flush()
            log.seek(0)
            raise ExportError(_reason(f"{error}\n{log.read()}")) from error


def quantize(float32: bytes, precision: str, calibration: Calibration | None = None) -> bytes:
    """The float32 file in another precision; only layers with weights change, random numbers and densities don't.

    Convolutions get one scale per channel. Dense layers get one per layer: per channel, a wide one costs 12
    bytes per output and signature, and gains nothing that can be measured here.

    Args:
        float32: the file.
        precision: one of `PRECISIONS`.
        calibration: for "full_int8".

    Raises:
        ExportError: if the quantizer refuses the file.
    """
    if precision == "float32":
        return float32
    from ai_edge_quantizer import quantizer

    with quiet():
        try:
            recipe = quantizer.Quantizer(bytearray(float32))
            _RECIPES[precision](recipe)
            ranges = _ranges(float32, recipe, calibration) if calibration and recipe.need_calibration else None
            result = recipe.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
            if result.quantized_model is None:
                raise ValueError("no file came out")
            return bytes(result.quantized_model)
        except OSError:
            raise
        except Exception as error:
            raise ExportError(
                f"The AI Edge Quantizer refuses to make a {precision} file: export precisions=('float32',) only. "
                f"It says: {one_line(error)}"
            ) from error


def _float16(recipe: Any) -> None:
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    for layer in _layers():
        recipe.add_weight_only_config(".*", layer, num_bits=16, algorithm_key=AlgorithmName.FLOAT_CASTING)


def _int8(recipe: Any) -> None:
    for layer in _layers():
        recipe.add_dynamic_config(".*", layer, num_bits=8, granularity=_granularity(layer))


def _full_int8(recipe: Any) -> None:
    from ai_edge_quantizer.qtyping import TFLOperationName

    for layer in (*_layers(), TFLOperationName.RESHAPE):
        recipe.add_static_config(
            ".*", layer, activation_num_bits=8, weight_num_bits=8, weight_granularity=_granularity(layer)
        )


_RECIPES = {"float16": _float16, "int8": _int8, "full_int8": _full_int8}


def _layers() -> tuple[Any, ...]:
    """The operators with weights."""
    from ai_edge_quantizer.qtyping import TFLOperationName as Name

    return Name.FULLY_CONNECTED, Name.CONV_2D, Name.DEPTHWISE_CONV_2D, Name.CONV_2D_TRANSPOSE


def _granularity(layer: Any) -> Any:
    from ai_edge_quantizer.qtyping import QuantGranularity, TFLOperationName

    dense = layer == TFLOperationName.FULLY_CONNECTED
    return QuantGranularity.TENSORWISE if dense else QuantGranularity.CHANNELWISE


def _ranges(float32: bytes, recipe: Any, calibration: Calibration) -> Any:
    """Smallest and largest value of each tensor: the quantizer's default, a moving average, clips a tenth of it."""
    from ai_edge_quantizer.calibrator import CalibrationMode, Calibrator
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    # The other mode wants the contents of all tensors, which a file of several signatures doesn't have.
    mode = CalibrationMode.CALIBRATION_PROFILER_BASED
    calibrator = Calibrator(float32, mode=mode, qsv_update_func=min_max_update)
    calibrator.calibrate(calibration, recipe._recipe_manager)
    return calibrator.get_model_qsvs()


def _reason(message: str) -> str:
    """One line out of the converter's several hundred: which operator of which layer, and what to do."""
    kinds = dict(re.findall(r"^\s*(TF Select ops|Custom ops): *(\S.*)$", message, re.MULTILINE))
    if not kinds:
        return f"TensorFlow's LiteRT converter failed. It says: {one_line(message)}"
    received = []
    for kind, names in kinds.items():
        for name in dict.fromkeys(name.strip() for name in names.split(",")):
            # The place where it was made, such as decoder_1/my_layer_1/MatrixInverse@function.
            place = re.search(rf'"{name}:", "([^"@]+)/[^"/@]+[@"]', message)
            received.append(f"{kind}: {name}" + (f" in layer '{place[1]}'" if place else ""))
    return (
        "Expected a model of built-in LiteRT operators only. Received operators without a built-in counterpart "
        f"({'; '.join(received)}): {operators.remedy(' '.join(kinds.values()), message)}"
    )
