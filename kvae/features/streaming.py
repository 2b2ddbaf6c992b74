"""Features of collections that don't fit in memory: streamed to a file, and taken up again after an interruption."""

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kvae.data import Data
from kvae.features.extract import ROWS, BatchEncoder
from kvae.files import atomic_file
from kvae.models import LatentModel

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

    Rows come in the order of the split. Columns: `id`, the number of the image in its source (`Data.numbered`); of
    folders also `path`, of the file in it; `label`, where there are labels; `mean`, for a VAE `variance`, and `hidden`,
    as in `extract`. Parquet has them as lists of fixed size, npz as arrays `(N, …)`.

    Finished parts wait in a folder `.NAME.parts` beside the file. When the last one is there, they are joined under a
    temporary name, which then takes the file's place; until then what was there stays. A run that was killed goes on
    behind its last finished part. Parts of another model, source or split are thrown away.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder`.
        data: from `kvae.data.load`.
        path: of the file, `.npz` or `.parquet`.
        split: "train", "validation" or "test".
        hidden: whether to write the last hidden layer.
        limit: the first images only.
        identity: of the model, such as the checksum of its file: parts with another one aren't taken up.
        progress: whether to show a progress bar.
        on_resume: called with the number of rows that are already there, if there are any.
        part_rows: rows of a part.

    Returns:
        The number of rows written.

    Raises:
        ValueError: for another kind of file.
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
    batches = data.numbered(split, limit, batch_size=ROWS)
    asked = {
        "identity": identity, "data": data.name, "path": str(data.path), "split": split, "hidden": hidden,
        "limit": limit, "part_rows": part_rows, "binarize": data.binarize, "seed": data.seed,
        "image_shape": data.image_shape,
    }  # fmt: skip
    parts = _Parts(path.parent / f".{path.name}.parts", json.dumps(asked, sort_keys=True))
    done = parts.rows()
    if done and on_resume:
        on_resume(done)
    encode = BatchEncoder(model, hidden)
    for columns in _parts_of(_encoded(batches.skip(-(-done // ROWS)), encode, data, done, progress), part_rows):
        parts.add(columns)
    if not parts.files():
        raise ValueError("Expected images to encode. Received: no batch at all")
    with atomic_file(path) as temporary:
        (_join_npz if path.suffix.lower() == ".npz" else _join_parquet)(parts, temporary)
    rows = parts.rows()
    shutil.rmtree(parts.folder)
    return rows


def _encoded(batches: Any, encode: BatchEncoder, data: Data, done: int, progress: bool) -> Iterator[Columns]:
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
        if not (folder / MANIFEST).is_file() or (folder / MANIFEST).read_text() != manifest:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with atomic_file(folder / MANIFEST) as temporary:
                temporary.write_text(manifest)

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.npz"))

    def rows(self) -> int:
        return sum(len(columns["id"]) for columns in self.read(["id"]))

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
    import pyarrow as pa
    from pyarrow import parquet

    def table(columns: Columns) -> pa.Table:
        return pa.table(
            {
                name: pa.array(values)
                if values.ndim == 1
                else pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
                for name, values in columns.items()
            }
        )

    with parquet.ParquetWriter(target, table(next(parts.read())).schema) as writer:
        for columns in parts.read():
            writer.write_table(table(columns))


def checksum(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
