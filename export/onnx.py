"""ONNX files, one per endpoint, for onnxruntime and other readers of ONNX."""

import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from kvae.export.console import quiet
from kvae.export.endpoints import Endpoint
from kvae.export.errors import ExportError, one_line
from kvae.export.reference import Reference, Run, in_pieces
from kvae.export.verify import Artifact, compare, folder_artifact
from kvae.models import float32_compute

OPSET = 18  # the first with the exclusive or, and the last that tf2onnx supports
METADATA = "kvae"  # key of the info in a file's metadata
FLOAT, INT32 = 1, 6  # ONNX's numbers of dtypes


def export(model: Any, directory: Path, reference: Reference, info: bytes = b"") -> Artifact:
    """Write `directory/<endpoint>.onnx` for every endpoint, and compare each file in onnxruntime with Keras.

    Inputs and outputs have the names, shapes and dtypes of the endpoint, for any batch size. Equal models give equal
    bytes, except perhaps recurrent models. `info` is JSON; each file's metadata has it under the key "kvae".

    Raises:
        ExportError: if a package is missing, an operator of the model has no counterpart in ONNX, or a file is
            further from Keras than `kvae.export.budgets` allows.
    """
    directory = Path(directory)
    with quiet(), float32_compute(model):
        for package in ("onnx", "tf2onnx", "onnxruntime"):
            _package(package)
        directory.mkdir(parents=True, exist_ok=True)
        for endpoint in reference.endpoints:
            converted = convert(endpoint, model)
            if info:
                converted.metadata_props.add(key=METADATA, value=info.decode())
            (directory / f"{endpoint.name}.onnx").write_bytes(converted.SerializeToString(deterministic=True))
        signatures = compare(directory.name, open_onnx(directory), "float32", reference)
    return folder_artifact(directory, "onnx", signatures)


def convert(endpoint: Endpoint, model: Any) -> Any:
    """Convert one endpoint to an `onnx.ModelProto`; raise an ExportError if that is impossible."""
    onnx, tf2onnx = _package("onnx"), _package("tf2onnx")
    concrete = endpoint.trace(model)
    try:
        converted, _ = tf2onnx.convert.from_function(
            SimpleNamespace(get_concrete_function=lambda *signature: concrete),  # tf2onnx traces a function
            list(endpoint.specs(model).values()),
            opset=OPSET,
            custom_op_handlers={name: (write, []) for name, write in _HANDLERS.items()},
        )
        unknown = _unknown_operators(converted.graph)
        if not unknown:
            graph = converted.graph
            graph.name, graph.doc_string = endpoint.name, ""
            values = (*graph.input, *graph.output)
            _normalize(graph, {value.name: value.name for value in values}, itertools.count())
            for value in values:
                first = value.type.tensor_type.shape.dim[0]
                if not first.HasField("dim_value"):
                    first.dim_param = "batch"
            onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # of many kinds, from tf2onnx, TensorFlow, protobuf and onnx
        raise ExportError(f"Endpoint '{endpoint.name}' can't become ONNX: {one_line(error)}") from error
    if unknown:
        raise ExportError(
            f"Expected ONNX operators in '{endpoint.name}'. Received: {', '.join(unknown)}; replace the "
            "layer with these operators"
        )
    return converted


