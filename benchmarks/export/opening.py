"""Time, memory and bytes to open a decoder file up to its first image, and then its latency.

Each contestant opens its file in a new process, after the import of its runtime. Contestants take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np
from common import extent, store
from contestants import by_keras, by_kvae

import kvae
from kvae.export.litert import PRECISIONS

LATENTS, SHAPES, SIZES = 16, ((28, 28, 1), (64, 64, 3)), (1, 16)
KERAS, ONNX, OURS, WHOLE = "Keras's export(format='litert')", "onnxruntime", "decoder_float32", "vae_float32"
PROGRAM = """
import json, sys, time
import numpy as np
path, size = sys.argv[1], int(sys.argv[2])
z = np.random.default_rng(0).normal(size=(size, 16)).astype("float32")
if path.endswith(".onnx"):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
else:
    from ai_edge_litert.interpreter import Interpreter

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024

before, start = resident(), time.perf_counter()
if path.endswith(".onnx"):
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    run = lambda: session.run(None, {"z": z})
else:
    opened = Interpreter(path, num_threads=1)
    opened.allocate_tensors()  # the whole file, as in clients that know only tensor positions
    names = opened.get_signature_list()
    runner = opened.get_signature_runner(f"decode_{size}" if f"decode_{size}" in names else next(iter(names)))
    (name,) = runner.get_input_details()
    run = lambda: runner(**{name: z})
run()
opening, memory = 1000 * (time.perf_counter() - start), resident() - before
times = []
for _ in range(200 // size + 5):
    start = time.perf_counter()
    run()
    times.append(1e6 * (time.perf_counter() - start))
print(json.dumps([opening, memory, float(np.percentile(times, 10))]))
"""


def files(vae: kvae.VAE, folder: Path, size: int) -> dict[str, Path]:
    """Return the contestants' files for batches of this size."""
    images = np.random.default_rng(0).random((64, *vae.image_shape), dtype="float32")
    settings = {"validation": images, "precisions": PRECISIONS, "batch_sizes": (size,)}
    found = {ONNX: folder / "onnx" / "decode.onnx"} if by_kvae(vae, folder, **settings) else {}
    found[KERAS] = folder / "keras.tflite"
    by_keras(vae, found[KERAS], size)
    return {**found, **{path.stem: path for path in sorted(folder.glob("*_*.tflite"))}}


def measure(found: dict[str, Path], size: int, rounds: int) -> dict[str, list[list[float]]]:
    measured: dict[str, list[list[float]]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, path in found.items():
            command = [sys.executable, "-c", PROGRAM, str(path), str(size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            measured[name].append(json.loads(done.stdout.splitlines()[-1]))
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    results: dict[str, Any] = {}
    for shape in SHAPES:
        vae = kvae.VAE(latent_dim=LATENTS, image_shape=shape)
        for size in SIZES:
            with tempfile.TemporaryDirectory() as name:
                found = files(vae, Path(name), size)
                sizes = {contestant: path.stat().st_size for contestant, path in found.items()}
                measured = measure(found, size, options.rounds)
            title = f"{'×'.join(map(str, shape))}, batch {size}"
            middle = {
                contestant: [statistics.median(column) for column in zip(*rows)]
                for contestant, rows in measured.items()
            }
            print(f"\n{title}")
            print(f"{'of Keras':>9}  {'opening, ms':>11}  {'MB':>5}  {'call, µs':>9}  {'bytes':>10}  from – to, ms")
            for contestant, (opening, memory, call) in middle.items():
                print(
                    f"{opening / middle[KERAS][0]:>8.2f}×  {opening:>11.1f}  {memory:>5.1f}  {call:>9.0f}  "
                    f"{sizes[contestant]:>10,}  {extent([row[0] for row in measured[contestant]]):<14} {contestant}"
                )
            results[title] = {
                contestant: {
                    "opening, ms": round(opening, 1), "memory, MB": round(memory, 1), "call, µs": round(call, 1),
                    "bytes": sizes[contestant],
                }
                for contestant, (opening, memory, call) in middle.items()
            }  # fmt: skip
            results[f"{title}, ratios"] = {
                "decoder / Keras's file, opening (at most 1)": round(middle[OURS][0] / middle[KERAS][0], 2),
                "the file with everything / decoder, opening": round(middle[WHOLE][0] / middle[OURS][0], 2),
            }
    store("export_opening", results)


if __name__ == "__main__":
    main()
