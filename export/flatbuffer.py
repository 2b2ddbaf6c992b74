"""What is inside a `.tflite` file, read from its flatbuffer."""

from dataclasses import dataclass
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from kvae.export.errors import ExportError

_CODES = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
_VARIABLES = {"VAR_HANDLE", "READ_VARIABLE"}


@dataclass(frozen=True)
class Contents:
    """Facts about a file.

    Attributes:
        operators: unique names, sorted; an operator that isn't built in stands with its own name.
        not_builtin: those of `operators` that only run where someone supplies them ("Flex…", custom ones).
        constant_bytes: size of all constants, weights among them.
        signatures: names.
        variables: whether weights are looked up by name instead of stored, so that nothing supplies them.
    """

    operators: tuple[str, ...]
    not_builtin: tuple[str, ...]
    constant_bytes: int
    signatures: tuple[str, ...]
    variables: bool


def read(path: Path) -> Contents:
    """Read the file's contents; ExportError if it isn't a LiteRT file."""
    data = path.read_bytes()
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise ExportError(f"Expected a LiteRT file. Received: '{path.name}', {len(data)} bytes of something else")
    model = schema.Model.GetRootAs(data, 0)
    operators, not_builtin = set(), set()
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        # Old files keep the code in one byte; new codes don't fit and leave a placeholder there.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if number == schema.BuiltinOperator.CUSTOM:
            name = (code.CustomCode() or b"CUSTOM").decode()
            not_builtin.add(name)
        else:
            name = _CODES.get(number, f"operator {number}")
        operators.add(name)
    # Large constants may lie behind the flatbuffer, at an offset: then only `Size` knows them.
    buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
    return Contents(
        operators=tuple(sorted(operators)),
        not_builtin=tuple(sorted(not_builtin)),
        constant_bytes=sum(max(buffer.DataLength(), buffer.Size()) for buffer in buffers),
        signatures=tuple(model.SignatureDefs(i).SignatureKey().decode() for i in range(model.SignatureDefsLength())),
        variables=bool(operators & _VARIABLES),
    )
