"""From a split to batches of float32 images in [0, 1].

A batch stays `uint8` until one vectorised step casts, scales and binarises it. Images in memory are not shuffled: their
row numbers are shuffled, and a batch is gathered from one tensor.

Every random choice depends only on the seed and its position: the order of a training pass and its binary draws on
`(seed, pass, batch)`; the fixed draws for evaluation on `(seed, split, position in the split)`, not on the batch size.
None of them depends on the global seed of TensorFlow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.data.splits import Memory, MemorySplit, Split
from kvae.data.streams import Share, StreamSplit

BINARIZE = ("none", "threshold", "stochastic")
DRAW_CHUNK = 64  # images whose fixed binary draws share a generator

_plain = tf.autograph.experimental.do_not_convert  # AutoGraph is not needed; it takes time and warns


@dataclass(frozen=True)
class Plan:
    """Settings of the batches.

    Args:
        event_shape: (H, W, C) of images, (T, F) of series.
        scale: `x = image / scale`.
        binarize: one of `BINARIZE`.
        seed: seed of the order and the draws.
        split_id: index of the split, for its fixed draws.
        batch_size: number of images in a batch; the last batch may be smaller.
        shuffle: whether every pass has another order and new draws, as for training.
        labels: whether elements are `(x, label)`.
        epoch: number of the first training pass.
        skip: number of batches left out at the beginning of every pass, to resume within an epoch.
        numbers: whether, with `labels`, elements are `(x, [label, number of the image in its source])`.
        worker: `(index, count)` of the worker that gets its part of each batch.
    """

    event_shape: tuple[int, ...]
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
    """Return the first `count` images of a split as a dataset of `x` or `(x, label)`, batched and prefetched."""
    if isinstance(split, MemorySplit):
        dataset = _from_memory(split, count, plan)
    else:
        dataset = _from_stream(split, count, plan)
    if isinstance(split, MemorySplit) or (split.exact and plan.share.of == 1):
        batches_left = -(-count // plan.batch_size) - plan.skip
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches_left))
    options = tf.data.Options()
    options.deterministic = True
    return without_autotuning(dataset.with_options(options)).prefetch(tf.data.AUTOTUNE)


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset without tf.data's autotuning.

    With autotuning, the end of a pass may wait for the tuner's thread, which wakes up 1.3, 2.6, 5.1, … s after it began
    (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _keys(plan: Plan) -> Callable[[], np.int64]:
    """Return a function that returns a key for each training pass, from the seed and the number of the pass."""
    passes = itertools.count(plan.epoch)

    def key() -> np.int64:
        words = np.random.SeedSequence([plan.seed, next(passes)]).generate_state(1, np.uint64)
        return np.int64(words[0] >> np.uint64(1))

    return key


def _each_pass(draw: Callable[[], Any], shape: tuple[int, ...]) -> tf.data.Dataset:
    """Return a dataset of one int64 element, drawn when a pass begins."""
    drawn = _plain(lambda _: tf.ensure_shape(tf.numpy_function(draw, [], tf.int64, stateful=True), shape))
    return tf.data.Dataset.range(1).map(drawn)


def _from_memory(split: MemorySplit, count: int, plan: Plan) -> tf.data.Dataset:
    memory, rows, gather = split.memory, split.rows[:count], split.memory.gather
    labels = np.full(len(memory), -1) if memory.labels is None else memory.labels
    found = np.column_stack([labels, np.arange(len(memory))])
    if plan.binarize == "stochastic" and not plan.shuffle:
        drawn = np.empty((count, *plan.event_shape), np.uint8)
        for start in range(0, count, DRAW_CHUNK):
            part = memory.images[rows[start : start + DRAW_CHUNK]]
            drawn[start : start + DRAW_CHUNK] = fixed_draw(part, start // DRAW_CHUNK, plan)
        gather, found, rows = Memory(lambda: (drawn, None)).gather, found[rows], np.arange(count)
    with tf.device("CPU:0"):
        pairs = tf.constant(found, tf.int64)
    share, total = plan.share, -(-count // plan.batch_size)

    def batch_lines(order: np.ndarray, key: np.int64) -> np.ndarray:
        """Return a line for each batch: its rows, padded with −1; the key; the number of the batch."""
        index = np.full(total * share.local_size, -1)
        mine = order[share.rows(count)]
        index[: len(mine)] = mine
        return np.column_stack([index.reshape(total, -1), np.full(total, key), np.arange(total)])[plan.skip :]

    def make_batch(line: tf.Tensor) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        index, key = tf.boolean_mask(line[:-2], line[:-2] >= 0), line[-2:]
        return _finish(gather(index), tf.gather(pairs, index), key, count, plan)

    if plan.shuffle:
        key = _keys(plan)

        def shuffled() -> np.ndarray:
            drawn = key()
            return batch_lines(np.random.default_rng(int(drawn)).permutation(rows), drawn)

        # A dataset for each pass (`flat_map`) takes 50 ms longer to begin.
        dataset = _each_pass(shuffled, (total - plan.skip, share.local_size + 2)).unbatch()
    else:
        dataset = tf.data.Dataset.from_tensor_slices(batch_lines(rows, np.int64(0)))
    return dataset.map(_plain(make_batch), tf.data.AUTOTUNE)


def _from_stream(split: StreamSplit, count: int, plan: Plan) -> tf.data.Dataset:
    share = plan.share

    def numbered(elements: tf.data.Dataset, key: tf.Tensor | None = None) -> tf.data.Dataset:
        """Return batches `(images, [label, number], [key, batch number])`."""
        found = elements.batch(share.local_size).enumerate().skip(plan.skip)
        return found.map(_plain(lambda i, element: (*element, tf.stack([i if key is None else key, i]))))

    def draw(number: tf.Tensor, element: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.numpy_function(lambda x, n: fixed_draw(x, int(n), plan), [element[0], number], tf.uint8)
        return tf.ensure_shape(images, element[0].shape), element[1]

    if plan.shuffle:
        one_pass = _plain(lambda key: numbered(split.elements(key, count, share), key))
        read = _each_pass(_keys(plan), ()).flat_map(one_pass)
    else:
        elements = split.elements(None, count, share)
        if plan.binarize == "stochastic":
            elements = elements.batch(DRAW_CHUNK).enumerate().map(_plain(draw), tf.data.AUTOTUNE).unbatch()
        read = numbered(elements)
    return read.map(_plain(lambda x, pairs, key: _finish(x, pairs, key, count, plan)), tf.data.AUTOTUNE)


def fixed_draw(images: np.ndarray, chunk: int, plan: Plan) -> np.ndarray:
    """Return the fixed Bernoulli draws, uint8 0 or 1, of the images of one chunk of `DRAW_CHUNK`."""
    rng = np.random.Generator(np.random.PCG64([plan.seed, plan.split_id, chunk]))
    uniform = rng.random(images.shape, np.float32)
    return (uniform < images / np.float32(plan.scale)).astype(np.uint8)


def _finish(
    images: tf.Tensor, pairs: tf.Tensor, key: tf.Tensor, count: int, plan: Plan
) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
    """Convert a batch, with its `[label, number]`, to float32 in [0, 1], and binarise it if requested."""
    already_drawn = plan.binarize == "stochastic" and not plan.shuffle
    x = tf.cast(images, tf.float32)
    if plan.scale != 1 and not already_drawn:
        x = x / plan.scale
    if plan.binarize == "threshold":
        x = tf.cast(x >= 0.5, tf.float32)
    elif plan.binarize == "stochastic" and not already_drawn:
        whole = tf.random.stateless_uniform((plan.batch_size, *plan.event_shape), key)
        first, _ = plan.share.within(tf.clip_by_value(count - key[1] * plan.batch_size, 1, plan.batch_size))
        x = tf.cast(whole[first : first + tf.shape(x, tf.int64)[0]] < x, tf.float32)
    x = tf.ensure_shape(x, [None, *plan.event_shape])
    pairs = tf.ensure_shape(pairs, [None, 2])
    return (x, pairs if plan.numbers else pairs[:, 0]) if plan.labels else x
