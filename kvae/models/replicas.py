"""One batch, divided among replicas: means over all of it, and shares that hold no image."""

from typing import Any, NamedTuple

import tensorflow as tf
from keras import ops

from kvae.models.batches import Batch


def many_workers() -> bool:
    """Whether several processes train together."""
    return isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def number_of_replicas() -> int:
    """How many share a batch, from inside one of them; 1 outside."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def over_replicas(value: Any) -> Any:
    """The sum of `value` over the replicas, on each of them."""
    if number_of_replicas() == 1:
        return value
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


class Share(NamedTuple):
    """What a replica has of a batch: the examples, their place, and how many they are."""

    batch: Batch
    rows: tuple[Any, Any, Any] | None  # (first, own, total) of the batch of all; None for a single replica
    count: Any


def share(batch: Batch, jit_compile: bool = False) -> Share:
    """The share of this replica, with at least one row.

    A replica without an image computes a copy of another's, with weight 0: a convolution of no images has a wrong shape
    in TensorFlow, and a normalisation has no statistics.
    """
    if number_of_replicas() == 1:
        return Share(batch, None, ops.shape(batch.x)[0])
    context = tf.distribute.get_replica_context()
    index, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
    own = tf.shape(batch.x)[0]
    if jit_compile:  # all have as many; XLA can't draw what it learns on the way
        own = batch.x.shape[0]
        return Share(batch, (index * own, own, replicas * own), own)
    sizes = over_replicas(tf.one_hot(index, replicas, dtype="int32") * own)
    source = tf.argmax(sizes, output_type="int32")  # a replica that has images
    missing = 1 - tf.minimum(own, 1)

    def filled(values: Any) -> Any:
        if values is None:
            return None
        first = tf.pad(values[:1], [[0, missing], *([[0, 0]] * (len(values.shape) - 1))])
        copy = over_replicas(tf.where(index == source, first, tf.zeros_like(first)))  # also where others are NaN
        return tf.concat([values, copy[:missing]], axis=0)

    weight = tf.ones([own]) if batch.weight is None else tf.cast(batch.weight, "float32")
    x, y, target = (filled(values) for values in (batch.x, batch.y, batch.target))
    batch = Batch(x, y, target, tf.pad(weight, [[0, missing]]))
    first, total = tf.reduce_sum(sizes[:index]), tf.reduce_sum(sizes)
    return Share(batch, (tf.minimum(first, total - 1), own, total), own)


def part_of_mean(values: Any, weight: Any, count: Any) -> Any:
    """What this replica brings to the mean over the batch of all (divided by the batch, as Keras does, not by weights).

    Replicas' shares differ in size, where the last batch of an epoch is a smaller one.
    """
    if weight is not None:
        values = values * ops.cast(weight, values.dtype)
    return ops.sum(values) / ops.maximum(over_replicas(ops.cast(count, values.dtype)), 1.0)


def overall_means(values: dict[str, Any], weight: Any) -> dict[str, Any]:
    """Weighted means of `(B,)` values over the shares of all replicas."""
    table = ops.stack([ops.ones_like(values["loss"]), *values.values()])  # (1 + number of values, B)
    if weight is not None:
        table = table * ops.cast(weight, table.dtype)
    sums = over_replicas(ops.sum(table, axis=1))
    return {name: total / ops.maximum(sums[0], 1e-30) for name, total in zip(values, ops.unstack(sums[1:]))}


def sum_of_squares(gradients: list[Any]) -> Any:
    """Half the sum of the gradients' squares: finite unless one isn't, or it is beyond 1e38."""
    return sum(tf.nn.l2_loss(tf.convert_to_tensor(gradient)) for gradient in gradients if gradient is not None)


def all_finite(*totals: Any) -> tuple[Any, ...]:
    """Whether each of these numbers is finite on all replicas."""
    finite = tf.math.is_finite(tf.stack([tf.cast(total, "float32") for total in totals]))
    return tuple(tf.unstack(over_replicas(1.0 - tf.cast(finite, "float32")) == 0.0))
