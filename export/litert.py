"""LiteRT files (`.tflite`): float32 from TensorFlow's converter, smaller ones from the LiteRT Quantizer."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.export import networks, operators
from kvae.export.console import quiet
from kvae.export.errors import ExportError, one_line

#: float16: 16-bit weights, computed in float32. int8: 8-bit weights, activations quantised on the fly. full_int8:
#: 8-bit weights and activations, with calibrated ranges. All of them have float32 inputs and outputs.
PRECISIONS = ("float32", "float16", "int8", "full_int8")
INTEGER = "integer"  # for files of one network: `kvae.export.integer`
ALL_PRECISIONS = (*PRECISIONS, INTEGER)

#: inputs of single calls, by signature
Calibration = dict[str, list[dict[str, np.ndarray]]]


def convert(
    saved_model: Path, signatures: Sequence[str], configure: Callable[[Any], None] = lambda converter: None
) -> bytes:
    """Convert the SavedModel to one LiteRT file: the named signatures with shared weights, by default in float32.

    The file has only built-in operators, so it runs on every LiteRT runtime. The same model gives the same bytes.

    Args:
        saved_model: folder of the SavedModel.
        signatures: names of the signatures.
        configure: called with TensorFlow's converter.

    Raises:
        ExportError: if operators have no built-in counterpart; the message names them.
    """
    with quiet() as log:
        try:
            converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=list(signatures))
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            configure(converter)
            return converter.convert()
        except OSError:  # such as a full disk
            raise
        except Exception as error:
            log.flush()
            log.seek(0)
            raise ExportError(_reason(f"{error}\n{log.read()}")) from error


def quantize(
    float32: bytes,
    precision: str,
    calibration: Calibration | None = None,
    inside: networks.InNetwork | None = None,
) -> bytes:
    """Convert the float32 file to another precision. Only layers with weights change, not random numbers or densities.

    Convolutions get one scale per channel. Dense layers get one scale per layer: scales per channel would cost 12 bytes
    per output and signature in wide layers, without a measurable gain.

    Args:
        float32: bytes of the file.
        precision: one of `PRECISIONS`.
        calibration: calibration for "full_int8".
        inside: selects the operators of networks by name, for "full_int8" (`networks.in_networks(model)`); operators of
            flows and other densities are not changed. None selects all layers with weights.

    Raises:
        ExportError: if the quantizer fails.
    """
    if precision == "float32":
        return float32
    from litert_quantizer import quantizer

    with quiet():
        try:
            if precision == "full_int8":
                return _full_int8(float32, calibration or {}, inside or (lambda name: True))
            recipe = quantizer.Quantizer(bytearray(float32))
            for layer in networks.LAYERS:
                _add_weights(recipe, layer, precision)
            return _quantized(recipe)
        except OSError:
            raise
        except Exception as error:
            raise ExportError(
                f"The LiteRT Quantizer can't make a {precision} file: export precisions=('float32',) only. "
                f"Its message: {one_line(error)}"
            ) from error


def _quantized(recipe: Any, ranges: Any = None) -> bytes:
    result = recipe.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    if result.quantized_model is None:
        raise ValueError("the quantizer returned no file")
    return bytes(result.quantized_model)


def _add_weights(recipe: Any, layer: str, precision: str) -> None:
    """Add the weights of a kind of layer to the recipe of a float16 or int8 file."""
    from litert_quantizer.algorithm_manager import AlgorithmName

    kind, bits = _operation_name(layer), {"float16": 16, "int8": 8}[precision]
    if bits == 16:
        recipe.add_weight_only_config(".*", kind, num_bits=bits, algorithm_key=AlgorithmName.FLOAT_CASTING)
    else:
        recipe.add_dynamic_config(".*", kind, num_bits=bits, granularity=_granularity(layer))


def _full_int8(float32: bytes, calibration: Calibration, inside: networks.InNetwork) -> bytes:
    from litert_quantizer import quantizer

    recipe = quantizer.Quantizer(bytearray(float32))
    chosen = networks.in_eight_bits(float32, inside)
    if not chosen:
        return float32
    for kind, names in chosen.items():
        if kind in networks.UNKNOWN_TO_QUANTIZER:
            continue
        scopes = "|".join(map(re.escape, names))
        recipe.add_static_config(
            f"^(?:{scopes});", _operation_name(kind),
            activation_num_bits=8, weight_num_bits=8, weight_granularity=_granularity(kind),
        )  # fmt: skip
    ranges = _ranges(float32, calibration)
    for name, limit in networks.saturated(float32).items():
        ranges[name] = {end: np.clip(value, -limit, limit) for end, value in ranges[name].items()}
    return networks.joined(_quantized(recipe, ranges), chosen)


def _operation_name(kind: str) -> Any:
    """Return the quantizer's name of an operator."""
    from litert_quantizer.qtyping import TFLOperationName

    return TFLOperationName["CONV_2D_TRANSPOSE" if kind == "TRANSPOSE_CONV" else kind]


def _granularity(kind: str) -> Any:
    from litert_quantizer.qtyping import QuantGranularity

    return QuantGranularity.TENSORWISE if kind == "FULLY_CONNECTED" else QuantGranularity.CHANNELWISE


def _ranges(float32: bytes, calibration: Calibration) -> Any:
    """Return the range of each tensor. (The quantizer's default, a moving average, clips a tenth of it.)"""
    from litert_quantizer.calibrator import CalibrationMode, Calibrator
    from litert_quantizer.recipe_manager import RecipeManager
    from litert_quantizer.utils.qsv_utils import min_max_update

    # The other mode requires the contents of all tensors, which a file with several signatures doesn't have.
    mode = CalibrationMode.CALIBRATION_PROFILER_BASED
    calibrator = Calibrator(float32, mode=mode, qsv_update_func=min_max_update)
    calibrator.calibrate(calibration, RecipeManager())  # this mode uses no recipe
    return calibrator.get_model_qsvs()


def _reason(message: str) -> str:
    """Shorten the converter's message to one line: the operators, their layers, and what to do."""
    kinds = dict(re.findall(r"^\s*(TF Select ops|Custom ops): *(\S.*)$", message, re.MULTILINE))
    if not kinds:
        return f"TensorFlow's LiteRT converter failed. Its message: {one_line(message)}"
    received = []
    for kind, names in kinds.items():
        for name in dict.fromkeys(name.strip() for name in names.split(",")):
            # The operator's place, such as decoder_1/my_layer_1/MatrixInverse@function.
            place = re.search(rf'"{name}:", "([^"@]+)/[^"/@]+[@"]', message)
            received.append(f"{kind}: {name}" + (f" in layer '{place[1]}'" if place else ""))
    return (
        "Expected a model of built-in LiteRT operators only. Received operators without a built-in counterpart "
        f"({'; '.join(received)}): {operators.remedy(' '.join(kinds.values()), message)}"
    )
