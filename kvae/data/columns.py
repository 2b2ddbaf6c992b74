"""A column of a table: its type, found in the training rows, and its values as numbers and back."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from kvae.data.errors import DataError

#: types that `types=` may give a column, and "ignore", which leaves it out
TYPES = ("number", "count", "category", "boolean", "date", "ignore")
FEW = 10  # integers with at most this many different values are categories
MOST_CATEGORIES = 1000
LARGEST_COUNT = 1000
MOST_DECIMALS = 6
#: formats of dates in text
DATE_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y/%m/%d")
UNITS = {"days": "D", "seconds": "s"}


@dataclass
class Column:
    """A column of the training rows.

    Attributes:
        name: its name.
        type: "number", "count", "category", "boolean" or "date".
        dtype: dtype of the column in the table, which `decode` restores.
        missing: whether training rows have missing values.
        location, scale: mean and standard deviation of the encoded values; of log(1 + x) for counts.
        low, high: smallest and largest encoded value.
        decimals: digits after the point of numbers; None for numbers with more than 6.
        categories: names of the categories, in order.
        category_dtype: dtype of the categories, such as "int64"; "str" for text.
        origin, unit: the encoded value of a date is the number of days or seconds since `origin`.
        format: format of a date that is text; "date" for `datetime.date`.
    """

    name: str
    type: str
    dtype: str = "float64"
    missing: bool = False
    location: float = 0.0
    scale: float = 1.0
    low: float = 0.0
    high: float = 0.0
    decimals: int | None = None
    categories: list[str] | None = None
    category_dtype: str | None = None
    origin: str | None = None
    unit: str | None = None
    format: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the attributes that differ from their defaults."""
        found = {entry.name: (getattr(self, entry.name), entry.default) for entry in fields(self)}
        return {name: value for name, (value, default) in found.items() if default is MISSING or value != default}

    def encode(self, values: pd.Series) -> tuple[np.ndarray, list[str]]:
        """Return values as float64 `(N,)`, NaN if missing, and the values that the training rows don't have.

        Raises:
            DataError: for values that are not of the column's type.
        """
        if self.type == "category":
            numbers = {name: float(i) for i, name in enumerate(self.categories or ())}
            names = category_names(values)
            found = np.array([numbers.get(name, np.nan) if name is not None else np.nan for name in names])
            return found, sorted({name for name in names if name is not None and name not in numbers})
        if self.type == "date":
            times = _dates(values, self.format)
            since = times - pd.Timestamp(self.origin, tz=times.dt.tz)
            return (since / pd.Timedelta(1, UNITS[str(self.unit)])).to_numpy(np.float64, na_value=np.nan), []
        numbers_ = _numbers(self.name, values)
        strange = np.isinf(numbers_)
        if self.type == "boolean":
            strange = ~np.isin(numbers_, (0, 1)) & ~np.isnan(numbers_)
        elif self.type == "count":
            strange |= numbers_ < 0
        return np.where(strange, np.nan, numbers_), [f"{value:g}" for value in np.unique(numbers_[strange])]

    def decode(self, values: np.ndarray) -> pd.Series:
        """Return encoded values `(N,)` in the column's dtype, rounded and limited to the range of the training rows."""
        values = np.asarray(values, np.float64)
        present = ~np.isnan(values)
        if self.type == "category":
            names = self.categories or []
            index = np.clip(np.round(np.where(present, values, 0)), 0, len(names) - 1).astype(int)
            levels = pd.Series(names, dtype=object).map(_reader(self.category_dtype))
            return _restored(levels.to_numpy(object)[index], present, self)
        if self.type == "boolean":
            return _restored(np.where(present, values, 0) >= 0.5, present, self)
        limited = np.clip(np.where(present, values, self.low), self.low, self.high)
        if self.type == "date":
            steps = pd.to_timedelta(np.round(limited).astype(np.int64), unit=UNITS[str(self.unit)])
            return _restored(pd.Timestamp(self.origin) + steps, present, self)
        return _restored(limited if self.decimals is None else np.round(limited, self.decimals), present, self)


