"""Selection of the operators in a LiteRT file that belong to networks and compute in eight bits."""

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import keras

from kvae.export.flatbuffer import Editable

#: operators with weights (their second input)
LAYERS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
#: operators without loss between two layers in eight bits: they move numbers or map single numbers
BETWEEN = (
    *("RESHAPE", "TRANSPOSE", "PAD", "PADV2", "MIRROR_PAD", "TILE", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE"),
    *("SPLIT", "SLICE", "STRIDED_SLICE", "CONCATENATION", "PACK", "UNPACK", "GATHER"),
    *("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "MAX_POOL_2D", "AVERAGE_POOL_2D", "ADD"),
    *("RELU", "GELU", "HARD_SWISH", "LOGISTIC", "TANH"),
)
#: operators of `BETWEEN` that the quantizer doesn't support
UNKNOWN_TO_QUANTIZER = ("DEPTH_TO_SPACE", "TILE")
#: operators of `BETWEEN` with one input, whose scale the output has
_MOVES = ("RESHAPE", "TRANSPOSE", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH")
#: activations, and the absolute input beyond which the result is within 1/1000 of its limit
_LIMITS = {"LOGISTIC": 8.0, "TANH": 4.0}

#: whether the name of a tensor belongs to a network's operator
InNetwork = Callable[[str], bool]


def in_networks(model: Any) -> InNetwork:
    """Return a function that recognises operators of the model's networks by name.

    It separates them from operators of the prior, posterior and likelihood. Keras puts the operators of a layer into
    the scope of its name, and TensorFlow adds a number if a scope is entered again. A network's scope is its own name,
    or the name of one of its layers if these are called separately.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> inside = in_networks(vae)
        >>> inside(f"{vae.decoder.name}_1/conv2d_3_1/convolution"), inside("affine_coupling_1/dense_8_1/MatMul")
        (True, False)
    """
    networks = {name: False for part in ("prior", "posterior", "likelihood") for name in _scopes(model, part)}
    networks |= {name: True for part in ("encoder", "decoder", "classifier") for name in _scopes(model, part)}
    networks |= {model.name: True}  # a classifier is itself a network

    def inside(tensor: str) -> bool:
        for scope in {name.split("/")[0] for name in tensor.split(";") if "/" in name}:
            # The longest name wins: `sequential_1` may be its own first use, or the second use of `sequential`.
            found = [name for name in networks if re.fullmatch(rf"{re.escape(name)}(_\d+)*", scope)]
            if found and networks[max(found, key=len)]:
                return True
        return False

    return inside


def _scopes(model: Any, part: str) -> Iterator[str]:
    layer: Any = getattr(model, part, None)
    if isinstance(layer, keras.layers.Layer):
        yield from (inner.name for inner in layer._flatten_layers())


def in_eight_bits(data: bytes, inside: InNetwork) -> dict[str, list[str]]:
    """Return the names of the first outputs of network operators that can compute in eight bits, by kind.

    These are the layers with weights, and operators without loss between two such layers. All other operators compute
    with floats: densities, noise, outputs of networks, and layers such as normalisations.

    Args:
        data: a float32 file with one or several signatures.
        inside: whether a tensor with this name belongs to a network's operator.
    """
    file = Editable(data)
    model, kind = file.model, file.kinds
    layers = [_layers(subgraph, model.buffers, kind) for subgraph in model.subgraphs]
    # Signatures share weights. An operator's name is lost if its output is the output of a signature.
    networks = {
        subgraph.tensors[layer.inputs[1]].buffer
        for subgraph, found in zip(model.subgraphs, layers)
        for layer in found
        if any(inside(subgraph.tensors[i].name.decode()) for i in (layer.inputs[1], *layer.outputs))
    }
    chosen: dict[str, list[str]] = {}
    for subgraph, found in zip(model.subgraphs, layers):
        inner = [layer for layer in found if subgraph.tensors[layer.inputs[1]].buffer in networks]
        for operator in [*inner, *_between(inner, subgraph, model.buffers, kind)]:
            name = subgraph.tensors[operator.outputs[0]].name.decode()
            chosen.setdefault(kind[operator.opcodeIndex], []).append(name)
    return chosen


def _layers(subgraph: Any, buffers: list[Any], kind: list[str]) -> list[Any]:
    return [
        operator
        for operator in subgraph.operators
        if kind[operator.opcodeIndex] in LAYERS and _is_constant(subgraph.tensors[operator.inputs[1]], buffers)
    ]


def _between(layers: list[Any], subgraph: Any, buffers: list[Any], kind: list[str]) -> list[Any]:
    """Return operators between layers: all their inputs and outputs come from and go to layers, maybe indirectly."""
    variable = {i for i, tensor in enumerate(subgraph.tensors) if not _is_constant(tensor, buffers)}
    kept = [operator for operator in subgraph.operators if kind[operator.opcodeIndex] in BETWEEN]
    before = None
    while before != len(kept):
        before = len(kept)
        made = {i for operator in layers + kept for i in operator.outputs}
        used = {i for operator in layers + kept for i in operator.inputs}
        kept = [
            operator
            for operator in kept
            # (XNNPACK refuses a SPLIT with an unused output, which is not quantised.)
            if made.issuperset(variable.intersection(operator.inputs)) and used.issuperset(operator.outputs)
        ]
    return kept


def _is_constant(tensor: Any, buffers: list[Any]) -> bool:
    buffer = buffers[tensor.buffer]
    return buffer.size > 0 or (buffer.data is not None and len(buffer.data) > 0)


def saturated(data: bytes) -> dict[str, float]:
    """Return tensors that only feed an activation with limits, and the absolute value beyond which it is saturated.

    There the activation is within 1/1000 of its limit, less than the resolution of eight bits. A range that ends there
    leaves more of the eight bits for values where the activation changes.
    """
    file = Editable(data)
    model, kind = file.model, file.kinds
    found: dict[str, float] = {}
    for subgraph in model.subgraphs:
        made_by = {i: operator for operator in subgraph.operators for i in operator.outputs}
        used = Counter(i for operator in subgraph.operators for i in operator.inputs) + Counter(subgraph.outputs)
        for activation in subgraph.operators:
            if kind[activation.opcodeIndex] in _LIMITS:
                chain = [activation.inputs[0]]
                while (maker := made_by.get(chain[-1])) and kind[maker.opcodeIndex] in _MOVES:
                    chain.append(maker.inputs[0])
                if maker and kind[maker.opcodeIndex] in LAYERS and all(used[i] == 1 for i in chain):
                    limit = _LIMITS[kind[activation.opcodeIndex]]
                    found |= {subgraph.tensors[i].name.decode(): limit for i in chain}
    return found


def joined(data: bytes, chosen: dict[str, list[str]]) -> bytes:
    """Return the quantised file with eight bits also for operators in `chosen` that the quantizer doesn't support.

    The quantizer leaves such an operator between a DEQUANTIZE and a QUANTIZE. Here it takes the input of the first, and
    its output has the same scale. The two then follow the operator, where they cancel.
    """
    file = Editable(data)
    model, kind = file.model, file.kinds
    wanted = {name for unknown in UNKNOWN_TO_QUANTIZER for name in chosen.get(unknown, ())}
    for subgraph in model.subgraphs:
        tensors, operators = subgraph.tensors, []
        floats: dict[int, Any] = {}  # DEQUANTIZE operators by output
        same: dict[int, int] = {}  # replacements of tensors
        for operator in subgraph.operators:
            operator.inputs = [same.get(i, i) for i in operator.inputs]
            dequantize: Any = floats.get(operator.inputs[0]) if len(operator.inputs) else None
            source = tensors[dequantize.inputs[0]] if dequantize else None
            if source and tensors[operator.outputs[0]].name.decode() in wanted:
                moved = copy.copy(tensors[operator.outputs[0]])
                moved.name, moved.type, moved.quantization = moved.name + b"_moved", source.type, source.quantization
                after = copy.copy(dequantize)
                after.inputs, after.outputs = [len(tensors)], operator.outputs
                operator.inputs = [dequantize.inputs[0], *operator.inputs[1:]]
                operator.outputs = [len(tensors)]
                tensors.append(moved)
                operators += [operator, after]
            elif source and kind[operator.opcodeIndex] == "QUANTIZE" and _alike(source, tensors[operator.outputs[0]]):
                same[operator.outputs[0]] = dequantize.inputs[0]
            else:
                operators.append(operator)
            if operators and kind[operators[-1].opcodeIndex] == "DEQUANTIZE":
                floats[operators[-1].outputs[0]] = operators[-1]
        used = {i for operator in operators for i in operator.inputs} | set(subgraph.outputs)
        subgraph.operators = [o for o in operators if o.outputs[0] not in floats or o.outputs[0] in used]
    return bytes(file)


def _alike(*tensors: Any) -> bool:
    scales = [(t.type, *t.quantization.scale, *t.quantization.zeroPoint) for t in tensors]
    return scales[0] == scales[1]
