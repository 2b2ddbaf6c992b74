"""What can be loaded: one function for each kind of source, and the choice between them.

To add a source, write a function that returns a `Source` and give it its place in `open_source`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kvae.data.catalogue import Catalogue, array_keys
from kvae.data.errors import DataError
from kvae.data.files import SUFFIXES, holds
from kvae.data.folder import folder
from kvae.data.images import check_images, convert_all, scale_of
from kvae.data.named import PREPARED, is_known_name, prepared, tfds_set
from kvae.data.records import find_records, records
from kvae.data.shapes import CLASSES, grid, render
from kvae.data.splits import Memory, MemorySplit, Request, Source, Split, complete

Pair = tuple[Any, Any]  # images and labels; the labels may be None

_NPZ_SPLITS = {
    "train": ("train",),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}
_NPZ_IMAGES = ("images", "image", "x", "data")
_NPZ_LABELS = ("labels", "label", "y")


def open_source(source: Any, request: Request) -> Source:
    """The source that `load` was given, whatever its kind."""
    if isinstance(source, np.ndarray):
        return arrays("array", {"train": (source, None)}, request)
    if isinstance(source, (tuple, list)):
        if len(source) != 2:
            raise DataError(f"Expected a pair (images, labels). Received: {type(source).__name__} of {len(source)}")
        return arrays("array", {"train": (source[0], source[1])}, request)
    if not isinstance(source, (str, Path)):
        raise DataError(
            "Argument 'source' must be a name, a path, an array or a pair (images, labels). "
            f"Received: {type(source).__name__}"
        )
    if source == "digits":
        return digits(request)
    if source == "shapes":
        return shapes(request)
    is_plain = isinstance(source, str) and _is_plain(source)
    if is_plain and (is_known_name(str(source), request) or not Path(source).exists()):
        return tfds_set(str(source), request)
    path = Path(source).expanduser()
    if path.is_dir():
        opened = folder
        if (path / PREPARED).is_file():
            opened = prepared
        elif not holds(path) and find_records(path):
            opened = records
        return replace(opened(path, request), path=path.resolve())
    if path.is_file() and find_records(path):
        return replace(records(path, request), path=path.resolve())
    if path.is_file():
        return replace(array_file(path, request), path=path.resolve())
    if isinstance(source, str) and "/" in source and is_known_name(source, request):
        return tfds_set(source, request)  # name/config
    raise DataError(
        "Expected the path of a folder of images or TFRecord files, or of a .tfrecord, .npy or .npz file: no such file "
        f"or folder. Received: {source}"
    )


def _is_plain(source: str) -> bool:
    """Whether a string cannot be meant as a path: no separator, no `~`, no suffix that files have."""
    if not source or source.startswith((".", "~")) or "/" in source or "\\" in source:
        return False
    return Path(source).suffix.lower() not in {".npy", ".npz", ".zip", ".tar", ".gz", ".pt", ".h5", *SUFFIXES}


def digits(request: Request) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8x1: nothing to download."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images / 16.0).astype(np.float32)
    names = tuple(str(name) for name in bunch.target_names)
    return arrays("digits", {"train": (images, bunch.target)}, request, names)


def shapes(request: Request) -> Source:
    """The 36,864 rendered squares, ellipses and hearts of `kvae.data.shapes`, 32x32x1: nothing to download."""
    factors = grid()
    return arrays("shapes", {"train": (render(factors), factors[:, 0])}, request, CLASSES)


def arrays(name: str, parts: dict[str, Pair], request: Request, label_names: tuple[str, ...] = ()) -> Source:
    """Arrays by split; a split that is missing is cut from the training images.

    Args:
        name: how the source is called in errors and reports.
        parts: images (N, H, W) or (N, H, W, C) and labels (N,) or None, for "train" and perhaps the others.
        request: size, channels, fractions and seed.
        label_names: the names of the classes, where the labels are numbers.
    """
    min_side = 1 if request.size else 8
    images = {part: check_images(pair[0], f"{name} ({part})", min_side) for part, pair in parts.items()}
    if len({(x.shape[1:], x.dtype) for x in images.values()}) > 1:
        found = ", ".join(f"{part} {x.shape[1:]} {x.dtype}" for part, x in images.items())
        raise DataError(f"{name}: expected the same image shape and type in every split. Received: {found}")
    scale = max(scale_of(x) for x in images.values())
    converted = {part: convert_all(x, scale, request.size, request.grayscale) for part, x in images.items()}
    images = {part: x for part, (x, _) in converted.items()}
    scale = converted["train"][1]
    labels, label_names = _all_labels(name, parts, label_names)
    memories = {part: _memory(images[part], labels[part]) for part in parts}
    cut = complete({part: len(x) for part, x in images.items()}, labels["train"], request, name)
    splits: dict[str, Split] = {split: MemorySplit(memories[part], rows) for split, (part, rows) in cut.items()}
    catalogue = _catalogue([pair[0] for pair in parts.values()], memories, cut)
    height, width, channels = images["train"].shape[1:]
    shape = (height, width, channels)
    return Source(name, splits, shape, scale, labels["train"] is not None, label_names, catalogue=catalogue)


def _catalogue(raw: list[Any], memories: dict[str, Memory], cut: dict[str, tuple[str, np.ndarray]]) -> Catalogue:
    """The images of all parts, one part after the other."""
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
    """Integer labels by split, and the names of the classes; none at all unless every split has them."""
    found = {part: check_labels(y, len(x), f"{name} ({part})") for part, (x, y) in parts.items()}
    labels = {part: y for part, y in found.items() if y is not None}
    if len(labels) < len(parts):
        return dict.fromkeys(parts), ()
    if any(y.dtype.kind == "U" for y in labels.values()):
        label_names = tuple(sorted({str(v) for y in labels.values() for v in np.unique(y)}))
        labels = {part: np.searchsorted(label_names, y.astype(str)) for part, y in labels.items()}
    return {part: y.astype(np.int64) for part, y in labels.items()}, label_names


def check_labels(labels: Any, count: int, what: str) -> np.ndarray | None:
    """Labels as (N,) int64 or strings; None stays None."""
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(
            f"{what}: expected one label per image, shape (N,); take np.argmax(labels, -1) of one-hot ones. "
            f"Received: shape {labels.shape}"
        )
    if len(labels) != count:
        raise DataError(f"{what}: expected as many labels as images. Received: {len(labels)} for {count} images")
    if labels.dtype.kind in "US":
        return labels.astype(str)
    if labels.dtype.kind not in "buif" or (labels.dtype.kind == "f" and not np.all(labels == np.rint(labels))):
        raise DataError(f"{what}: expected labels that are integers or strings. Received: dtype {labels.dtype}")
    return labels.astype(np.int64)


def array_file(path: Path, request: Request) -> Source:
    """A `.npy` file of images, or a `.npz` file of images, labels and perhaps splits.

    Keys of a `.npz`: `x_train`, `y_train`, `x_test`, `y_test` (and `x_val`, `x_valid` or `x_validation`); or
    `images` (`image`, `x`, `data`) and `labels` (`label`, `y`); or one array under any name.
    """
    if path.suffix.lower() not in (".npy", ".npz"):
        raise DataError(f"Expected an image folder or a .npy or .npz file. Received: {path}")
    try:
        loaded = np.load(path, allow_pickle=False)
        found = {"": loaded} if isinstance(loaded, np.ndarray) else {key: loaded[key] for key in loaded.files}
    except Exception as error:  # zipfile, zlib and NumPy raise nearly anything on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path.name}: expected a readable array of numbers. Received: {reason}") from error
    return arrays(path.stem, _parts(found, path.name), request)


def _parts(found: dict[str, np.ndarray], what: str) -> dict[str, Pair]:
    parts: dict[str, Pair] = {}
    for split, names in _NPZ_SPLITS.items():
        for name in names:
            if f"x_{name}" in found:
                parts[split] = (found[f"x_{name}"], found.get(f"y_{name}"))
    if "train" in parts:
        return parts
    key = next((key for key in _NPZ_IMAGES if key in found), None)
    if key is not None:
        return {"train": (found[key], next((found[k] for k in _NPZ_LABELS if k in found), None))}
    if len(found) == 1:
        return {"train": (next(iter(found.values())), None)}
    raise DataError(
        f"{what}: expected arrays x_train, y_train, x_test, y_test, or images and labels, or a single one. "
        f"Received: {', '.join(sorted(found)) or 'no arrays'}"
    )
