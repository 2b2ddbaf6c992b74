"""`load`: open a source of images, series or rows, given by name, path, array or DataFrame."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kvae.data.dataset import Data
from kvae.data.depth import check_range
from kvae.data.errors import DataError
from kvae.data.images import check_background, check_size
from kvae.data.pipeline import BINARIZE
from kvae.data.schema import Schema, schema_of_json
from kvae.data.sources import KINDS, kind_of_source, open_source
from kvae.data.splits import Request


def load(
    source: Any,
    *,
    batch_size: int = 128,
    seed: int = 0,
    binarize: str = "none",
    size: int | tuple[int, int] | None = None,
    grayscale: bool | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    data_dir: str | Path | None = None,
    download: bool = True,
    cache_bytes: int = 1 << 30,
    value_range: tuple[float, float] | None = None,
    background: str | int | tuple[int, int, int] = "white",
    key: str | None = None,
    kind: Literal["auto", "images", "series", "table"] = "auto",
    time: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    columns: Sequence[str] | None = None,
    series: str | None = None,
    schema: Schema | Mapping[str, Any] | None = None,
) -> Data:
    """Load images, windows of series, or rows of a table, split for training and evaluation.

    Images are in [0, 1]. Series and tables keep the units of the source.

    Args:
        source: "digits", "shapes", "faces" or "machine" (no download); the name of a TensorFlow Datasets dataset, such
            as "mnist"; a folder of images, with or without class subfolders and train/validation/test folders (see
            below); a `.npy` or `.npz` file; a TFRecord file or a folder of them (`tf.train.Example` with
            `image/encoded` or `image`, and optionally `image/class/label` or `label`; or as prepared by TensorFlow
            Datasets); an array (N, H, W) or (N, H, W, C); or `(images, labels)`. For series and tables, a `.csv` or
            `.parquet` file, a DataFrame, or an array (see below). A plain name means the named dataset; write "./name"
            for a folder that has the same name.
        batch_size: number of images in a batch; the last batch of an epoch may be smaller.
        seed: seed of the splits, the order and the binary draws; >= 0.
        binarize: "none"; "threshold", `x >= 0.5`; or "stochastic", Bernoulli(x): redrawn on every training pass, drawn
            once for evaluation.
        size: an integer or (H, W). Each image is cropped about its centre to that aspect ratio, then resized. Faces are
            rendered at this size.
        grayscale: True for one channel, False for three, None for the channels of the data.
        validation_fraction: fraction of the training images held out if the source has no validation split.
        test_fraction: the same for the test split. Each fraction is in [0, 1); 0 leaves that split empty.
        data_dir: folder of TensorFlow Datasets; None means `TFDS_DATA_DIR`, or the default of TensorFlow Datasets.
        download: whether a missing dataset may be downloaded.
        cache_bytes: memory limit in bytes. A split (or folder) is read again on every pass if its decoded images are
            larger. Arrays and `.npy`/`.npz` files are always held in memory.
        value_range: (low, high), the values that become 0 and 1. None: 0 and 255 (or 1) for 8-bit images; the lowest
            and the highest value of the training images for deeper integers and for floats outside [0, 1], with a
            `DataWarning`. Values outside the range are clipped.
        background: colour behind transparent pixels of image files: a colour name, a grey level 0..255, or three
            levels. (The fourth channel of an array is data.)
        key: name of the entry of an `.npz` file that holds the images, if it cannot be found by its name.
        kind: "images"; "series"; "table"; or "auto": series with a `window`, otherwise tables for `.csv` and `.parquet`
            files and DataFrames, and images for other sources.
        time: of a table of a series, the column of times, dates or numbers. None takes the order of the rows.
        window: rows in a window of a long series, T >= 2.
        stride: rows from one window to the next (default: a quarter of the window). With a divisor of the window,
            validation and test windows lie side by side; otherwise there are unused rows between them.
        columns: columns of a table to use (default: of a series, all columns of numbers that vary and are no
            identifiers).
        series: of a table of several series, the column that names the series of each row, such as a machine.
        schema: `Data.schema` of the data that a model was trained on, or its JSON. Its columns, window and stride are
            used, and its scales are kept.

    **Folders.** Files with the suffixes of Pillow's formats are read; images without a suffix are found by content.
    Links are followed. A split is a folder with the name of a split: `train`, `Training`, `test_images`, `valset`,
    `dev`, `val2017`, …; one of them must be the training split, and images outside the splits are left out. Classes are
    the folders in the splits, or the folders around the splits, or all folders if there are no splits. Images outside
    the classes are left out, unless they are most of a split: then that split has no labels (`Data.is_labelled`).
    Classes with training images come first. A `train` folder among several folders, without validation or test images,
    is a class. Masks beside images (`masks/`, `images/`) are left out; those of MVTec AD (`ground_truth/`) are read by
    `Data.masks`. One `DataWarning` counts what was left out, by reason, except for hidden files and files that usually
    lie beside images, such as labels and documents.

    **Series.** A table or an array (T, F) with `window` is a long series, whose windows (window, F) are cut, or several
    ones (`series`). No window crosses a gap in time (a step of more than 1.5 median steps) or a row with missing
    values. Each series is divided by time, not at random: the first rows are for training, the next for validation,
    and the last for testing, and no window crosses these boundaries. Training windows begin every `stride` rows, by
    default a quarter of the window, so that a pattern is seen at several places in a window. Validation and test
    windows begin at the same grid but don't overlap each other, so that a row counts once in a score. They are in the
    order of time; training windows are in a seeded order (`Data.in_order` sorts them, `Data.times` dates them). An
    array (N, T, F) with `kind="series"` are independent windows, with labels and seeded splits as for images. Mean and
    standard deviation of each feature come from the training windows only (`Data.schema`); models standardise with
    them, and the values stay in their units. One `DataWarning` names what was left out. The arguments `binarize`,
    `size`, `grayscale`, `value_range` and `background` are for images.

    **Tables.** A `.csv` or `.parquet` file or a DataFrame without `window` is a table, whose rows `(columns,)` have
    numbers, dates, counts, truth values and categories. The types are found in the training rows (`Data.schema`, a
    `kvae.data.tables.TableSchema`); columns that say nothing are left out and named; missing values are NaN.
    `kvae.data.tables.load_table` also takes types and a column of labels. Splits are seeded.

    Raises:
        DataError: if the data cannot be used as requested; the message is one line.

    Example:
        >>> import kvae
        >>> import numpy as np
        >>> images = np.random.default_rng(0).integers(0, 256, (50, 12, 12), np.uint8)
        >>> data = kvae.data.load(images, batch_size=10, binarize="threshold")
        >>> data.num_train, data.num_validation, data.num_test, data.event_shape
        (40, 5, 5, (12, 12, 1))
        >>> data = kvae.data.load("machine", window=60)
        >>> data.num_train, data.num_validation, data.num_test, data.event_shape
        (2147, 67, 67, (60, 6))
    """
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise DataError(f"Argument 'batch_size' must be an integer >= 1. Received: {batch_size!r}")
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise DataError(f"Argument 'seed' must be an integer >= 0. Received: {seed!r}")
    if binarize not in BINARIZE:
        raise DataError(f"Argument 'binarize' must be one of {', '.join(BINARIZE)}. Received: {binarize!r}")
    for name, value in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise DataError(f"Argument '{name}' must be in [0, 1). Received: {value!r}")
    if validation_fraction + test_fraction >= 1:
        raise DataError(
            "Arguments 'validation_fraction' and 'test_fraction' must add up to less than 1. "
            f"Received: {validation_fraction!r} and {test_fraction!r}"
        )
    if key is not None and not (isinstance(source, (str, Path)) and Path(source).suffix.lower() == ".npz"):
        raise DataError(f"Argument 'key' requires an .npz file. Received: key={key!r} for {_short(source)}")
    request = Request(
        size=check_size(size),
        grayscale=grayscale,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        seed=int(seed),
        data_dir=os.fspath(data_dir) if data_dir is not None else os.environ.get("TFDS_DATA_DIR") or None,
        download=download,
        cache_bytes=cache_bytes,
        value_range=check_range(value_range),
        background=check_background(background),
        key=key,
        kind=kind,
        time=time,
        window=_count("window", window, 2),
        stride=_count("stride", stride, 1),
        columns=_names(columns),
        series=series,
        schema=schema_of_json(schema) if isinstance(schema, Mapping) else schema,
    )
    if kind not in KINDS:
        raise DataError(f"Argument 'kind' must be one of {', '.join(KINDS)}. Received: {kind!r}")
    request = replace(request, kind=kind_of_source(source, request))
    _check_kind(request, binarize)
    return Data.of(open_source(source, request), int(batch_size), int(seed), binarize)


def _check_kind(request: Request, binarize: str) -> None:
    """Raise a DataError for arguments of other kinds of data."""
    default = Request()
    images = ["size", "grayscale", "value_range", "background"]
    series = ["window", "stride", "time", "series"]
    other = {"images": [*series, "columns"], "series": images, "table": images + series}[request.kind]
    given = [name for name in other if getattr(request, name) != getattr(default, name)]
    if request.kind != "images" and binarize != "none":
        given.append("binarize")
    if given and request.schema is None:
        needed = "series" if given[0] in series else "images" if request.kind != "images" else "series or tables"
        raise DataError(
            f"Argument '{given[0]}' is for {needed}; leave it out. Received: {given[0]}="
            f"{binarize if given[0] == 'binarize' else getattr(request, given[0])!r} for {_WHAT[request.kind]}"
        )


_WHAT = {"images": "images", "series": "series", "table": "a table"}


def _count(name: str, value: Any, least: int) -> int | None:
    if value is not None and (not isinstance(value, (int, np.integer)) or value < least):
        raise DataError(f"Argument '{name}' must be an integer >= {least}. Received: {value!r}")
    return None if value is None else int(value)


def _names(columns: Any) -> tuple[str, ...] | None:
    if columns is None:
        return None
    names = tuple(columns) if not isinstance(columns, str) else ()
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise DataError(f"Argument 'columns' must be a list of different names. Received: {columns!r}")
    return names


def _short(source: object) -> str:
    return repr(str(source)) if isinstance(source, (str, Path)) else type(source).__name__
