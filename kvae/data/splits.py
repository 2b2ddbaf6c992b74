"""The records between a source and the pipeline: a `Request` goes in, a `Source` of splits comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
NEW = "new"  # images that a source has got since its splits were written down


@dataclass(frozen=True)
class Request:
    """What the caller of `load` asked for, as a source needs it."""

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
    """Which part of every batch is one worker's.

    Args:
        batch_size: images in a batch of all workers; a multiple of `of`.
        worker: number of the worker.
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
        """Images of a batch that are this worker's."""
        return self.batch_size // self.of

    def within(self, size: Any) -> tuple[Any, Any]:
        """First and behind the last row of a batch of `size` images."""
        return size * self.worker // self.of, size * (self.worker + 1) // self.of

    def rows(self, count: int) -> np.ndarray:
        """Places, of `count`, that are this worker's."""
        row = np.arange(count)
        in_batch = row % self.batch_size
        size = np.minimum(self.batch_size, count - (row - in_batch))
        first, end = self.within(size)
        return row[(in_batch >= first) & (in_batch < end)]


class Memory:
    """Images and labels in memory, read when they are first needed and shared by the splits cut from them.

    They are kept as one TensorFlow tensor, from which batches are gathered; `images` is a view of it.
    """

    def __init__(self, read: Callable[[], tuple[np.ndarray, np.ndarray | None]]) -> None:
        self._read = read

    @cached_property
    def _pair(self) -> tuple[tf.Tensor, np.ndarray | None]:
        images, labels = self._read()
        self._read = None  # type: ignore[assignment]  # lets the array go: the tensor is a copy
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
        elements: `elements(key, limit, share)` is a dataset of `(image (H, W, C), label)`, in stable order if `key`
            is None, else those of a worker's share, shuffled by that int64 tensor; the label is -1 where there is none.
            What isn't in the share isn't read.
        exact: False where images may turn out unreadable on the way.
        numbered: `numbered(limit)` is as `elements(None, limit)`, with `[label, number in the source]` for labels;
            None where the numbers are the positions in the split.
    """

    count: int
    elements: Callable[[tf.Tensor | None, int, Share], tf.data.Dataset]
    exact: bool = True
    numbered: Callable[[int], tf.data.Dataset] | None = None


Split = MemorySplit | StreamSplit


@dataclass(frozen=True)
class Source:
    """Images by split, and what is the same for all of them."""

    name: str
    splits: dict[str, Split]
    image_shape: tuple[int, int, int]
    scale: float  # x = image / scale
    has_labels: bool = False
    label_names: tuple[str, ...] = field(default=())
    unlabelled: frozenset[str] = frozenset()  # splits without labels, where training images have some
    path: Path | None = None  # of the folder or file, absolute
    files: tuple[str, ...] = ()  # of a folder: image files relative to it, by the number of the image
    decode: Decoder | None = None  # of a folder: what reads its files
    value_range: Range | None = None  # what became 0 and 1; None where the type of the values says it
    catalogue: Catalogue | None = None


def buffer_size(image_bytes: int, memory: int, least: int, most: int) -> int:
    """Images to shuffle at once: as many as `memory` bytes hold, from `least` to `most`.

    Example:
        >>> [buffer_size(side * side * 3, 64 << 20, 128, 4096) for side in (64, 128, 1024)]
        [4096, 1365, 128]
    """
    return max(least, min(most, memory // image_bytes))


def part_sizes(count: int, fractions: tuple[float, ...], what: str) -> list[int]:
    """How many images go to each fraction, at least one to each that is above 0; the rest is for training.

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


def spread(labels: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """A seeded order of `count` images; if they have labels, every stretch holds each class in proportion.

    Example:
        >>> import numpy as np
        >>> labels = np.repeat([0, 1], 50)
        >>> int(labels[spread(labels, 100, seed=0)[:20]].sum())
        10
    """
    order = np.random.default_rng([seed, 0]).permutation(count)
    if labels is None:
        return order
    place = np.empty(count)  # in [0, 1): the members of each class at equal distances
    for label in np.unique(labels):
        members = order[labels[order] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(place[order], kind="stable")]


def complete(
    counts: dict[str, int], train_labels: np.ndarray | None, request: Request, what: str
) -> dict[str, tuple[str, np.ndarray]]:
    """All three splits from the parts that a source has, those that are missing cut from "train".

    The cut is seeded, disjoint, and takes each class in proportion where there are labels.

    Args:
        counts: images in each part; "train" must be one.
        train_labels: (counts["train"],) or None.
        request: the fractions and the seed.
        what: how an error names the source.

    Returns:
        For each split the part that it is in, and the positions (n,) in that part.

    Example:
        >>> splits = complete({"train": 10, "test": 5}, None, Request(validation_fraction=0.2), "array")
        >>> {name: (part, len(rows)) for name, (part, rows) in splits.items()}
        {'train': ('train', 8), 'validation': ('train', 2), 'test': ('test', 5)}
    """
    fractions = {"validation": request.validation_fraction, "test": request.test_fraction}
    missing = [name for name in fractions if name not in counts]
    sizes = part_sizes(counts["train"], tuple(fractions[name] for name in missing), what)
    order = spread(train_labels, counts["train"], request.seed) if sum(sizes) else np.arange(counts["train"])
    cut: dict[str, np.ndarray] = {}
    for name, size in zip(missing, sizes):
        cut[name], order = order[:size], order[size:]
    own = {name: ("train", rows) for name, rows in {"train": order, **cut}.items()}
    own.update({name: (name, np.arange(counts[name])) for name in fractions if name in counts})
    return {name: own[name] for name in NAMES}


def no_such_split(name: Any) -> DataError:
    return DataError(f"Unknown split: expected one of {', '.join(NAMES)}. Received: {name!r}")


@contextmanager
def no_global_seed() -> Iterator[None]:
    """Inside a graph, operations are seeded by their own seed alone.

    Otherwise TensorFlow mixes in the global seed, and asks whether both are 0, which a tensor can't answer.
    """
    graph = tf.compat.v1.get_default_graph()
    seed, graph.seed = graph.seed, None
    try:
        yield
    finally:
        graph.seed = seed
