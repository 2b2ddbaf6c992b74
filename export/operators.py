"""What a layer of a user's may do in Keras and no file can: found in the graph, before anything is converted."""

import re
from collections.abc import Iterator
from typing import Any

from kvae.export.errors import ExportError

RANDOM = "draw only in training (`if training:`), or take the noise from the latents"
ASSIGN = "assign only in training (`if training:`)"

#: operators, as TensorFlow calls them; what a layer does with them; what to do instead
_IMPOSSIBLE = (
    (r"Random|^Rng|Multinomial|TruncatedNormal|^Stateful(Uniform|StandardNormal)|StatelessShuffle",
     "random numbers, which no file draws as those of Keras are drawn", RANDOM),
    (r"Table", "a lookup table", "keep the values in a weight, and look them up with keras.ops.take"),
    (r"PyFunc", "a Python function", "write it with keras.ops"),
    (r"^Print", "printing", "print only in training (`if training:`)"),
    (r"String|Regex|Substr", "text", "turn text into numbers before it reaches the model"),
    (r"^Assign|^ResourceScatter", "a weight that changes whenever it is used", ASSIGN),
)  # fmt: skip
#: what to do about operators that a runtime may lack
_REMEDIES = (
    *((pattern, remedy) for pattern, _, remedy in _IMPOSSIBLE),
    (r"FFT", "LiteRT has the transform of real numbers, RFFT, for lengths that are powers of two: pad to one, or "
     "multiply by a matrix of cosines and sines"),
)  # fmt: skip
_OTHER_LAYER = (
    "replace that layer by one that does with arithmetic, convolutions and the usual activations of keras.ops"
)


def check(endpoint: str, graph: Any, variables: list[Any]) -> None:
    """ExportError if a traced endpoint does what no file can, or uses other variables than the model's weights.

    Args:
        endpoint: its name.
        graph: a concrete function.
        variables: the model's, as TensorFlow has them.
    """
    nodes = list(_nodes(graph.graph.as_graph_def()))
    for pattern, what, remedy in _IMPOSSIBLE:
        for node in nodes:
            if re.search(pattern, node.op):
                place = node.name.rpartition("/")[0]
                where = f"layer '{place}'" if place else f"'{endpoint}'"
                raise ExportError(
                    f"Expected layers that a file can hold. Received: {what} ({node.op} in {where}); {remedy}"
                )
    known = {id(variable) for variable in variables}
    for variable in graph.graph.variables:
        if id(variable) not in known:
            raise ExportError(
                "Expected each weight to belong to a layer that the model holds as an attribute, which makes it with "
                f"`self.add_weight`. Received: the variable '{variable.name}' of nobody's, which '{endpoint}' needs"
            )


def remedy(operators: str, message: str = "") -> str:
    """What to do about operators that a converter or a kernel complains of in a message."""
    if "xf64>" in message:
        return "compute in float32, not in float64"
    return next((text for pattern, text in _REMEDIES if re.search(pattern, operators)), _OTHER_LAYER)


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def
