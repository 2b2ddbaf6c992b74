"""A folder of image files, with class subfolders or not, cut into splits by its own folders or not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from kvae.data.catalogue import Catalogue, file_keys
from kvae.data.errors import DataError, DataWarning
from kvae.data.files import Header, decode, find_images, in_threads, read_header, warn_unreadable
from kvae.data.images import check_shape, scale_of
from kvae.data.splits import Memory, MemorySplit, Request, Share, Source, Split, StreamSplit, complete, spread

SPLIT_FOLDERS = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
AT_ONCE = 16  # files decoded by one call of Python
PROBE = 256  # images of a streamed folder looked at to tell 0/1 from 0..255


@dataclass(frozen=True)
class Layout:
    """Image files in sorted order, with what their folders say."""

    paths: list[Path]
    splits: np.ndarray  # (N,) names of splits
    labels: np.ndarray | None  # (N,) int64
    label_names: tuple[str, ...]


def folder(root: Path, request: Request) -> Source:
    """Image files under `root` (recursive, in sorted order).

    Folders named train, test and val, valid or validation at the top are the splits; the folders below them,
    or at the top where there are no splits, are the classes if there are at least two and every image is in
    one. Unreadable files are skipped with one `DataWarning`. Images that fit in `cache_bytes` are decoded
    now, others on every pass; those that only then turn out unreadable are skipped with a warning each.

    Raises:
        DataError: for a folder without readable images, or images of several sizes when no `size` is given.
    """
    name = root.resolve().name
    layout = lay_out(root, name)
    headers = in_threads(read_header, layout.paths)
    good = np.array([header is not None for header in headers], bool)
    shape = _image_shape(name, layout.paths, headers, request)
    stream = int(good.sum()) * int(np.prod(shape)) > request.cache_bytes
    if stream:
        some = [layout.paths[i] for i in np.flatnonzero(good)[:PROBE]]
        pictures, readable = _decode_all(some, np.ones(len(some), bool), shape)
        good[np.flatnonzero(good)[:PROBE]] = readable
    else:
        pictures, good = _decode_all(layout.paths, good, shape)
    warn_unreadable(name, [layout.paths[i] for i in np.flatnonzero(~good)], len(good))
    if not good.any():
        raise DataError(f"{name}: expected images that can be read. Received: {len(good)} image files, none readable")
    splits = _splits(name, layout, good, request)
    scale = scale_of(pictures)
    pick: Callable[[np.ndarray], Split]
    if stream:
        pick = FileReader(name, layout, shape).split
    else:
        pick = partial(MemorySplit, Memory(lambda: (pictures, layout.labels)))
    made = {part: pick(rows) for part, rows in splits.items()}
    files = tuple(path.relative_to(root).as_posix() for path in layout.paths)
    catalogue = Catalogue(lambda: file_keys(layout.paths), splits, pick)
    return Source(name, made, shape, scale, layout.labels is not None, layout.label_names, None, files, catalogue)


def lay_out(root: Path, name: str) -> Layout:
    paths = find_images(root)
    if not paths:
        raise DataError(f"{name}: expected a folder with images (png, jpg, …) or TFRecord files. Received: neither")
    parts = [path.relative_to(root).parts[:-1] for path in paths]
    splits = ["train"] * len(paths)
    if any(part and part[0].lower() == "train" for part in parts):
        splits = [SPLIT_FOLDERS.get(part[0].lower(), "") if part else "" for part in parts]
        outside = splits.count("")
        if outside:
            warnings.warn(
                f"{name}: left out {outside} images outside the train, validation and test folders",
                DataWarning,
                stacklevel=3,
            )
        kept = [i for i, split in enumerate(splits) if split]
        paths, splits = [paths[i] for i in kept], [splits[i] for i in kept]
        parts = [parts[i][1:] for i in kept]
    classes = sorted({part[0] for part in parts if part})
    if len(classes) < 2 or not all(parts):
        return Layout(paths, np.array(splits), None, ())
    number = {label: i for i, label in enumerate(classes)}
    return Layout(paths, np.array(splits), np.array([number[part[0]] for part in parts], np.int64), tuple(classes))


def _image_shape(name: str, paths: list[Path], headers: list[Header | None], request: Request) -> tuple[int, int, int]:
    seen = [(path, header) for path, header in zip(paths, headers) if header is not None]
    is_grey = all(header.is_grey for _, header in seen) if request.grayscale is None else request.grayscale
    channels = 1 if is_grey else 3
    if request.size is not None:
        return *request.size, channels
    if not seen:
        return 0, 0, channels
    first_path, first = seen[0]
    for path, header in seen:
        if header[:2] != first[:2]:
            raise DataError(
                f"{name}: expected images of one size; pass size= (--size on the command). "
                f"Received: {first_path.name} {first.height}x{first.width} and "
                f"{path.name} {header.height}x{header.width} (H x W)"
            )
    return check_shape(first.height, first.width, channels, name)


def _decode_all(paths: list[Path], good: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """All images as one array, and which of its rows hold one."""
    images = np.zeros((len(paths), *shape), np.uint8)

    def work(i: int) -> bool:
        image = decode(paths[i], shape[:2], shape[2]) if good[i] else None
        if image is None or image.shape != shape:
            return False
        images[i] = image
        return True

    return images, np.array(in_threads(work, range(len(paths))), bool)


def _splits(name: str, layout: Layout, good: np.ndarray, request: Request) -> dict[str, np.ndarray]:
    """Rows of readable files by split."""
    labels = layout.labels
    parts = {str(part): np.flatnonzero(good & (layout.splits == part)) for part in np.unique(layout.splits)}
    if not len(parts["train"]):
        raise DataError(f"{name}: expected images in its train folder that can be read. Received: none")
    if labels is not None:  # files come class by class; the first images of a split should be of all classes
        parts = {part: rows[spread(labels[rows], len(rows), request.seed)] for part, rows in parts.items()}
    train_labels = None if labels is None else labels[parts["train"]]
    found = complete({part: len(rows) for part, rows in parts.items()}, train_labels, request, name)
    return {split: parts[part][positions] for split, (part, positions) in found.items()}


class FileReader:
    """Decodes files on the way; an unreadable one is skipped, and named by a warning when it is first met."""

    def __init__(self, name: str, layout: Layout, shape: tuple[int, int, int]) -> None:
        self.name, self.layout, self.shape = name, layout, shape
        self.known_bad: set[int] = set()

    def split(self, rows: np.ndarray) -> StreamSplit:
        label_of = np.full(len(self.layout.paths), -1, np.int64) if self.layout.labels is None else self.layout.labels

        def elements(key: tf.Tensor | None, limit: int, share: Share) -> tf.data.Dataset:
            kept = rows[:limit].astype(np.int64)
            order = tf.constant(kept)
            if key is not None:
                places = share.rows(len(kept))
                draw = lambda k: np.random.default_rng(int(k)).permutation(kept)[places]  # noqa: E731
                order = tf.ensure_shape(tf.numpy_function(draw, [key], tf.int64), [len(places)])
            dataset = tf.data.Dataset.from_tensor_slices(order).batch(AT_ONCE)
            decoded = dataset.map(self._decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            readable = decoded.unbatch().filter(lambda image, row, is_read: is_read)
            return readable.map(lambda image, row, is_read: (image, row))

        def labelled(key: tf.Tensor | None, limit: int, share: Share) -> tf.data.Dataset:
            return elements(key, limit, share).map(lambda image, row: (image, tf.gather(label_of, row)))

        def numbered(limit: int) -> tf.data.Dataset:
            return elements(None, limit, Share(1)).map(
                lambda image, row: (image, tf.stack([tf.gather(label_of, row), row]))
            )

        return StreamSplit(len(rows), labelled, exact=False, numbered=numbered)

    def _decode(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        images, are_read = tf.numpy_function(self._work, [rows], (tf.uint8, tf.bool))
        return tf.ensure_shape(images, (None, *self.shape)), rows, tf.ensure_shape(are_read, [None])

    def _work(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, are_read = np.zeros((len(rows), *self.shape), np.uint8), np.zeros(len(rows), bool)
        for i, row in enumerate(rows.tolist()):
            path = self.layout.paths[row]
            image = decode(path, self.shape[:2], self.shape[2])
            if image is not None and image.shape == self.shape:
                images[i], are_read[i] = image, True
            elif row not in self.known_bad:
                self.known_bad.add(row)
                warn_unreadable(self.name, [path], len(self.layout.paths))
        return images, are_read
