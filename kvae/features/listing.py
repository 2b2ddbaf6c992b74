"""Collections of images for a cluster: listed on one machine, read on many.

A `Listing` has the locations of the images, not their contents: a row for each file, stretch of records or row group,
and a reader for the images of some rows.
"""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from kvae.data import load
from kvae.data.decoding import Decoder, Header, Picture, decoder_for, read_header, tried
from kvae.data.depth import EIGHT_BIT, REMEDY, check_range
from kvae.data.files import files_below, holds
from kvae.data.images import check_background, check_size, scale_of
from kvae.data.named import PREPARED
from kvae.data.order import folder_rows
from kvae.data.pillow import Unreadable
from kvae.data.records import STRETCH, RecordReader, Stretch, find_records, open_records
from kvae.data.splits import NAMES, Request
from kvae.features.extraction import ROWS
from kvae.features.streaming import as_table

PARQUET = ".parquet"

Shape = tuple[int, ...]


class Reader(Protocol):
    """A reader for some rows of a `Listing`: images (n, H, W, C) as from `Decoder`, and n rows."""

    def __call__(self, rows: pa.Table) -> Iterator[tuple[np.ndarray, pa.Table]]: ...


class Listing(NamedTuple):
    """A collection of images and its reader."""

    name: str
    read: Reader
    rows: pa.Table  # the input of `read`
    images: int
    at_once: int  # number of rows for about ROWS images
    shape: Shape
    scale: float  # x = image / scale


@dataclass(frozen=True)
class FolderReader:
    """A reader for image files; each row has a `path` in a folder."""

    root: str
    decode: Decoder

    def __call__(self, rows: pa.Table) -> Iterator[tuple[np.ndarray, pa.Table]]:
        paths = [Path(self.root, path) for path in rows["path"].to_pylist()]
        yield _only_readable([tried(self.decode)(path) for path in paths], rows, self.decode)


@dataclass(frozen=True)
class StretchReader:
    """A reader for stretches of TFRecord files."""

    records: RecordReader
    labels: bool

    def __call__(self, rows: pa.Table) -> Iterator[tuple[np.ndarray, pa.Table]]:
        for row in rows.to_pylist():
            images, found = self.records.read(Stretch(*(row[name] for name in Stretch._fields)))
            columns = {"id": found[:, 1]}
            if self.labels:
                columns["label"] = found[:, 0]
            if "split" in row:
                columns["split"] = np.full(len(found), row["split"])
            yield images, as_table(columns)


@dataclass(frozen=True)
class ParquetReader:
    """A reader for row groups of Parquet files; images of a different shape are left out, or resized."""

    filesystem: Any
    decode: Decoder

    def __call__(self, rows: pa.Table) -> Iterator[tuple[np.ndarray, pa.Table]]:
        for row in rows.to_pylist():
            number = row["number"]
            for table in _parquet_tables(self.filesystem, row["file"], [row["group"]]):
                pictures = [tried(self.decode)(io.BytesIO(content)) for content in _contents(table)]
                others = {name: table[name] for name in table.column_names if name != "image"}
                numbers = pa.array(np.arange(number, number + len(table)))
                yield _only_readable(pictures, pa.table({"id": numbers, **others}), self.decode)
                number += len(table)


def _only_readable(
    pictures: Sequence[Picture | Unreadable], rows: pa.Table, decode: Decoder
) -> tuple[np.ndarray, pa.Table]:
    """Return the readable images in one array, and their rows."""
    good = [isinstance(picture, Picture) for picture in pictures]
    found = [picture for picture in pictures if isinstance(picture, Picture)]
    return decode.stack(found), rows.filter(pa.array(good, pa.bool_()))


def list_images(
    source: str,
    size: int | tuple[int, int] | None = None,
    grayscale: bool | None = None,
    value_range: tuple[float, float] | None = None,
    background: Any = "white",
) -> Listing:
    """List the images of a folder, of TFRecord files or of Parquet files, as `kvae.data.load` finds them.

    It reads the headers of image files, the positions of the records in TFRecord files, and the first images of each
    kind.

    Raises:
        ValueError: if the source has another kind, or no images.

    Example:

        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.png"):
        ...         Image.fromarray(np.zeros((8, 8), np.uint8)).save(f"{folder}/{name}")
        ...     list_images(folder).rows.to_pylist()
        [{'id': 0, 'path': 'a.png'}, {'id': 1, 'path': 'b.png'}]
    """
    path = Path(source).expanduser()
    request = Request(
        check_size(size), grayscale, validation_fraction=0, test_fraction=0,
        value_range=check_range(value_range), background=check_background(background),
    )  # fmt: skip
    if "://" not in source and not (path / PREPARED).is_file():
        if path.is_dir() and holds(path):
            return _folder(path, request)
        if path.exists() and find_records(path):
            return _records(path.resolve(), request)
    if "://" in source or path.suffix == PARQUET or (path.is_dir() and holds(path, [PARQUET])):
        return _parquet(source if "://" in source else str(path.resolve()), request)
    if path.is_dir() and not (path / PREPARED).is_file():
        return _folder(path, request)  # files without a suffix, or no files
    raise ValueError(
        "Expected a folder of image, TFRecord or Parquet files, or one TFRecord or Parquet file, which every machine "
        f"can read. Received: {source}"
    )


