"""Values whose type doesn't say their range: 16-bit and wider integers, and floats.

`uint8` values lie in 0..255 (or are 0 and 1) and stay as they are. Others become float32 in [0, 1] by a linear map:
from the range that the caller gives, or from the lowest to the highest value of the training images. Floats that lie
in [0, 1] already are taken as they are.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from kvae.arguments import ROUNDING
from kvae.data.errors import DataError, DataWarning

EIGHT_BIT, FLOAT = "8-bit", "float"
AT_ONCE = 1 << 20  # values that are converted together, so that float64 needs little memory
REMEDY = "value_range=(LOW, HIGH) (--value-range on the command)"

Range = tuple[float, float]
UNIT: Range = (0.0, 1.0)


def check_range(value_range: Any) -> Range | None:
    """`value_range` as (low, high), or None.

    Example:
        >>> check_range([0, 4095])
        (0.0, 4095.0)
    """
    if value_range is None:
        return None
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = np.nan
    if not (np.isfinite([low, high]).all() and low < high):
        raise DataError(f"Argument 'value_range' must be (low, high), finite, low < high. Received: {value_range!r}")
    return low, high


def kind_of(dtype: Any) -> str:
    """What values of a type are called: "8-bit", "16-bit", "32-bit", "64-bit" or "float" (in files also "integer").

    Example:
        >>> [kind_of(dtype) for dtype in (bool, np.uint8, np.int16, np.float64)]
        ['8-bit', '8-bit', '16-bit', 'float']
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return FLOAT
    return "16-bit" if dtype == np.int8 else f"{8 * dtype.itemsize}-bit"  # int8 has negative values: not 0..255


def extremes(values: np.ndarray, rows: np.ndarray | None = None) -> tuple[float, float, int]:
    """The lowest and the highest finite value, and how many are not finite; of all rows, or of these.

    Example:
        >>> extremes(np.array([[1.0, np.nan], [3.0, 2.0]]))
        (1.0, 3.0, 1)
    """
    low, high, bad = np.inf, -np.inf, 0
    rows = np.arange(len(values)) if rows is None else np.sort(rows)
    for start in range(0, len(rows), _rows(values)):
        chunk = values[rows[start : start + _rows(values)]]
        if chunk.dtype.kind == "f" and not (finite := np.isfinite(chunk)).all():
            bad += chunk.size - int(np.count_nonzero(finite))
            chunk = chunk[finite]
        if chunk.size:
            low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
    return low, high, bad


def is_eight_bit(dtype: Any, low: float, high: float) -> bool:
    """Whether integers are 8-bit values in a type that NumPy, or arithmetic, made wider: 32 or 64 bits, all in 0..255.

    Nothing widens to 16 bits by itself: such values are as deep as they say.
    """
    dtype = np.dtype(dtype)
    return dtype.kind in "iu" and dtype.itemsize >= 4 and 0 <= low and high <= 255


def as_uint8(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integers (N, …) clipped to 0..255, and which of the N had values outside (N,)."""
    flat = values.reshape(len(values), -1)
    outside = is_outside(flat.min(axis=1), flat.max(axis=1), (0, 255))
    return np.clip(values, 0, 255).astype(np.uint8), outside


def found_range(name: str, kind: str, low: float, high: float) -> Range:
    """The range that becomes [0, 1], by the lowest and highest training value; a `DataWarning` says it.

    Raises:
        DataError: where all values are the same.
    """
    if kind == FLOAT and -ROUNDING <= low and high <= 1 + ROUNDING:
        return UNIT
    if not low < high:
        raise DataError(
            f"{name}: expected {kind} training images with more than one value, or {REMEDY}. "
            f"Received: {shown(low)} everywhere"
        )
    whole = (0, 65535) if low >= 0 else (-32768, 32767)
    if kind == "16-bit" and (low, high) == whole:
        return low, high
    warnings.warn(
        f"{name}: {kind} images with values {shown(low)}..{shown(high)} are scaled by their training range to [0, 1]; "
        f"{REMEDY.replace('(LOW, HIGH)', str(whole)) if kind == '16-bit' else REMEDY} keeps absolute values",
        DataWarning,
        stacklevel=3,
    )
    return low, high


def in_unit(values: np.ndarray, value_range: Range) -> tuple[np.ndarray, np.ndarray]:
    """Values (N, …) as float32 in [0, 1], clipped, and which of the N had values outside the range (N,).

    Example:
        >>> x, outside = in_unit(np.array([[300, 2200], [4100, 2200]], np.uint16), (300.0, 4100.0))
        >>> x.tolist(), outside.tolist()
        ([[0.0, 0.5], [1.0, 0.5]], [False, False])
    """
    low, high = value_range
    unit, outside = np.empty(values.shape, np.float32), np.zeros(len(values), bool)
    for start in range(0, len(values), _rows(values)):
        part = slice(start, start + _rows(values))
        chunk = values[part].astype(np.float64).reshape(len(values[part]), -1)
        outside[part] = is_outside(chunk.min(axis=1), chunk.max(axis=1), value_range)
        unit[part] = np.clip((chunk - low) / (high - low), 0, 1).reshape(values[part].shape)
    return unit, outside


def is_outside(lows: np.ndarray, highs: np.ndarray, value_range: Range) -> np.ndarray:
    """Which images, by their lowest and highest values (N,), have values outside the range, beyond rounding."""
    low, high = value_range
    margin = ROUNDING * (high - low)
    return (lows < low - margin) | (highs > high + margin)


def shown(value: float) -> str:
    """A value as a message has it: integers whole, others with the digits that float32 has.

    Example:
        >>> shown(4095.0), shown(1.0000001), shown(-1e-8)
        ('4095', '1.0000001', '-1e-08')
    """
    return f"{int(value)}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.9g}"


def _rows(values: np.ndarray) -> int:
    """Rows that are looked at together."""
    return max(1, AT_ONCE // max(1, values[:1].size))
