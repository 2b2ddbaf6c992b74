"""Series in files and DataFrames: the rows in the order of time, and the columns that are features."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kvae.data.errors import DataError
from kvae.data.files import list_first

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".csv", ".parquet")
IDENTIFIER = re.compile(r"(.*[_\s])?(id|index|unnamed: \d+)", re.IGNORECASE)
TIME_NAMES = ("time", "timestamp", "date", "datetime", "ts")


@dataclass
class Rows:
    """Rows of one or several long series, series after series, each in the order of time.

    Attributes:
        values: (N, F) float64; NaN if missing.
        names: names of the features.
        bounds: (S + 1,) row at which each series begins, and N.
        times: (N,) datetime64[ns] or float64; None if there is no column of times.
        splits: of each series, the split that it belongs to; None for series that are divided by time.
        left_out: columns that are no features, each with the reason.
        notices: what was found while the rows were put in order.
    """

    values: np.ndarray
    names: tuple[str, ...]
    bounds: np.ndarray
    times: np.ndarray | None = None
    splits: tuple[str | None, ...] = (None,)
    left_out: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def is_frame(source: Any) -> bool:
    """Return whether `source` is a DataFrame of pandas, or a table that converts itself to one (Polars, Arrow)."""
    return hasattr(source, "to_pandas") or (hasattr(source, "columns") and hasattr(source, "iloc"))


def read_frame(source: Any) -> pd.DataFrame:
    """Return a DataFrame of a `.csv` or `.parquet` file, or of another kind of table."""
    import pandas as pd

    if hasattr(source, "to_pandas"):
        return source.to_pandas()
    if not isinstance(source, Path):
        return source
    try:
        if source.suffix.lower() == ".parquet":
            return pd.read_parquet(source)
        with open(source, encoding="utf-8-sig") as file:
            header = file.readline()
        return pd.read_csv(source, sep=max(",;\t", key=header.count), encoding="utf-8-sig", low_memory=False)
    except Exception as error:  # pandas, Arrow and codecs raise many types of errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{source.name}: expected a readable table. Received: {reason}") from error


def rows_of(
    name: str, frame: pd.DataFrame, time: str | None, series: str | None, columns: tuple[str, ...] | None
) -> Rows:
    """Put the rows of a table in order, and select its features.

    Args:
        name: name of the source in errors.
        frame: the table.
        time: column of times, dates or numbers; None takes a DatetimeIndex, or the order of the rows.
        series: column that names the series of each row; None for one series.
        columns: names of the features; None for all numeric columns that are no identifiers.

    Raises:
        DataError: for missing columns, times that can't be read, or selected columns that aren't numbers.
    """
    import pandas as pd

    if time is None and isinstance(frame.index, pd.DatetimeIndex):
        time = str(frame.index.name or "time")
        frame = frame.rename_axis(index=time).reset_index()
    frame = frame.set_axis([str(column) for column in frame.columns], axis="columns")
    if not frame.columns.is_unique:
        twice = list_first(sorted(set(frame.columns[frame.columns.duplicated()])))
        raise DataError(f"{name}: expected columns with different names. Received: {twice} more than once")
    for argument, column in (("time", time), ("series", series), *(("columns", column) for column in columns or ())):
        if column is not None and column not in frame.columns:
            raise DataError(
                f"{name}: expected '{argument}' to name columns of the table ({list_first(list(frame.columns))}). "
                f"Received: {column!r}"
            )
    times = None if time is None else _times(name, frame[time])
    codes = np.zeros(len(frame), np.int64) if series is None else pd.factorize(frame[series])[0].astype(np.int64)
    if np.any(codes < 0):
        raise DataError(f"{name}: expected a series in every row. Received: {series!r} with missing values")
    order, notices = _order(codes, times, time)
    frame, codes = frame.iloc[order], codes[order]
    features, left_out = _features(name, frame, columns, time, series)
    values = np.column_stack([frame[column].to_numpy(np.float64, na_value=np.nan) for column in features])
    values[~np.isfinite(values)] = np.nan
    bounds = np.append(np.flatnonzero(np.diff(codes, prepend=-1)), len(codes))
    return Rows(
        values, tuple(features), bounds, None if times is None else times[order], (None,) * (len(bounds) - 1),
        left_out, notices,
    )  # fmt: skip


def _order(codes: np.ndarray, times: np.ndarray | None, what: str | None) -> tuple[np.ndarray, list[str]]:
    """Return the order of the rows, without those at the time of an earlier row, and notices about them."""
    order = np.argsort(codes, kind="stable")
    if times is None:
        return order, []
    notices = []
    following = codes[order][1:] == codes[order][:-1]  # rows of the same series as the row before
    if np.any(following & (times[order][1:] < times[order][:-1])):
        order = np.lexsort((times, codes))
        notices.append(f"rows sorted by {what}")
    again = np.append(False, following & (times[order][1:] == times[order][:-1]))[: len(order)]
    if np.any(again):
        remedy = "" if codes.any() else "; series= names the column of several series"
        notices.append(
            f"{np.count_nonzero(again):,} rows left out, because their {what} is that of an earlier row (first: "
            f"{shown_time(times[order][again][0])}{remedy})"
        )
    return order[~again], notices


def _times(name: str, column: pd.Series) -> np.ndarray:
    """Return a column as datetime64[ns], in UTC if it has time zones, or as float64."""
    import pandas as pd

    if column.isna().any():
        raise DataError(f"{name}: expected a time in every row. Received: {column.name!r} with missing values")
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(np.float64)
    for form in ("ISO8601", None):
        try:
            with warnings.catch_warnings(action="ignore"):  # of formats that are inferred for every value
                found = pd.to_datetime(column, utc=True, format=form)
            return found.dt.tz_localize(None).to_numpy("datetime64[ns]")
        except (ValueError, TypeError) as caught:
            error = caught
    raise DataError(
        f"{name}: expected 'time' to be a column of dates or numbers. Received: {column.name!r}, such as "
        f"{str(column.iloc[0])!r}"
    ) from error


def _features(
    name: str, frame: pd.DataFrame, columns: tuple[str, ...] | None, time: str | None, series: str | None
) -> tuple[list[str], list[str]]:
    """Return the names of the features, and the other columns with the reasons why they are none."""
    import pandas as pd

    def is_number(column: str) -> bool:
        dtype = frame[column].dtype
        return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype)

    if columns is not None:
        if wrong := [column for column in columns if not is_number(column) or frame[column].isna().all()]:
            raise DataError(f"{name}: expected 'columns' to be columns of numbers. Received: {list_first(wrong)}")
        return list(columns), []
    features, left_out = list[str](), list[str]()
    for column in (column for column in frame.columns if column not in (time, series)):
        reason = None
        if not is_number(column):
            reason = "not numbers"
        elif frame[column].isna().all():
            reason = "empty"
        elif _is_identifier(column, frame[column]):
            reason = "an identifier"
        if reason is None:
            features.append(column)
        else:
            is_time = time is None and column.lower() in TIME_NAMES
            left_out.append(f"{column} ({reason}{'; time= reads it as the time' if is_time else ''})")
    if not features:
        raise DataError(f"{name}: expected columns of numbers. Received: {list_first(left_out) or 'no other columns'}")
    return features, left_out


def _is_identifier(name: str, column: pd.Series) -> bool:
    """Return whether a column only numbers the rows: integers that are named so, or that rise from row to row."""
    import pandas as pd

    if not pd.api.types.is_integer_dtype(column.dtype):
        return False
    values = column.to_numpy(np.float64, na_value=np.nan)
    return bool(IDENTIFIER.fullmatch(name)) or (len(values) > 2 and bool(np.all(np.diff(values) > 0)))


def shown_time(time: Any) -> str:
    """Return a time as text.

    Example:

        >>> shown_time(np.datetime64("2026-03-01T12:30:00", "ns")), shown_time(12.5)
        ('2026-03-01 12:30:00', '12.5')
    """
    return str(time.astype("datetime64[s]")).replace("T", " ") if isinstance(time, np.datetime64) else f"{time:g}"
