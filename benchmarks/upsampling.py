"""Upsampling methods in a decoder: time of a training step, and latency in LiteRT with a dynamic batch."""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from common import interleaved, store
from keras import layers

import kvae
from kvae.networks import DepthToSpace

LATENTS, BATCH = 16, 128


def decoder(*body: layers.Layer) -> keras.Sequential:
    return keras.Sequential(
        [keras.Input((LATENTS,)), layers.Dense(7 * 7 * 64, activation="relu"), layers.Reshape((7, 7, 64)), *body]
    )


def conv(filters: int, activation: str | None = "relu") -> layers.Layer:
    return layers.Conv2D(filters, 3, padding="same", activation=activation)


def transpose(filters: int) -> layers.Layer:
    return layers.Conv2DTranspose(filters, 3, strides=2, padding="same", activation="relu")


def bilinear() -> layers.Layer:
    return layers.UpSampling2D(interpolation="bilinear")


CONTESTANTS = {
    "conv at 7 and 14, depth-to-space last (default)": lambda: decoder(
        conv(128), DepthToSpace(), conv(32), conv(4, None), DepthToSpace()
    ),
    "depth-to-space at every level": lambda: decoder(
        conv(256), DepthToSpace(), conv(128), DepthToSpace(), conv(1, None)
    ),
    "Conv2DTranspose 64, 32": lambda: decoder(transpose(64), transpose(32), conv(1, None)),
    "bilinear upsampling + conv": lambda: decoder(bilinear(), conv(64), bilinear(), conv(32), conv(1, None)),
}


def training_step(network: keras.Model):
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(network.trainable_variables)
    z = tf.random.normal((BATCH, LATENTS))
    x = tf.cast(tf.random.uniform((BATCH, 28, 28, 1)) < 0.13, tf.float32)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            logits = network(z, training=True)
            loss = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(x, logits)) / BATCH
        optimizer.apply(tape.gradient(loss, network.trainable_variables))
        return loss

    return lambda: float(step())


def litert(network: keras.Model, folder: Path):
    from kvae.export.runtime import load

    vae = kvae.VAE(decoder=network, latent_dim=LATENTS, image_shape=(28, 28, 1))
    kvae.export.export(vae, folder, batch_sizes=(1, None))
    runs = {}
    for precision in ("float32", "int8"):
        model = load(folder / f"vae_{precision}.tflite")
        for batch in (1, 32):
            z = np.random.default_rng(0).normal(size=(batch, LATENTS)).astype("float32")
            runs[f"{precision}, batch {batch}"] = lambda model=model, z=z: model.decode(z)
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    networks = {name: make() for name, make in CONTESTANTS.items()}
    training = interleaved({name: training_step(network) for name, network in networks.items()}, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: litert(network, Path(folder) / str(i)) for i, (name, network) in enumerate(networks.items())}
        cases = list(next(iter(runs.values())))
        latency = {case: interleaved({name: runs[name][case] for name in runs}, options.rounds) for case in cases}
    rows = {}
    for name, network in networks.items():
        rows[name] = {
            "weights": network.count_params(),
            "training step, batch 128, ms": round(1e3 * statistics.median(training[name]), 1),
            **{f"LiteRT {case}, ms": round(1e3 * statistics.median(latency[case][name]), 3) for case in cases},
        }
    columns = list(next(iter(rows.values())))
    for name, row in rows.items():
        print(f"\n{name}")
        for column in columns:
            print(f"  {row[column]:>12,}  {column}")
    store("upsampling", {"rows": rows})
