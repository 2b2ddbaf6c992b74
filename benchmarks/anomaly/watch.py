"""Speed of `Model.watch` on windows of 50 × 8 on one core, size of the file, and multiply-adds of a window.

python benchmarks/anomaly/watch.py
"""

import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import RESULTS, machine

import kvae
import kvae.export
from kvae import likelihoods, networks
from kvae.export.runtime import load

STEPS, FEATURES, SAMPLES = 50, 8, 3000
BODIES: dict[str, Any] = {
    "default networks": lambda: (None, None),
    "half of the channels": lambda: (networks.ConvDown((16, 32, 32, 32), 64), networks.ConvUp((32, 32, 16))),
}


def multiply_adds(layers: list[Any], shape: tuple[int, ...]) -> int:
    """Return the multiply-adds of consecutive layers for one window: the size of each kernel, for every position."""
    total, x = 0, keras.KerasTensor((1, *shape))
    for layer in layers:
        x = layer(x)
        kernel = getattr(layer, "kernel", None)
        total += 0 if kernel is None else math.prod(x.shape[1:-1]) * math.prod(kernel.shape)
    return total


if __name__ == "__main__":
    rng, results = np.random.default_rng(0), {}
    phase = rng.uniform(0, 6, (400, 1, 1))
    x = np.sin(0.3 * np.arange(STEPS)[:, None] + phase + np.arange(FEATURES))
    x += 0.1 * rng.normal(size=x.shape)
    stream = rng.normal(size=(SAMPLES, FEATURES)).astype("float32")
    for name, make in BODIES.items():
        down, up = make()
        vae = kvae.VAE(
            networks.Encoder(8, down),
            networks.Decoder((STEPS, FEATURES), up),
            likelihood=likelihoods.Scaled(location=[0.0] * FEATURES, scale=[0.7] * FEATURES),
            bounded=False,
        )
        vae.compile("adam")
        vae.fit(x, epochs=3, verbose=0)
        encoder, decoder = vae.encoder, vae.decoder
        work = multiply_adds([*encoder.body.chain, encoder.head], (STEPS, FEATURES))
        work += multiply_adds([*decoder.stem, *decoder.body.chain, *decoder.head], (8,))
        with tempfile.TemporaryDirectory() as folder:
            kvae.export.export(
                vae, folder, x[:100], validation=x[100:], signatures=("score",), networks=(), batch_sizes=(1,),
                precisions=("float32", "int8"),
            )  # fmt: skip
            for precision in ("float32", "int8"):
                model = load(f"{folder}/vae_{precision}.tflite", num_threads=1)
                watch = model.watch(alpha=0.05)
                for sample in stream[:STEPS]:
                    watch.push(sample)
                started = time.perf_counter()
                for sample in stream:
                    watch.push(sample)
                rate = len(stream) / (time.perf_counter() - started)
                size = Path(model.path).stat().st_size
                results[f"{name}, {precision}"] = {
                    "samples_per_second": round(rate), "bytes": size, "multiply_adds": work
                }  # fmt: skip
                print(f"{name}, {precision}: {rate:,.0f} samples/s, {size:,} bytes, {work:,} multiply-adds", flush=True)
    stored = {"window": [STEPS, FEATURES], "command": f"python {sys.argv[0]}", "machine": machine(), "rows": results}
    (RESULTS / "anomaly_watch.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
