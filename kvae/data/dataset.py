"""`Data`: the splits of an image source, as datasets for training and evaluation and as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.data import order, pipeline
from kvae.data.catalogue import Catalogue, Changes, Splits, find
from kvae.data.errors import DataError, message_of
from kvae.data.masks import read_masks
from kvae.data.schema import Schema
from kvae.data.splits import NAMES, NEW, MemorySplit, Source


@dataclass(frozen=True)
class Data:
    """Images in [0, 1], or series and rows in their units, as `tf.data` pipelines, returned by `kvae.data.load`.

    Attributes:
        name: name of the source.
        event_shape: (H, W, C) of images, (T, F) of series, or (columns,) of rows.
        label_names: names of the classes; empty if they have no names.
        num_train, num_validation, num_test: number of images (windows, rows) in each split; upper bounds if
            `counts_are_exact` is False, because images of a streamed folder may be unreadable.
        has_labels: whether the training images have labels. Held-out images may have none: see `is_labelled`.

    Example:
        >>> import kvae
        >>> data = kvae.data.load("digits", batch_size=64)
        >>> data.event_shape, data.num_train, data.num_validation, data.num_test
        ((8, 8, 1), 1437, 180, 180)
        >>> next(iter(data.train)).shape
        TensorShape([64, 8, 8, 1])
    """

    name: str
    event_shape: tuple[int, ...]
    label_names: tuple[str, ...]
    num_train: int
    num_validation: int
    num_test: int
    has_labels: bool
    batch_size: int
    seed: int
    binarize: str
    source: Source = field(repr=False, compare=False)

    @classmethod
    def of(cls, source: Source, batch_size: int, seed: int, binarize: str = "none") -> Data:
        """Return the data of an opened source."""
        counts = {name: split.count for name, split in source.splits.items()}
        return cls(
            name=source.name,
            event_shape=source.event_shape,
            label_names=source.label_names,
            num_train=counts["train"],
            num_validation=counts["validation"],
            num_test=counts["test"],
            has_labels=source.has_labels,
            batch_size=batch_size,
            seed=seed,
            binarize=binarize,
            source=source,
        )

    @property
    def train(self) -> tf.data.Dataset:
        """Batches (B, H, W, C) of the training images, reshuffled and binarised again on every pass.

        The first pass is epoch 0, the next one epoch 1, and so on. Each access returns a dataset that begins with
        epoch 0, so `fit(data.train)` does not depend on earlier training.
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

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Another name of `event_shape`."""
        return self.event_shape

    def is_labelled(self, split: str) -> bool:
        """Return whether a split has labels; False for unlabelled test images of a labelled folder.

        Example:
            >>> import kvae
            >>> kvae.data.load("digits").is_labelled("test")
            True
        """
        return self.has_labels and split not in self.source.unlabelled

    @property
    def path(self) -> Path | None:
        """Absolute path of the folder or file of the images; None for a named dataset and for arrays."""
        return self.source.path

    @property
    def schema(self) -> Schema | None:
        """Names and scales of the features of a series or of the columns of a table; None for images."""
        return self.source.schema

    def times(self, name: str) -> np.ndarray:
        """Return the start of each window of a long series, (N,), in the order of `arrays(name)`.

        The values are datetime64 or numbers, as in the column `time=` of `load`; without one, they are row numbers.

        Raises:
            DataError: for an unknown or empty split, or data that isn't cut from a long series.

        Example:
            >>> import kvae
            >>> data = kvae.data.load("machine", window=60)
            >>> data.times("test")[:2].astype("datetime64[m]").tolist()
            [datetime.datetime(2026, 1, 30, 5, 0), datetime.datetime(2026, 1, 30, 6, 0)]
        """
        self._count(name, None)
        split = self.source.splits[name]
        if self.source.times is None or not isinstance(split, MemorySplit):
            raise DataError(
                f"{self.name}: expected windows of a long series (window=) for their times. "
                f"Received: data of shape {self.event_shape} without times"
            )
        return self.source.times[split.rows]

    @property
    def value_range(self) -> tuple[float, float] | None:
        """(low, high), the stored values that become 0 and 1, as given to `load` or found in the training images.

        None for 8-bit images and for floats in [0, 1].
        """
        return self.source.value_range

    @property
    def binarisation(self) -> str | None:
        """Description of how the images were binarised; None if they were not."""
        if self.name == "binarized_mnist":
            return "fixed binarisation of Larochelle & Murray"
        named = {"threshold": "thresholded at 0.5", "stochastic": f"stochastic, seed {self.seed}"}
        return named.get(self.binarize)

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches in one pass over `train`; the last one may be smaller."""
        return -(-self.num_train // self.batch_size)

    @property
    def num_classes(self) -> int:
        """Number of classes; if they have no names, the largest label of the training images plus one."""
        if self.label_names or not self.has_labels:
            return len(self.label_names)
        labels = self.arrays("train")[1]
        assert labels is not None
        return int(labels.max()) + 1

    @property
    def counts_are_exact(self) -> bool:
        """Whether the numbers of images are exact; False for images decoded while streaming: some may be unreadable."""
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
        """Return one split as a dataset of `x` (B, H, W, C) or `(x, label (B,))`.

        Args:
            name: "train", "validation" or "test"; "new" for images that are in none of them (`with_splits`).
            labels: whether elements are `(x, label)`, with int64 labels.
            shuffle: whether every pass has another order and new binary draws, as for training. Otherwise the order is
                stable and the binary draws are fixed: the same for every batch size and every `limit`.
            limit: number of images, from the first one; None for all.
            batch_size: number of images in a batch, instead of the one given to `load`.
            epoch: number of the first pass, if shuffled. Pass `k` is the same after `k` earlier passes as with
                `epoch=k`, so a resumed training run gets the same batches as an uninterrupted one.
            skip: number of batches left out at the beginning of a pass, if shuffled: to resume within an epoch.
            worker: `(index, count)`, if shuffled: this worker's part of every batch. All workers together have the
                batches of one process (for a streamed TFDS dataset, each worker reads its own files).
            seed: seed of the order and the binary draws, instead of the one given to `load`.

        Raises:
            DataError: for an unknown or empty split, missing labels, a limit below 1, a skip that leaves no batch, or
                a batch size that is not a multiple of the number of workers.
            tf.errors.DataLossError: while the dataset is read, for a damaged file of a streamed prepared dataset.

        Example:
            >>> import kvae
            >>> data = kvae.data.load("digits", binarize="stochastic")
            >>> x, label = next(iter(data.split("test", labels=True, limit=10)))
            >>> x.shape, label.shape, float(x.numpy().max())
            (TensorShape([10, 8, 8, 1]), TensorShape([10]), 1.0)
        """
        count = self._count(name, limit)
        if labels and not self.is_labelled(name):
            what = f"the {name} split" if self.has_labels else "this source"
            raise DataError(f"{self.name}: expected a split with labels, but {what} has none. Received: labels=True")
        plan = self._plan(name, batch_size, labels=labels, shuffle=shuffle, epoch=epoch, skip=skip, worker=worker)
        plan = plan if seed is None else replace(plan, seed=seed)
        batches = -(-count // plan.batch_size)
        if skip and not (shuffle and 0 < skip < batches):
            raise DataError(
                f"{self.name}: expected 'skip' to be less than the {batches} batches of a shuffled split. "
                f"Received: skip={skip}"
            )
        index, workers = worker
        if workers > 1 and not (shuffle and 0 <= index < workers and plan.batch_size % workers == 0):
            raise DataError(
                f"{self.name}: expected a shuffled split and a batch size that is a multiple of the {workers} workers. "
                f"Received: worker={worker}, batch_size={plan.batch_size}, shuffle={shuffle}"
            )
        return pipeline.batches(self.source.splits[name], count, plan)

    def _plan(self, name: str, batch_size: int | None, **options: Any) -> pipeline.Plan:
        batch_size = self.batch_size if batch_size is None else batch_size
        if batch_size < 1:
            raise DataError(f"Argument 'batch_size' must be >= 1. Received: {batch_size}")
        return pipeline.Plan(
            event_shape=self.event_shape,
            scale=self.source.scale,
            binarize=self.binarize,
            seed=self.seed,
            split_id=(*NAMES, NEW).index(name),
            batch_size=batch_size,
            **options,
        )

    def numbered(self, name: str, limit: int | None = None, batch_size: int | None = None) -> tf.data.Dataset:
        """Return one split in stable order as batches `(x, [label, number])`, the latter int64 `(B, 2)`.

        The number identifies the image in the source: its row in the array or the prepared dataset, or its position in
        `files`; for a streamed dataset, its position in the split. The label is -1 if there is none.

        Raises:
            DataError: for an unknown or empty split, or a limit below 1.

        Example:
            >>> import kvae
            >>> x, pairs = next(iter(kvae.data.load("digits").numbered("test", limit=3)))
            >>> x.shape, pairs.shape
            (TensorShape([3, 8, 8, 1]), TensorShape([3, 2]))
        """
        count = self._count(name, limit)
        plan = self._plan(name, batch_size, labels=True, numbers=True)
        return pipeline.batches(self.source.splits[name], count, plan)

    def fingerprint(self) -> dict[str, np.ndarray]:
        """Return a key for each image of each split, `(N,)` uint64, in the order of the split.

        A key depends only on the stored content of the image, not on its name or position. A fingerprint saved with a
        model recovers the splits after the source has changed: see `with_splits`.

        Example:
            >>> import kvae
            >>> found = kvae.data.load("digits").fingerprint()
            >>> {name: len(keys) for name, keys in found.items()}, found["test"].dtype
            ({'train': 1437, 'validation': 180, 'test': 180}, dtype('uint64'))
        """
        return {name: self._catalogue.keys[rows] for name, rows in self._catalogue.rows.items()}

    @property
    def counts(self) -> dict[str, int]:
        """Number of images by split; upper bounds unless `counts_are_exact`."""
        return {name: split.count for name, split in self.source.splits.items()}

    def in_order(self) -> Data:
        """Return the same data with each split in the order of its images' numbers.

        Raises:
            ValueError: for a streamed folder that `load` has divided.

        Example:

            >>> import kvae
            >>> pairs = next(iter(kvae.data.load("digits").in_order().numbered("test")))[1]
            >>> bool(np.all(np.diff(pairs[:, 1]) > 0))
            True
        """
        return order.in_order(self)

    def state(self, splits: list[str]) -> str:
        """Return a checksum that changes with the images of the source, as hexadecimal digits.

        It depends on the names, sizes and modification times of the files of a folder or of TFRecord files; on the
        contents of a `.npy` or `.npz` file; on images and labels in memory that were given as arrays or come from a
        named dataset; and on the images of each split. For a streamed named dataset it depends only on the name.

        Example:

            >>> import kvae
            >>> images = np.zeros((20, 8, 8), np.uint8)
            >>> arrays = [images, images.copy(), images + np.uint8(1)]
            >>> one, copy, other = (kvae.data.load(x).state(["test"]) for x in arrays)
            >>> one == copy, one == other
            (True, False)
        """
        return order.state(self, splits)

    def changes(self, fingerprint: Splits) -> Changes:
        """Return how the images differ from those of a fingerprint.

        Example:
            >>> import kvae
            >>> images = np.arange(30 * 64, dtype="uint16").view("uint8").reshape(-1, 8, 8)  # 60 of them
            >>> before = kvae.data.load(images[:50]).fingerprint()
            >>> kvae.data.load(images[1:]).changes(before)
            Changes(missing={'train': 1, 'validation': 0, 'test': 0}, new=10)
        """
        if _is_same(fingerprint, self.fingerprint()):
            return Changes(dict.fromkeys(fingerprint, 0), 0)
        found = find(self._catalogue, fingerprint)
        return Changes(found.missing, len(found.new))

    def with_splits(self, fingerprint: Splits) -> Data:
        """Return the same images in the splits of a fingerprint. Images that are in none of them are the split "new".

        Each split keeps its order. Missing images are left out: `changes` counts them.

        Raises:
            DataError: if all images are missing, or if the fingerprint is of another version of a prepared dataset.

        Example:
            >>> import kvae
            >>> images = np.arange(30 * 64, dtype="uint16").view("uint8").reshape(-1, 8, 8)
            >>> before = kvae.data.load(images[:50])
            >>> again = kvae.data.load(images).with_splits(before.fingerprint())
            >>> bool(np.all(again.arrays("test")[0] == before.arrays("test")[0])), len(again.arrays("new")[0])
            (True, 10)
        """
        if _is_same(fingerprint, self.fingerprint()):
            return self
        catalogue = self._catalogue
        found = find(catalogue, fingerprint)
        if catalogue.pick is None:
            raise DataError(
                f"{self.name}: expected the version of the dataset from which the splits were saved. "
                f"Received: another version ({sum(found.missing.values()):,} images missing, {len(found.new):,} new); "
                "prepare the original version"
            )
        if not any(map(len, found.rows.values())):
            raise DataError(
                f"{self.name}: expected the images of the saved splits. "
                f"Received: other images, none of the {sum(map(len, fingerprint.values())):,}; restore them"
            )
        rows = {**found.rows, NEW: found.new}
        source = replace(
            self.source,
            splits={name: catalogue.pick(chosen) for name, chosen in rows.items()},
            catalogue=catalogue.with_rows(rows),
        )
        train, validation, test = (len(rows[name]) for name in NAMES)
        return replace(self, source=source, num_train=train, num_validation=validation, num_test=test)

    @property
    def _catalogue(self) -> Catalogue:
        assert self.source.catalogue is not None
        return self.source.catalogue

    @property
    def files(self) -> tuple[str, ...]:
        """Image files of a folder, relative to it, by image number; empty for other sources."""
        return self.source.files

    def arrays(self, name: str, limit: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return a split, or its first `limit` images, as arrays.

        Returns:
            images (N, H, W, C) float32 in [0, 1] and labels (N,) int64 (None if no image has one), in the order and
            with the fixed binary draws of `split(name)`.

        Raises:
            DataError: for an unknown or empty split, a limit below 1, or a prepared dataset with damaged files.

        Example:
            >>> import kvae
            >>> images, labels = kvae.data.load("digits").arrays("test", limit=5)
            >>> images.shape, labels.shape
            ((5, 8, 8, 1), (5,))
        """
        count = self._count(name, limit)
        images = np.empty((count, *self.event_shape), np.float32)
        labels = np.empty(count, np.int64)
        filled = 0
        try:
            for x, pairs in self.numbered(name, limit).as_numpy_iterator():
                part = slice(filled, filled + len(x))
                images[part], labels[part] = x, pairs[:, 0]
                filled += len(x)
        except tf.errors.OpError as error:
            raise DataError(f"{self.name}: expected a readable {name} split. Received: {message_of(error)}") from error
        images, labels = images[:filled], labels[:filled]
        is_labelled = self.is_labelled(name) and np.any(labels >= 0)  # all are -1 in datasets with secret test labels
        return images, labels if is_labelled else None

    def masks(self, name: str = "test", limit: int | None = None) -> np.ndarray:
        """Return which pixels of a split's images are defective, `(N, H, W)` booleans, in the order of `arrays(name)`.

        The masks of a folder in the layout of MVTec AD (Bergmann et al. 2019, https://doi.org/10.1109/CVPR.2019.00982)
        are files beside the splits: `ground_truth/crack/000_mask.png` for `test/crack/000.png`, white where the image
        is defective. They are cropped and resized as the images, with the nearest neighbour, so that a defect that is
        thinner than a pixel may vanish. The masks of classes with training images (`train/good`) have no white pixel.

        Raises:
            DataError: if the images aren't files of a folder, a mask is missing or unreadable, or it has another size
                than its image; or for an unknown or empty split, or a limit below 1.

        Example:
            >>> import kvae, pathlib, tempfile
            >>> from PIL import Image
            >>> root = pathlib.Path(tempfile.mkdtemp())
            >>> white = Image.new("L", (8, 8), 255)
            >>> files = ["train/good/0", "train/good/1", "test/good/0", "test/hole/0", "ground_truth/hole/0_mask"]
            >>> for file in files:
            ...     (root / file).parent.mkdir(parents=True, exist_ok=True)
            ...     white.save(root / f"{file}.png")
            >>> kvae.data.load(root).masks("test").mean(axis=(1, 2)).tolist()
            [0.0, 1.0]
        """
        count = self._count(name, limit)
        if not self.files or self.path is None:
            raise DataError(
                f"{self.name}: expected a folder of images for masks (train/good, test/crack, ground_truth/crack). "
                "Received: images that are not files of a folder"
            )
        batches = self.numbered(name, count).as_numpy_iterator()
        images = [self.path / self.files[number] for _, pairs in batches for number in pairs[:, 1]]
        return read_masks(self.name, images, (self.event_shape[0], self.event_shape[1]))

    def _count(self, name: str, limit: int | None) -> int:
        if name not in (*NAMES, NEW):
            raise DataError(f"Unknown split: expected one of {', '.join(NAMES)}. Received: {name!r}")
        found = self.source.splits.get(name)
        if found is None or found.count == 0:
            if name == NEW:
                reason = "all images are in the saved splits"
            elif NEW in self.source.splits:
                reason = "all its images are missing: put them back"
            else:
                reason = f"set its fraction above 0. Received: {name}_fraction=0"
            raise DataError(f"{self.name}: the {name} split is empty; {reason}")
        if limit is not None and limit < 1:
            raise DataError(f"Argument 'limit' must be >= 1. Received: {limit}")
        return found.count if limit is None else min(limit, found.count)


def _is_same(one: Splits, other: Splits) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
