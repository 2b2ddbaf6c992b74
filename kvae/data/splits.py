"""The interface between sources and the pipeline: a source takes a `Request` and returns a `Source` of splits."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from kvae.data.decoding import Decoder
from kvae.data.depth import Range
from kvae.data.errors import DataError
from kvae.data.images import WHITE, Color
from kvae.data.streams import StreamSplit

if TYPE_CHECKING:
    from kvae.data.catalogue import Catalogue
    from kvae.data.schema import Schema

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
    # Of series and tables.
    kind: str = "auto"
    time: str | None = None
    window: int | None = None
    stride: int | None = None
    columns: tuple[str, ...] | None = None
    series: str | None = None
    types: Mapping[str, str] | None = None  # of the columns of a table
    label: str | None = None  # name of the column with the labels of a table
    schema: Schema | None = None  # of a trained model; None learns it from the training data


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
    def content(self) -> tuple[np.ndarray | None, ...]:
        """Arrays that change with the images or labels."""
        return self.images, self.labels

    def __len__(self) -> int:
        return len(self.tensor)

    def gather(self, index: tf.Tensor) -> tf.Tensor:
        """Return the images of some rows, (B, H, W, C)."""
        return tf.gather(self.tensor, index)

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


Split = MemorySplit | StreamSplit


@dataclass(frozen=True)
class Source:
    """Images by split, and the properties that all splits share."""

    name: str
    splits: dict[str, Split]
    event_shape: tuple[int, ...]
    scale: float  # x = image / scale
    has_labels: bool = False
    label_names: tuple[str, ...] = field(default=())
    unlabelled: frozenset[str] = frozenset()  # splits without labels in a source with training labels
    path: Path | None = None  # absolute path of the folder or file
    files: tuple[str, ...] = ()  # image files of a folder, relative to it, by image number
    decode: Decoder | None = None  # decoder of the files of a folder
    value_range: Range | None = None  # the values that become 0 and 1; None if fixed by their type
    catalogue: Catalogue | None = None
    schema: Schema | None = None  # of series and tables: names, units and the default likelihood
    times: np.ndarray | None = None  # start of each window of a long series, by its number


def held_out_sizes(count: int, present: Container[str], request: Request, what: str) -> dict[str, int]:
    """Return how many of `count` images each missing split gets, at least one if its fraction is above 0.

    The rest is for training.

    Example:
        >>> held_out_sizes(100, ["train"], Request(validation_fraction=0.1, test_fraction=0.25), "array")
        {'validation': 10, 'test': 25}
    """
    fractions = {"validation": request.validation_fraction, "test": request.test_fraction}
    sizes = {name: max(1, round(count * f)) if f > 0 else 0 for name, f in fractions.items() if name not in present}
    if sum(sizes.values()) >= count:
        needed = 1 + np.count_nonzero(list(sizes.values()))
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
    sizes = held_out_sizes(counts["train"], counts, request, what)
    cut = any(sizes.values())
    order = stratified_order(train_labels, counts["train"], request.seed) if cut else np.arange(counts["train"])
    found = {name: (name, np.arange(count)) for name, count in counts.items()}
    for name, size in sizes.items():
        found[name], order = ("train", order[:size]), order[size:]
    found["train"] = ("train", order)
    return {name: found[name] for name in NAMES}