def infer(name: str, values: pd.Series, wanted: str | None = None) -> Column | str:
    """Return the column of training rows, in the order of the source, or the reason why it says nothing.

    Args:
        name: name of the column.
        values: its values in the training rows.
        wanted: type of the column; None finds it.

    Raises:
        DataError: if the values are not of the wanted type.

    Example:

        >>> infer("city", pd.Series(["Oslo", "Rome", None, "Rome"])).to_json()["categories"]
        ['Oslo', 'Rome']
        >>> infer("id", pd.Series(range(100)))
        'identifier'
    """
    present = values.dropna()
    if not len(present) or (wanted is None and len(set(category_names(present))) == 1):
        return "constant"
    kind = wanted or _kind(present)
    if kind not in TYPES:
        return kind
    column = Column(name, kind, dtype=str(values.dtype), missing=bool(values.isna().any()))
    if kind == "category":
        _set_categories(column, present)
        if len(column.categories or ()) > MOST_CATEGORIES:
            return f"more than {MOST_CATEGORIES:,} categories"
    elif kind == "date":
        _set_dates(column, present)
    encoded = column.encode(values)[0]
    found = encoded[np.isfinite(encoded)]
    if not len(found):
        raise DataError(f"Expected values of the type {kind!r} in the column {name!r}. Received: {present.iloc[0]!r}")
    column.missing = len(found) < len(values)
    column.low, column.high = float(found.min()), float(found.max())
    if kind in ("number", "count", "date"):
        standardized = np.log1p(found) if kind == "count" else found
        column.location = float(standardized.mean())
        column.scale = float(standardized.std()) or 1.0
        column.decimals = 0 if kind != "number" else _decimals(found)
    return column


def _kind(present: pd.Series) -> str:
    """Return the type of a column without missing values, or why it is left out."""
    dtype = present.dtype
    if pd.api.types.is_bool_dtype(dtype) or set(present.map(type)) <= {bool, np.bool_}:
        return "boolean"
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    if pd.api.types.is_datetime64_any_dtype(dtype) or _date_format(present) is not None:
        return "date"
    if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
        distinct = len(set(category_names(present)))
        return "text or an identifier" if distinct > max(FEW, 0.5 * len(present)) else "category"
    numbers = present.to_numpy(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers) or np.any(numbers != np.round(numbers)):
        return "number"
    return _integer_kind(numbers)


def _integer_kind(numbers: np.ndarray) -> str:
    distinct, steps = np.unique(numbers), np.diff(numbers)
    if set(distinct) == {0.0, 1.0}:
        return "boolean"
    if len(distinct) <= FEW and 2 * len(distinct) <= len(numbers):
        return "category"
    is_dense = len(numbers) > FEW and distinct[-1] - distinct[0] < 10 * len(numbers)
    if is_dense and (np.all(steps > 0) or np.all(steps < 0)):
        return "identifier"
    is_count = distinct[0] == 0 and distinct[-1] <= LARGEST_COUNT and numbers.var() >= numbers.mean()
    return "count" if is_count else "number"


def category_names(values: pd.Series) -> list[str | None]:
    """Return the name of each value, None if it is missing: integers as integers, also if they are stored as floats."""
    missing = values.isna().to_numpy()
    return [None if gone else _name(value) for value, gone in zip(values.astype(object), missing)]


def _name(value: Any) -> str:
    if isinstance(value, float | np.floating) and value == round(value, 0):
        value = int(value)
    return str(value)


def _reader(dtype: str | None) -> Callable[[str], Any]:
    """Return the function from the name of a category to its value."""
    if dtype == "bool":
        return lambda name: name == "True"
    kind = np.dtype(dtype).kind if dtype not in (None, "str") else "U"
    return {"i": int, "u": int, "f": float}.get(kind, str)


