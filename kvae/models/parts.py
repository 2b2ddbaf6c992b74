"""Checks that a part fits its argument, and that a network outputs raw parameters."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import in_stateless_scope

from kvae.distributions import Distribution
from kvae.networks import Decoder, Encoder
from kvae.networks.composite import Composite

NEEDED = -3.0, 3.0  # range that a network's output must cover: as logits, probabilities of 0.05 and 0.95
FED = (-1e4, -30.0, -1.0, 0.0, 1.0, 30.0, 1e4)  # tested outputs of the last affine operation

#: operations of activations and of rearrangements, which may follow the last affine operation
PASSED = {
    "Abs", "Add", "AddV2", "BroadcastTo", "Cast", "ClipByValue", "ConcatV2", "Cos", "DepthToSpace", "Elu", "Equal",
    "Erf", "Erfc", "Exp", "ExpandDims", "Expm1", "Greater", "GreaterEqual", "Identity", "LeakyRelu", "Less",
    "LessEqual", "Log", "Log1p", "LogSoftmax", "Max", "Maximum", "Min", "Minimum", "Mul", "Neg", "Pack", "Pad", "PadV2",
    "Pow", "RealDiv", "Reciprocal", "Relu", "Relu6", "Reshape", "ResizeBilinear", "ResizeNearestNeighbor", "Rsqrt",
    "Select", "SelectV2", "Selu", "Sigmoid", "Sin", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split",
    "SplitV", "Sqrt", "Square", "Squeeze", "StridedSlice", "Sub", "Sum", "Tan", "Tanh", "Tile", "Transpose", "Unpack",
}  # fmt: skip


def check_part(name: str, part: Any, kind: type, example: str = "") -> Any:
    """Return `part` if it is an instance of `kind`; raise a ValueError otherwise."""
    if isinstance(part, kind):
        return part
    wanted = f"a {kind.__module__.rsplit('.', 1)[0]}.{kind.__name__}" + (f", such as {example}" if example else "")
    remedy = f"; create an instance: {part.__name__}(…)" if isinstance(part, type) and issubclass(part, kind) else ""
    raise ValueError(f"Argument `{name}` must be {wanted}. Received: {name}={part!r}{remedy}")


def check_family(role: str, family: Any) -> Distribution:
    """Return `family` if it supports the `role`, "posterior" or "likelihood"; raise a ValueError otherwise."""
    example = {"posterior": "kvae.posteriors.DiagonalNormal()", "likelihood": "kvae.likelihoods.Bernoulli()"}[role]
    check_part(role, family, Distribution, example)
    if role not in family.roles:
        raise ValueError(
            f"Argument `{role}` must be a {role}, such as {example}. Received: {role}={type(family).__name__}, which "
            f"is for `{family.roles[0]}=`"
        )
    return family


def check_network(name: str, network: Any) -> Any:
    """Return `network` if it is a Keras model or layer for the encoder or decoder; raise a ValueError otherwise."""
    wrong = (Distribution, Decoder if name == "encoder" else Encoder)
    if not isinstance(network, keras.layers.Layer) or isinstance(network, wrong):
        raise ValueError(
            f"Argument `{name}` must be a Keras model or layer, such as kvae.{name.capitalize()}(…). "
            f"Received: {name}={network!r}"
        )
    return network


def output_shape(name: str, network: keras.layers.Layer, input_shape: tuple[int, ...]) -> tuple[int | None, ...]:
    """Return the shape of the network's only output, without the batch; build the network if necessary.

    Raises:
        ValueError: for several outputs; the message shows how to join them.
    """
    outputs = network(keras.KerasTensor((None, *input_shape)))
    if isinstance(outputs, keras.KerasTensor):
        return tuple(outputs.shape[1:])
    names = list(outputs) if isinstance(outputs, dict) else getattr(network, "output_names", range(len(outputs)))
    found = ", ".join(f"{n} {tuple(outputs[n if isinstance(outputs, dict) else i].shape)}" for i, n in enumerate(names))
    first, second = (f'["{n}"]' for n in names[:2]) if isinstance(outputs, dict) and len(names) > 1 else ("[0]", "[1]")
    raise ValueError(
        f"Expected the {name} to have one output, of raw parameters. Received: {len(outputs)} outputs, {found}. "
        "If these begin with a mean and a log-variance, join them: "
        f"`i = keras.Input({input_shape}); o = {name}(i)`, then "
        f"`{name} = keras.Model(i, keras.layers.Concatenate()([o{first}, 0.5 * o{second}]))`"
    )


def check_raw_outputs(
    name: str, network: keras.layers.Layer, input_shape: tuple[int, ...], family: Distribution
) -> None:
    """Raise a ValueError if the network ends in an activation that bounds parameters which `family` takes unbounded.

    An example is a decoder of probabilities with a likelihood that takes logits: the values would be squashed twice.
    """
    if family.unbounded is None or isinstance(network, Composite) or in_stateless_scope():
        return
    try:
        low, high = output_range(network, input_shape)
    except Exception:  # a layer that requires Python values can't be traced here
        return
    if low > NEEDED[0] or high < NEEDED[1]:
        values = f"[{low:.3g}, {high:.3g}]".replace("inf]", "∞)").replace("[-inf", "(−∞")
        raise ValueError(
            f"Expected the {name} to end without an activation: {type(family).__name__} takes {family.unbounded}, "
            f"which are unbounded. Received: a {name} whose last activation limits values to {values}. Remove it "
            "(activation=None)"
        )


def output_range(network: keras.layers.Layer, input_shape: tuple[int, ...]) -> tuple[float, float]:
    """Return the bounds that the last activation puts on a network's output, whatever its weights are.

    Example:

        >>> layers = [keras.Input((2,)), keras.layers.Dense(3, "sigmoid"), keras.layers.Reshape((3, 1))]
        >>> output_range(keras.Sequential(layers), (2,))
        (0.0, 1.0)
    """
    graph = tf.compat.v1.wrap_function(lambda x: network(x), [tf.TensorSpec((1, *input_shape), "float32")])
    output = graph.outputs[0]
    sources = _last_affine(graph.inputs[0], output)
    if any(source is output for source in sources):
        return -math.inf, math.inf
    activation = graph.prune(sources, output)
    rng = np.random.default_rng(0)
    low, high = math.inf, -math.inf
    for value in FED:
        for mixed in (False, True):
            fed = []
            for source in sources:
                shape = [size or 1 for size in source.shape]
                signs = rng.choice([-1.0, 1.0], shape) if mixed else np.ones(shape)
                fed.append(tf.constant(value * signs, source.dtype))
            result = tf.cast(activation(*fed), "float32").numpy()
            low, high = min(low, float(result.min())), max(high, float(result.max()))
    beyond = 0.5 * FED[-1]  # grows with the input of the activation
    return -math.inf if low < -beyond else low, math.inf if high > beyond else high


def _last_affine(x: Any, output: Any) -> list[Any]:
    """Return the results of the last operations with weights on `x`; only activations lead from them to `output`."""
    from_x = _reached([x])
    from_weights = _reached([t for op in x.graph.get_operations() if op.type == "ReadVariableOp" for t in op.outputs])
    found: dict[Any, Any] = {}
    seen, waiting = set(), [output]
    while waiting:
        tensor = waiting.pop()
        if tensor.ref() in seen:
            continue
        seen.add(tensor.ref())
        inputs = tensor.op.inputs
        has_weights = any(source.ref() in from_weights - from_x for source in inputs)
        if tensor.op.type in PASSED and not has_weights:
            waiting += [source for source in inputs if source.ref() in from_x]
        else:
            found[tensor.ref()] = tensor
    return list(found.values())


def _reached(tensors: list[Any]) -> set[Any]:
    """Return references of tensors and of all tensors that are computed from them."""
    found: set[Any] = set()
    waiting = list(tensors)
    while waiting:
        tensor = waiting.pop()
        if tensor.ref() not in found:
            found.add(tensor.ref())
            waiting += [output for operation in tensor.consumers() for output in operation.outputs]
    return found
