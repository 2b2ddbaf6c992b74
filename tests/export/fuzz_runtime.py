"""A process that opens damaged files: `python fuzz_runtime.py FILE SEED COUNT`, one line for each of them.

Apart from the tests, so that a crash of the interpreter is a line that is missing and not the end of them.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from kvae.export import runtime


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One of the things that happen to files: flipped or overwritten bytes, missing or doubled parts."""
    kind, changed = rng.integers(6), bytearray(data)
    structure = min(len(data), 40_000)  # flatbuffers keep it in front of, and between, the weights
    at = int(rng.integers(8, structure if kind < 3 else len(data)))
    if kind in (0, 3):
        changed[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        changed[at : at + 4] = rng.bytes(4)
    elif kind == 2:
        changed[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
    elif kind == 4:
        del changed[at : at + int(rng.integers(1, 10_000))]
    else:
        changed[at:at] = changed[at : at + int(rng.integers(1, 1000))]
    return bytes(changed)


def answer(path: Path) -> str:
    """What the runtime does with the file: "refused", or "answered" by every signature."""
    try:
        model = runtime.load(path)
        for endpoint, signature in model.info["signatures"].items():
            inputs = {
                name: np.zeros([model.batch_sizes[-1] if n == "B" else n for n in spec["shape"]], spec["dtype"])
                for name, spec in signature["inputs"].items()
            }
            model.run(endpoint, batch=model.batch_sizes[-1], **inputs)
    except ValueError as error:
        return "refused" if "\n" not in str(error) else f"untidy: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "answered"


if __name__ == "__main__":
    data, rng = Path(sys.argv[1]).read_bytes(), np.random.default_rng(int(sys.argv[2]))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(int(sys.argv[3])):
            path = Path(folder) / "mutated.tflite"
            path.write_bytes(mutate(data, rng))
            print(answer(path).partition("\n")[0], flush=True)
