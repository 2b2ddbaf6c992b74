"""Features of collections that don't fit in memory: streamed to a file, and resumed after an interruption."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kvae.data import Data
from kvae.data.splits import NAMES
from kvae.features.extraction import ROWS, BatchEncoder, batch_encoder
from kvae.files import atomic_file
from kvae.models import LatentModel

if TYPE_CHECKING:
    import pyarrow as pa

ALL = "all"
FORMATS = (".npz", ".parquet")
PART_ROWS = 16 * ROWS  # images of a part
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
    """Encode a split into a file, in bounded memory; the same call resumes after an interruption.

    Rows have the order of the split. With "all", rows have the order of the images' numbers, for the train, validation
    and test splits one after the other. The columns are `id`, the number of the image in its source (`Data.numbered`);
    `path`, its file in a folder; `time`, the start of a window of a long series; `label`, if there are labels; `split`,
    if "all" has several splits; and `mean`, `variance` (for a VAE) and `hidden`, as in `extract`. Parquet files have
    lists of fixed size, npz files arrays `(N, …)`.

    Finished parts are saved in a folder `.NAME.parts` next to the file. After the last part, they are joined under a
    temporary name, which then replaces the file; an existing file isn't changed before. The same call resumes after the
    last finished part. Parts with another `identity`, source, state of the source (`Data.state`) or split are deleted.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder`.
        data: the result of `kvae.data.load`.
        path: path of the file, `.npz` or `.parquet`.
        split: "train", "validation", "test", or "all". For "all", load the data with
            `validation_fraction=0, test_fraction=0`, so that the splits are those of the source itself.
        hidden: whether to write the last hidden layer.
        limit: number of first images to encode; None encodes all.
        identity: identity of the model, such as the checksum of its file; parts with another identity aren't used.
        progress: whether to show a progress bar.
        on_resume: function that is called with the number of existing rows, if there are any.
        part_rows: number of rows of a part.

    Returns:
        The number of rows written.

    Raises:
        ValueError: if the file has another suffix, or for "all" of a streamed folder that `load` has divided.
        kvae.data.DataError: as for `Data.split`.

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
    data = data.in_order() if split == ALL else data
    names = [split] if split != ALL else [name for name in NAMES if data.counts[name]]
    batches, left = {}, limit
    for name in names:
        if left is None or left > 0 or name == names[0]:
            batches[name] = data.numbered(name, left, batch_size=ROWS)
            left = None if left is None else left - data.counts[name]
    request = {
        "identity": identity, "data": data.name, "path": str(data.path), "split": split, "hidden": hidden,
        "limit": limit, "part_rows": part_rows, "binarize": data.binarize, "seed": data.seed,
        "image_shape": data.event_shape, "value_range": data.value_range,
        "rows": data.counts,
        "source": data.state(names),
    }  # fmt: skip
    parts = _Parts(path.parent / f".{path.name}.parts", json.dumps(request, sort_keys=True))
    if (done := parts.rows()) and on_resume:
        on_resume(done)
    encode = batch_encoder(model, hidden)
    for name, found in batches.items():
        label = name if len(names) > 1 else None
        done = parts.rows(label)
        rest = found.skip(-(-done // ROWS))
        for columns in _as_parts(_encode(rest, encode, data, label, done, progress), part_rows):
            parts.add(columns)
    if not parts.files():
        raise ValueError("Expected images to encode. Received: no batch")
    with atomic_file(path) as temporary:
        (_join_npz if path.suffix.lower() == ".npz" else _join_parquet)(parts, temporary)
    rows = parts.rows()
    shutil.rmtree(parts.folder)
    return rows


def _encode(
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
            if data.source.times is not None:
                columns["time"] = data.source.times[numbers]
            if data.has_labels:
                columns["label"] = labels
            if split:
                columns["split"] = np.full(len(numbers), split)
            yield columns | encode(images, labels if data.has_labels else None)
            bar.update(len(images))


def _as_parts(batches: Iterator[Columns], rows: int) -> Iterator[Columns]:
    """Concatenate batches to parts of a number of rows, which is a multiple of the batch size."""
    waiting: list[Columns] = []
    for columns in batches:
        waiting.append(columns)
        if sum(len(part["id"]) for part in waiting) >= rows:
            yield _concatenate(waiting)
            waiting = []
    if waiting:
        yield _concatenate(waiting)


def _concatenate(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class _Parts:
    """Numbered files of finished rows, in a folder with a manifest of the request."""

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
        """Return the number of finished rows, of one split or of all."""
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
    """Write a file as `np.savez_compressed` would, one array after the other, each part by part."""
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
    """Write a Parquet file with a row group for each part."""
    from pyarrow import parquet

    with parquet.ParquetWriter(target, as_table(next(parts.read())).schema) as writer:
        for columns in parts.read():
            writer.write_table(as_table(columns))


def as_table(columns: Columns) -> "pa.Table":
    """Make a table of arrays `(N,)`, unchanged, and arrays `(N, D)`, as lists of fixed size.

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
