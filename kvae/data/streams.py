"""Images that are read again on every pass, for sources larger than memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.data.decoding import Decoder

Reader = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


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


def buffer_size(image_bytes: int, memory: int, least: int, most: int) -> int:
    """Return the number of images to shuffle at once: as many as fit in `memory` bytes, from `least` to `most`.

    Example:
        >>> [buffer_size(side * side * 3, 64 << 20, 128, 4096) for side in (64, 128, 1024)]
        [4096, 1365, 128]
    """
    return max(least, min(most, memory // image_bytes))


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
