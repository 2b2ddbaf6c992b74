"""Growth of the time of a training step with image side, latents, batch and K, and the cost of IWAE's encoder.

    python benchmarks/training/growth.py
    python benchmarks/training/growth.py --rounds 1 --seconds 0.1                      # quick check

One quantity grows at a time. The others are constant: 28×28 images, 16 latents, batches of 128, K = 1 and the default
network. Images grow from 16×16 to 128×128. K grows with the network of IWAE (784-200-200-50) and its batches of 20. The
exponent is the slope of log seconds over log size, by least squares; 1 is linear. The last line compares IWAE with
K = 50 with the same model whose encoder processes every image 50 times, which is the cost of repeating the images in a
batch.
"""

import argparse
import functools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np
import tensorflow as tf
from common import interleaved, median_ratio, store

import kvae
from kvae.data.pipeline import without_autotuning

AT_ONCE = 10  # steps per call


def steps(vae: Any, batch: int) -> Callable[[int], Any]:
    """Return a function that trains for a number of calls of `AT_ONCE` steps, on one batch of the model's shape."""
    images = np.random.default_rng(0).random((batch, *vae.image_shape)) < 0.13
    batches = without_autotuning(tf.data.Dataset.from_tensors(tf.constant(images, tf.float32)))
    vae.compile(kvae.optimizers.FusedAdam(1e-3, global_clipnorm=200.0), steps_per_execution=AT_ONCE)
    return lambda calls: vae.fit(batches.repeat(calls * AT_ONCE), verbose=0)


def milliseconds(runs: dict[str, Callable[[int], Any]], rounds: int, least: float) -> dict[str, list[float]]:
    """Return milliseconds per step for every round. A round takes `least` seconds, because `fit` adds tens of ms."""
    counts, timed = {}, {}
    for name, run in runs.items():
        run(1)  # traces
        started = time.perf_counter()
        run(2)
        counts[name] = math.ceil(least / ((time.perf_counter() - started) / 2))
        timed[name] = functools.partial(run, counts[name])
    seconds = interleaved(timed, rounds)
    return {name: [1000 * v / counts[name] / AT_ONCE for v in values] for name, values in seconds.items()}


def default(size: int = 28, latents: int = 16) -> Any:
    return kvae.VAE(latent_dim=latents, image_shape=(size, size, 1))


def iwae(num_samples: int, repeat: int = 1) -> Any:
    """Return a model whose encoder processes every image `repeat` times and returns the mean of the results."""

    class Repeated(kvae.Encoder):
        def call(self, x: Any) -> Any:
            found = super().call(tf.repeat(x, repeat, axis=0))
            return tf.reduce_mean(tf.reshape(found, (-1, repeat, found.shape[-1])), axis=1)

    model = kvae.recipes.iwae((28, 28, 1), num_samples=num_samples)
    if repeat == 1:
        return model
    encoder = Repeated(50, kvae.networks.MLP((200, 200), "tanh"))
    return kvae.VAE(encoder=encoder, decoder=model.decoder, objective=kvae.objectives.IWAE(num_samples))


GROWING: dict[str, tuple[tuple[int, ...], Callable[[int], tuple[Any, int]]]] = {
    "image side": ((16, 32, 64, 128), lambda n: (default(size=n), 128)),
    "latents": ((4, 16, 64, 256), lambda n: (default(latents=n), 128)),
    "batch": ((32, 128, 512), lambda n: (default(), n)),
    "K": ((1, 5, 50), lambda n: (iwae(n), 20)),
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="least seconds of each contestant in each round")
    options = parser.parse_args()
    table: dict[str, Any] = {}
    for what, (sizes, made) in GROWING.items():
        found = milliseconds({str(n): steps(*made(n)) for n in sizes}, options.rounds, options.seconds)
        each = {n: statistics.median(values) for n, values in found.items()}
        slopes = np.diff(np.log(list(each.values()))) / np.diff(np.log(sizes))
        exponent = float(np.polyfit(np.log(sizes), np.log(list(each.values())), 1)[0])
        table[what] = {
            "milliseconds": {n: round(value, 2) for n, value in each.items()},
            "exponent": round(exponent, 2),
            "exponent_at_the_end": round(float(slopes[-1]), 2),
        }
        shown = "   ".join(f"{n}: {value:.1f} ms" for n, value in each.items())
        print(f"{what:<12} exponent {exponent:.2f} (between the last two {slopes[-1]:.2f})   {shown}", flush=True)
        keras.backend.clear_session()
    found = milliseconds(
        {"once": steps(iwae(50), 20), "50 times": steps(iwae(50, repeat=50), 20)}, options.rounds, options.seconds
    )
    ratio = median_ratio(found["50 times"], found["once"])
    print(f"IWAE, K = 50: a step with 50 encoder runs takes {ratio:.2f} times as long as a step with one")
    table["IWAE, K = 50, encoder 50 times to once"] = round(ratio, 2)
    if options.rounds >= 3:
        store("training_growth", {"rounds": options.rounds, "seconds": options.seconds, "table": table})
