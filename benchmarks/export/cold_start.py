"""Seconds and peak memory of a new process up to its first image, for each runtime of the decoder."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import extent, store

import kvae

ROOT = Path(kvae.__file__).parent.parent
LATENTS = 16
PROGRAM = """
import json, sys, time
start = time.perf_counter()
import numpy as np
z = np.zeros((1, 16), np.float32)
{run}
seconds = time.perf_counter() - start
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([seconds, peak / 1024]))
"""
RUNS = {
    "kvae.export.runtime, float32": "from kvae.export.runtime import load; load('vae_float32.tflite').decode(z)",
    "kvae.export.runtime, int8": "from kvae.export.runtime import load; load('vae_int8.tflite').decode(z)",
    "onnxruntime": "import onnxruntime; onnxruntime.InferenceSession('onnx/decode.onnx').run(None, {'z': z})",
    "TensorFlow, SavedModel": (
        "import tensorflow as tf; tf.saved_model.load('saved_model').signatures['decode'](z=tf.constant(z))"
    ),
    "Keras": "import kvae; kvae.load('model.keras').decode(z)",
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    vae = kvae.VAE(latent_dim=LATENTS, image_shape=(28, 28, 1))
    measured: dict[str, list[list[float]]] = {name: [] for name in RUNS}
    with tempfile.TemporaryDirectory() as folder:
        kvae.export.export(vae, folder, with_onnx=True)
        vae.save(Path(folder) / "model.keras")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        for _ in range(options.rounds):
            for name, run in RUNS.items():
                done = subprocess.run(
                    [sys.executable, "-c", PROGRAM.replace("{run}", run)],
                    cwd=folder, env=environment, capture_output=True, text=True, check=True,
                )  # fmt: skip
                measured[name].append(json.loads(done.stdout.splitlines()[-1]))
    rows = {}
    print(f"{'seconds':>8}  {'from – to':<18}  {'MB':>6}")
    for name, values in measured.items():
        seconds, megabytes = ([value[i] for value in values] for i in (0, 1))
        rows[name] = {
            "seconds": round(statistics.median(seconds), 3),
            "peak memory, MB": round(statistics.median(megabytes), 1),
        }
        print(f"{rows[name]['seconds']:>8.2f}  {extent(seconds):<18}  {rows[name]['peak memory, MB']:>6.0f}  {name}")
    store("export_cold_start", {"rows": rows})
