"""Windows of series: cut from long series or given as arrays, split by time, in their own units."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tensorflow as tf

from kvae.data.catalogue import Catalogue, array_keys
from kvae.data.errors import DataError, warn
from kvae.data.files import list_first
from kvae.data.frames import Rows, shown_time
from kvae.data.splits import NAMES, Memory, MemorySplit, Request, Source, Split, complete_splits, stratified_order

if TYPE_CHECKING:
    from kvae.distributions import Distribution

GAP = 1.5  # median steps; after a longer step, a new stretch of rows begins
RESOLUTION = 0.01  # largest step of float32 at the values of a feature, in standard deviations

DRIFT = 1  # standard deviations of the training rows; a mean that is farther away in a later split is reported


@dataclass(frozen=True)
class SeriesSchema:
    """Names and scales of the features of a series, learned from the training windows.

    Attributes:
        names: names of the F features, in the order of the last axis.
        location, scale: mean and standard deviation of each feature over the rows of the training windows, in its unit.
        step: median time from one row to the next, in seconds, or in the unit of a numeric time; None without times.
        window: rows of a window, T.
        stride: rows from one training window to the next; None for windows that weren't cut from a long series.

    Example:

        >>> schema = SeriesSchema(("temperature",), (20.0,), (5.0,), step=60.0, window=64, stride=16)
        >>> schema.likelihood().standardize(np.full((1, 64, 1), 25.0))[0, 0, 0].numpy()
        np.float32(1.0)
        >>> SeriesSchema.from_json(schema.to_json()) == schema
        True
    """

    kind: ClassVar[str] = "series"
    names: tuple[str, ...]
    location: tuple[float, ...]
    scale: tuple[float, ...]
    step: float | None
    window: int
    stride: int | None

    def likelihood(self, base: Distribution | None = None) -> Distribution:
        """Return the likelihood of x in its units: `base` (default `DiagonalNormal`) of the standardised values."""
        from kvae.distributions import Scaled

        return Scaled(base, self.location, self.scale, self.names)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **{name: _plain(value) for name, value in asdict(self).items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SeriesSchema:
        """Return the schema of `to_json`."""
        values: dict[str, Any] = {field.name: content[field.name] for field in fields(cls)}
        values |= {name: tuple(values[name]) for name in ("names", "location", "scale")}
        return cls(**values)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class Windows(Memory):
    """Windows of one array of rows: overlapping windows share their rows, and are gathered batch by batch.

    Args:
        values: (N, F) float32.
        starts: (n,) first row of each window.
        length: rows of a window, T.
    """

    def __init__(self, values: np.ndarray, starts: np.ndarray, length: int) -> None:
        super().__init__(lambda: (values, None))
        self.starts, self.length = starts, length

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, part: slice) -> np.ndarray:
        return np.asarray(memoryview(self.tensor))[self.starts[part, np.newaxis] + np.arange(self.length)]

    @property
    def images(self) -> np.ndarray:
        return self[:]

    @property
    def content(self) -> tuple[np.ndarray | None, ...]:
        return np.asarray(memoryview(self.tensor)), self.starts

    def gather(self, index: tf.Tensor) -> tf.Tensor:
        rows = tf.gather(self.starts, index)[:, tf.newaxis] + tf.range(self.length, dtype=tf.int64)
        return tf.gather(self.tensor, rows)


def long_series(name: str, rows: Rows, request: Request) -> Source:
    """Cut long series into windows, and split them by time.

    A window is `window` consecutive rows without a gap and without missing values. Windows begin every `stride` rows of
    such a stretch. Of each series, the first rows are for training, the next for validation, and the last for testing;
    no window crosses a boundary. Validation and test windows are in the order of time and don't overlap each other, so
    that they count each row once. Training windows overlap if the stride is less than the window.

    Raises:
        DataError: if a split has no window, or float32 can't represent a feature.
    """
    known = request.schema if isinstance(request.schema, SeriesSchema) else None
    window = known.window if known else request.window
    assert window is not None
    stride = (known.stride if known else request.stride) or max(1, window // 4)
    sections = _sections(rows, request)
    training = np.zeros(len(rows.values), bool)
    for _, low, high in (section for section in sections if section[0] == "train"):
        training[low:high] = True
    names, values = rows.names, rows.values
    if known is None and request.columns is None:
        varies = _varies(values[training])
        rows.left_out += [f"{column} (constant in training)" for column, kept in zip(names, varies) if not kept]
        names, values = tuple(np.array(names, object)[varies]), values[:, varies]
    if not names:
        raise DataError(f"{name}: expected features that vary. Received: {list_first(rows.left_out)}")
    breaks, step, gaps = _breaks(rows)
    complete = np.isfinite(values).all(axis=1)
    starts = _starts(breaks, complete, window, stride)
    chosen = {split: np.empty(0, np.int64) for split in NAMES}
    for split, low, high in sections:
        inside = np.flatnonzero((starts >= low) & (starts + window <= high))
        inside = inside if split == "train" else _apart(starts, inside, window)
        chosen[split] = np.concatenate([chosen[split], inside])
    # In a seeded order, so that the first training windows are a sample of all.
    chosen["train"] = chosen["train"][stratified_order(None, len(chosen["train"]), request.seed)]
    missing = _missing(names, values, complete)
    _check_splits(name, rows, chosen, window, request, [*gaps, *missing])
    if known is None:
        covered = np.zeros(len(values) + 1, np.int64)
        np.add.at(covered, starts[chosen["train"]], 1)
        np.add.at(covered, starts[chosen["train"]] + window, -1)
        schema = schema_of(name, names, values[np.cumsum(covered)[:-1] > 0], step, window, stride)
    else:
        schema = known
    drift = [] if known else _drift(schema, values, sections)
    left_out = [f"columns left out: {', '.join(rows.left_out)}"] if rows.left_out and known is None else []
    if notices := [*left_out, *rows.notices, *gaps, *missing, *drift]:
        warn(f"{name}: {'; '.join(notices)}")
    memory = Windows(np.where(complete[:, np.newaxis], values, 0).astype(np.float32), starts, window)

    def later(found: np.ndarray) -> np.ndarray:
        parts = [np.empty(0, np.int64)]
        for low, high in zip(rows.bounds[:-1], rows.bounds[1:]):
            mine = np.flatnonzero((starts >= low) & (starts < high))
            end = max((starts[found[np.isin(found, mine)]] + window).tolist(), default=low)
            parts.append(_apart(starts, mine[starts[mine] >= end], window))
        return np.concatenate(parts)

    pick = partial(MemorySplit, memory)
    splits: dict[str, Split] = {split: pick(found) for split, found in chosen.items()}
    return Source(
        name, splits, (window, len(names)), 1.0, schema=schema,
        catalogue=Catalogue(lambda: array_keys(memory), chosen, pick, later),
        times=starts.astype(np.float64) if rows.times is None else rows.times[starts],
    )  # fmt: skip


def schema_of(
    name: str, names: Sequence[str], values: np.ndarray, step: float | None, window: int, stride: int | None
) -> SeriesSchema:
    """Return the schema of training rows (N, F); raise a DataError if a feature is constant or has too many digits."""
    values = values.astype(np.float64, copy=False)
    location, scale = values.mean(axis=0), values.std(axis=0)
    varies = _varies(values)
    if not varies.all():
        constant = list_first([column for column, kept in zip(names, varies) if not kept])
        raise DataError(
            f"{name}: expected features that vary in the training windows. Received: {constant}, constant; leave it out"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        resolution = np.spacing(np.abs(values).max(axis=0).astype(np.float32)) / scale
    if wrong := [str(column) for column, ratio in zip(names, resolution) if not ratio <= RESOLUTION]:
        at = list(names).index(wrong[0])
        raise DataError(
            f"{name}: expected features that float32 represents; subtract a constant, or leave the column out. "
            f"Received: {list_first(wrong)}, with mean {location[at]:.6g} and standard deviation {scale[at]:.3g}"
        )
    return SeriesSchema(tuple(names), tuple(location.tolist()), tuple(scale.tolist()), step, window, stride)


def _drift(schema: SeriesSchema, values: np.ndarray, sections: list[tuple[str, int, int]]) -> list[str]:
    """Return a notice of features whose level in a later split is far from that of the training windows."""
    found = []
    for split in ("validation", "test"):
        rows = np.concatenate([values[:0], *(values[low:high] for name, low, high in sections if name == split)])
        with warnings.catch_warnings(action="ignore"):  # no rows
            moved = np.abs(np.nanmean(rows, axis=0) - schema.location) > DRIFT * np.array(schema.scale)
        found += [f"{name} ({split})" for name, far in zip(schema.names, moved) if far]
    if not found:
        return []
    return [
        f"features whose mean moves by more than {DRIFT} standard deviation after the training windows: "
        f"{list_first(found)}; scores and false-alarm rates may be wrong there"
    ]


def _varies(values: np.ndarray) -> np.ndarray:
    """Return which features (N, F) have two different values, not counting missing ones."""
    low = np.where(np.isnan(values), np.inf, values).min(axis=0, initial=np.inf)
    high = np.where(np.isnan(values), -np.inf, values).max(axis=0, initial=-np.inf)
    return low < high


def _sections(rows: Rows, request: Request) -> list[tuple[str, int, int]]:
    """Return for each series and split `(split, first row, row after the last)`."""
    found = []
    for split, low, high in zip(rows.splits, rows.bounds[:-1].tolist(), rows.bounds[1:].tolist()):
        if split not in (None, "train"):
            found.append((split, low, high))
            continue
        fractions = {"validation": request.validation_fraction, "test": request.test_fraction}
        sizes = {name: 0 if name in rows.splits else round((high - low) * f) for name, f in fractions.items()}
        validation, test = high - sizes["validation"] - sizes["test"], high - sizes["test"]
        found += [("train", low, validation), ("validation", validation, test), ("test", test, high)]
    return found


def _breaks(rows: Rows) -> tuple[np.ndarray, float | None, list[str]]:
    """Return which rows don't follow the row before, the median step, and a notice of the gaps."""
    breaks = np.zeros(len(rows.values), bool)
    breaks[rows.bounds[:-1]] = True
    if rows.times is None:
        return breaks, None, []
    steps = np.diff(rows.times)
    steps = steps / np.timedelta64(1, "s") if steps.dtype.kind == "m" else steps
    within = ~breaks[1:]
    if not within.any():
        return breaks, None, []
    step = float(np.median(steps[within]))
    gaps = within & (steps > GAP * step)
    breaks[1:] |= gaps
    if not gaps.any():
        return breaks, step, []
    longest = int(np.argmax(np.where(gaps, steps, 0)))
    count = int(np.count_nonzero(gaps))
    unit = " s" if rows.times.dtype.kind == "M" else ""
    return (
        breaks,
        step,
        [
            f"{count:,} gap{'s' * (count > 1)} in time, which no window crosses (the longest: "
            f"{steps[longest]:g}{unit} after {shown_time(rows.times[longest])}; rows are {step:g}{unit} apart)"
        ],
    )


