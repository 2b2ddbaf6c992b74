"""The variables that a training step assigns besides its weights, and how a skipped step restores them."""

from typing import Any

import keras
import tensorflow as tf

#: operations that only read a variable
READS = {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "VarIsInitializedOp"}


def state_of(model: keras.Model) -> list[Any]:
    """Return every variable of a model's layers: weights, statistics, seeds, metrics of layers, plain `tf.Variable`s.

    The model's own metrics are excluded.
    """
    found = list(model.variables)
    for layer in model._flatten_layers():
        if layer is not model:
            found += [variable for metric in layer._metrics for variable in metric.variables]
        found += [value for value in vars(layer).values() if isinstance(value, tf.Variable)]
    own = {id(variable) for metric in model.metrics for variable in metric.variables}
    return [v for v in {id(variable): variable for variable in found}.values() if id(v) not in own]


class Before:
    """The values of a model's variables before a forward pass, to find those that the pass has assigned.

    In a graph, unused values are not read. Assigned variables are found among the graph's operations, so that the
    trainable weights, which few layers assign (`SpectralNormalization`), needn't be copied.
    """

    def __init__(self, model: keras.Model):
        self.variables = state_of(model)
        self.values = [tf.convert_to_tensor(variable) for variable in self.variables]
        self.operations = 0 if tf.executing_eagerly() else len(_graph().get_operations())

    def assigned(self) -> list[tuple[Any, Any]]:
        """Return pairs of an assigned variable and its previous value; all variables outside a graph."""
        pairs = list(zip(self.variables, self.values))
        if tf.executing_eagerly():
            return pairs
        graph = _graph()
        written = {
            source.ref()
            for operation in graph.get_operations()[self.operations :]
            if operation.type not in READS
            for source in operation.inputs
            if source.dtype == tf.resource
        }
        return [(v, old) for v, old in pairs if graph.capture(_tensorflow(v).handle).ref() in written]


def restore(pairs: list[tuple[Any, Any]]) -> None:
    """Restore the previous values of variables."""
    for variable, old in pairs:
        _tensorflow(variable).assign(old)


def restore_replicas(strategy: tf.distribute.Strategy, pairs: list[tuple[Any, Any]]) -> None:
    """Restore the previous values on every replica, from outside of the replicas."""
    for variable, old in pairs:
        copies = strategy.experimental_local_results(_tensorflow(variable))
        for copy, value in zip(copies, strategy.experimental_local_results(old)):
            copy.assign(value)


def _tensorflow(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def _graph() -> Any:
    return tf.compat.v1.get_default_graph()