def open_onnx(path: Path) -> Run:
    """Return a function that runs an endpoint of a folder of ONNX files on the CPU.

    Raises:
        ExportError: if onnxruntime is missing, the folder has no ONNX file, or onnxruntime can't open a file.
    """
    path, sessions = Path(path), {}
    with quiet():
        onnxruntime = _package("onnxruntime")
        for file in sorted(path.glob("*.onnx")):
            try:
                sessions[file.stem] = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
            except Exception as error:  # its exceptions have no common class
                raise ExportError(f"onnxruntime can't open '{file.name}': {one_line(error)}") from error
    if not sessions:
        raise ExportError(f"Expected ONNX files in '{path.name}'. Received: none")

    def call(name: str, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        names = [output.name for output in sessions[name].get_outputs()]
        return dict(zip(names, sessions[name].run(names, inputs)))

    return in_pieces(call, first=1)


def _package(name: str) -> Any:
    """Import a package of the extra `onnx`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(
            f'Expected the package {name} for ONNX files. Received: {one_line(error)}; pip install "keras-vae[onnx]"'
        ) from error


def _bitcast(graph: Any, node: Any, name: str, args: Any) -> None:
    """Write the bits of positive float32 numbers as int32, with exact operations (ONNX has BitCast from opset 26).

    Halving the range of exponents seven times leaves the mantissa, in [1, 2). Comparisons, selections and
    multiplications by powers of two are exact; subnormal numbers, 0, infinity and NaN are not covered.
    """
    if (graph.get_dtype(node.input[0]), graph.get_dtype(node.output[0])) != (FLOAT, INT32):
        return  # the node stays and is reported as unknown
    add = _Adder(graph, node)
    one, x = np.float32(1), node.input[0]
    small = add("Less", x, one)
    x = add("Where", small, add("Mul", x, np.float32(2**126)), x)
    exponent = add("Where", small, np.int32(127 - 126), np.int32(127))
    for step in (64, 32, 16, 8, 4, 2, 1):
        large = add("GreaterOrEqual", x, np.float32(2.0**step))
        x = add("Where", large, add("Mul", x, np.float32(2.0**-step)), x)
        exponent = add("Where", large, add("Add", exponent, np.int32(step)), exponent)
    mantissa = add("Cast", add("Mul", add("Sub", x, one), np.float32(2**23)), to=INT32)
    add.last("Add", add("Mul", exponent, np.int32(2**23)), mantissa)


def _log1p(graph: Any, node: Any, name: str, args: Any) -> None:
    """Write log(1 + x) = log(w) · x / (w − 1), where w is the rounded 1 + x; x if w is 1. NaN for infinity.

    Goldberg 1991, "What every computer scientist should know about floating-point arithmetic", theorem 4.
    """
    add = _Adder(graph, node)
    one, x = np.float32(1), node.input[0]
    w = add("Add", x, one)
    difference = add("Sub", w, one)
    log = add("Mul", add("Log", w), add("Div", x, difference))
    add.last("Where", add("Equal", difference, np.float32(0)), x, log)


def _erfc(graph: Any, node: Any, name: str, args: Any) -> None:
    """Write 1 − erf(x) for the exact GELU, with small absolute (not relative) errors."""
    add = _Adder(graph, node)
    add.last("Sub", np.float32(1), add("Erf", node.input[0]))


_HANDLERS = {"Bitcast": _bitcast, "Erfc": _erfc, "Log1p": _log1p}  # operators of models that tf2onnx lacks


class _Adder:
    """Writer of operators in tf2onnx's graph; the last operator replaces a TensorFlow node."""

    def __init__(self, graph: Any, node: Any):
        self.graph, self.outputs, self.shapes, self.dtypes = graph, node.output, node.output_shapes, node.output_dtypes
        self.make_name = _package("tf2onnx.utils").make_name
        graph.remove_node(node.name)

    def __call__(self, operator: str, *inputs: str | np.generic, **attributes: Any) -> str:
        return self.graph.make_node(operator, self._names(inputs), attr=attributes).output[0]

    def last(self, operator: str, *inputs: str | np.generic) -> None:
        names = self._names(inputs)
        self.graph.make_node(operator, names, outputs=self.outputs, shapes=self.shapes, dtypes=self.dtypes)

    def _names(self, inputs: tuple[str | np.generic, ...]) -> list[str]:
        """Return the names of tensors; numbers become constants."""
        return [
            value
            if isinstance(value, str)
            else self.graph.make_const(self.make_name("number"), np.array(value)).output[0]
            for value in inputs
        ]


def _unknown_operators(graph: Any) -> list[str]:
    """Return operators that ONNX doesn't have; tf2onnx doesn't change operators that it can't translate."""
    onnx = _package("onnx")
    unknown = {node.op_type for node in graph.node if not onnx.defs.has(node.op_type, OPSET, node.domain)}
    for node in graph.node:
        for inner in _inner_graphs(node):
            unknown |= set(_unknown_operators(inner))
    return sorted(unknown)


def _normalize(graph: Any, names: dict[str, str], number: Iterator[int]) -> None:
    """Give the nodes an order and names that depend only on the graph.

    tf2onnx's order and names depend on earlier work of the process. `names` maps old to new names and is extended.
    """
    order = _in_order(graph)
    needed = [*(name for node in order for name in _needs(node)), *(value.name for value in graph.output)]
    constants = {tensor.name: tensor for tensor in graph.initializer}
    used = [constants[name] for name in dict.fromkeys(needed) if name in constants]
    for value in graph.input:
        names.setdefault(value.name, f"input_{next(number)}")
    for tensor in used:
        tensor.name = names.setdefault(tensor.name, f"constant_{next(number)}")
    for node in order:
        node.name = f"{node.op_type}_{next(number)}"
        if not node.domain:
            node.ClearField("domain")  # only sometimes set by tf2onnx
        for index, output in enumerate(filter(None, node.output)):
            names.setdefault(output, f"{node.name}:{index}")
        for inner in _inner_graphs(node):
            inner.name = node.name
            _normalize(inner, names, number)
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
        for length in value.type.tensor_type.shape.dim:
            if length.dim_param:  # a number that depends on other models
                length.Clear()
    for field, values in (("node", order), ("initializer", used), ("value_info", [])):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)


def _in_order(graph: Any) -> list[Any]:
    """Return the nodes that the outputs depend on, each after its dependencies."""
    maker = {output: node for node in graph.node for output in node.output if output}
    order: list[Any] = []
    made: set[str] = set()
    stack = [value.name for value in reversed(graph.output)]
    while stack:
        node = maker.get(stack[-1])
        missing = [name for name in _needs(node) if name in maker and name not in made] if node else []
        if missing:
            stack += reversed(missing)
        elif stack.pop() not in made and node:
            order.append(node)
            made.update(node.output)
    return order


def _needs(node: Any) -> list[str]:
    """Return the names of the tensors that a node reads, including those in bodies of its branches and loops."""
    inner = [name for graph in _inner_graphs(node) for body in graph.node for name in _needs(body)]
    inner += [value.name for graph in _inner_graphs(node) for value in graph.output]
    return [*node.input, *inner]


def _inner_graphs(node: Any) -> list[Any]:
    """Return the bodies of a branch or a loop."""
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]
