"""Checks of numeric arguments, and numbers as text.

Python's and NumPy's numbers are equivalent; anything else is refused in one line.
"""

import math
import operator
from typing import Any

import numpy as np

ROUNDING = 1e-6  # tolerance for float32 arithmetic, relative to the width of a range


def integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Convert an integer of Python or NumPy, or an array without axes, to an int; a bool is refused.

    Raises:
        ValueError: for anything else, or below `least` or above `most` (which requires `least`).

    Example:

        >>> integer("n", np.int64(3), least=1)
        3
        >>> integer("n", 1.5, least=1)
        Traceback (most recent call last):
        ...
        ValueError: Argument `n` must be an integer >= 1. Received: n=1.5
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        limit = "" if least is None else f" >= {least}" if most is None else f" from {least} to {most}"
        raise ValueError(f"Argument `{name}` must be an integer{limit}. Received: {name}={shown(value)}")
    return number


def real(name: str, value: Any, least: float | None = None) -> float:
    """Convert a finite number of Python or NumPy, or an array without axes, to a float; a bool is refused.

    Raises:
        ValueError: for anything else, or below `least`.

    Example:

        >>> real("temperature", np.float32(0.5), least=0)
        0.5
        >>> real("temperature", "1", least=0)
        Traceback (most recent call last):
        ...
        ValueError: Argument `temperature` must be a finite number >= 0. Received: temperature='1'
    """
    try:
        array = np.asarray(value)
        large = isinstance(value, int) and array.dtype.kind == "O"
        number = float(value) if array.ndim == 0 and (array.dtype.kind in "iuf" or large) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or (least is not None and number < least):
        limit = "" if least is None else f" >= {least:g}"
        raise ValueError(f"Argument `{name}` must be a finite number{limit}. Received: {name}={shown(value)}")
    return number


def at_least(name: str, value: Any, least: float) -> Any:
    """Return a number unchanged, unless it is below `least` or NaN.

    Raises:
        ValueError: for such a number.

    Example:

        >>> at_least("num_samples", 0, 1)
        Traceback (most recent call last):
        ...
        ValueError: Argument `num_samples` must be >= 1. Received: num_samples=0
    """
    if not value >= least:
        raise ValueError(f"Argument `{name}` must be >= {least}. Received: {name}={value}")
    return value


def numbers(wanted: str, value: Any) -> np.ndarray:
    """Convert `value` to an array of real numbers of any shape; `wanted` is the beginning of the error message.

    Raises:
        ValueError: for anything else.

    Example:

        >>> numbers("Argument `z` must be an array", [[1, 2], [3]])
        Traceback (most recent call last):
        ...
        ValueError: Argument `z` must be an array. Received: rows of different lengths
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{wanted}. Received: rows of different lengths") from error
    if array.dtype.kind not in "biuf":
        received = f"dtype {array.dtype}" if array.ndim else shown(value)
        raise ValueError(f"{wanted} of real numbers. Received: {received}")
    return array


def decimal(value: float, digits: int = 2, separator: str = "") -> str:
    """Format a number with a fixed number of digits after the point, and a minus sign instead of a hyphen.

    Example:

        >>> decimal(-1234.56, 1), decimal(-1234.56, 1, ",")
        ('−1234.6', '−1,234.6')
    """
    return f"{value:{separator}.{digits}f}".replace("-", "−")


def shown(value: Any) -> str:
    """Return the received value as one short line, for an error message."""
    text = " ".join((repr(value) if isinstance(value, str) else str(value)).split())
    return text if len(text) <= 80 else f"{text[:79]}…"
