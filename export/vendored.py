"""The runtime as one file next to an export; it requires NumPy and LiteRT, but neither kvae nor TensorFlow."""

import ast
from pathlib import Path

import kvae.arguments
from kvae.export import command, runtime

FILE = "kvae_runtime.py"
#: in the order of their dependencies
_MODULES = (kvae.arguments, runtime, command)


def source() -> str:
    """Return the modules of the runtime as one source text, without their imports of each other."""
    texts = [Path(module.__file__ or "").read_text(encoding="utf-8") for module in _MODULES]
    parts = [_stripped(text) for text in texts]
    whole = [
        f'"""{runtime.__doc__}"""',
        "from __future__ import annotations",
        *parts,
        'if __name__ == "__main__":\n    raise SystemExit(main())\n',
    ]
    renamed = {"python -m kvae.export.runtime": f"python {FILE}", "kvae.export.runtime": FILE.removesuffix(".py")}
    text = "\n\n".join(whole)
    for old, new in renamed.items():
        text = text.replace(old, new)
    return text


def _stripped(text: str) -> str:
    """Return a module's source without its docstring, its imports of kvae and __future__, and its main block."""
    lines = text.splitlines()
    left_out: set[int] = set()
    for node in ast.parse(text).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.lineno == 1
        imported = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("kvae", "__future__")
        program = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        if docstring or imported or program:
            left_out.update(range(node.lineno - 1, node.end_lineno or node.lineno))
    return "\n".join(line for number, line in enumerate(lines) if number not in left_out).strip("\n")
