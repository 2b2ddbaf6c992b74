"""How the time of a training step grows with images, latents, batch and K; and IWAE's step where the encoder runs once.

    python benchmarks/training/growth.py
    python benchmarks/training/growth.py --rounds 1 --steps 2                          # tries it out

One thing grows at a time, the others stay: 28×28 (32×32 where images grow), 16 latents, batches of 128, K = 1 and the
default network; K grows on the network of IWAE (784-200-200-50), with batches of 20, as there. The exponent is the
slope of log seconds over log size, by least squares: 1 is linear. Last, the same IWAE with K = 50 where every image
goes through the encoder 50 times, which is what repeating the images in a batch costs.
"""

import argparse
import os
import sys
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


def steps(vae: Any, batch: int, count: int) -> Callable[[], Any]:
    """`count` training steps on one batch of the model's shape."""
    images = np.random.default_rng(0).random((batch, *vae.image_shape)) < 0.13
    batches = tf.data.Dataset.from_tensors(tf.constant(images, tf.float32)).repeat(count)
    vae.compile(keras.optimizers.Adam(1e-3, global_clipnorm=200.0), steps_per_execution=count)
    return lambda: vae.fit(batches, verbose=0)


def default(size: int = 28, latents: int = 16) -> Any:
    return kvae.VAE(latent_dim=latents, image_shape=(size, size, 1))


def iwae(num_samples: int, repeat: int = 1) -> Any:
    """With `repeat`, the encoder sees every image so many times; the mean of the results is what it puts out."""

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
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    table: dict[str, Any] = {}
    for what, (sizes, made) in GROWING.items():
        runs = {str(n): steps(*made(n), options.steps) for n in sizes}
        seconds = interleaved(runs, options.rounds)
        each = [float(np.median(values)) / options.steps for values in seconds.values()]
        exponent = float(np.polyfit(np.log(sizes), np.log(each), 1)[0])
        last = float(np.diff(np.log(each[-2:]))[0] / np.diff(np.log(sizes[-2:]))[0])
        table[what] = {
            "milliseconds": {str(n): round(1000 * value, 2) for n, value in zip(sizes, each)},
            "exponent": round(exponent, 2),
            "exponent_at_the_end": round(last, 2),
        }
        shown = "   ".join(f"{n}: {1000 * value:.1f} ms" for n, value in zip(sizes, each))
        print(f"{what:<12} exponent {exponent:.2f} (between the last two {last:.2f})   {shown}", flush=True)
        keras.backend.clear_session()
    runs = {"once": steps(iwae(50), 20, options.steps), "50 times": steps(iwae(50, repeat=50), 20, options.steps)}
    seconds = interleaved(runs, options.rounds)
    ratio = median_ratio(seconds["50 times"], seconds["once"])
    print(f"IWAE, K = 50: a step whose encoder runs 50 times takes {ratio:.2f} of one where it runs once")
    table["IWAE, K = 50, encoder 50 times to once"] = round(ratio, 2)
    if options.rounds >= 3:
        store("training_growth", {"rounds": options.rounds, "steps": options.steps, "table": table})
