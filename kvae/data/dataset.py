"""`Data`: the splits of one image source, ready for `fit`, for evaluation and as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.data import pipeline
from kvae.data.catalogue import Catalogue, Changes, Splits, find
from kvae.data.errors import DataError, message_of
from kvae.data.splits import NAMES, NEW, Source, no_such_split


@dataclass(frozen=True)
class Data:
    """Images in [0, 1] as `tf.data` pipelines; made by `kvae.data.load`.

    Attributes:
        name: of the source.
        image_shape: (H, W, C).
        label_names: the names of the classes; empty where they have none.
        num_train, num_validation, num_test: images in each split; upper bounds if `counts_are_exact` is
            False, for images of a streamed folder may turn out unreadable.
        has_labels: whether training images have labels. Held-out images may have none: see `is_labelled`.

    Example:
        >>> import kvae
        >>> data = kvae.data.load("digits", batch_size=64)
        >>> data.image_shape, data.num_train, data.num_validation, data.num_test
        ((8, 8, 1), 1437, 180, 180)
        >>> next(iter(data.train)).shape
        TensorShape([64, 8, 8, 1])
    """

    name: str
    image_shape: tuple[int, int, int]
    label_names: tuple[str, ...]
    num_train: int
    num_validation: int
    num_test: int
    has_labels: bool
    batch_size: int
    seed: int
    binarize: str
    source: Source = field(repr=False, compare=False)

    @property
    def train(self) -> tf.data.Dataset:
        """Batches (B, H, W, C) of the training images: on every pass in another order and freshly binarised.

        The first pass over it is epoch 0, the next one epoch 1, and so on. Each access gives a dataset that begins with
        epoch 0: `fit(data.train)` is the same whatever was trained before.
        """
        return self.split("train", shuffle=True)

    @property
    def validation(self) -> tf.data.Dataset:
        """Batches (B, H, W, C) of the validation images, the same on every pass."""
        return self.split("validation")

    @property
    def test(self) -> tf.data.Dataset:
        """Batches (B, H, W, C) of the test images, the same on every pass."""
        return self.split("test")

    def is_labelled(self, split: str) -> bool:
        """Whether the images of a split have labels; False for unlabelled test images of a labelled folder.

        Example:
            >>> import kvae
            >>> kvae.data.load("digits").is_labelled("test")
            True
        """
        return self.has_labels and split not in self.source.unlabelled

    @property
    def path(self) -> Path | None:
        """The folder or file that the images come from, absolute; None for a named set and for arrays."""
        return self.source.path

    @property
    def value_range(self) -> tuple[float, float] | None:
        """(low, high), the stored values that are 0 and 1 here: as given to `load`, or as found for it.

        None where the type of the values says it: 8-bit images, and floats in [0, 1].
        """
        return self.source.value_range

    @property
    def binarisation(self) -> str | None:
        """How the images became binary, as a table beside a likelihood says it; None for images as they are."""
        if self.name == "binarized_mnist":
            return "fixed binarisation of Larochelle & Murray"
        named = {"threshold": "thresholded at 0.5", "stochastic": f"stochastic, seed {self.seed}"}
        return named.get(self.binarize)

    @property
    def batches_per_epoch(self) -> int:
        """Batches in one pass over `train`; the last one may be smaller."""
        return -(-self.num_train // self.batch_size)

    @property
    def num_classes(self) -> int:
        """Number of classes; where they have no names, the largest label of the training images and one."""
        if self.label_names or not self.has_labels:
            return len(self.label_names)
        labels = self.arrays("train")[1]
        assert labels is not None
        return int(labels.max()) + 1

    @property
    def counts_are_exact(self) -> bool:
        """False where images are decoded on the way, and some may turn out unreadable."""
        return all(getattr(split, "exact", True) for split in self.source.splits.values())

    def split(
        self,
        name: str,
        labels: bool = False,
        shuffle: bool = False,
        limit: int | None = None,
        batch_size: int | None = None,
        epoch: int = 0,
        skip: int = 0,
        worker: tuple[int, int] = (0, 1),
        seed: int | None = None,
    ) -> tf.data.Dataset:
        """One split as a dataset of `x` (B, H, W, C) or `(x, label (B,))`.

        Args:
            name: "train", "validation" or "test"; "new" of images in none of them (`with_splits`).
            labels: give `(x, label)`, the labels int64.
            shuffle: another order and fresh binary draws on every pass, as for training. Otherwise the order
                is stable and the binary draws are fixed: the same for every batch size and every `limit`.
            limit: the first `limit` images only.
            batch_size: instead of the one given to `load`.
            epoch: the number of the first pass when shuffled. Pass `k` is the same whether it is reached by
                `k` passes before it or asked for, so a resumed training sees what an unbroken one would have.
            skip: when shuffled, how many batches of a pass are left out: to go on within one.
            worker: when shuffled, `(index, count)`: the part of every batch that is this worker's. All of them together
                have the batches of one process (those of a streamed TFDS set are of each worker's own files).
            seed: of the order and the binary draws, instead of the one given to `load`.

        Raises:
            DataError: for an unknown or empty split, labels where there are none, a limit below 1, a skip that
                leaves no batch, or workers among whom a batch can't be divided.
            tf.errors.DataLossError: while the dataset is read, for a damaged file of a streamed prepared set.

        Example:
            >>> import kvae
            >>> data = kvae.data.load("digits", binarize="stochastic")
            >>> x, label = next(iter(data.split("test", labels=True, limit=10)))
            >>> x.shape, label.shape, float(x.numpy().max())
            (TensorShape([10, 8, 8, 1]), TensorShape([10]), 1.0)
        """
        count = self._count(name, limit)
        if labels and not self.is_labelled(name):
            what = f"its {name} split" if self.has_labels else "this source"
            raise DataError(f"{self.name}: expected labels, and {what} has none. Received: labels=True")
        plan = self._plan(name, batch_size, labels=labels, shuffle=shuffle, epoch=epoch, skip=skip, worker=worker)
        plan = plan if seed is None else replace(plan, seed=seed)
        batches = -(-count // plan.batch_size)
        if skip and not (shuffle and 0 < skip < batches):
            raise DataError(
                f"{self.name}: expected 'skip' to be of a shuffled split, and below its {batches} batches. "
                f"Received: skip={skip}"
            )
        index, workers = worker
        if workers > 1 and not (shuffle and 0 <= index < workers and plan.batch_size % workers == 0):
            raise DataError(
                f"{self.name}: expected a shuffled split, and batches of a multiple of {workers} images for {workers} "
                f"workers. Received: worker={worker}, batch_size={plan.batch_size}, shuffle={shuffle}"
            )
        return pipeline.batches(self.source.splits[name], count, plan)

    def _plan(self, name: str, batch_size: int | None, **options: Any) -> pipeline.Plan:
        batch_size = self.batch_size if batch_size is None else batch_size
        if batch_size < 1:
            raise DataError(f"Argument 'batch_size' must be >= 1. Received: {batch_size}")
        return pipeline.Plan(
            image_shape=self.image_shape,
            scale=self.source.scale,
            binarize=self.binarize,
            seed=self.seed,
            split_id=(*NAMES, NEW).index(name),
            batch_size=batch_size,
            **options,
        )

    def numbered(self, name: str, limit: int | None = None, batch_size: int | None = None) -> tf.data.Dataset:
        """One split in stable order as batches `(x, [label, number])`, the latter int64 `(B, 2)`.

        The number says which image of the source it is: row of the array or the prepared set, or place in `files`;
        of a set that is streamed, place in the split. The label is -1 where there is none.

        Raises:
            DataError: for an unknown or empty split, or a limit below 1.

        Example:
            >>> import kvae
            >>> x, pairs = next(iter(kvae.data.load("digits").numbered("test", limit=3)))
            >>> x.shape, pairs.shape
            (TensorShape([3, 8, 8, 1]), TensorShape([3, 2]))
        """
        count = self._count(name, limit)
        return pipeline.batches(
            self.source.splits[name], count, self._plan(name, batch_size, labels=True, numbers=True)
        )

    def fingerprint(self) -> dict[str, np.ndarray]:
        """What the images of each split are: a number for each, `(N,)` uint64, in the order of the split.

        It is made of their content, as it is stored, and of no name or place. Written down beside a model, it finds the
        split again when the source has changed: `with_splits`.

        Example:
            >>> import kvae
            >>> found = kvae.data.load("digits").fingerprint()
            >>> {name: len(keys) for name, keys in found.items()}, found["test"].dtype
            ({'train': 1437, 'validation': 180, 'test': 180}, dtype('uint64'))
        """
        return self._catalogue.fingerprint()

    def changes(self, fingerprint: Splits) -> Changes:
        """How the images of today differ from those of a fingerprint.

        Example:
            >>> import kvae
            >>> images = np.arange(30 * 64, dtype="uint16").view("uint8").reshape(-1, 8, 8)  # 60 of them
            >>> before = kvae.data.load(images[:50]).fingerprint()
            >>> kvae.data.load(images[1:]).changes(before)
            Changes(missing={'train': 1, 'validation': 0, 'test': 0}, new=10)
        """
        if _same(fingerprint, self.fingerprint()):
            return Changes(dict.fromkeys(fingerprint, 0), 0)
        found = find(self._catalogue, fingerprint)
        return Changes(found.missing, len(found.new))

    def with_splits(self, fingerprint: Splits) -> Data:
        """The same images, in the splits of a fingerprint; those that are in none of them are the split "new".

        Each split is in its former order. What isn't there any more is left out: `changes` counts it.

        Raises:
            DataError: if none of the images is there, or splits of the source can't be chosen: those of another version
                of a prepared set.

        Example:
            >>> import kvae
            >>> images = np.arange(30 * 64, dtype="uint16").view("uint8").reshape(-1, 8, 8)
            >>> before = kvae.data.load(images[:50])
            >>> again = kvae.data.load(images).with_splits(before.fingerprint())
            >>> bool(np.all(again.arrays("test")[0] == before.arrays("test")[0])), len(again.arrays("new")[0])
            (True, 10)
        """
        if _same(fingerprint, self.fingerprint()):
            return self
        catalogue = self._catalogue
        found = find(catalogue, fingerprint)
        if catalogue.pick is None or not any(map(len, found.rows.values())):
            raise DataError(
                f"{self.name}: expected the images of the splits that were written down, or most of them: they were "
                "replaced, or prepared in another version. Put them back. "
                f"Received: {sum(map(len, found.rows.values())):,} of {sum(map(len, fingerprint.values())):,}"
            )
        rows = {**found.rows, NEW: found.new}
        source = replace(
            self.source,
            splits={name: catalogue.pick(chosen) for name, chosen in rows.items()},
            catalogue=Catalogue(lambda: catalogue.keys, rows, catalogue.pick),
        )
        train, validation, test = (len(rows[name]) for name in NAMES)
        return replace(self, source=source, num_train=train, num_validation=validation, num_test=test)

    @property
    def _catalogue(self) -> Catalogue:
        assert self.source.catalogue is not None
        return self.source.catalogue

    @property
    def files(self) -> tuple[str, ...]:
        """Of a folder: its image files, relative to it, by the images' numbers; empty for other sources."""
        return self.source.files

    def arrays(self, name: str, limit: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """A split, or its first `limit` images, as arrays.

        Returns:
            images (N, H, W, C) float32 in [0, 1] and labels (N,) int64 (None where none of them has one), in
            the order and with the fixed binary draws of `split(name)`.

        Raises:
            DataError: for an unknown or empty split or a limit below 1, or a prepared set whose files are damaged.

        Example:
            >>> import kvae
            >>> images, labels = kvae.data.load("digits").arrays("test", limit=5)
            >>> images.shape, labels.shape
            ((5, 8, 8, 1), (5,))
        """
        count = self._count(name, limit)
        images = np.empty((count, *self.image_shape), np.float32)
        labels = np.empty(count, np.int64) if self.is_labelled(name) else None
        filled = 0
        dataset = self.split(name, labels=labels is not None, limit=limit)
        try:
            for element in dataset.as_numpy_iterator():
                if labels is None:
                    x = element
                else:
                    x, labels[filled : filled + len(element[1])] = element
                images[filled : filled + len(x)] = x
                filled += len(x)
        except tf.errors.OpError as error:
            raise DataError(
                f"{self.name}: the {name} split can't be read to the end. Received: {message_of(error)}"
            ) from error
        if labels is None or np.all(labels[:filled] < 0):  # -1 for each, as sets whose test labels are secret have it
            return images[:filled], None
        return images[:filled], labels[:filled]

    def _count(self, name: str, limit: int | None) -> int:
        if name not in (*NAMES, NEW):
            raise no_such_split(name)
        found = self.source.splits.get(name)
        if found is None or found.count == 0:
            if name == NEW:
                reason = "there are no images besides those of the splits that were written down"
            elif NEW in self.source.splits:
                reason = "none of its images is there any more; put them back"
            else:
                reason = f"give it a fraction above 0. Received: {name}_fraction=0"
            raise DataError(f"{self.name}: the {name} split is empty; {reason}")
        if limit is not None and limit < 1:
            raise DataError(f"Argument 'limit' must be >= 1. Received: {limit}")
        return found.count if limit is None else min(limit, found.count)


def _same(one: Splits, other: Splits) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