def _missing(names: Sequence[str], values: np.ndarray, complete: np.ndarray) -> list[str]:
    if complete.all():
        return []
    counts, rows = np.isnan(values).sum(axis=0), int(np.count_nonzero(~complete))
    return [
        f"{rows:,} row{'s' * (rows > 1)} with missing values, which no window contains (most in "
        f"{names[int(np.argmax(counts))]})"
    ]


def _starts(breaks: np.ndarray, complete: np.ndarray, window: int, stride: int) -> np.ndarray:
    """Return the first rows of all windows, (n,): every `stride` rows of each stretch of complete rows without a break.

    Example:

        >>> breaks, complete = np.zeros(12, bool), np.ones(12, bool)
        >>> breaks[[0, 5]], complete[10] = True, False
        >>> _starts(breaks, complete, window=3, stride=2).tolist()
        [0, 2, 5, 7]
    """
    edges = breaks | (complete != np.append(False, complete)[:-1])
    low = np.flatnonzero(edges & complete)
    ends = np.append(np.flatnonzero(edges), len(breaks))
    high = ends[np.searchsorted(ends, low, side="right")]
    return np.concatenate(
        [np.empty(0, np.int64), *(np.arange(a, b - window + 1, stride) for a, b in zip(low, high) if b - a >= window)]
    )


