"""The interface between sources and the pipeline: a source takes a `Request` and returns a `Source` of splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from kvae.data.decoding import Decoder
from kvae.data.depth import Range
from kvae.data.errors import DataError
from kvae.data.images import WHITE, Color

if TYPE_CHECKING:
    from kvae.data.catalogue import Catalogue

NAMES = ("train", "validation", "test")
NEW = "new"  # images added to a source after its splits were saved


@dataclass(frozen=True)
class Request:
    """Arguments of `load` that a source needs."""

    size: tuple[int, int] | None = None
    grayscale: bool | None = None
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0
    data_dir: str | None = None
    download: bool = True
    cache_bytes: int = 1 << 30
    value_range: Range | None = None
    background: Color = WHITE
    key: str | None = None


@dataclass(frozen=True)
class Share:
    """The part of every batch that belongs to one worker.

    Args:
        batch_size: number of images in a batch of all workers; a multiple of `of`.
        worker: index of the worker.
        of: number of workers.

    Example:
        >>> [Share(4, worker, of=2).rows(count=10).tolist() for worker in range(2)]
        [[0, 1, 4, 5, 8], [2, 3, 6, 7, 9]]
    """

    batch_size: int
    worker: int = 0
    of: int = 1

    @property
    def local_size(self) -> int:
        """Number of images of a batch that belong to this worker."""
        return self.batch_size // self.of

    def within(self, size: Any) -> tuple[Any, Any]:
        """Return the first row and the end of the rows in a batch of `size` images."""
        return size * self.worker // self.of, size * (self.worker + 1) // self.of

    def rows(self, count: int) -> np.ndarray:
        """Return the positions, of `count`, that belong to this worker."""
        row = np.arange(count)
        in_batch = row % self.batch_size
        size = np.minimum(self.batch_size, count - (row - in_batch))
        first, end = self.within(size)
        return row[(in_batch >= first) & (in_batch < end)]


class Memory:
    """Images and labels in memory, read on first use and shared by the splits cut from them.

    The images are one TensorFlow tensor, from which batches are gathered; `images` is a view of it.
    """

    def __init__(self, read: Callable[[], tuple[np.ndarray, np.ndarray | None]]) -> None:
        self._read = read

    @cached_property
    def _pair(self) -> tuple[tf.Tensor, np.ndarray | None]:
        images, labels = self._read()
        self._read = None  # type: ignore[assignment]  # frees the array: the tensor is a copy
        with tf.device("CPU:0"):
            return tf.constant(images), labels

    @property
    def tensor(self) -> tf.Tensor:
        """(N, H, W, C), uint8 or float32."""
        return self._pair[0]

    @property
    def images(self) -> np.ndarray:
        return np.asarray(memoryview(self.tensor))

    @property
    def labels(self) -> np.ndarray | None:
        return self._pair[1]


@dataclass(frozen=True)
class MemorySplit:
    """Rows of a `Memory`, in the split's stable order."""

    memory: Memory
    rows: np.ndarray  # (count,) int64

    @property
    def count(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class StreamSplit:
    """Images read again on every pass.

    Args:
        count: number of images; an upper bound unless `exact`.
        elements: `elements(key, limit, share)` is a dataset of `(image (H, W, C), [label, number in the source])`. If
            `key` is None, the order is stable. Otherwise the elements are those of a worker's share, shuffled by that
            int64 tensor; images outside the share are not read. The label is -1 if there is none.
        exact: False if images may be unreadable.
    """

    count: int
    elements: Callable[[tf.Tensor | None, int, Share], tf.data.Dataset]
    exact: bool = True


Split = MemorySplit | StreamSplit
Reader = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Source:
    """Images by split, and the properties that all splits share."""

    name: str
    splits: dict[str, Split]
    image_shape: tuple[int, int, int]
    scale: float  # x = image / scale
    has_labels: bool = False
    label_names: tuple[str, ...] = field(default=())
    unlabelled: frozenset[str] = frozenset()  # splits without labels in a source with training labels
    path: Path | None = None  # absolute path of the folder or file
    files: tuple[str, ...] = ()  # image files of a folder, relative to it, by image number
    decode: Decoder | None = None  # decoder of the files of a folder
    value_range: Range | None = None  # the values that become 0 and 1; None if fixed by their type
    catalogue: Catalogue | None = None


def buffer_size(image_bytes: int, memory: int, least: int, most: int) -> int:
    """Return the number of images to shuffle at once: as many as fit in `memory` bytes, from `least` to `most`.

    Example:
        >>> [buffer_size(side * side * 3, 64 << 20, 128, 4096) for side in (64, 128, 1024)]
        [4096, 1365, 128]
    """
    return max(least, min(most, memory // image_bytes))


def part_sizes(count: int, fractions: tuple[float, ...], what: str) -> list[int]:
    """Return the number of images of each fraction, at least one if it is above 0; the rest is for training.

    Example:
        >>> part_sizes(100, (0.1, 0.25), "array")
        [10, 25]
    """
    sizes = [max(1, round(count * f)) if f > 0 else 0 for f in fractions]
    if sum(sizes) >= count:
        needed = 1 + sum(f > 0 for f in fractions)
        raise DataError(
            f"{what}: expected enough images to split into train and held-out parts (at least {needed}). "
            f"Received: {count} image{'s' if count != 1 else ''}"
        )
    return sizes


def stratified_order(labels: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """Return a seeded order of `count` images; with labels, every stretch has the class proportions of the whole.

    Example:
        >>> import numpy as np
        >>> labels = np.repeat([0, 1], 50)
        >>> int(labels[stratified_order(labels, 100, seed=0)[:20]].sum())
        10
    """
    order = np.random.default_rng([seed, 0]).permutation(count)
    if labels is None:
        return order
    place = np.empty(count)  # in [0, 1): the members of each class are equally spaced
    for label in np.unique(labels):
        members = order[labels[order] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(place[order], kind="stable")]


def complete_splits(
    counts: dict[str, int], train_labels: np.ndarray | None, request: Request, what: str
) -> dict[str, tuple[str, np.ndarray]]:
    """Return all three splits of a source; missing ones are cut from "train".

    The splits are seeded and disjoint. With labels, each split has the class proportions of the training images.

    Args:
        counts: number of images in each part; "train" is required.
        train_labels: (counts["train"],) or None.
        request: the fractions and the seed.
        what: name of the source in errors.

    Returns:
        For each split, the part that contains it and the positions (n,) in that part.

    Example:
        >>> splits = complete_splits({"train": 10, "test": 5}, None, Request(validation_fraction=0.2), "array")
        >>> {name: (part, len(rows)) for name, (part, rows) in splits.items()}
        {'train': ('train', 8), 'validation': ('train', 2), 'test': ('test', 5)}
    """
    fractions = {"validation": request.validation_fraction, "test": request.test_fraction}
    missing = [name for name in fractions if name not in counts]
    sizes = part_sizes(counts["train"], tuple(fractions[name] for name in missing), what)
    order = stratified_order(train_labels, counts["train"], request.seed) if sum(sizes) else np.arange(counts["train"])
    cut: dict[str, np.ndarray] = {}
    for name, size in zip(missing, sizes):
        cut[name], order = order[:size], order[size:]
    own = {name: ("train", rows) for name, rows in {"train": order, **cut}.items()}
    own.update({name: (name, np.arange(counts[name])) for name in fractions if name in counts})
    return {name: own[name] for name in NAMES}


def unknown_split(name: Any) -> DataError:
    return DataError(f"Unknown split: expected one of {', '.join(NAMES)}. Received: {name!r}")


def read_elements(
    items: np.ndarray, key: tf.Tensor | None, mine: Any, read: Reader, decode: Decoder, at_once: int = 1
) -> tf.data.Dataset:
    """Return the elements of a `StreamSplit`, read in threads.

    Args:
        items: (N, …) int64, what `read` takes, in the stable order.
        key: seed of the order; None for the stable order.
        mine: slice or indices of this worker's items after they are shuffled.
        read: function of items (n, …) that returns images and their [label, number]; it leaves out unreadable images.
        decode: the decoder of the images.
        at_once: number n of items.
    """
    order = tf.constant(items)
    if key is not None:
        draw = lambda k: np.random.default_rng(int(k)).permutation(items)[mine]  # noqa: E731
        order = tf.ensure_shape(tf.numpy_function(draw, [key], tf.int64), [None, *items.shape[1:]])

    def in_graph(part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, found = tf.numpy_function(read, [part], (decode.dtype, tf.int64))
        return tf.ensure_shape(images, [None, *decode.shape]), tf.ensure_shape(found, [None, 2])

    parts = tf.data.Dataset.from_tensor_slices(order).batch(at_once)
    return parts.map(in_graph, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()


def shuffled(dataset: tf.data.Dataset, buffer: int, key: tf.Tensor) -> tf.data.Dataset:
    """Shuffle a dataset by a key alone.

    Otherwise TensorFlow mixes in the global seed and tests whether both are 0, which fails for a tensor.
    """
    graph = tf.compat.v1.get_default_graph()
    seed, graph.seed = graph.seed, None
    try:
        return dataset.shuffle(buffer, seed=key, reshuffle_each_iteration=False)
    finally:
        graph.seed = seed
