"""A hand-written VAE after keras.io's example: a `train_step`, three `Mean` metrics, a sigmoid at the end."""

from typing import Any

import keras
import tensorflow as tf


class ByHand(keras.Model):
    """A VAE whose encoder returns means and log-variances, and whose decoder returns probabilities."""

    def __init__(self, encoder: keras.Model, decoder: keras.Model):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.seeds = keras.random.SeedGenerator(0)
        self.trackers = [keras.metrics.Mean(name=n) for n in ("loss", "reconstruction_loss", "kl_loss")]

    @property
    def metrics(self) -> list[Any]:
        return self.trackers

    def terms(self, data: Any) -> list[Any]:
        mean, log_variance = tf.split(self.encoder(data), 2, axis=-1)
        noise = keras.random.normal(tf.shape(mean), seed=self.seeds)
        images = self.decoder(mean + tf.exp(0.5 * log_variance) * noise)
        pixels = keras.losses.binary_crossentropy(data, images)
        reconstruction = tf.reduce_mean(tf.reduce_sum(pixels, axis=(1, 2)))
        kl = -0.5 * (1 + log_variance - tf.square(mean) - tf.exp(log_variance))
        kl = tf.reduce_mean(tf.reduce_sum(kl, axis=1))
        return [reconstruction + kl, reconstruction, kl]

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            terms = self.terms(data)
        gradients = tape.gradient(terms[0], self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
        return self._update_metrics(terms)

    def test_step(self, data: Any) -> dict[str, Any]:
        return self._update_metrics(self.terms(data))

    def _update_metrics(self, terms: list[Any]) -> dict[str, Any]:
        for tracker, value in zip(self.trackers, terms):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}
