"""Checks that a part is what its argument says, and that a network puts out raw parameters."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import in_stateless_scope

from kvae.distributions import Distribution
from kvae.networks import Decoder, Encoder

NEEDED = -3.0, 3.0  # a network must reach from one to the other: as logits, probabilities of 0.05 and 0.95
FED = (-1e4, -30.0, -1.0, 0.0, 1.0, 30.0, 1e4)  # values of the last affine operation that are tried

#: operations of activations and of what only moves values, behind which the last affine operation is looked for
PASSED = {
    "Abs", "Add", "AddV2", "BroadcastTo", "Cast", "ClipByValue", "ConcatV2", "Cos", "DepthToSpace", "Elu", "Equal",
    "Erf", "Erfc", "Exp", "ExpandDims", "Expm1", "Greater", "GreaterEqual", "Identity", "LeakyRelu", "Less",
    "LessEqual", "Log", "Log1p", "LogSoftmax", "Max", "Maximum", "Min", "Minimum", "Mul", "Neg", "Pack", "Pad", "PadV2",
    "Pow", "RealDiv", "Reciprocal", "Relu", "Relu6", "Reshape", "ResizeBilinear", "ResizeNearestNeighbor", "Rsqrt",
    "Select", "SelectV2", "Selu", "Sigmoid", "Sin", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split",
    "SplitV", "Sqrt", "Square", "Squeeze", "StridedSlice", "Sub", "Sum", "Tan", "Tanh", "Tile", "Transpose", "Unpack",
}  # fmt: skip


def check_part(name: str, part: Any, kind: type, example: str = "") -> Any:
    """`part`, an instance of `kind`; ValueError otherwise."""
    if isinstance(part, kind):
        return part
    wanted = f"a {kind.__module__.rsplit('.', 1)[0]}.{kind.__name__}" + (f", such as {example}" if example else "")
    remedy = f"; call it: {part.__name__}(…)" if isinstance(part, type) and issubclass(part, kind) else ""
    raise ValueError(f"Argument `{name}` must be {wanted}. Received: {name}={part!r}{remedy}")


def check_family(role: str, family: Any) -> Distribution:
    """`family`, if it can be a "posterior" or "likelihood", as `role` says; ValueError otherwise."""
    example = {"posterior": "kvae.posteriors.DiagonalNormal()", "likelihood": "kvae.likelihoods.Bernoulli()"}[role]
    check_part(role, family, Distribution, example)
    if role not in family.roles:
        raise ValueError(
            f"Argument `{role}` must be a {role}, such as {example}. Received: {role}={type(family).__name__}, which "
            f"is for `{family.roles[0]}=`"
        )
    return family


def check_network(name: str, network: Any) -> Any:
    """`network`, a Keras model or layer that can be the encoder or decoder; ValueError otherwise."""
    others = (Distribution, Decoder if name == "encoder" else Encoder)
    if not isinstance(network, keras.layers.Layer) or isinstance(network, others):
        raise ValueError(
            f"Argument `{name}` must be a Keras model or layer, such as kvae.{name.capitalize()}(…). "
            f"Received: {name}={network!r}"
        )
    return network


def output_shape(name: str, network: keras.layers.Layer, input_shape: tuple[int, ...]) -> tuple[int | None, ...]:
    """Shape of the network's only output, without the batch; builds the network if it isn't.

    Raises:
        ValueError: for several outputs; the message shows how to make one of them.
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
    """ValueError if the network ends in an activation that bounds parameters which `family` takes unbounded.

    A decoder of probabilities under a likelihood that takes logits, say, which would be squashed twice.
    """
    if family.unbounded is None or isinstance(network, Encoder | Decoder) or in_stateless_scope():
        return
    low, high = output_range(network, input_shape)
    if low > NEEDED[0] or high < NEEDED[1]:
        values = f"[{low:.3g}, {high:.3g}]".replace("inf]", "∞)").replace("[-inf", "(−∞")
        raise ValueError(
            f"Expected the {name} to end without an activation: {type(family).__name__} takes {family.unbounded}, "
            f"which have no bounds. Received: a {name} whose last activation leaves values in {values}. Remove it "
            "(activation=None)"
        )


def output_range(network: keras.layers.Layer, input_shape: tuple[int, ...]) -> tuple[float, float]:
    """Bounds of what a network can put out, whatever the last operation with weights gives: its last activation's.

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
        for signs in (np.ones_like, lambda x: rng.choice([-1.0, 1.0], x.shape)):
            shapes = [[size or 1 for size in source.shape] for source in sources]
            fed = [tf.constant(value * signs(np.zeros(shape)), source.dtype) for shape, source in zip(shapes, sources)]
            result = tf.cast(activation(*fed), "float32").numpy()
            low, high = min(low, float(result.min())), max(high, float(result.max()))
    beyond = 0.5 * FED[-1]  # grows with what it is fed
    return -math.inf if low < -beyond else low, math.inf if high > beyond else high


def _last_affine(x: Any, output: Any) -> list[Any]:
    """The tensors from which activations alone lead to `output`: of the last operations on `x` that have weights."""
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
    """References of tensors, and of all that are computed from them."""
    found: set[Any] = set()
    waiting = list(tensors)
    while waiting:
        tensor = waiting.pop()
        if tensor.ref() not in found:
            found.add(tensor.ref())
            waiting += [output for operation in tensor.consumers() for output in operation.outputs]
    return found
