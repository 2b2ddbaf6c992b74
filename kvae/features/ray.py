"""Features beyond one machine: the same per-batch function in an actor pool of Ray Data (extra `ray`).

What travels to the actors is where the images are, not what they hold: each reads for itself.
"""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from kvae.data import DataWarning, load
from kvae.data.files import decode, holds, in_threads, read_header
from kvae.data.images import check_shape, check_size, scale_of
from kvae.data.named import PREPARED
from kvae.data.records import STRETCH, Stretch, find_records, index
from kvae.data.records import _Reader as _Records
from kvae.data.records import _splits as _record_splits
from kvae.data.splits import NAMES, Request
from kvae.features.extract import ROWS
from kvae.features.streaming import PART_ROWS, as_table, folder_rows
from kvae.files import atomic_directory

LOCAL = "local"
PARQUET = ".parquet"

Shape = tuple[int, int, int]


class RayMissing(ImportError):
    """Ray isn't installed."""

    def __init__(self) -> None:
        super().__init__("Features on Ray need the extra `ray`: pip install 'keras-vae[ray]'")


class Reader(Protocol):
    """What reads the images that some rows of a `Listing` name: uint8 (n, H, W, C), and a table of n rows on them."""

    def __call__(self, rows: pa.Table) -> Iterator[tuple[np.ndarray, pa.Table]]: ...


class Listing(NamedTuple):
    """A collection, before it is read."""

    name: str
    read: Reader
    rows: pa.Table  # for `read`
    images: int
    at_once: int  # rows for about ROWS images
    shape: Shape
    scale: float  # x = image / scale


@dataclass(frozen=True)
class FolderReader:
    """Reads image files: rows with their `path` in a folder."""

    root: str
    shape: Shape

    def __call__(self, rows: pa.Table) -> Iterator[tuple[np.ndarray, pa.Table]]:
        paths = [Path(self.root, path) for path in rows["path"].to_pylist()]
        yield _readable([decode(path, self.shape[:2], self.shape[2]) for path in paths], rows, self.shape)


@dataclass(frozen=True)
class RecordReader:
    """Reads stretches of TFRecord files."""

    records: _Records
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
    """Reads row groups of Parquet files; images of another shape are left out, or resized."""

    filesystem: Any
    shape: Shape
    resize: bool

    def __call__(self, rows: pa.Table) -> Iterator[tuple[np.ndarray, pa.Table]]:
        for row in rows.to_pylist():
            number = row["number"]
            for table in _parquet_tables(self.filesystem, row["file"], [row["group"]]):
                size = self.shape[:2] if self.resize else None
                images = [decode(io.BytesIO(content), size, self.shape[2]) for content in _contents(table)]
                others = {name: table[name] for name in table.column_names if name != "image"}
                numbers = pa.array(np.arange(number, number + len(table)))
                yield _readable(images, pa.table({"id": numbers, **others}), self.shape)
                number += len(table)


def _readable(images: Sequence[np.ndarray | None], rows: pa.Table, shape: Shape) -> tuple[np.ndarray, pa.Table]:
    """Those that there are, in one array, and their rows."""
    good = [image is not None and image.shape == shape for image in images]
    found = [image for image, is_good in zip(images, good) if is_good]
    return np.array(found, np.uint8).reshape(-1, *shape), rows.filter(pa.array(good, pa.bool_()))


