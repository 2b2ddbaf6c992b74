"""From a split to batches of float32 images in [0, 1].

A batch stays `uint8` until one vectorised step casts, scales and binarises it. Images in memory are never
shuffled themselves: their row numbers are, and a batch is gathered from one tensor.

Every random choice is a function of the caller's seed and of the place where it is made: the order of a
training pass and its binary draws of `(seed, pass, batch)`; the fixed draws for evaluation of `(seed, split,
position in the split)`, whatever the batch size. The global seed of TensorFlow changes none of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.data.splits import MemorySplit, Share, Split, StreamSplit

BINARIZE = ("none", "threshold", "stochastic")
DRAW_CHUNK = 64  # images whose fixed binary draws share one generator

_plain = tf.autograph.experimental.do_not_convert  # nothing here needs AutoGraph, which costs time and warns


@dataclass(frozen=True)
class Plan:
    """How batches are made.

    Args:
        image_shape: (H, W, C).
        scale: `x = image / scale`.
        binarize: one of `BINARIZE`.
        seed: of the orders and the draws.
        split_id: number of the split, for its fixed draws.
        batch_size: images in a batch; the last one may be smaller.
        shuffle: a training pass: another order and fresh draws each time.
        labels: whether elements are `(x, label)`.
        epoch: the number of the first training pass.
        skip: leave out the first batches of every pass, which are done already.
        numbers: with `labels`, elements are `(x, [label, number of the image in its source])`.
        worker: `(index, count)` of the worker whose part of each batch this is.
    """

    image_shape: tuple[int, int, int]
    scale: float
    binarize: str
    seed: int
    split_id: int
    batch_size: int
    shuffle: bool = False
    labels: bool = False
    epoch: int = 0
    skip: int = 0
    numbers: bool = False
    worker: tuple[int, int] = (0, 1)

    @property
    def share(self) -> Share:
        return Share(self.batch_size, *self.worker)


def batches(split: Split, count: int, plan: Plan) -> tf.data.Dataset:
    """The dataset of the first `count` images of a split: `x` or `(x, label)`, batched and prefetched."""
    if isinstance(split, MemorySplit):
        dataset = _from_memory(split, count, plan)
    else:
        dataset = _from_stream(split, count, plan)
    if isinstance(split, MemorySplit) or (split.exact and plan.share.of == 1):
        batches_left = -(-count // plan.batch_size) - plan.skip
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches_left))
    options = tf.data.Options()
    options.deterministic = True
    return untuned(dataset.with_options(options)).prefetch(tf.data.AUTOTUNE)


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset without tf.data's tuner.

    With it, the end of a pass may wait until the tuner's thread wakes up, 1.3, 2.6, 5.1, … s after it began (TensorFlow
    2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _keys(plan: Plan) -> Callable[[], np.int64]:
    """A number for every training pass, made of the seed and how many were before."""
    passes = itertools.count(plan.epoch)

    def key() -> np.int64:
        words = np.random.SeedSequence([plan.seed, next(passes)]).generate_state(1, np.uint64)
        return np.int64(words[0] >> np.uint64(1))

    return key


def _each_pass(draw: Callable[[], Any], shape: tuple[int, ...]) -> tf.data.Dataset:
    """One int64 element per pass over it, drawn when the pass begins."""
    drawn = _plain(lambda _: tf.ensure_shape(tf.numpy_function(draw, [], tf.int64, stateful=True), shape))
    return tf.data.Dataset.range(1).map(drawn)


def _from_memory(split: MemorySplit, count: int, plan: Plan) -> tf.data.Dataset:
    tensor, labels, rows = split.memory.tensor, split.memory.labels, split.rows[:count]
    originals = np.arange(len(tensor))
    if plan.binarize == "stochastic" and not plan.shuffle:
        drawn = np.empty((count, *plan.image_shape), np.uint8)
        for start in range(0, count, DRAW_CHUNK):
            part = split.memory.images[rows[start : start + DRAW_CHUNK]]
            drawn[start : start + DRAW_CHUNK] = fixed_draw(part, start // DRAW_CHUNK, plan)
        with tf.device("CPU:0"):
            tensor = tf.constant(drawn)
        labels, originals, rows = None if labels is None else labels[rows], rows, np.arange(count)
    with tf.device("CPU:0"):
        label_rows = tf.constant(np.full(1, -1) if labels is None else labels, tf.int64)
        numbers = tf.constant(originals, tf.int64)
    share, of_pass = plan.share, -(-count // plan.batch_size)

    def in_batches(order: np.ndarray, key: np.int64) -> np.ndarray:
        """A line for each batch: its rows, filled up with −1 where it is a smaller one; the key; its number."""
        index = np.full(of_pass * share.local_size, -1)
        mine = order[share.rows(count)]
        index[: len(mine)] = mine
        return np.column_stack([index.reshape(of_pass, -1), np.full(of_pass, key), np.arange(of_pass)])[plan.skip :]

    def made(line: tf.Tensor) -> tf.Tensor | tuple:
        index, key = tf.boolean_mask(line[:-2], line[:-2] >= 0), line[-2:]
        found = tf.gather(label_rows, index if labels is not None else tf.zeros_like(index))
        if plan.numbers:
            found = tf.stack([found, tf.gather(numbers, index)], axis=1)
        return _finish(tf.gather(tensor, index), found, key, count, plan)

    if plan.shuffle:
        key = _keys(plan)

        def shuffled() -> np.ndarray:
            drawn = key()
            return in_batches(np.random.default_rng(int(drawn)).permutation(rows), drawn)

        # A dataset for each pass (`flat_map`) would do, too, and takes 50 ms longer to begin.
        dataset = _each_pass(shuffled, (of_pass - plan.skip, share.local_size + 2)).unbatch()
    else:
        dataset = tf.data.Dataset.from_tensor_slices(in_batches(rows, np.int64(0)))
    return dataset.map(_plain(made), tf.data.AUTOTUNE)


def _from_stream(split: StreamSplit, count: int, plan: Plan) -> tf.data.Dataset:
    read = _read(split, count, plan)
    return read.map(_plain(lambda x, y, key: _finish(x, y, key, count, plan)), tf.data.AUTOTUNE)


def _read(split: StreamSplit, count: int, plan: Plan) -> tf.data.Dataset:
    """Batches `(images, labels, [key, batch number])`, read as they are needed."""

    share = plan.share

    def keyed(number: tf.Tensor, element: tuple[tf.Tensor, tf.Tensor], key: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (*element, tf.stack([key, number]))

    def one_pass(key: tf.Tensor) -> tf.data.Dataset:
        numbered = split.elements(key, count, share).batch(share.local_size).enumerate().skip(plan.skip)
        return numbered.map(_plain(lambda number, element: keyed(number, element, key)))

    if plan.shuffle:
        return _each_pass(_keys(plan), ()).flat_map(_plain(one_pass))
    elements = split.elements(None, count, share) if not plan.numbers else _numbered(split, count)
    if plan.binarize != "stochastic":
        dataset = elements.batch(plan.batch_size)
        return dataset.enumerate().map(_plain(lambda number, element: keyed(number, element, number)))

    def draw(number: tf.Tensor, element: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.numpy_function(lambda x, n: fixed_draw(x, int(n), plan), [element[0], number], tf.uint8)
        return tf.ensure_shape(images, element[0].shape), element[1]

    drawn = elements.batch(DRAW_CHUNK).enumerate().map(_plain(draw), tf.data.AUTOTUNE)
    rebatched = drawn.unbatch().batch(plan.batch_size)
    return rebatched.enumerate().map(_plain(lambda number, element: keyed(number, element, number)))


def _numbered(split: StreamSplit, count: int) -> tf.data.Dataset:
    """Elements in stable order with `[label, number]` for labels."""
    if split.numbered is not None:
        return split.numbered(count)
    return (
        split.elements(None, count, Share(1)).enumerate().map(_plain(lambda n, element: (element[0], [element[1], n])))
    )


def fixed_draw(images: np.ndarray, chunk: int, plan: Plan) -> np.ndarray:
    """Bernoulli draws, uint8 0 or 1, for the images of one chunk of `DRAW_CHUNK`: always the same ones."""
    rng = np.random.Generator(np.random.PCG64([plan.seed, plan.split_id, chunk]))
    uniform = rng.random(images.shape, np.float32)
    return (uniform < images / np.float32(plan.scale)).astype(np.uint8)


def _finish(images: tf.Tensor, labels: tf.Tensor, key: tf.Tensor, count: int, plan: Plan) -> tf.Tensor | tuple:
    """The one step per batch: float32 in [0, 1], binarised as asked."""
    already_drawn = plan.binarize == "stochastic" and not plan.shuffle
    x = tf.cast(images, tf.float32)
    if plan.scale != 1 and not already_drawn:
        x = x / plan.scale
    if plan.binarize == "threshold":
        x = tf.cast(x >= 0.5, tf.float32)
    elif plan.binarize == "stochastic" and not already_drawn:
        whole = tf.random.stateless_uniform((plan.batch_size, *plan.image_shape), key)
        first, _ = plan.share.within(tf.clip_by_value(count - key[1] * plan.batch_size, 1, plan.batch_size))
        x = tf.cast(whole[first : first + tf.shape(x, tf.int64)[0]] < x, tf.float32)
    x = tf.ensure_shape(x, [None, *plan.image_shape])
    return (x, tf.ensure_shape(labels, [None, 2] if plan.numbers else [None])) if plan.labels else x