def _set_categories(column: Column, present: pd.Series) -> None:
    """Set the categories that occur: in the order of a categorical column, otherwise sorted."""
    levels = present.dtype.categories if isinstance(present.dtype, pd.CategoricalDtype) else None
    values = pd.Series(present.unique() if levels is None else levels[levels.isin(present)])
    kinds = {type(value) for value in values.astype(object)}
    number = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)
    if number:
        column.category_dtype = "float64" if pd.api.types.is_float_dtype(values.dtype) else "int64"
    else:
        column.category_dtype = "bool" if kinds <= {bool, np.bool_} else "str"
    names = [str(name) for name in category_names(values)]
    if levels is None:
        names.sort(key=float if number else str)
    elif present.dtype.ordered:
        column.dtype = "ordered category"
    column.categories = list(dict.fromkeys(names))


def _date_format(present: pd.Series) -> str | None:
    """Return the format of all dates in a column of text, "date" for `datetime.date`, or None."""
    kinds = set(present.map(type))
    if kinds == {datetime.date}:
        return "date"
    if kinds != {str} or not re.match(r"\d{4}[-/]\d{2}[-/]\d{2}", present.iloc[0]):
        return None
    fits = (text for text in DATE_FORMATS if pd.to_datetime(present, format=text, errors="coerce").notna().all())
    return next(fits, None)


def _dates(values: pd.Series, format: str | None) -> pd.Series:
    """Return the times of a column, NaT for what isn't a date in its format."""
    if format in DATE_FORMATS:
        return pd.to_datetime(values, format=format, errors="coerce")
    return pd.to_datetime(values, errors="coerce")


def _set_dates(column: Column, present: pd.Series) -> None:
    """Set origin, unit and format: days if all times are midnight, otherwise seconds."""
    column.format = _date_format(present)
    times = _dates(present, column.format).dropna()
    if not len(times):
        raise DataError(f"Expected dates in the column {column.name!r}. Received: {present.iloc[0]!r}")
    column.unit = "days" if bool((times == times.dt.normalize()).all()) else "seconds"
    column.origin = times.min().tz_localize(None).isoformat()


def _numbers(name: str, values: pd.Series) -> np.ndarray:
    try:
        return pd.to_numeric(values).to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"Expected numbers in the column {name!r}. Received: {' '.join(str(error).split())}") from error


def _decimals(values: np.ndarray) -> int | None:
    """Return the digits after the point that all numbers have, None for more than 6.

    Example:

        >>> _decimals(np.array([1.0, 2.25])), _decimals(np.array([1 / 3]))
        (2, None)
    """
    for digits in range(MOST_DECIMALS + 1):
        if np.array_equal(np.round(values, digits), values):
            return digits
    return None


def _restored(values: Any, present: np.ndarray, column: Column) -> pd.Series:
    """Return values in the dtype of the column; integers and truth values with missing values as in pandas."""
    if column.type == "date":
        times = pd.Series(values).where(present)
        if column.format == "date":
            return times.dt.date.where(present, None)
        if column.format is not None:
            return times.dt.strftime(column.format).where(present, None).infer_objects()
        zone = getattr(pd.api.types.pandas_dtype(column.dtype), "tz", None)
        return (times if zone is None else times.dt.tz_localize(zone)).astype(column.dtype)
    if column.dtype in ("category", "ordered category"):
        levels = [_reader(column.category_dtype)(name) for name in column.categories or ()]
        return pd.Series(
            pd.Categorical(
                pd.Series(values, dtype=object).where(present), levels, ordered=column.dtype == "ordered category"
            )
        )
    if column.dtype in ("object", "str", "string"):
        return pd.Series(list(values)).where(present, None)
    dtype = pd.api.types.pandas_dtype(column.dtype)
    if present.all() or not isinstance(dtype, np.dtype) or dtype.kind == "f":
        return pd.Series(values).where(present).astype(dtype)
    return pd.Series(values).astype("float64" if dtype.kind in "iu" else object).where(present)
