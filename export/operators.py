"""Detection of custom layers that files can't contain, in the graph and before the conversion."""

import re
from collections.abc import Iterator
from typing import Any

from kvae.export.errors import ExportError

RANDOM = "draw only in training (`if training:`), or take the noise from the latents"
ASSIGN = "assign only in training (`if training:`)"

#: TensorFlow's names of operators, their purpose, and the alternative
_IMPOSSIBLE = (
    (r"Random|^Rng|Multinomial|TruncatedNormal|^Stateful(Uniform|StandardNormal)|StatelessShuffle",
     "random numbers, which a file can't draw like those of Keras", RANDOM),
    (r"Table", "a lookup table", "store the values in a weight, and read them with keras.ops.take"),
    (r"PyFunc", "a Python function", "write it with keras.ops"),
    (r"^Print", "printing", "print only in training (`if training:`)"),
    (r"String|Regex|Substr", "text", "turn text into numbers before it reaches the model"),
    (r"^Assign|^ResourceScatter", "a weight that changes with each call", ASSIGN),
)  # fmt: skip
#: alternatives to operators that a runtime may lack
_REMEDIES = (
    *((pattern, remedy) for pattern, _, remedy in _IMPOSSIBLE),
    (r"FFT", "LiteRT has RFFT for lengths that are powers of two: pad to such a length, or "
     "multiply by a matrix of cosines and sines"),
)  # fmt: skip
_OTHER_LAYER = "replace that layer with arithmetic, convolutions and common activations of keras.ops"


def check(endpoint: str, graph: Any, variables: list[Any]) -> None:
    """Raise an ExportError if a traced endpoint has unsupported operators, or variables that aren't weights.

    Args:
        endpoint: name of the endpoint.
        graph: its concrete function.
        variables: the model's weights as TensorFlow variables.
    """
    nodes = list(_nodes(graph.graph.as_graph_def()))
    for pattern, what, remedy in _IMPOSSIBLE:
        for node in nodes:
            if re.search(pattern, node.op):
                place = node.name.rpartition("/")[0]
                where = f"layer '{place}'" if place else f"'{endpoint}'"
                raise ExportError(
                    f"Expected layers that a file can contain. Received: {what} ({node.op} in {where}); {remedy}"
                )
    known = {id(variable) for variable in variables}
    for variable in graph.graph.variables:
        if id(variable) not in known:
            raise ExportError(
                "Expected each weight to be created with `self.add_weight`, in a layer that is an attribute of the "
                f"model. Received: the variable '{variable.name}', which '{endpoint}' uses"
            )


def remedy(operators: str, message: str = "") -> str:
    """Return the alternative to operators that a converter or a kernel refuses in a message."""
    if "xf64>" in message:
        return "compute in float32, not in float64"
    return next((text for pattern, text in _REMEDIES if re.search(pattern, operators)), _OTHER_LAYER)


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def
