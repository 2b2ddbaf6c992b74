"""Golden pairs: inputs and outputs of a file, for a device to replay as a self-test."""

from typing import Any

import numpy as np

from kvae.export.endpoints import EXACT
from kvae.export.reference import Reference
from kvae.export.runtime import Model

# Kernels of another processor add in another order. In int8 it may also round a value to the neighbouring step.
_TOLERANCE = {"float32": 1e-4, "float16": 1e-4, "int8": 0.02, "full_int8": 0.05}


def golden(model: Model, precision: str, reference: Reference) -> dict[str, Any]:
    """One call of each signature of the smallest batch size, as this machine answers it.

    By signature: `inputs` and `outputs` by name with `shape`, `dtype` and `data` in row-major order; outputs also
    with a `tolerance`, the largest absolute difference to accept (0: bit for bit).
    """
    size = model.batch_sizes[-1]
    signatures = {}
    for endpoint in reference.endpoints:
        specs = model.info["signatures"][endpoint.name]["inputs"]
        inputs = {
            name: value[:size] if specs[name]["shape"][0] == "B" else value
            for name, value in reference.inputs[endpoint.name].items()
        }
        outputs = model.run(endpoint.name, batch=size, **inputs)
        signatures[endpoint.signature(size)] = {
            "inputs": {name: _array(value) for name, value in inputs.items()},
            "outputs": {
                name: {**_array(value), "tolerance": _tolerance(precision, endpoint.outputs[name], value)}
                for name, value in outputs.items()
            },
        }
    return {"file": model.path.name, "signatures": signatures}


def _tolerance(precision: str, unit: str, value: np.ndarray) -> float:
    return 0.0 if unit == EXACT else float(f"{_TOLERANCE[precision] * max(1.0, np.max(np.abs(value))):.3g}")


def _array(value: np.ndarray) -> dict[str, Any]:
    flat = value.ravel().tolist()
    data = flat if value.dtype.kind == "i" else [float(f"{number:.9g}") for number in flat]
    return {"shape": list(value.shape), "dtype": value.dtype.name, "data": data}
