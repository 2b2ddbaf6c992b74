"""Reading and editing the flatbuffer of a `.tflite` file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from kvae.export.errors import ExportError
from kvae.export.runtime import SERVING_DEFAULT

_CODES = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
_VARIABLES = {"VAR_HANDLE", "READ_VARIABLE"}


@dataclass(frozen=True)
class Contents:
    """Facts about a file.

    Attributes:
        operators: sorted names, and the newest used version of each. Custom operators have their own name.
        not_builtin: operators that are not built in ("Flex…", custom operators).
        constant_bytes: size of all constants, including weights.
        signatures: names of the signatures.
        variables: whether weights are looked up by name instead of stored; the file then has no weights.
    """

    operators: dict[str, int]
    not_builtin: tuple[str, ...]
    constant_bytes: int
    signatures: tuple[str, ...]
    variables: bool


def read(path: Path) -> Contents:
    """Read the contents of a file; raise an ExportError if it isn't a LiteRT file."""
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise ExportError(f"Expected a LiteRT file. Received: '{path.name}', {len(data)} bytes of another format")
    file = Editable(data)
    operators = file.operators
    custom = {kind for kind, number in zip(file.kinds, file.numbers) if number == schema.BuiltinOperator.CUSTOM}
    return Contents(
        operators=operators,
        not_builtin=tuple(sorted(custom)),
        constant_bytes=sum(len(buffer.data) for buffer in file.model.buffers if buffer.data is not None),
        signatures=tuple(signature.signatureKey.decode() for signature in file.model.signatureDefs or []),
        variables=bool(operators.keys() & _VARIABLES),
    )


