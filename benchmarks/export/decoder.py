"""Latency of the default 28×28 decoder in Keras, TensorFlow, ONNX Runtime and LiteRT, at batch 1 and 32."""

import argparse
import contextlib
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from common import extent, store
from contestants import by_keras, by_kvae

import kvae
from kvae.export.litert import PRECISIONS
from kvae.export.runtime import seed_words

LATENTS, SIZES = 16, (1, 32)
OURS, KERAS, ONNX = "kvae, float32", "Keras's export(format='litert')", "onnxruntime"


def contestants(vae: kvae.VAE, folder: Path, size: int, threads: int) -> dict[str, Callable[[], Any]]:
    z = np.random.default_rng(0).normal(size=(size, LATENTS)).astype("float32")
    tensor, model = tf.constant(z), by_keras(vae, folder / f"keras_{size}.tflite", size)
    graph = tf.function(model, input_signature=[tf.TensorSpec((None, LATENTS), tf.float32)])
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    runs: dict[str, Callable[[], Any]] = {
        "model.predict": lambda: model.predict(z, verbose=0),
        "tf.function": lambda: graph(tensor).numpy(),
        "SavedModel": lambda: loaded.signatures["decode"](z=tensor)["image"].numpy(),
    }
    runner = signature_runner(folder / f"keras_{size}.tflite", None, threads)
    (name,) = runner.get_input_details()
    runs[KERAS] = functools.partial(runner, **{name: z})
    with contextlib.suppress(ImportError):
        runs[ONNX] = onnx(folder / "onnx" / "decode.onnx", threads, z)
    for precision in PRECISIONS:
        file = folder / f"vae_{precision}.tflite"
        for signature, inputs in {"": {"z": z}, ", generate": seed_7(size)}.items():
            runner = signature_runner(file, f"{'generate' if signature else 'decode'}_{size}", threads)
            runs[f"kvae, {precision}{signature}"] = functools.partial(runner, **inputs)
            runs[f"kvae, {precision}{signature}, kernels"] = kernels(runner, inputs)
    return runs


def onnx(path: Path, threads: int, z: np.ndarray) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"z": z})


def signature_runner(path: Path, signature: str | None, threads: int) -> Any:
    interpreter = Interpreter(str(path), num_threads=threads)
    runner = interpreter.get_signature_runner(signature or next(iter(interpreter.get_signature_list())))
    runner.keep = interpreter  # the interpreter must outlive its runners
    return runner


def kernels(runner: Any, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
    """Return a call without copies in and out of Python, as in a program in another language (uses private names)."""
    runner(**inputs)
    return lambda: runner._interpreter_wrapper.Invoke(runner._subgraph_index)


def seed_7(size: int) -> dict[str, np.ndarray]:
    return {"seed": seed_words(7), "index": np.arange(size, dtype="int32"), "temperature": np.ones(1, "float32")}


def microseconds(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the median of 30 calls (2 for the slowest) for each contestant and round. Contestants take turns."""
    result: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(3):
            run()
    for _ in range(rounds):
        for name, run in runs.items():
            times = []
            for _ in range(2 if name == "model.predict" else 30):
                start = time.perf_counter()
                run()
                times.append(1e6 * (time.perf_counter() - start))
            result[name].append(statistics.median(times))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1, help="threads of LiteRT and onnxruntime")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    vae = kvae.VAE(latent_dim=LATENTS, image_shape=(28, 28, 1))
    images = np.random.default_rng(0).random((128, 28, 28, 1), dtype="float32")  # full_int8 requires calibration images
    results: dict[str, Any] = {"threads": options.threads}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {"precisions": PRECISIONS, "batch_sizes": SIZES}
        by_kvae(vae, folder, validation=images, **settings)
        results["bytes"] = {file.name: file.stat().st_size for file in sorted(folder.glob("vae_*.tflite"))}
        for size in SIZES:
            times = microseconds(contestants(vae, folder, size, options.threads), options.rounds)
            quiet = {contestant: float(np.percentile(values, 10)) for contestant, values in times.items()}
            print(f"\nbatch {size}\n{'p10, µs':>10}  {'of kvae float32':>15}  {'median, µs':>10}  rounds from – to")
            for contestant, values in times.items():
                fast, median = quiet[contestant], statistics.median(values)
                print(
                    f"{fast:>10,.0f}  {fast / quiet[OURS]:>14.2f}×  {median:>10,.0f}  {extent(values):<22} {contestant}"
                )
            results[f"batch {size}, µs"] = {
                contestant: {"p10": round(quiet[contestant], 1), "median": round(statistics.median(values), 1)}
                for contestant, values in times.items()
            }
            results[f"batch {size}, ratios"] = ratios(quiet)
            print(*(f"\n{value:>8.2f}  {what}" for what, value in ratios(quiet).items()))
    store("export_decoder", results)


def ratios(microseconds: dict[str, float]) -> dict[str, float]:
    """Return the ratios that have targets, from tenth percentiles: the rounds with the least disturbance."""
    float32, int8, full_int8 = (f"kvae, {precision}" for precision in ("float32", "int8", "full_int8"))
    pairs = {
        "Keras's LiteRT / kvae float32 (at least 1)": (KERAS, float32),
        "onnxruntime / kvae float32 (at least 1)": (ONNX, float32),
        "float32 / int8 (at least 3.5 at batch 1)": (float32, int8),
        "float32 / int8, kernels": (f"{float32}, kernels", f"{int8}, kernels"),
        "float32 / full_int8, kernels": (f"{float32}, kernels", f"{full_int8}, kernels"),
        "generate / decode, float32 (at most 1.15)": (f"{float32}, generate", float32),
        "generate / decode, float32, kernels": (f"{float32}, generate, kernels", f"{float32}, kernels"),
        "generate / decode, int8, kernels": (f"{int8}, generate, kernels", f"{int8}, kernels"),
    }
    return {what: round(microseconds[a] / microseconds[b], 2) for what, (a, b) in pairs.items() if a in microseconds}


if __name__ == "__main__":
    main()
