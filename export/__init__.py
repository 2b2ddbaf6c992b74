"""Export of trained models to SavedModel and LiteRT files, each compared with Keras.

    import kvae.export
    report = kvae.export.export(vae, "out", data)

`kvae.export.runtime` runs the LiteRT files with only NumPy and ai-edge-litert. Importing this package imports neither
of them, nor TensorFlow or Keras: each name below is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if __name__ == "export":
    raise ImportError("This package is `kvae.export`: write `import kvae.export` instead of `import export`.")

_NAMES = {
    "Artifact": "kvae.export.verify",
    "Budgets": "kvae.export.choice",
    "ExportError": "kvae.export.errors",
    "PRECISIONS": "kvae.export.litert",
    "Reference": "kvae.export.reference",
    "SignatureCheck": "kvae.export.verify",
    "export": "kvae.export.pipeline",
    "likelihood_through_file": "kvae.export.nats",
    "verify_litert": "kvae.export.verify",
    "verify_saved_model": "kvae.export.verify",
}
__all__ = [*_NAMES, "runtime"]

if TYPE_CHECKING:
    from kvae.export import runtime as runtime
    from kvae.export.choice import Budgets as Budgets
    from kvae.export.errors import ExportError as ExportError
    from kvae.export.litert import PRECISIONS as PRECISIONS
    from kvae.export.nats import likelihood_through_file as likelihood_through_file
    from kvae.export.pipeline import export as export
    from kvae.export.reference import Reference as Reference
    from kvae.export.verify import (
        Artifact as Artifact,
        SignatureCheck as SignatureCheck,
        verify_litert as verify_litert,
        verify_saved_model as verify_saved_model,
    )


if not TYPE_CHECKING:  # where a wrong name is an error

    def __getattr__(name: str) -> Any:
        if name in _NAMES:
            value = getattr(importlib.import_module(_NAMES[name]), name)
        elif name == "runtime":
            value = importlib.import_module("kvae.export.runtime")
        else:
            raise AttributeError(f"module 'kvae.export' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
