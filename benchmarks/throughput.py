"""`vae.fit` against a bare `tf.function` loop: the same network, optimizer and data, in one process."""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from common import interleaved, rates, store

import kvae
from kvae import networks

IMAGE_SHAPE, LATENTS, BATCH = (28, 28, 1), 16, 128


def make_vae(network: str) -> kvae.VAE:
    bodies = (networks.MLP((200, 200)), networks.MLP((200, 200))) if network == "mlp" else (None, None)
    return kvae.VAE(
        encoder=kvae.Encoder(LATENTS, bodies[0]), decoder=kvae.Decoder(IMAGE_SHAPE, bodies[1]), latent_dim=LATENTS
    )


def bare_loop(vae: kvae.VAE, data: tf.data.Dataset):
    """What one would write by hand: no metrics, no callbacks, the ELBO spelled out."""
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(vae.trainable_variables)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            mean, raw = tf.split(vae.encoder(x, training=True), 2, axis=-1)
            log_scale = 6.9 * tf.tanh(raw / 6.9)
            z = mean + tf.exp(log_scale) * tf.random.normal(tf.shape(mean))
            logits = vae.decoder(z, training=True)
            distortion = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(x, logits), (1, 2, 3))
            rate = tf.reduce_sum(0.5 * (mean**2 + tf.exp(2 * log_scale) - 1) - log_scale, 1)
            loss = tf.reduce_mean(distortion + rate)
        optimizer.apply(tape.gradient(loss, vae.trainable_variables))
        return loss

    def epoch():
        for x in data:
            loss = step(x)
        return float(loss)

    return epoch


def compare(network: str, images: int, rounds: int) -> dict:
    x = (np.random.default_rng(0).random((images, *IMAGE_SHAPE)) < 0.13).astype("uint8")
    data = kvae.data.load(x, batch_size=BATCH, validation_fraction=0, test_fraction=0).train
    steps = images // BATCH
    contestants = {"bare tf.function loop": bare_loop(make_vae(network), data)}
    for name, per_execution in (("fit, Keras's default", 1), ("fit, as `kvae train`", max(1, min(50, steps // 8)))):
        vae = make_vae(network)
        vae.compile(keras.optimizers.Adam(1e-3), steps_per_execution=per_execution)
        contestants[name] = lambda vae=vae: vae.fit(data, verbose=0)
    seconds = interleaved(contestants, rounds)
    print(f"\n{network}, {images:,} images of 28×28, batch {BATCH}, {rounds} rounds")
    return rates(seconds, "bare tf.function loop", images, "ratio_to_bare")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=12_800)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    store("throughput", {name: compare(name, options.images, options.rounds) for name in ("conv", "mlp")})