def _folder(path: Path, request: Request) -> Listing:
    data = load(
        path, size=request.size, grayscale=request.grayscale, validation_fraction=0, test_fraction=0, cache_bytes=0,
        value_range=request.value_range, background=request.background,
    )  # fmt: skip
    layout, numbers = folder_rows(data)
    order = np.concatenate([numbers[name] for name in NAMES])
    columns = {"id": order, "path": np.array(data.files, object)[order]}
    if layout.labels is not None:
        columns["label"] = layout.labels[order]
    columns |= _split_column({name: len(found) for name, found in numbers.items()})
    assert data.source.decode is not None
    read = FolderReader(str(data.path), data.source.decode)
    return Listing(data.name, read, as_table(columns), len(order), ROWS, data.event_shape, data.source.scale)


def _records(path: Path, request: Request) -> Listing:
    reader, splits, scale, has_labels, _ = open_records(path, request)
    rows = np.array([stretch for part in NAMES for stretch in splits[part]], np.int64)
    columns = dict(zip(Stretch._fields, rows.T.copy())) | _split_column({part: len(splits[part]) for part in NAMES})
    images = int((rows[:, 2] - rows[:, 1]).sum())
    read = StretchReader(reader, has_labels)
    return Listing(reader.name, read, as_table(columns), images, ROWS // STRETCH, reader.decode.shape, scale)


def _split_column(counts: dict[str, int]) -> dict[str, np.ndarray]:
    """Return a column with the split of each row, if there are several splits."""
    several = sum(count > 0 for count in counts.values()) > 1
    return {"split": np.repeat(np.array(NAMES), [counts[name] for name in NAMES])} if several else {}


def _parquet(source: str, request: Request) -> Listing:
    name = PurePosixPath(source).name
    filesystem, files = parquet_files(source)
    first = next((table for file in files for table in _parquet_tables(filesystem, file) if len(table)), None)
    if first is None:
        raise ValueError(f"{name}: expected Parquet files with rows. Received: {len(files)} files without rows")
    contents = _contents(first)
    tries = [(f"row {i}", tried(read_header)(io.BytesIO(content))) for i, content in enumerate(contents)]
    headers = [(row, header) for row, header in tries if isinstance(header, Header)]
    if not headers:
        raise ValueError(
            f"{name}: expected images that can be read. Received: no readable image in the first {len(first)} rows"
        )
    decode = decoder_for(name, headers, request)
    if decode.depth != EIGHT_BIT and decode.value_range is None:
        raise ValueError(
            f"{name}: expected {REMEDY} for {decode.depth} images in Parquet files. Received: value_range=None"
        )
    read = ParquetReader(filesystem, decode)
    scale = scale_of(_only_readable([tried(decode)(io.BytesIO(content)) for content in contents], first, decode)[0])
    groups = [(file, group, rows) for file in files for group, rows in enumerate(group_sizes(filesystem, file))]
    paths, indices, sizes = zip(*groups)
    numbers = np.cumsum([0, *sizes[:-1]])
    table = as_table({"file": np.array(paths, object), "group": np.array(indices), "number": numbers})
    return Listing(name, read, table, sum(sizes), 1, decode.shape, scale)


def parquet_files(source: str) -> tuple[Any, list[str]]:
    """Return the file system, and the Parquet file or the sorted Parquet files below a folder, without hidden ones."""
    from pyarrow import fs

    if "://" not in source and Path(source).is_dir():  # Arrow follows links to parent folders endlessly
        below = [parts for parts in files_below(Path(source)) if parts[-1].endswith(PARQUET)]
        shown = [parts for parts in below if not any(part.startswith("_") for part in parts)]
        return fs.LocalFileSystem(), sorted(os.path.join(source, *parts) for parts in shown)
    filesystem, path = fs.FileSystem.from_uri(source) if "://" in source else (fs.LocalFileSystem(), source)
    if filesystem.get_file_info(path).is_file:
        return filesystem, [path]
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    files = [file.path for file in found if file.is_file and file.path.endswith(PARQUET)]
    parts = {file: PurePosixPath(file).relative_to(path).parts for file in files}
    return filesystem, sorted(file for file in files if not any(part.startswith((".", "_")) for part in parts[file]))


def group_sizes(filesystem: Any, file: str) -> list[int]:
    """Return the number of rows of each row group."""
    from pyarrow import parquet

    with filesystem.open_input_file(file) as opened:
        metadata = parquet.ParquetFile(opened).metadata
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def _parquet_tables(filesystem: Any, file: str, groups: list[int] | None = None) -> Iterator[pa.Table]:
    """Read the rows of some row groups, or of all, `ROWS` at a time."""
    from pyarrow import parquet

    with filesystem.open_input_file(file) as opened:
        for piece in parquet.ParquetFile(opened).iter_batches(ROWS, row_groups=groups):
            yield pa.Table.from_batches([piece])


def _contents(table: pa.Table) -> list[bytes]:
    """Return the encoded images."""
    kind = table.schema.field("image").type if "image" in table.column_names else None
    if isinstance(kind, pa.StructType) and kind.get_field_index("bytes") >= 0:
        return [(image or {}).get("bytes") or b"" for image in table["image"].to_pylist()]
    if kind is None or not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ValueError(
            "Expected a column `image` of encoded images: bytes, or {bytes, path}. "
            f"Received: {', '.join(f'{field.name} ({field.type})' for field in table.schema)}"
        )
    return [image or b"" for image in table["image"].to_pylist()]
