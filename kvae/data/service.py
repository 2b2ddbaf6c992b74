"""Training passes that a tf.data service (`tf.data.experimental.service`) reads and decodes, on other machines.

What other processes run must be made of TensorFlow's own operations, so a streamed split has a way to be read by those
alone (`StreamSplit.native`). Every image comes once in a pass. The files are in another random order on each pass; each
worker of the service takes the next ones, reads sixteen at a time, and mixes windows of at most 4,096 images or 64 MiB.
Order is the service's, so that such a training can be resumed, but not to the same bits. `uint8` goes over the network:
batches are scaled and binarised where they are trained on. What is damaged ends the pass with an error; for a service
that is lost in it, or a worker of it, TensorFlow waits (minutes at least, it has no limit that could be set here).
"""

from __future__ import annotations

import re
import socket
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf

from kvae.data.errors import DataError
from kvae.data.splits import MemorySplit, Split, StreamSplit, no_global_seed

TIMEOUT = 30.0  # seconds within which a dispatcher must answer, and a worker deliver something
FILES = 16  # that a worker reads at a time
WINDOW = 4_096  # images that are shuffled at once, by each worker
MEMORY = 64 << 20  # bytes of images that are shuffled at once


def how_many(image_bytes: int, memory: int, least: int, most: int) -> int:
    """Images to shuffle at once: as many as `memory` bytes hold, from `least` to `most`.

    Example:
        >>> [how_many(side * side * 3, 64 << 20, 128, 4096) for side in (64, 128, 1024)]
        [4096, 1365, 128]
    """
    return max(least, min(most, memory // image_bytes))


def said(error: Exception) -> str:
    """What an error of TensorFlow says, in one line, without the places in its graphs."""
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error), flags=re.DOTALL)
    return " ".join(text.split())[:300]


def check(address: str) -> str:
    """The address, if a service with a worker answers there.

    Raises:
        DataError: if it has no host or port, nobody answers, or the service fails or has no worker.
    """
    try:
        url = urlsplit(address)
        host, port = (url.hostname, url.port) if url.scheme == "grpc" else (None, None)
    except ValueError:
        host = port = None
    if not host or not port:
        raise DataError(f"Expected the address of a tf.data service as grpc://HOST:PORT. Received: {address!r}")
    try:
        socket.create_connection((host, port), TIMEOUT).close()
    except OSError as error:
        raise DataError(f"No tf.data service answers at {address} ({error.strerror or error})") from error
    ended = threading.Event()
    failures: list[Exception] = []

    def fetch() -> None:
        try:
            one = tf.data.Dataset.range(1).apply(_distribute(address, tf.data.experimental.service.ShardingPolicy.OFF))
            next(iter(one), None)
        except Exception as error:
            failures.append(error)
        ended.set()

    threading.Thread(target=fetch, daemon=True).start()
    if not ended.wait(TIMEOUT):
        raise DataError(f"The tf.data service at {address} has no worker that delivered anything in {TIMEOUT:.0f} s")
    if failures:
        raise DataError(f"The tf.data service at {address} failed. Received: {said(failures[0])}") from failures[0]
    return address


def check_split(split: Split, name: str) -> None:
    """DataError if the split is none that a service can read."""
    if isinstance(split, MemorySplit):
        raise DataError(f"{name}: is in memory, where no service is faster: leave out the tf.data service")
    if split.native is None:
        raise DataError(
            f"{name}: a tf.data service reads TFRecord files of images as they are, and prepared sets of TensorFlow "
            "Datasets that are kept as such; of folders, and of images that are resized, change their colours, "
            "have more than 8 bits or are transparent, it can't"
        )


def distributed(split: StreamSplit, batch_size: int, address: str) -> tf.data.Dataset:
    """Batches `(images, labels)` of one pass, as they are stored. In a graph its order is another one each time."""
    assert split.native is not None
    images = split.native()

    def mixed(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with no_global_seed():
            order = tf.random.shuffle(tf.range(tf.shape(images)[0]))
        return tf.gather(images, order), tf.gather(labels, order)

    window = how_many(int(np.prod(images.element_spec[0].shape)), MEMORY, batch_size, WINDOW)
    dataset = images.batch(window).map(mixed).unbatch().batch(batch_size)
    with warnings.catch_warnings(action="ignore"):  # in a graph: that the dataset's options, none here, are unknown
        dataset = dataset.apply(_distribute(address, tf.data.experimental.service.ShardingPolicy.DYNAMIC))
    return dataset.rebatch(batch_size)  # each worker ends with a smaller batch


def of_files(
    files: Sequence[str], firsts: np.ndarray, ends: np.ndarray, parsed: Callable[[tf.Tensor], Any], shape: Sequence[int]
) -> tf.data.Dataset:
    """All `(image, label)` of TFRecord files by TensorFlow's own operations, sixteen files at a time.

    In a graph the files are in another order each time it's run. What is damaged, or an image of another shape, ends
    the pass with an error that names the file.

    Args:
        files: their paths.
        firsts: (F,) of each file the first record.
        ends: (F,) of each file the number behind that of its last record.
        parsed: makes `(image, label)` of a record.
        shape: (H, W, C).
    """
    # Behind the source, `Dataset.shuffle` would let every worker of the service read all files.
    with no_global_seed():
        order = tf.random.shuffle(tf.range(len(files)))

    def read(file: tf.Tensor, first: tf.Tensor, end: tf.Tensor) -> tf.data.Dataset:
        """Its records; empty ones in place of those that can't be read."""
        wanted = tf.data.TFRecordDataset(file).skip(first).take(end - first)
        head = wanted.take(1)  # fails where there is no file: the error names it
        rest = wanted.skip(1).ignore_errors(log_warning=True)  # ends with the first that is damaged
        filled = tf.data.Dataset.from_tensors(tf.constant(b"")).repeat(end - first)
        return head.concatenate(rest).concatenate(filled).take(end - first).map(lambda record: (record, file))

    def checked(record: tf.Tensor, file: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        whole = tf.debugging.Assert(tf.strings.length(record) > 0, ["A record is damaged or missing in", file])
        with tf.control_dependencies([whole]):
            image, label = parsed(tf.identity(record))
        expected = f"Expected images of {shape[0]}x{shape[1]}x{shape[2]} in"
        same = tf.debugging.Assert(
            tf.reduce_all(tf.equal(tf.shape(image), shape)), [expected, file, "Received:", tf.shape(image)]
        )
        with tf.control_dependencies([same]):
            return tf.ensure_shape(tf.identity(image), shape), label

    slices = tf.data.Dataset.from_tensor_slices(tuple(tf.gather(values, order) for values in (files, firsts, ends)))
    read_all = slices.interleave(read, cycle_length=FILES, num_parallel_calls=tf.data.AUTOTUNE)
    return read_all.map(checked, num_parallel_calls=tf.data.AUTOTUNE)


def _distribute(address: str, policy: Any) -> Any:
    return tf.data.experimental.service.distribute(processing_mode=policy, service=address)
