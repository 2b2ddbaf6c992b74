"""Features of collections that don't fit in memory: streamed to a file, and taken up again after an interruption."""

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kvae.data import Data
from kvae.data.decoding import read_header, tried
from kvae.data.files import in_threads
from kvae.data.folder import FileReader
from kvae.data.layout import Layout, lay_out
from kvae.data.pillow import Unreadable
from kvae.data.records import find_records
from kvae.data.splits import NAMES, MemorySplit, Split
from kvae.features.extract import ROWS, BatchEncoder, batch_encoder
from kvae.files import atomic_file
from kvae.models import LatentModel

if TYPE_CHECKING:
    import pyarrow as pa

ALL = "all"
FORMATS = (".npz", ".parquet")
PART_ROWS = 16 * ROWS  # images after which a part is kept
MANIFEST = "manifest.json"

Columns = dict[str, np.ndarray]


def write_features(
    model: LatentModel,
    data: Data,
    path: str | os.PathLike[str],
    split: str = "train",
    hidden: bool = True,
    limit: int | None = None,
    identity: str = "",
    progress: bool = False,
    on_resume: Callable[[int], None] | None = None,
    part_rows: int = PART_ROWS,
) -> int:
    """Encode a split into a file, in memory that doesn't grow with it; the same call goes on after an interruption.

    Rows come in the order of the split; of "all" in that of the images' numbers, train, validation and test one after
    the other. Columns: `id`, the number of the image in its source (`Data.numbered`); of folders also `path`, of the
    file in it; `label`, where there are labels; `split`, where "all" is more than one; `mean`, for a VAE `variance`,
    and `hidden`, as in `extract`. Parquet has them as lists of fixed size, npz as arrays `(N, …)`.

    Finished parts wait in a folder `.NAME.parts` beside the file. When the last one is there, they are joined under a
    temporary name, which then takes the file's place; until then what was there stays. A run that was killed goes on
    behind its last finished part. Parts of another `identity`, source, state of the source (`fingerprint`) or split are
    thrown away.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder`.
        data: from `kvae.data.load`.
        path: of the file, `.npz` or `.parquet`.
        split: "train", "validation", "test", or "all": load with `validation_fraction=0, test_fraction=0` then, and the
            splits are those that the source has itself.
        hidden: whether to write the last hidden layer.
        limit: the first images only.
        identity: of the model, such as the checksum of its file: parts with another one aren't taken up.
        progress: whether to show a progress bar.
        on_resume: called with the number of rows that are already there, if there are any.
        part_rows: rows of a part.

    Returns:
        The number of rows written.

    Raises:
        ValueError: for another kind of file; for "all" of a streamed folder from which splits were cut.
        kvae.data.DataError: as `Data.split`.

    Example:

        >>> import kvae, tempfile
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows = write_features(vae, kvae.data.load("digits"), f"{folder}/digits.npz", "test", hidden=False)
        ...     with np.load(f"{folder}/digits.npz") as found:
        ...         print(rows, {name: found[name].shape for name in found.files})
        180 {'id': (180,), 'label': (180,), 'mean': (180, 2), 'variance': (180, 2)}
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"Expected a file that ends in .npz or .parquet. Received: {path}")
    data = in_order(data) if split == ALL else data
    names = splits_of(data, split)
    batches, left = {}, limit
    for name in names:
        if left is None or left > 0 or name == names[0]:
            batches[name] = data.numbered(name, left, batch_size=ROWS)
            left = None if left is None else left - data.source.splits[name].count
    asked = {
        "identity": identity, "data": data.name, "path": str(data.path), "split": split, "hidden": hidden,
        "limit": limit, "part_rows": part_rows, "binarize": data.binarize, "seed": data.seed,
        "image_shape": data.image_shape, "value_range": data.value_range,
        "rows": {name: found.count for name, found in data.source.splits.items()},
        "source": fingerprint(data, names),
    }  # fmt: skip
    parts = _Parts(path.parent / f".{path.name}.parts", json.dumps(asked, sort_keys=True))
    if (done := parts.rows()) and on_resume:
        on_resume(done)
    encode = batch_encoder(model, hidden)
    for name, found in batches.items():
        label = name if len(names) > 1 else None
        done = parts.rows(label)
        rest = found.skip(-(-done // ROWS))
        for columns in _parts_of(_encoded(rest, encode, data, label, done, progress), part_rows):
            parts.add(columns)
    if not parts.files():
        raise ValueError("Expected images to encode. Received: no batch at all")
    with atomic_file(path) as temporary:
        (_join_npz if path.suffix.lower() == ".npz" else _join_parquet)(parts, temporary)
    rows = parts.rows()
    shutil.rmtree(parts.folder)
    return rows


def splits_of(data: Data, split: str) -> list[str]:
    """The split; or, for "all", those that have images.

    Example:

        >>> import kvae
        >>> splits_of(kvae.data.load("digits", validation_fraction=0), "all")
        ['train', 'test']
    """
    return [split] if split != ALL else [name for name in NAMES if data.source.splits[name].count]


def in_order(data: Data) -> Data:
    """The same splits, each in the order of its images' numbers.

    Raises:
        ValueError: for a streamed folder from which splits were cut.

    Example:

        >>> import kvae
        >>> pairs = next(iter(in_order(kvae.data.load("digits")).numbered("test")))[1]
        >>> bool(np.all(np.diff(pairs[:, 1]) > 0))
        True
    """
    splits: dict[str, Split] = {
        name: replace(split, rows=np.sort(split.rows)) if isinstance(split, MemorySplit) else split
        for name, split in data.source.splits.items()
    }
    if data.files and not all(isinstance(split, MemorySplit) for split in splits.values()):
        layout, rows = folder_rows(data)
        assert data.source.decode is not None
        reader = FileReader(data.name, layout, data.source.decode)
        splits = {name: reader.split(rows[name]) for name in splits}
    return replace(data, source=replace(data.source, splits=splits))


def folder_rows(data: Data) -> tuple[Layout, dict[str, np.ndarray]]:
    """How a folder is laid out, and the numbers of its images by split; without those that have no readable header."""
    assert data.path is not None
    layout = lay_out(data.path, data.name)
    counts = {name: split.count for name, split in data.source.splits.items()}
    if any(counts[name] and name not in layout.splits for name in NAMES):
        raise ValueError(
            f"{data.name}: expected a folder loaded with validation_fraction=0 and test_fraction=0, for all of it. "
            f"Received: splits of {counts}"
        )
    good = np.ones(len(layout.paths), bool)
    if sum(counts.values()) < len(layout.paths):
        headers = in_threads(tried(read_header), layout.paths)
        good = np.array([not isinstance(header, Unreadable) for header in headers], bool)
    return layout, {name: np.flatnonzero(good & (layout.splits == name)) for name in NAMES}


def fingerprint(data: Data, splits: list[str]) -> str:
    """What changes with the images of a source, as hexadecimal digits.

    It is made of names, sizes and times of change of the files of a folder or of TFRecords; of what a `.npy` or `.npz`
    file holds; of images and labels that came as arrays or from a named set, if they are in memory; and of which
    images are in the splits. Of a named set that is streamed it is nothing but the name.

    Example:

        >>> import kvae
        >>> images = np.zeros((20, 8, 8), np.uint8)
        >>> arrays = [images, images.copy(), images + np.uint8(1)]
        >>> one, copy, other = (fingerprint(kvae.data.load(x), ["test"]) for x in arrays)
        >>> one == copy, one == other
        (True, False)
    """
    digest = hashlib.sha256(data.name.encode())
    in_memory = [split for name in splits if isinstance(split := data.source.splits[name], MemorySplit)]
    if data.path is None:
        for memory in {id(split.memory): split.memory for split in in_memory}.values():
            for array in (memory.images, memory.labels):
                digest.update(b"" if array is None else np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    elif data.path.is_file() and not find_records(data.path):
        digest.update(checksum(data.path).encode())
    else:
        files = [data.path / file for file in data.files] or find_records(data.path) or sorted(data.path.rglob("*"))
        for file in files:
            found = file.stat()
            digest.update(os.fsencode(file) + f"\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    for split in in_memory:
        digest.update(np.ascontiguousarray(split.rows).data)
    return digest.hexdigest()


def _encoded(
    batches: Any, encode: BatchEncoder, data: Data, split: str | None, done: int, progress: bool
) -> Iterator[Columns]:
    from tqdm import tqdm

    cardinality = int(batches.cardinality())
    total = done + cardinality * ROWS if cardinality >= 0 else None
    with tqdm(total=total, initial=done, disable=None if progress else True, unit="image", leave=False) as bar:
        for images, pairs in batches.as_numpy_iterator():
            labels, numbers = pairs.T
            columns: Columns = {"id": numbers}
            if data.files:
                columns["path"] = np.array([data.files[number] for number in numbers])
            if data.has_labels:
                columns["label"] = labels
            if split:
                columns["split"] = np.full(len(numbers), split)
            yield columns | encode(images, labels if data.has_labels else None)
            bar.update(len(images))


def _parts_of(batches: Iterator[Columns], rows: int) -> Iterator[Columns]:
    """Batches put together to parts of so many rows, a multiple of theirs."""
    waiting: list[Columns] = []
    for columns in batches:
        waiting.append(columns)
        if sum(len(part["id"]) for part in waiting) >= rows:
            yield _together(waiting)
            waiting = []
    if waiting:
        yield _together(waiting)


def _together(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class _Parts:
    """Numbered files of finished rows, in a folder that says what they are of."""

    def __init__(self, folder: Path, manifest: str):
        self.folder = folder
        if not (folder / MANIFEST).is_file() or (folder / MANIFEST).read_text(encoding="utf-8") != manifest:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with atomic_file(folder / MANIFEST) as temporary:
                temporary.write_text(manifest, encoding="utf-8")

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.npz"))

    def rows(self, split: str | None = None) -> int:
        """How many there are; of one split where there are several."""
        if split is None:
            return sum(len(columns["id"]) for columns in self.read(["id"]))
        return sum(int(np.sum(columns["split"] == split)) for columns in self.read(["split"]))

    def add(self, columns: Columns) -> None:
        with atomic_file(self.folder / f"part-{len(self.files()):06d}.npz") as temporary:
            np.savez(temporary, **columns)  # type: ignore[arg-type]

    def read(self, names: list[str] | None = None) -> Iterator[Columns]:
        for file in self.files():
            with np.load(file) as found:
                yield {name: found[name] for name in names or found.files}


def _join_npz(parts: _Parts, target: Path) -> None:
    """One array after the other, each part by part: what `np.savez_compressed` would write of the whole."""
    first = next(parts.read())
    rows = parts.rows()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, example in first.items():
            dtype = example.dtype
            if dtype.kind == "U":
                dtype = max((part[name].dtype for part in parts.read([name])), key=lambda kind: kind.itemsize)
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False,
                      "shape": (rows, *example.shape[1:])}  # fmt: skip
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_2_0(member, header)
                for part in parts.read([name]):
                    member.write(np.ascontiguousarray(part[name], dtype).tobytes())


def _join_parquet(parts: _Parts, target: Path) -> None:
    """A row group for each part."""
    from pyarrow import parquet

    with parquet.ParquetWriter(target, as_table(next(parts.read())).schema) as writer:
        for columns in parts.read():
            writer.write_table(as_table(columns))


def as_table(columns: Columns) -> "pa.Table":
    """Arrays `(N,)` as they are, arrays `(N, D)` as lists of fixed size.

    Example:

        >>> print(as_table({"id": np.arange(3), "mean": np.zeros((3, 2), "float32")}).schema)
        id: int64
        mean: fixed_size_list<item: float>[2]
          child 0, item: float
    """
    import pyarrow as pa

    return pa.table(
        {
            name: pa.array(values)
            if values.ndim == 1
            else pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
            for name, values in columns.items()
        }
    )


def checksum(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
