"""The oldest TensorFlow Lite release that runs a file."""

from collections.abc import Mapping

OLDEST = "2.7"  # the oldest tested release (`tests/export/test_export_networks.py`)

#: By operator: versions that require a newer release than `OLDEST`, and this release. (From
#: tensorflow/lite/tools/versioning/runtime_version.cc and the kernels' registrations; integers beyond int32 and 16-bit
#: activations require other releases, but kvae doesn't write them.)
_SINCE: dict[str, tuple[tuple[int, str], ...]] = {
    "BITCAST": ((1, "2.13"),),
    "BITWISE_XOR": ((1, "2.13"),),
    "RIGHT_SHIFT": ((1, "2.13"),),
    "SIGN": ((1, "2.12"),),
    "GELU": ((1, "2.9"),),
    "DYNAMIC_UPDATE_SLICE": ((1, "2.9"),),
    "RELU_0_TO_1": ((1, "2.10"),),
    "ATAN2": ((1, "2.10"),),
    "CAST": ((3, "2.8"), (4, "2.9"), (5, "2.13")),
    "TILE": ((3, "2.8"),),
    "ARG_MAX": ((3, "2.9"),),
    "CONV_2D": ((6, "2.9"), (8, "2.14")),
    "FULLY_CONNECTED": ((10, "2.11"), (11, "2.14")),
    "TRANSPOSE_CONV": ((4, "2.11"), (5, "2.14")),
    "EXP": ((2, "2.12"),),
    "LOG": ((2, "2.15"),),
    "BATCH_MATMUL": ((5, "2.14"),),
}


def oldest_runtime(operators: Mapping[str, int]) -> str:
    """Return the oldest release of TensorFlow Lite that supports these versions of operators, at least `OLDEST`.

    Example:

        >>> oldest_runtime({"CONV_2D": 5, "LOGISTIC": 1}), oldest_runtime({"CONV_2D": 5, "BITWISE_XOR": 1})
        ('2.7', '2.13')
    """
    needed = [OLDEST]
    for name, version in operators.items():
        needed += [release for since, release in _SINCE.get(name, ()) if version >= since]
    return max(needed, key=lambda release: tuple(map(int, release.split("."))))
