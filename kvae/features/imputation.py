"""Missing values of rows given the observed ones, by importance sampling of the latents."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

from kvae.distributions import IndexedNoise, seed_words
from kvae.evaluation.importance import SampleNoise
from kvae.features.extraction import padded
from kvae.models import VAE

BATCH = 64  # rows at once, each with all its latents: always the same number, so that results don't depend on others


class Latents(NamedTuple):
    """K latents of each of B rows, from q(z|x_o), and the weights that make them samples of p(z|x_o)."""

    params: Any  # (K, B, P), raw parameters of p(x|z)
    weight: Any  # (K, B), adding up to 1 for each row


class Imputer:
    """Values of rows given the observed ones x_o, by self-normalised importance sampling:

        E[f(z) | x_o] ≈ Σ_k w_k f(z_k),  w_k ∝ p(x_o|z_k) p(z_k) / q(z_k|x_o),  z_k ~ q(z|x_o)

    (Mattei & Frellsen 2019, https://arxiv.org/abs/1812.02633, eq. 12). Rows are `(N, columns)` float32, NaN if missing.

    Args:
        model: a VAE whose likelihood is `kvae.likelihoods.Columns`.
        num_samples: K.
        seed: seed of the latents of `averaged` and `explained`, which all rows share.
    """

    def __init__(self, model: VAE, num_samples: int, seed: int):
        self.model, self.num_samples, self.seed = model, num_samples, seed
        self._graphs: dict[Any, Any] = {}

    def averaged(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean or the most probable value of every column, and its uncertainty (`Columns.averaged`)."""
        values, uncertainty = self._rows(self._averaged, x)
        return values, uncertainty

    def drawn(self, x: np.ndarray, seed: int) -> np.ndarray:
        """Return rows whose missing values are samples of p(x_m|x_o): row i depends on the seed, i and x_o."""
        (values,) = self._rows(self._drawn, x, seed)
        return np.where(np.isnan(x), values, x)

    def explained(self, x: np.ndarray) -> np.ndarray:
        """Return Σ_k w_k log p(x_j|z_k) of each column in nats, NaN if missing."""
        (values,) = self._rows(self._explained, x)
        return np.where(np.isnan(x), np.nan, values)

    def _rows(self, function: Callable[..., Any], x: np.ndarray, seed: int | None = None) -> list[np.ndarray]:
        words = tf.constant(seed_words(self.seed if seed is None else seed))
        graph, batches = self._graph(function), []
        for start in range(0, len(x), BATCH):
            # Without a seed, all rows share the noise of row 0, so that a result depends only on its row.
            index = np.zeros(BATCH, "int32") if seed is None else np.arange(start, start + BATCH, dtype="int32")
            rows = padded(x[start : start + BATCH], BATCH)
            batches.append([np.asarray(part) for part in graph(tf.constant(rows), tf.constant(index), words)])
        return [np.concatenate(parts)[: len(x)] for parts in zip(*batches)]

    def _graph(self, function: Callable[..., Any]) -> Any:
        if function not in self._graphs:
            specs = [((BATCH, *self.model.event_shape), "float32"), ((BATCH,), "int32"), ((2,), "int32")]
            self._graphs[function] = tf.function(function).get_concrete_function(
                *(tf.TensorSpec(shape, dtype) for shape, dtype in specs)
            )
        return self._graphs[function]

    def _latents(self, x: Any, index: Any, words: Any) -> Latents:
        model = self.model
        q = model.encoder_params(x)
        z, log_q = model.posterior.sample_and_log_prob(q, self.num_samples, SampleNoise(words, index, 0))
        params = model.decoder_params(z)
        log_weight = model.likelihood.log_prob(params, x) + model.prior.log_prob(z, None) - log_q  # (K, B)
        return Latents(params, ops.softmax(log_weight, axis=0))

    def _averaged(self, x: Any, index: Any, words: Any) -> tuple[Any, Any]:
        return self.model.likelihood.averaged(*self._latents(x, index, words))

    def _drawn(self, x: Any, index: Any, words: Any) -> tuple[Any]:
        params, weight = self._latents(x, index, words)
        noise = IndexedNoise(words, index)
        u = noise.uniform((1, BATCH, 1))[0, :, 0]
        chosen = ops.sum(ops.cast(u > ops.cumsum(weight, axis=0)[:-1], "int32"), axis=0)  # (B,)
        params = ops.take_along_axis(params, chosen[None, :, None], axis=0)[0]
        return (self.model.likelihood.sample(params, 1, noise)[0],)

    def _explained(self, x: Any, index: Any, words: Any) -> tuple[Any]:
        params, weight = self._latents(x, index, words)
        return (ops.sum(weight[..., None] * self.model.likelihood.entry_log_prob(params, x), axis=0),)
