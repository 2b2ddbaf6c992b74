"""A batch that is divided among replicas: means over all of it, and shares without an image."""

from typing import Any, NamedTuple

import tensorflow as tf
from keras import ops

from kvae.models.batches import Batch


def many_workers() -> bool:
    """Return whether several processes train together."""
    return isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def number_of_replicas() -> int:
    """Return the number of replicas that share a batch; 1 outside of a replica."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def over_replicas(value: Any) -> Any:
    """Return the sum of `value` over the replicas, on each of them."""
    if number_of_replicas() == 1:
        return value
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


class Share(NamedTuple):
    """A replica's share of a batch: the examples, their rows in the global batch, and their number."""

    batch: Batch
    rows: tuple[Any, Any, Any] | None  # (first, own, total) rows of the global batch; None for a single replica
    count: Any


def share(batch: Batch, jit_compile: bool = False) -> Share:
    """Return the share of this replica, with at least one row.

    A replica without an image gets a copy of another replica's image with weight 0: in TensorFlow, a convolution of no
    images has a wrong shape, and a normalisation has no statistics.
    """
    if number_of_replicas() == 1:
        return Share(batch, None, ops.shape(batch.x)[0])
    context = tf.distribute.get_replica_context()
    index, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
    own = tf.shape(batch.x)[0]
    if jit_compile:  # all shares have the same static size, which XLA requires to draw noise
        own = batch.x.shape[0]
        return Share(batch, (index * own, own, replicas * own), own)
    sizes = over_replicas(tf.one_hot(index, replicas, dtype="int32") * own)
    source = tf.argmax(sizes, output_type="int32")  # a replica that has images
    missing = 1 - tf.minimum(own, 1)

    def filled(values: Any) -> Any:
        if values is None:
            return None
        first = tf.pad(values[:1], [[0, missing], *([[0, 0]] * (len(values.shape) - 1))])
        copy = over_replicas(tf.where(index == source, first, tf.zeros_like(first)))  # even if others are NaN
        return tf.concat([values, copy[:missing]], axis=0)

    weight = tf.ones([own]) if batch.weight is None else tf.cast(batch.weight, "float32")
    x, y, target = (filled(values) for values in (batch.x, batch.y, batch.target))
    batch = Batch(x, y, target, tf.pad(weight, [[0, missing]]))
    first, total = tf.reduce_sum(sizes[:index]), tf.reduce_sum(sizes)
    return Share(batch, (tf.minimum(first, total - 1), own, total), own)


def part_of_mean(values: Any, weight: Any, count: Any) -> Any:
    """Return this replica's summand of the mean over the global batch.

    As in Keras, the divisor is the size of the batch, not the sum of the weights. The shares of replicas differ in size
    if the last batch of an epoch is smaller.
    """
    if weight is not None:
        values = values * ops.cast(weight, values.dtype)
    return ops.sum(values) / ops.maximum(over_replicas(ops.cast(count, values.dtype)), 1.0)


def overall_means(values: dict[str, Any], weight: Any) -> dict[str, Any]:
    """Return weighted means of `(B,)` values over the shares of all replicas."""
    table = ops.stack([ops.ones_like(values["loss"]), *values.values()])  # (1 + number of values, B)
    if weight is not None:
        table = table * ops.cast(weight, table.dtype)
    sums = over_replicas(ops.sum(table, axis=1))
    return {name: total / ops.maximum(sums[0], 1e-30) for name, total in zip(values, ops.unstack(sums[1:]))}


def sum_of_squares(gradients: list[Any]) -> Any:
    """Return half the sum of squared gradients: finite unless a gradient isn't, or the sum exceeds 1e38."""
    return sum(tf.nn.l2_loss(tf.convert_to_tensor(gradient)) for gradient in gradients if gradient is not None)


def all_finite(*totals: Any) -> tuple[Any, ...]:
    """Return for each number whether it is finite on all replicas."""
    finite = tf.math.is_finite(tf.stack([tf.cast(total, "float32") for total in totals]))
    return tuple(tf.unstack(over_replicas(1.0 - tf.cast(finite, "float32")) == 0.0))