def _apart(starts: np.ndarray, chosen: np.ndarray, window: int) -> np.ndarray:
    """Return those of the chosen windows that overlap no earlier one of them."""
    kept, end = list[int](), -1
    for number, start in zip(chosen.tolist(), starts[chosen].tolist()):
        if start >= end:
            kept.append(number)
            end = start + window
    return np.array(kept, np.int64)


def _check_splits(
    name: str, rows: Rows, chosen: dict[str, np.ndarray], window: int, request: Request, reasons: list[str]
) -> None:
    """Raise a DataError if a split that should have windows has none."""
    wanted = {"train": 1.0, "validation": request.validation_fraction, "test": request.test_fraction}
    empty = [split for split, found in chosen.items() if not len(found) and (wanted[split] > 0 or split in rows.splits)]
    if empty:
        found = f"{len(rows.values):,} rows" + (f" of {len(rows.bounds) - 1} series" if len(rows.bounds) > 2 else "")
        raise DataError(
            f"{name}: expected at least {window} consecutive rows for a window in every split; use a smaller window= "
            f"or other fractions. Received: {'; '.join([found, *reasons])}; none for {' and '.join(empty)}"
        )


def separate_windows(
    name: str,
    parts: dict[str, np.ndarray],
    labels: dict[str, np.ndarray | None],
    label_names: tuple[str, ...],
    request: Request,
) -> Source:
    """Make a source of independent windows (N, T, F), with seeded splits as for images.

    Args:
        name: name of the source in errors.
        parts: windows for "train" and optionally the other splits.
        labels: int64 labels (N,) of each part, or None.
        label_names: names of the classes.
        request: fractions, seed, and schema.
    """
    shapes = {x.shape[1:] for x in parts.values()}
    if len(shapes) > 1 or any(x.ndim != 3 or x.dtype.kind not in "buif" or 0 in x.shape for x in parts.values()):
        found = ", ".join(f"{part} {x.shape} {x.dtype}" for part, x in parts.items())
        raise DataError(
            f"{name}: expected windows (N, T, F) of numbers; pass window= for a long series (T, F). Received: {found}"
        )
    kept = {part: np.isfinite(x).all(axis=(1, 2)) for part, x in parts.items()}
    if missing := sum(np.count_nonzero(~ok) for ok in kept.values()):
        warn(f"{name}: {missing:,} of {sum(map(len, kept.values())):,} windows left out, with missing values")
        parts = {part: x[kept[part]] for part, x in parts.items()}
        labels = {part: None if y is None else y[kept[part]] for part, y in labels.items()}
    cut = complete_splits({part: len(x) for part, x in parts.items()}, labels["train"], request, name)
    window, count = shapes.pop()
    train_part, train_rows = cut["train"]
    known = request.schema if isinstance(request.schema, SeriesSchema) else None
    names = tuple(f"feature {i}" for i in range(count))
    schema = known or schema_of(name, names, parts[train_part][train_rows].reshape(-1, count), None, window, None)
    firsts = dict(zip(parts, np.cumsum([0, *map(len, parts.values())]).tolist()))
    windows = np.concatenate([x.astype(np.float32, copy=False) for x in parts.values()])
    has_labels = labels["train"] is not None
    found_labels = [(labels[part], len(x)) for part, x in parts.items()]
    filled = np.concatenate([np.full(length, -1) if y is None else y for y, length in found_labels])
    memory = Memory(lambda: (windows, filled if has_labels else None))
    rows = {split: positions + firsts[part] for split, (part, positions) in cut.items()}
    pick = partial(MemorySplit, memory)
    return Source(
        name, {split: pick(found) for split, found in rows.items()}, (window, count), 1.0, has_labels, label_names,
        frozenset(part for part, y in labels.items() if has_labels and y is None),
        catalogue=Catalogue(lambda: array_keys(memory.images), rows, pick), schema=schema,
    )  # fmt: skip
