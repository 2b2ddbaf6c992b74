"""The kinds of image sources: one function for each, and `open_source`, which selects one.

To add a kind, write a function that returns a `Source` and call it in `open_source`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kvae.data.archive import Pair, pairs
from kvae.data.catalogue import Catalogue, array_keys
from kvae.data.depth import (
    EIGHT_BIT,
    FLOAT,
    UNIT,
    Range,
    depth_of,
    extremes,
    is_eight_bit,
    scale_to_unit,
    training_range,
)
from kvae.data.errors import DataError, warn
from kvae.data.faces import EXPRESSIONS, NUM_FACES, draw_factors, rasterize
from kvae.data.files import holds, image_suffixes
from kvae.data.folder import folder
from kvae.data.frames import TABLES, Rows, is_frame, read_frame, rows_of
from kvae.data.images import MIN_SIDE, check_images, convert_all, scale_of
from kvae.data.machine import machine
from kvae.data.named import PREPARED, data_folder, is_known_name, prepared, tfds_set
from kvae.data.notices import count_by_split, warn_dark, warn_outside
from kvae.data.records import find_records, records
from kvae.data.series import SeriesSchema, long_series, separate_windows
from kvae.data.shapes import CLASSES, grid, render
from kvae.data.splits import Memory, MemorySplit, Request, Source, Split, complete_splits

KINDS = ("auto", "images", "series", "table")


def kind_of_source(source: Any, request: Request) -> str:
    """Return "images", "series" or "table": the schema, `kind=`, or what the source is."""
    if request.schema is not None:
        return request.schema.kind
    if request.kind != "auto":
        return request.kind
    is_table = is_frame(source) or (isinstance(source, (str, Path)) and Path(source).suffix.lower() in TABLES)
    if request.window is not None or (isinstance(source, str) and source == "machine"):
        return "series"
    return "table" if is_table else "images"


def open_source(source: Any, request: Request) -> Source:
    """Open the source that was given to `load`; the kind in `request` isn't "auto"."""
    opened = _open(source, request)
    is_unchanged = request.value_range is None and opened.value_range == UNIT
    return replace(opened, value_range=None) if is_unchanged else opened


def _open(source: Any, request: Request) -> Source:
    if is_frame(source):
        return of_table("table", source, request)
    if isinstance(source, np.ndarray):
        return of_arrays("array", {"train": (source, None)}, request)
    if isinstance(source, (tuple, list)):
        if len(source) != 2:
            raise DataError(f"Expected a pair (images, labels). Received: {type(source).__name__} of {len(source)}")
        return of_arrays("array", {"train": (source[0], source[1])}, request)
    if not isinstance(source, (str, Path)):
        raise DataError(
            "Argument 'source' must be a name, a path, an array, a pair (images, labels) or a DataFrame. "
            f"Received: {type(source).__name__}"
        )
    if isinstance(source, str) and _is_plain(source):
        path_exists = Path(source).exists()
        if not path_exists or is_known_name(source, request):
            if path_exists and Path(source).resolve().parent != data_folder(request).resolve():
                kind = "folder" if Path(source).is_dir() else "file"
                warn(
                    f"{source}: loading the named dataset instead of the {kind} of the same name; "
                    f"write ./{source} for the {kind}"
                )
            named = {"digits": digits, "shapes": shapes, "faces": faces, "machine": simulated_machine}
            load_named = named.get(source, partial(tfds_set, source))
            if request.kind != ("series" if load_named is simulated_machine else "images"):
                what = "series" if load_named is simulated_machine else "images"
                raise DataError(f"{source}: expected the kind of this dataset, {what}. Received: kind={request.kind!r}")
            return load_named(request)
    path = Path(source).expanduser()
    if path.is_dir() or path.is_file():
        load: Callable[[Path, Request], Source]
        if path.is_dir() and request.kind != "images":
            raise DataError(
                f"Expected a .csv, .parquet, .npy or .npz file for kind={request.kind!r}. Received: {path}, a folder"
            )
        if path.suffix.lower() in TABLES and path.is_file():
            load = table_file
        elif (path / PREPARED).is_file():
            load = prepared
        elif not holds(path) and find_records(path):
            load = records
        elif path.is_dir():
            load = folder
        else:
            load = array_file
        return replace(load(path, request), path=path.resolve())
    if isinstance(source, str) and "/" in source and is_known_name(source, request):
        return tfds_set(source, request)  # name/config
    raise DataError(
        "Expected the path of a folder of images or TFRecord files, or of a .tfrecord, .npy, .npz, .csv or .parquet "
        f"file: no such file or folder. Received: {source}"
    )


