"""Training passes that a tf.data service (`tf.data.experimental.service`) reads and decodes, on other machines.

What other processes run must be made of TensorFlow's own operations, so a streamed split has a way to be read by those
alone (`StreamSplit.native`). Every image comes once in a pass. The order, and the draws of stochastic binarisation, are
those of the service, and other ones on each pass: such a training can be resumed, but not to the same bits.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import tensorflow as tf

from kvae.data.errors import DataError
from kvae.data.splits import MemorySplit, Split, no_global_seed

TIMEOUT = 30.0  # seconds within which a dispatcher must answer, and a worker deliver something
WINDOW = 4_096  # images that are shuffled at once, by each worker


def check(address: str) -> str:
    """The address, if a service with a worker answers there.

    Raises:
        DataError: if it has no host or port, nobody answers, or the service has no worker.
    """
    url = urlsplit(address)
    try:
        host, port = url.hostname, url.port
    except ValueError:
        host = port = None
    if url.scheme != "grpc" or not host or not port:
        raise DataError(f"Expected the address of a tf.data service as grpc://HOST:PORT. Received: {address!r}")
    try:
        socket.create_connection((host, port), TIMEOUT).close()
    except OSError as error:
        raise DataError(f"No tf.data service answers at {address} ({error.strerror or error})") from error
    one = tf.data.Dataset.range(1).apply(_distribute(address, tf.data.experimental.service.ShardingPolicy.OFF))
    delivered = threading.Event()

    def fetch() -> None:
        next(iter(one), None)
        delivered.set()

    threading.Thread(target=fetch, daemon=True).start()
    if not delivered.wait(TIMEOUT):
        raise DataError(f"The tf.data service at {address} has no worker that delivered anything in {TIMEOUT:.0f} s")
    return address


def check_split(split: Split, name: str) -> None:
    """DataError if the split is none that a service can read."""
    if isinstance(split, MemorySplit):
        raise DataError(f"{name}: is in memory, where no service is faster: leave out the tf.data service")
    if split.native is None:
        raise DataError(
            f"{name}: a tf.data service reads TFRecord files of images as they are, and prepared sets of TensorFlow "
            "Datasets; of folders, and of images that are resized or change their colours, it can't"
        )


def distributed(split: Any, batch_size: int, address: str, finish: Callable[..., Any]) -> tf.data.Dataset:
    """Batches of a training pass; `finish(images, labels, key)` is run by the service, too."""

    def mixed(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with no_global_seed():
            order = tf.random.shuffle(tf.range(tf.shape(images)[0]))
        return tf.gather(images, order), tf.gather(labels, order)

    def finished(images: tf.Tensor, labels: tf.Tensor) -> Any:
        with no_global_seed():  # other draws on each pass
            key = tf.random.uniform((2,), maxval=tf.int64.max, dtype=tf.int64)
        return finish(images, labels, key)

    dataset = split.native().batch(WINDOW).map(mixed).unbatch().batch(batch_size).map(finished, tf.data.AUTOTUNE)
    service = _distribute(address, tf.data.experimental.service.ShardingPolicy.DYNAMIC)
    return dataset.apply(service).rebatch(batch_size)  # each worker ends with a smaller batch


def _distribute(address: str, policy: Any) -> Any:
    return tf.data.experimental.service.distribute(processing_mode=policy, service=address)
