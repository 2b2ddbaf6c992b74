"""What can be loaded: one function for each kind of source, and the choice between them.

To add a source, write a function that returns a `Source` and give it its place in `open_source`.
"""

from __future__ import annotations

import warnings
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
    extremes,
    found_range,
    in_unit,
    is_eight_bit,
    kind_of,
)
from kvae.data.errors import DataError, DataWarning
from kvae.data.files import holds, image_suffixes
from kvae.data.folder import folder
from kvae.data.images import check_images, convert_all, scale_of
from kvae.data.named import PREPARED, data_folder, is_known_name, prepared, tfds_set
from kvae.data.notices import warn_dark, warn_outside, where
from kvae.data.records import find_records, records
from kvae.data.shapes import CLASSES, grid, render
from kvae.data.splits import Memory, MemorySplit, Request, Source, Split, complete


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
    if isinstance(source, str) and _is_plain(source):
        is_there = Path(source).exists()
        if not is_there or is_known_name(source, request):
            if is_there and Path(source).resolve().parent != data_folder(request).resolve():
                kind = "folder" if Path(source).is_dir() else "file"
                warnings.warn(
                    f"{source}: took the named set of this name, not the {kind}; write ./{source} for the {kind}",
                    DataWarning, stacklevel=3,
                )  # fmt: skip
            return {"digits": digits, "shapes": shapes}.get(source, partial(tfds_set, source))(request)
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
    return Path(source).suffix.lower() not in {".npy", ".npz", ".zip", ".tar", ".gz", ".pt", ".h5", *image_suffixes()}


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
    depth = _depth(images)
    if len({x.shape[1:] for x in images.values()}) > 1 or depth is None:
        found = ", ".join(f"{part} {x.shape[1:]} {x.dtype}" for part, x in images.items())
        raise DataError(f"{name}: expected the same image shape and type in every split. Received: {found}")
    labels, label_names = _all_labels(name, parts, label_names)
    cut = complete({part: len(x) for part, x in images.items()}, labels["train"], request, name)
    value_range = request.value_range
    if depth != EIGHT_BIT and value_range is None:
        low, high, _ = extremes(images["train"], cut["train"][1])
        value_range = found_range(name, depth, low, high)
    warn_dark(name, depth, value_range)
    outside: dict[str, np.ndarray] = {}
    for part, x in images.items():
        images[part], outside[part] = _stored(x, value_range)
    scale = max(scale_of(x) for x in images.values())
    converted = {part: convert_all(x, scale, request.size, request.grayscale) for part, x in images.items()}
    images = {part: x for part, (x, _) in converted.items()}
    scale = converted["train"][1]
    if told := where({split: outside[part][rows] for split, (part, rows) in cut.items()}):
        warn_outside(name, value_range or UNIT, told)
    memories = {part: _memory(images[part], labels[part]) for part in parts}
    splits: dict[str, Split] = {split: MemorySplit(memories[part], rows) for split, (part, rows) in cut.items()}
    catalogue = _catalogue([pair[0] for pair in parts.values()], memories, cut)
    height, width, channels = images["train"].shape[1:]
    is_said = request.value_range is not None or value_range != UNIT
    has_labels = labels["train"] is not None
    unlabelled = frozenset(part for part, y in labels.items() if has_labels and y is None)
    return Source(
        name, splits, (height, width, channels), scale, has_labels, label_names, unlabelled,
        catalogue=catalogue, value_range=value_range if is_said else None,
    )  # fmt: skip


def _depth(images: dict[str, np.ndarray]) -> str | None:
    """The depth of all splits, as `kind_of` calls it; None if they differ."""
    kinds = {kind_of(x.dtype) for x in images.values()}
    if FLOAT in kinds:
        return FLOAT if len(kinds) == 1 else None
    eight_bit = [kind_of(x.dtype) == EIGHT_BIT or is_eight_bit(x.dtype, *extremes(x)[:2]) for x in images.values()]
    if all(eight_bit):
        return EIGHT_BIT
    return None if EIGHT_BIT in kinds else kind_of(images["train"].dtype)


def _stored(images: np.ndarray, value_range: Range | None) -> tuple[np.ndarray, np.ndarray]:
    """Images as they are kept, uint8 or float32, and which of them had values outside the range."""
    inside = np.zeros(len(images), bool)
    if value_range is None:
        return images.astype(np.uint8, copy=False), inside
    if value_range == UNIT and images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1:
        return images, inside  # as they are
    return in_unit(images, value_range)


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
    """Integer labels by split, and the names of the classes; none at all unless the training images have them."""
    found = {part: check_labels(y, len(x), f"{name} ({part})") for part, (x, y) in parts.items()}
    labels = {part: y for part, y in found.items() if y is not None}
    if "train" not in labels:
        if labels:
            warnings.warn(f"{name}: taken without labels, for the training images have none", DataWarning, stacklevel=5)
        return dict.fromkeys(parts), ()
    if bare := [part for part in parts if part not in labels]:
        warnings.warn(f"{name}: no labels in the {' and '.join(bare)} split", DataWarning, stacklevel=5)
    if any(y.dtype.kind == "U" for y in labels.values()):
        label_names = tuple(sorted({str(v) for y in labels.values() for v in np.unique(y)}))
        labels = {part: np.searchsorted(label_names, y.astype(str)) for part, y in labels.items()}
    return {part: labels[part].astype(np.int64) if part in labels else None for part in parts}, label_names


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
    """A `.npy` file of images, or a `.npz` file of images, labels and perhaps splits (see `archive`)."""
    if path.suffix.lower() not in (".npy", ".npz"):
        raise DataError(f"Expected an image folder or a .npy or .npz file. Received: {path}")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            parts: dict[str, Pair] = {"train": (loaded, None)}
        else:
            with loaded:
                parts = pairs(loaded, path.name, request.key)
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise nearly anything on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path.name}: expected a readable array of numbers. Received: {reason}") from error
    return arrays(path.stem, parts, request)