def _is_plain(source: str) -> bool:
    """Return whether a string can only be a name: it has no path separator, no `~` and no suffix of a data file."""
    if not source or source.startswith((".", "~")) or "/" in source or "\\" in source:
        return False
    return Path(source).suffix.lower() not in {
        *TABLES,
        ".npy",
        ".npz",
        ".zip",
        ".tar",
        ".gz",
        ".pt",
        ".h5",
        *image_suffixes(),
    }


def digits(request: Request) -> Source:
    """Load the 1,797 handwritten digits of scikit-learn, 8x8x1, without a download."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images / 16.0).astype(np.float32)
    names = tuple(str(name) for name in bunch.target_names)
    return arrays("digits", {"train": (images, bunch.target)}, request, names)


def shapes(request: Request) -> Source:
    """Load the 36,864 squares, ellipses and hearts of `kvae.data.shapes`, 32x32x1, without a download."""
    factors = grid()
    return arrays("shapes", {"train": (render(factors), factors[:, 0])}, request, CLASSES)


def faces(request: Request) -> Source:
    """Load 12,000 faces of `kvae.data.faces`, 64x64x3 or rendered at the requested size, without a download."""
    factors = draw_factors(NUM_FACES, seed=0)
    images = rasterize(factors, max(request.size or (64,)))
    return arrays("faces", {"train": (images, factors[:, 0] > 0)}, request, EXPRESSIONS)


def simulated_machine(request: Request) -> Source:
    """Load four weeks of the sensors of `kvae.data.machine`, without a download."""
    return of_table("machine", machine().table, replace(request, time=request.time or "time"))


def table_file(path: Path, request: Request) -> Source:
    """Load a `.csv` or `.parquet` file: windows of series, or rows of a table."""
    return of_table(path.name, path, request)


def of_table(name: str, source: Any, request: Request) -> Source:
    """Load a file or a DataFrame as windows of series, or as rows of a table."""
    if request.kind == "series":
        names = request.columns if request.schema is None else request.schema.names
        if request.window is None and request.schema is None:
            raise DataError(f"{name}: expected 'window', the number of rows in a window of the series. Received: None")
        return long_series(name, rows_of(name, read_frame(source), request.time, request.series, names), request)
    if request.kind == "images":
        raise DataError(f"{name}: expected kind='series', with window=, or kind='table'. Received: kind='images'")
    from kvae.data.tables import table  # imports pandas, which images don't require

    return table(source if isinstance(source, Path) else read_frame(source), request)


def of_arrays(name: str, parts: dict[str, Pair], request: Request) -> Source:
    """Make a source of arrays: images; windows (N, T, F); or, with a window, long series (T, F)."""
    if request.kind == "images":
        return arrays(name, parts, request)
    found = {part: np.asarray(pair[0]) for part, pair in parts.items()}
    if request.kind == "table":
        raise DataError(f"{name}: expected a .csv or .parquet file or a DataFrame for kind='table'. Received: an array")
    schema = request.schema
    if schema is None and (of_columns := [name for name in ("time", "columns", "series") if getattr(request, name)]):
        raise DataError(f"{name}: expected '{of_columns[0]}' with a table that has named columns. Received: an array")
    if request.stride is not None and request.window is None and schema is None:
        raise DataError(f"{name}: expected 'window' with 'stride'. Received: window=None, stride={request.stride}")
    if (request.window is None and schema is None) or (isinstance(schema, SeriesSchema) and schema.stride is None):
        labels, label_names = _all_labels(name, parts, ())
        return separate_windows(name, found, labels, label_names, request)
    shapes = ", ".join(f"{part} {x.shape} {x.dtype}" for part, x in found.items())
    if (
        any(x.ndim != 2 or x.dtype.kind not in "buif" or 0 in x.shape for x in found.values())
        or len({x.shape[1] for x in found.values()}) > 1
    ):
        raise DataError(f"{name}: expected a long series (T, F) of numbers for 'window'. Received: {shapes}")
    if any(pair[1] is not None for pair in parts.values()):
        raise DataError(
            f"{name}: expected a long series without labels. Received: labels; cut labelled windows (N, T, F)"
        )
    values = np.concatenate(list(found.values())).astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    rows = Rows(
        values, tuple(f"feature {i}" for i in range(values.shape[1])),
        np.cumsum([0, *map(len, found.values())]), splits=tuple(found),
    )  # fmt: skip
    return long_series(name, rows, request)


def arrays(name: str, parts: dict[str, Pair], request: Request, label_names: tuple[str, ...] = ()) -> Source:
    """Make a source of arrays. A missing split is cut from the training images.

    Args:
        name: name of the source in errors and reports.
        parts: images (N, H, W) or (N, H, W, C) and labels (N,) or None, for "train" and optionally the other splits.
        request: size, channels, fractions and seed.
        label_names: names of the classes, if the labels are numbers.
    """
    min_side = 1 if request.size else MIN_SIDE
    images = {part: check_images(pair[0], f"{name} ({part})", min_side) for part, pair in parts.items()}
    depth = _depth(images)
    if len({x.shape[1:] for x in images.values()}) > 1 or depth is None:
        found = ", ".join(f"{part} {x.shape[1:]} {x.dtype}" for part, x in images.items())
        raise DataError(f"{name}: expected the same image shape and type in every split. Received: {found}")
    labels, label_names = _all_labels(name, parts, label_names)
    cut = complete_splits({part: len(x) for part, x in images.items()}, labels["train"], request, name)
    value_range = request.value_range
    if depth != EIGHT_BIT and value_range is None:
        low, high, _ = extremes(images["train"], cut["train"][1])
        value_range = training_range(name, depth, low, high)
    warn_dark(name, depth, value_range)
    outside: dict[str, np.ndarray] = {}
    for part, x in images.items():
        images[part], outside[part] = _to_stored(x, value_range)
    scale = max(scale_of(x) for x in images.values())
    converted = {part: convert_all(x, scale, request.size, request.grayscale) for part, x in images.items()}
    images = {part: x for part, (x, _) in converted.items()}
    scale = converted["train"][1]
    memories = {part: _memory(images[part], labels[part]) for part in parts}
    splits: dict[str, Split] = {split: MemorySplit(memories[part], rows) for split, (part, rows) in cut.items()}
    catalogue = _catalogue([pair[0] for pair in parts.values()], memories, cut)
    if counts := count_by_split(np.concatenate(list(outside.values())), catalogue.rows):
        warn_outside(name, value_range or UNIT, counts)
    height, width, channels = images["train"].shape[1:]
    has_labels = labels["train"] is not None
    unlabelled = frozenset(part for part, y in labels.items() if has_labels and y is None)
    return Source(
        name, splits, (height, width, channels), scale, has_labels, label_names, unlabelled,
        catalogue=catalogue, value_range=value_range,
    )  # fmt: skip


def _depth(images: dict[str, np.ndarray]) -> str | None:
    """Return the depth of all splits, as `depth_of` names it; None if they differ."""
    kinds = {depth_of(x.dtype) for x in images.values()}
    if FLOAT in kinds:
        return FLOAT if len(kinds) == 1 else None
    eight_bit = [depth_of(x.dtype) == EIGHT_BIT or is_eight_bit(x.dtype, *extremes(x)[:2]) for x in images.values()]
    if all(eight_bit):
        return EIGHT_BIT
    return None if EIGHT_BIT in kinds else depth_of(images["train"].dtype)


def _to_stored(images: np.ndarray, value_range: Range | None) -> tuple[np.ndarray, np.ndarray]:
    """Return images in their stored form, uint8 or float32, and which of them had values outside the range."""
    inside = np.zeros(len(images), bool)
    if value_range is None:
        return images.astype(np.uint8, copy=False), inside
    if value_range == UNIT and images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1:
        return images, inside
    return scale_to_unit(images, value_range)


def _catalogue(raw: list[Any], memories: dict[str, Memory], cut: dict[str, tuple[str, np.ndarray]]) -> Catalogue:
    """Return the catalogue of the images of all parts, in the order of the parts."""
    ends = np.cumsum([len(images) for images in raw])
    firsts = dict(zip(memories, [0, *ends]))

    def pick(rows: np.ndarray) -> Split:
        for (part, memory), end in zip(memories.items(), ends):
            if np.all((rows >= firsts[part]) & (rows < end)):
                return MemorySplit(memory, rows - firsts[part])
        images = np.concatenate([memory.images for memory in memories.values()])
        labels = [memory.labels for memory in memories.values() if memory.labels is not None]
        return MemorySplit(_memory(images, np.concatenate(labels) if labels else None), rows)

    return Catalogue(
        lambda: np.concatenate([array_keys(np.asarray(images)) for images in raw]),
        {split: rows + firsts[part] for split, (part, rows) in cut.items()},
        pick,
    )


def _memory(images: np.ndarray, labels: np.ndarray | None) -> Memory:
    return Memory(lambda: (images, labels))


def _all_labels(
    name: str, parts: dict[str, Pair], label_names: tuple[str, ...]
) -> tuple[dict[str, np.ndarray | None], tuple[str, ...]]:
    """Return integer labels by split and the names of the classes; no labels unless the training images have some."""
    found = {part: check_labels(y, len(x), f"{name} ({part})") for part, (x, y) in parts.items()}
    labels = {part: y for part, y in found.items() if y is not None}
    if "train" not in labels:
        if labels:
            warn(f"{name}: labels left out, because the training images have none")
        return dict.fromkeys(parts), ()
    if unlabelled_parts := [part for part in parts if part not in labels]:
        warn(f"{name}: no labels in the {' and '.join(unlabelled_parts)} split")
    if any(y.dtype.kind == "U" for y in labels.values()):
        label_names = tuple(sorted({str(v) for y in labels.values() for v in np.unique(y)}))
        labels = {part: np.searchsorted(label_names, y.astype(str)) for part, y in labels.items()}
    return {part: labels[part].astype(np.int64) if part in labels else None for part in parts}, label_names


def check_labels(labels: Any, count: int, what: str) -> np.ndarray | None:
    """Return labels as (N,) int64 or strings, None for None."""
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(
            f"{what}: expected one label per image, shape (N,); use np.argmax(labels, -1) for one-hot labels. "
            f"Received: shape {labels.shape}"
        )
    if len(labels) != count:
        raise DataError(f"{what}: expected as many labels as images. Received: {len(labels)} for {count} images")
    if labels.dtype.kind in "US":
        return labels.astype(str)
    if labels.dtype.kind not in "buif" or (labels.dtype.kind == "f" and not np.all(labels == np.rint(labels))):
        raise DataError(f"{what}: expected integer or string labels. Received: dtype {labels.dtype}")
    return labels.astype(np.int64)


def array_file(path: Path, request: Request) -> Source:
    """Load a `.npy` file of images, or a `.npz` file of images, labels and optionally splits (see `archive`)."""
    if path.suffix.lower() not in (".npy", ".npz"):
        raise DataError(f"Expected an image folder or a .npy, .npz, .csv or .parquet file. Received: {path}")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            parts: dict[str, Pair] = {"train": (loaded, None)}
        else:
            with loaded:
                parts = pairs(loaded, path.name, request.key)
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many types of errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path.name}: expected a readable array of numbers. Received: {reason}") from error
    return of_arrays(path.stem, parts, request)
