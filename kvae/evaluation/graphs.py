"""Graphs of a decoder: their size, and how many threads run them."""

import collections
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.models import VAE
from kvae.priors import Prior


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


THREADS = min(4, cores())  # groups of images at a time; a group often uses only one core


def one_at_a_time(graph: Callable[..., Any]) -> Callable[..., Any]:
    """Make threads call a graph one after the other.

    TensorFlow may rewrite a long sum to accumulate in a temporary variable, which has the same name in two calls.
    """
    turn = threading.Lock()

    def call(*inputs: Any) -> Any:
        with turn:
            return graph(*inputs)

    return call


def few_at_a_time(work: Callable[[int], Any], items: Sequence[int]) -> Iterator[Any]:
    """Yield the results of `work` for each item, in order; a few items are processed at a time.

    If the caller stops early, only the items in progress are finished.

    Example:

        >>> list(few_at_a_time(lambda item: item**2, range(4)))
        [0, 1, 4, 9]
    """
    waiting: collections.deque[Future[Any]] = collections.deque()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def filled_group(start: int, size: int, count: int) -> tuple[slice, np.ndarray]:
    """Return the group of rows from `start` on, and `size` row numbers: the last of `count` rows fills up the group.

    Example:

        >>> filled_group(4, 3, count=5)
        (slice(4, 5, None), array([4, 4, 4]))
    """
    return slice(start, min(start + size, count)), np.minimum(np.arange(start, start + size), count - 1)


def gathered(tensors: Sequence[Any], rows: Any) -> list[Any]:
    """Return the rows of each tensor; None stays None."""
    return [None if tensor is None else tf.gather(tensor, rows) for tensor in tensors]


def decoding_graph(model: VAE, prior: Prior) -> tf.Graph:
    """Return the graph from latents (and conditions) to log p(x|z) and log p(z)."""
    x = tf.zeros((1, *model.event_shape))

    @tf.function
    def decode(latents: Any) -> Any:
        z, c = latents[:, : model.latent_dim], latents[:, model.latent_dim :] if model.condition_dim else None
        return model.likelihood.log_prob(model.decoder(latents), x), prior.log_prob(z, c)

    return decode.get_concrete_function(tf.TensorSpec((None, *model.decoder_shape))).graph


def decoding_floats(graph: tf.Graph) -> int:
    """Return how many numbers per latent vector the largest tensor of a decoding graph has.

    Only tensors with one axis for latents count.
    """
    shapes = [output.shape.as_list() for op in graph.get_operations() for output in op.outputs if output.shape.rank]
    return max(math.prod(size or 1 for size in shape) for shape in shapes if shape.count(None) == 1)


def has_convolutions(graph: tf.Graph) -> bool:
    return any("Conv" in operation.type for operation in graph.get_operations())
