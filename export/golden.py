"""Golden pairs: inputs and outputs of a file, which a device replays as a self-test."""

from pathlib import Path
from typing import Any

import numpy as np

from kvae.export import runtime
from kvae.export.endpoints import ENTRIES, EXACT, NATS
from kvae.export.reference import Reference

# float32 with another order of additions, relative to the largest value; and the precision of a reported likelihood.
_ROUNDING, _NATS = 1e-4, 0.01
# Kernels of another processor may round other values to a neighbouring step than the two sets of kernels here.
_MARGIN = 3.0
COMPARED = 16  # rows: LiteRT's own kernels are slow


def golden(path: Path, reference: Reference) -> dict[str, Any]:
    """Return inputs and outputs of one call of each signature at the smallest batch size, computed on this machine.

    Each signature has `inputs` and `outputs` by name with `shape`, `dtype` and `data` in row-major order. Outputs also
    have a `tolerance`, the largest accepted absolute difference (0: bit for bit). It is three times the difference
    between LiteRT's two sets of kernels, XNNPACK's and its own, on some rows of the reference.
    """
    model, other = runtime.load(path), runtime.load(path, xnnpack=False)
    signatures = {}
    for endpoint in reference.endpoints:
        if endpoint.name not in model.info["signatures"]:
            continue
        size = model.info["signatures"][endpoint.name]["batch_sizes"][0]
        name = model.signature(endpoint.name, size)
        rows, inputs = (
            {
                key: value[:count] if key in endpoint.batched else value
                for key, value in reference.inputs[endpoint.name].items()
            }
            for count in (COMPARED, size)
        )
        if "io" in model.info:  # the integers of the tensors
            inputs = model.as_integers(name, inputs)
            everything = [opened.call(name, inputs) for opened in (model, other)]
            outputs = everything[0]
        else:
            everything = [opened.run(endpoint.name, batch=size, **rows) for opened in (model, other)]
            outputs = model.run(endpoint.name, batch=size, **inputs)
        signatures[name] = {
            "inputs": {key: _array(value) for key, value in inputs.items()},
            "outputs": {
                key: {
                    **_array(value),
                    "tolerance": _tolerance(endpoint.outputs[key], value, *(answer[key] for answer in everything)),
                }
                for key, value in outputs.items()
            },
        }
    return {"file": path.name, "signatures": signatures}


def _tolerance(unit: str, value: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    if unit == EXACT:
        return 0.0
    least = 2.0 if value.dtype.kind in "iu" else _ROUNDING * max(1.0, float(np.max(np.abs(value))))
    between = _MARGIN * float(np.max(np.abs(first.astype("float64") - second)))
    return float(f"{max(least, between, _NATS if unit in (NATS, ENTRIES) else 0.0):.3g}")


def _array(value: np.ndarray) -> dict[str, Any]:
    flat = value.ravel().tolist()
    data = flat
    if value.dtype.kind == "f":  # a missing value of a row is null
        data = [None if number != number else float(f"{number:.9g}") for number in flat]
    return {"shape": list(value.shape), "dtype": value.dtype.name, "data": data}
