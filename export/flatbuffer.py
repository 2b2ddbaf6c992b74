"""What is inside a `.tflite` file, read from its flatbuffer and written to it."""

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
        operators: names, sorted, and the newest version of each that is used; an operator that isn't built in stands
            with its own name.
        not_builtin: those of `operators` that only run where someone supplies them ("Flex…", custom ones).
        constant_bytes: size of all constants, weights among them.
        signatures: names.
        variables: whether weights are looked up by name instead of stored, so that nothing supplies them.
    """

    operators: dict[str, int]
    not_builtin: tuple[str, ...]
    constant_bytes: int
    signatures: tuple[str, ...]
    variables: bool


def read(path: Path) -> Contents:
    """Read the file's contents; ExportError if it isn't a LiteRT file."""
    return contents(path.name, path.read_bytes())


def contents(name: str, data: bytes) -> Contents:
    """What is in the bytes of the file `name`; ExportError if it isn't a LiteRT file."""
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise ExportError(f"Expected a LiteRT file. Received: '{name}', {len(data)} bytes of something else")
    model = schema.Model.GetRootAs(data, 0)
    operators: dict[str, int] = {}
    not_builtin = set()
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        # Old files keep the code in one byte; new codes don't fit and leave a placeholder there.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if number == schema.BuiltinOperator.CUSTOM:
            name = (code.CustomCode() or b"CUSTOM").decode()
            not_builtin.add(name)
        else:
            name = _CODES.get(number, f"operator {number}")
        operators[name] = max(operators.get(name, 1), code.Version())
    # Large constants may lie behind the flatbuffer, at an offset: then only `Size` knows them.
    buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
    return Contents(
        operators=dict(sorted(operators.items())),
        not_builtin=tuple(sorted(not_builtin)),
        constant_bytes=sum(max(buffer.DataLength(), buffer.Size()) for buffer in buffers),
        signatures=tuple(model.SignatureDefs(i).SignatureKey().decode() for i in range(model.SignatureDefsLength())),
        variables=bool(operators.keys() & _VARIABLES),
    )


@dataclass(frozen=True)
class Named:
    """A signature of a file, and its inputs and outputs in the order in which clients see them that know no names."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Editable:
    """A file's flatbuffer, to be changed.

    Args:
        data: its bytes.

    Example:

        >>> import tensorflow as tf
        >>> add = tf.function(lambda x: {"y": x + 1}, input_signature=[tf.TensorSpec((2,), name="x")])
        >>> data = tf.lite.TFLiteConverter.from_concrete_functions([add.get_concrete_function()], tf.Module()).convert()
        >>> file = Editable(data)
        >>> file.operators
        {'ADD': 1}
    """

    def __init__(self, data: bytes):
        # Not the bare schema: it loses large constants, which may lie behind the flatbuffer.
        self.model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))

    @property
    def operators(self) -> dict[str, int]:
        """Names, and the newest version of each that is used."""
        found: dict[str, int] = {}
        for name, code in zip(self.kinds, self.model.operatorCodes):
            found[name] = max(found.get(name, 1), code.version)
        return found

    @property
    def kinds(self) -> list[str]:
        """Names of the operator codes, in their order; old files keep the number in one byte."""
        return [
            _CODES.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM") for code in self.model.operatorCodes
        ]

    def arrange(self, signatures: Sequence[Named]) -> None:
        """Keep these signatures, as clients of every kind can use them.

        * Subgraphs are in the order of `signatures`: a client that knows no signatures runs the first. (The converter
          puts them in the order of the alphabet.)
        * Inputs and outputs are in the order that is given, and named so. (Where an output also feeds a quantised
          layer, the quantizer puts the quantised copy among the subgraph's outputs, and the one that the signature
          names is never kept.)
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
        """Keep one signature, as `SERVING_DEFAULT` in the only subgraph."""
        (kept,) = (entry for entry in self.model.signatureDefs if entry.signatureKey.decode() == signature)
        _keep(self.model, [kept.subgraphIndex])
        kept.signatureKey, kept.subgraphIndex = SERVING_DEFAULT.encode(), 0
        self.model.signatureDefs = [kept]
        self.model.subgraphs[0].name = b"main"

    def describe(self, description: str, entries: Mapping[str, bytes]) -> None:
        """Give it a description, and entries in its metadata, in place of those of these names."""
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
        """The flatbuffer, its weights inside. (The quantizer puts them behind it, where older runtimes don't look.)"""
        return bytes(flatbuffer_utils.convert_object_to_bytearray(self.model))


def arranged(data: bytes, signatures: Sequence[Named]) -> bytes:
    """The file with these signatures, in this order (`Editable.arrange`)."""
    file = Editable(data)
    file.arrange(signatures)
    return bytes(file)


def alone(data: bytes, signature: str) -> bytes:
    """One signature of an arranged file as a file of its own (`Editable.isolate`)."""
    file = Editable(data)
    file.isolate(signature)
    return bytes(file)


def _in_order(subgraph: Any, entries: list[Any], names: Sequence[str]) -> tuple[list[Any], list[int]]:
    """A signature's inputs or outputs, and the subgraph's, in the order of `names`; their tensors are named so."""
    by_name = {entry.name.decode(): entry for entry in entries}
    ordered = [by_name[name] for name in names if name in by_name]  # a plain autoencoder's code has no variance
    for entry in ordered:
        subgraph.tensors[entry.tensorIndex].name = entry.name
    return ordered, [entry.tensorIndex for entry in ordered]


#: where an operator names subgraphs that it calls
_CALLS = ("condSubgraphIndex", "bodySubgraphIndex", "thenSubgraphIndex", "elseSubgraphIndex", "initSubgraphIndex")


def _keep(model: Any, order: Sequence[int]) -> None:
    """Keep these subgraphs in this order, those that they call behind them, and what all of them use."""
    kept = list(order)
    for index in kept:  # grows meanwhile
        for operator in model.subgraphs[index].operators or []:
            for called in (getattr(operator.builtinOptions, name, None) for name in _CALLS):
                if called is not None and called not in kept:
                    kept.append(called)
    model.subgraphs = [model.subgraphs[index] for index in kept]
    codes = _Kept(model.operatorCodes)
    buffers = _Kept(model.buffers)
    buffers.place_of(0)  # by convention it is the empty one
    for subgraph in model.subgraphs:
        for operator in subgraph.operators or []:
            operator.opcodeIndex = codes.place_of(operator.opcodeIndex)
            for name in _CALLS:
                if hasattr(operator.builtinOptions, name):
                    setattr(operator.builtinOptions, name, kept.index(getattr(operator.builtinOptions, name)))
        for tensor in subgraph.tensors:
            tensor.buffer = buffers.place_of(tensor.buffer)
    for entry in model.metadata or []:
        entry.buffer = buffers.place_of(entry.buffer)
    model.operatorCodes, model.buffers = codes.kept, buffers.kept


class _Kept:
    """What of a list is used, in the order in which it is first used."""

    def __init__(self, values: list[Any]):
        self.values = values
        self.kept: list[Any] = []
        self._places: dict[int, int] = {}

    def place_of(self, index: int) -> int:
        if index not in self._places:
            self._places[index] = len(self.kept)
            self.kept.append(self.values[index])
        return self._places[index]