class ImageEncoder:
    """What an actor does: rows that name images to rows of features, with a model that it loads once.

    Args:
        model: path of a `.keras` file that every machine can read.
        read: reads the images that rows name.
        hidden: whether to give the last hidden layer, too.
        binarize: "none" or "threshold".
        scale: what the images are divided by.

    Example:

        >>> import kvae, tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kvae.VAE(latent_dim=2, image_shape=(8, 8, 1)).save(f"{folder}/model.keras")
        ...     Image.fromarray(np.zeros((8, 8), np.uint8)).save(f"{folder}/a.png")
        ...     encode = ImageEncoder(f"{folder}/model.keras", FolderReader(folder, (8, 8, 1)), hidden=False)
        ...     (rows,) = encode(pa.table({"id": [0], "path": ["a.png"]}))
        >>> rows.column_names, len(rows)
        (['id', 'path', 'mean', 'variance'], 1)
    """

    def __init__(
        self, model: str, read: Reader, hidden: bool = True, binarize: str = "none", scale: float = 255.0
    ) -> None:
        from kvae.features.extract import BatchEncoder
        from kvae.models import load

        self.encode = BatchEncoder(load(model), hidden)
        self.read = read
        self.binarize, self.scale = binarize, scale

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Tables of the readable images, with their features behind what was known of them."""
        for images, known in self.read(rows):
            x = images.astype(np.float32) / np.float32(self.scale)
            if self.binarize == "threshold":
                x = (x >= 0.5).astype(np.float32)
            features = self.encode(x if len(x) else np.zeros((1, *x.shape[1:]), np.float32))
            table = as_table({name: values[: len(x)] for name, values in features.items()})
            columns = {name: known[name] for name in known.column_names if name not in features}
            yield pa.table({**columns, **{name: table[name] for name in table.column_names}})


def write_features_on_ray(
    model: str | os.PathLike[str],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    hidden: bool = True,
    binarize: str = "none",
    address: str = LOCAL,
    workers: int = 2,
    gpus_per_worker: float = 0,
    size: int | tuple[int, int] | None = None,
    grayscale: bool | None = None,
) -> int:
    """Encode a whole collection of images into a folder of Parquet files.

    The rows are those of `kvae.features.streaming.write_features` with the split "all", in the same order (that of the
    files' names), with the same columns; those of a Parquet source have its other columns as well. Images are found,
    decoded, cropped and resized as `kvae.data` does. An actor that dies is started again, and its batches with it.

    Args:
        model: a `.keras` file that every machine can read.
        source: what every machine can read: a folder of image files; TFRecord files as `kvae.data.load` takes them, or
            one; or Parquet files with a column `image` of encoded images (bytes, or the `{bytes, path}` of Hugging
            Face), or one, also as `s3://…`. Where Parquet has no column `id`, it is the number of the row.
        out: the folder to write, or as `s3://…` any place that Ray can write to where nothing is yet.
        hidden: whether to write the last hidden layer.
        binarize: "none" or "threshold", as the model was trained.
        address: of a Ray cluster, or "local", which starts Ray on this machine.
        workers: actors.
        gpus_per_worker: 0 for CPUs.
        size: crop and resize images to that; None for images that have the size of the model's.
        grayscale: as `kvae.data.load`.

    Returns:
        The number of rows written.

    Raises:
        ImportError: without Ray.
        ValueError: for a source of another kind, or without images, or whose images have another shape than the
            model's; for a conditional model; for stochastic binarisation; where Ray is connected elsewhere.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RayMissing from error
    if binarize not in ("none", "threshold"):
        raise ValueError(
            "Expected images as they are, or thresholded: random binary draws depend on the place in a collection, "
            f"which an actor doesn't know. Received: binarize={binarize!r}"
        )
    from kvae.models import load as load_model

    target = str(out)
    if "://" in target and _parquet_files(target)[1]:
        raise ValueError(f"Expected a place where no Parquet file is yet. Received: {target}")
    model = str(Path(model).resolve())
    loaded = load_model(model)
    if loaded.condition_dim is not None:
        raise ValueError(
            "Expected a model without conditions: conditional ones are encoded on one machine, without Ray. "
            f"Received: condition_dim={loaded.condition_dim}"
        )
    found = list_images(os.fspath(source), size, grayscale)
    if found.shape != loaded.image_shape:
        raise ValueError(
            f"Expected images of shape {loaded.image_shape}, as the model was trained on. "
            f"Received: {source} with {found.shape}"
        )
    batches = max(1, min(PART_ROWS // ROWS, len(found.rows) // (4 * workers * found.at_once)))
    per_block = batches * found.at_once
    blocks = [found.rows.slice(start, per_block) for start in range(0, len(found.rows), per_block)]
    resources: dict[str, Any] = {"num_gpus": gpus_per_worker} if gpus_per_worker else {"num_cpus": 1}
    with _connected(ray, address), _in_order(ray.data.DataContext.get_current()):
        encoded = ray.data.from_arrow(blocks).map_batches(
            ImageEncoder,
            fn_constructor_kwargs={
                "model": model, "read": found.read, "hidden": hidden, "binarize": binarize, "scale": found.scale,
            },
            compute=ray.data.ActorPoolStrategy(size=workers),
            batch_size=found.at_once,
            batch_format="pyarrow",
            **resources,
        )  # fmt: skip
        if "://" in target:
            encoded.write_parquet(target)
            return _count(target, found)
        with atomic_directory(target) as folder:
            encoded.write_parquet(str(folder))
            return _count(str(folder), found)


def _count(target: str, found: Listing) -> int:
    """The rows that were written."""
    filesystem, files = _parquet_files(target)
    rows = sum(sum(_group_sizes(filesystem, file)) for file in files)
    if not rows:
        raise ValueError(f"{found.name}: expected images that can be read. Received: {found.images}, none readable")
    if left_out := found.images - rows:
        warnings.warn(
            f"{found.name}: left out {left_out} of {found.images} images that cannot be read, or have another shape "
            f"than {found.shape}",
            DataWarning, stacklevel=3,
        )  # fmt: skip
    return rows


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """A connection to Ray: the one that there is, if it is that one, or one for as long as the block lasts."""
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()
        return
    connected = ray.get_runtime_context().gcs_address
    here = connected.rpartition(":")[0] in (ray.util.get_node_ip_address(), "127.0.0.1")
    if address not in (connected, "auto") and not (address == LOCAL and here):
        raise ValueError(
            f"Expected Ray not to be connected, or to {address}: leave that out, or call ray.shutdown() first. "
            f"Received: a connection to {connected}"
        )
    yield


@contextlib.contextmanager
def _in_order(context: Any) -> Iterator[None]:
    """Ray Data keeps the order of rows, as long as the block lasts."""
    options = context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        yield
    finally:
        options.preserve_order = before


def list_images(source: str, size: int | tuple[int, int] | None = None, grayscale: bool | None = None) -> Listing:
    """The images of a folder, of TFRecord or of Parquet files, as `kvae.data.load` finds them.

    Of image files it reads the headers; of TFRecord files where their records are; and of each kind the first images.

    Raises:
        ValueError: for another source, or one without images.

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
    request = Request(check_size(size), grayscale, validation_fraction=0, test_fraction=0)
    if "://" not in source and not (path / PREPARED).is_file():
        if path.is_dir() and holds(path):
            return _folder(path, request)
        if path.exists() and find_records(path):
            return _records(path.resolve(), request)
    if "://" in source or path.suffix == PARQUET or (path.is_dir() and holds(path, [PARQUET])):
        return _parquet(source if "://" in source else str(path.resolve()), request)
    raise ValueError(
        "Expected a folder of images, of TFRecord or of Parquet files (or one of these) that every machine can read. "
        f"Received: {source}"
    )


def _folder(path: Path, request: Request) -> Listing:
    data = load(
        path, size=request.size, grayscale=request.grayscale, validation_fraction=0, test_fraction=0, cache_bytes=0
    )
    layout, numbers = folder_rows(data)
    order = np.concatenate([numbers[name] for name in NAMES])
    columns = {"id": order, "path": np.array(data.files, object)[order]}
    if data.has_labels:
        columns["label"] = layout.labels[order]
    columns |= _split_column({name: len(found) for name, found in numbers.items()})
    read = FolderReader(str(data.path), data.image_shape)
    return Listing(data.name, read, as_table(columns), len(order), ROWS, data.image_shape, data.source.scale)


def _records(path: Path, request: Request) -> Listing:
    name = path.name
    shards = in_threads(lambda file: index(file, name), find_records(path))
    splits = _record_splits(name, path, shards, request)
    reader = _Records(name, shards, request)
    pictures = reader.probe(splits["train"])
    scale = scale_of(np.stack([picture.pixels for picture in pictures]))
    rows = np.array([stretch for part in NAMES for stretch in splits[part]], np.int64)
    columns = dict(zip(Stretch._fields, rows.T.copy())) | _split_column({part: len(splits[part]) for part in NAMES})
    read = RecordReader(reader, labels=all(picture.label >= 0 for picture in pictures))
    images = int((rows[:, 2] - rows[:, 1]).sum())
    return Listing(name, read, as_table(columns), images, ROWS // STRETCH, reader.shape, scale)


def _split_column(counts: dict[str, int]) -> dict[str, np.ndarray]:
    """The split of each row, where they are of several."""
    several = sum(count > 0 for count in counts.values()) > 1
    return {"split": np.repeat(np.array(NAMES), [counts[name] for name in NAMES])} if several else {}


def _parquet(source: str, request: Request) -> Listing:
    name = PurePosixPath(source).name
    filesystem, files = _parquet_files(source)
    first = next((table for file in files for table in _parquet_tables(filesystem, file) if len(table)), None)
    if first is None:
        raise ValueError(f"{name}: expected Parquet files with rows. Received: {len(files)} files, and no row")
    contents = _contents(first)
    headers = [header for content in contents if (header := read_header(io.BytesIO(content)))]
    if not headers:
        raise ValueError(f"{name}: expected images that can be read. Received: none among the first {len(first)} rows")
    is_grey = all(header.is_grey for header in headers) if request.grayscale is None else request.grayscale
    height, width = request.size or headers[0][:2]
    shape = check_shape(height, width, 1 if is_grey else 3, name)
    read = ParquetReader(filesystem, shape, request.size is not None)
    pictures = [decode(io.BytesIO(content), request.size, shape[2]) for content in contents]
    scale = scale_of(_readable(pictures, first, shape)[0])
    groups = [(file, group, rows) for file in files for group, rows in enumerate(_group_sizes(filesystem, file))]
    paths, indices, sizes = zip(*groups)
    numbers = np.cumsum([0, *sizes[:-1]])
    table = as_table({"file": np.array(paths, object), "group": np.array(indices), "number": numbers})
    return Listing(name, read, table, sum(sizes), 1, shape, scale)


def _parquet_files(source: str) -> tuple[Any, list[str]]:
    """Where they are, and the files: one, or those in a folder and below it, sorted; without hidden ones."""
    from pyarrow import fs

    filesystem, path = fs.FileSystem.from_uri(source) if "://" in source else (fs.LocalFileSystem(), source)
    if filesystem.get_file_info(path).is_file:
        return filesystem, [path]
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    files = [file.path for file in found if file.is_file and file.path.endswith(PARQUET)]
    parts = {file: PurePosixPath(file).relative_to(path).parts for file in files}
    return filesystem, sorted(file for file in files if not any(part.startswith((".", "_")) for part in parts[file]))


def _group_sizes(filesystem: Any, file: str) -> list[int]:
    """The rows of each row group."""
    from pyarrow import parquet

    with filesystem.open_input_file(file) as opened:
        metadata = parquet.ParquetFile(opened).metadata
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def _parquet_tables(filesystem: Any, file: str, groups: list[int] | None = None) -> Iterator[pa.Table]:
    """The rows of some row groups, or of all, as many at a time as are encoded at once."""
    from pyarrow import parquet

    with filesystem.open_input_file(file) as opened:
        for piece in parquet.ParquetFile(opened).iter_batches(ROWS, row_groups=groups):
            yield pa.Table.from_batches([piece])


def _contents(table: pa.Table) -> list[bytes]:
    """The encoded images."""
    kind = table.schema.field("image").type if "image" in table.column_names else None
    if isinstance(kind, pa.StructType) and kind.get_field_index("bytes") >= 0:
        return [(image or {}).get("bytes") or b"" for image in table["image"].to_pylist()]
    if kind is None or not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ValueError(
            "Expected a column `image` of encoded images, bytes or {bytes, path}. "
            f"Received: {', '.join(f'{field.name} ({field.type})' for field in table.schema)}"
        )
    return [image or b"" for image in table["image"].to_pylist()]