@dataclass(frozen=True)
class Named:
    """A signature of a file, with its inputs and outputs in the order of their positions."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Editable:
    """The flatbuffer of a file, for editing.

    Args:
        data: bytes of the file.

    Example:

        >>> import tensorflow as tf
        >>> add = tf.function(lambda x: {"y": x + 1}, input_signature=[tf.TensorSpec((2,), name="x")])
        >>> data = tf.lite.TFLiteConverter.from_concrete_functions([add.get_concrete_function()], tf.Module()).convert()
        >>> file = Editable(data)
        >>> file.operators
        {'ADD': 1}
    """

    def __init__(self, data: bytes):
        # The bare schema would lose large constants after the flatbuffer.
        self.model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))

    @property
    def operators(self) -> dict[str, int]:
        """Sorted names of the operators, and the newest used version of each."""
        found: dict[str, int] = {}
        for name, code in zip(self.kinds, self.model.operatorCodes):
            found[name] = max(found.get(name, 1), code.version)
        return dict(sorted(found.items()))

    @property
    def numbers(self) -> list[int]:
        """Numbers of the operator codes, in their order."""
        # Old files store the number in one byte; new numbers don't fit and leave a placeholder there.
        return [max(code.builtinCode, code.deprecatedBuiltinCode) for code in self.model.operatorCodes]

    @property
    def kinds(self) -> list[str]:
        """Names of the operator codes, in their order; custom operators have their own name."""
        return [
            code.customCode.decode() if code.customCode else _CODES.get(number, f"operator {number}")
            for number, code in zip(self.numbers, self.model.operatorCodes)
        ]

    def arrange(self, signatures: Sequence[Named]) -> None:
        """Keep only these signatures, with the given names and order.

        * Subgraphs are in the order of `signatures`: a client without support for signatures runs the first. (The
          converter sorts them by name.)
        * Inputs and outputs have the given order and names. (If an output also feeds a quantised layer, the quantizer
          makes the quantised copy an output of the subgraph, and the output of the signature is lost.)
        """
        model = self.model
        found = {signature.signatureKey.decode(): signature for signature in model.signatureDefs}
        order = [found[signature.name].subgraphIndex for signature in signatures]
        _keep(model, order)
        model.signatureDefs = [found[signature.name] for signature in signatures]
        for index, (named, signature) in enumerate(zip(signatures, model.signatureDefs, strict=True)):
            subgraph = model.subgraphs[index]
            subgraph.name = named.name.encode()
            signature.subgraphIndex = index
            signature.inputs, subgraph.inputs = _in_order(subgraph, signature.inputs, named.inputs)
            signature.outputs, subgraph.outputs = _in_order(subgraph, signature.outputs, named.outputs)

    def isolate(self, signature: str) -> None:
        """Keep only one signature, as `SERVING_DEFAULT` in the only subgraph."""
        (kept,) = (entry for entry in self.model.signatureDefs if entry.signatureKey.decode() == signature)
        _keep(self.model, [kept.subgraphIndex])
        kept.signatureKey, kept.subgraphIndex = SERVING_DEFAULT.encode(), 0
        self.model.signatureDefs = [kept]
        self.model.subgraphs[0].name = b"main"

    def set_bytes(self, signature: str, contents: bytes) -> None:
        """Replace the bytes that a signature without inputs returns."""
        (found,) = (entry for entry in self.model.signatureDefs if entry.signatureKey.decode() == signature)
        (output,) = found.outputs
        tensor = self.model.subgraphs[found.subgraphIndex].tensors[output.tensorIndex]
        tensor.shape = [len(contents)]
        self.model.buffers[tensor.buffer].data = np.frombuffer(contents, np.uint8)

    def describe(self, description: str, entries: Mapping[str, bytes]) -> None:
        """Set the description and entries of the metadata; existing entries with these names are replaced."""
        self.model.description = description
        kept = [entry for entry in self.model.metadata or [] if entry.name.decode() not in entries]
        for name, contents in entries.items():
            entry, buffer = schema.MetadataT(), schema.BufferT()
            buffer.data = np.frombuffer(contents, np.uint8)
            entry.name, entry.buffer = name, len(self.model.buffers)
            self.model.buffers.append(buffer)
            kept.append(entry)
        self.model.metadata = kept

    def __bytes__(self) -> bytes:
        """Return the flatbuffer including its weights. (Older runtimes can't read the quantizer's weights after it.)"""
        return bytes(flatbuffer_utils.convert_object_to_bytearray(self.model))


def _in_order(subgraph: Any, entries: list[Any], names: Sequence[str]) -> tuple[list[Any], list[int]]:
    """Return inputs or outputs of a signature and of its subgraph in the order of `names`, and name their tensors."""
    by_name = {entry.name.decode(): entry for entry in entries}
    ordered = [by_name[name] for name in names if name in by_name]  # an autoencoder has no variance
    for entry in ordered:
        subgraph.tensors[entry.tensorIndex].name = entry.name
    return ordered, [entry.tensorIndex for entry in ordered]


#: options of operators that call other subgraphs
_CALLS = ("condSubgraphIndex", "bodySubgraphIndex", "thenSubgraphIndex", "elseSubgraphIndex", "initSubgraphIndex")


def _keep(model: Any, order: Sequence[int]) -> None:
    """Keep only these subgraphs in this order, then the subgraphs that they call, and everything that these use."""
    kept = list(order)
    for index in kept:  # `kept` grows in the loop
        for operator in model.subgraphs[index].operators or []:
            for called in (getattr(operator.builtinOptions, name, None) for name in _CALLS):
                if called is not None and called not in kept:
                    kept.append(called)
    model.subgraphs = [model.subgraphs[index] for index in kept]
    # New places by old places, in the order of the first use.
    codes: dict[int, int] = {}
    buffers = {0: 0}  # by convention the empty buffer
    for subgraph in model.subgraphs:
        for operator in subgraph.operators or []:
            operator.opcodeIndex = codes.setdefault(operator.opcodeIndex, len(codes))
            for name in _CALLS:
                if hasattr(operator.builtinOptions, name):
                    setattr(operator.builtinOptions, name, kept.index(getattr(operator.builtinOptions, name)))
        for tensor in subgraph.tensors:
            tensor.buffer = buffers.setdefault(tensor.buffer, len(buffers))
    for entry in model.metadata or []:
        entry.buffer = buffers.setdefault(entry.buffer, len(buffers))
    model.operatorCodes = [model.operatorCodes[index] for index in codes]
    model.buffers = [model.buffers[index] for index in buffers]
