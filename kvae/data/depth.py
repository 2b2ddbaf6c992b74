"""Value ranges of images that are deeper than 8 bits: 16-bit and wider integers, and floats.

`uint8` values lie in 0..255 (or are 0 and 1) and are not changed. Other values become float32 in [0, 1] by a linear map
from the given range, or from the lowest to the highest value of the training images. Floats that lie in [0, 1] are not
changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kvae.arguments import ROUNDING
from kvae.data.errors import DataError, warn

EIGHT_BIT, FLOAT = "8-bit", "float"
AT_ONCE = 1 << 20  # values converted at once, which limits the memory for float64
REMEDY = "value_range=(LOW, HIGH) (--value-range on the command line)"

Range = tuple[float, float]
UNIT: Range = (0.0, 1.0)


def check_range(value_range: Any) -> Range | None:
    """Return `value_range` as (low, high), or None.

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


def depth_of(dtype: Any) -> str:
    """Return the name of a depth: "8-bit", "16-bit", "32-bit", "64-bit" or "float" (for files also "integer").

    Example:
        >>> [depth_of(dtype) for dtype in (bool, np.uint8, np.int16, np.float64)]
        ['8-bit', '8-bit', '16-bit', 'float']
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return FLOAT
    return "16-bit" if dtype == np.int8 else f"{8 * dtype.itemsize}-bit"  # int8 has negative values


def extremes(values: np.ndarray, rows: np.ndarray | None = None) -> tuple[float, float, int]:
    """Return the lowest and the highest finite value, and the number of non-finite values, of all rows or of `rows`.

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
    """Return whether integers are 8-bit values in a wider type of NumPy: 32 or 64 bits, all in 0..255.

    16-bit values are never taken for 8-bit values, because arithmetic does not widen to 16 bits.
    """
    dtype = np.dtype(dtype)
    return dtype.kind in "iu" and dtype.itemsize >= 4 and 0 <= low and high <= 255


def as_uint8(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return integers (N, …) clipped to 0..255, and which of the N had values outside (N,)."""
    flat = values.reshape(len(values), -1)
    outside = is_outside(flat.min(axis=1), flat.max(axis=1), (0, 255))
    return np.clip(values, 0, 255).astype(np.uint8), outside


def training_range(name: str, kind: str, low: float, high: float) -> Range:
    """Return the range that becomes [0, 1], from the lowest to the highest training value, with a `DataWarning`.

    Raises:
        DataError: if all values are equal.
    """
    if kind == FLOAT and -ROUNDING <= low and high <= 1 + ROUNDING:
        return UNIT
    if not low < high:
        raise DataError(
            f"{name}: expected {kind} training images with more than one value, or {REMEDY}. "
            f"Received: {format_value(low)} for all pixels"
        )
    whole = (0, 65535) if low >= 0 else (-32768, 32767)
    if kind == "16-bit" and (low, high) == whole:
        return low, high
    warn(
        f"{name}: {kind} images with values {format_value(low)}..{format_value(high)} are scaled to [0, 1] "
        "by the range of the training images; "
        f"{REMEDY.replace('(LOW, HIGH)', str(whole)) if kind == '16-bit' else REMEDY} keeps absolute values"
    )
    return low, high


def scale_to_unit(values: np.ndarray, value_range: Range) -> tuple[np.ndarray, np.ndarray]:
    """Return values (N, …) as float32, clipped to [0, 1], and which of the N had values outside the range (N,).

    Example:
        >>> x, outside = scale_to_unit(np.array([[300, 2200], [4100, 2200]], np.uint16), (300.0, 4100.0))
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
    """Return which images, given their lowest and highest values (N,), exceed the range by more than rounding."""
    low, high = value_range
    margin = ROUNDING * (high - low)
    return (lows < low - margin) | (highs > high + margin)


def format_value(value: float) -> str:
    """Return a value as text: whole numbers as integers, other values with the digits of float32.

    Example:
        >>> format_value(4095.0), format_value(1.0000001), format_value(-1e-8)
        ('4095', '1.0000001', '-1e-08')
    """
    return f"{int(value)}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.9g}"


def _rows(values: np.ndarray) -> int:
    """Return the number of rows to process at once."""
    return max(1, AT_ONCE // max(1, values[:1].size))
