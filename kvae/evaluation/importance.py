"""Importance sampling of log p(x) with samples of the posterior: fast, in bounded memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from kvae.distributions import Noise, closed_form_kl, normal_from_words, seed_words, uniform_from_words
from kvae.distributions.threefry import threefry
from kvae.evaluation.graphs import (
    decoding_floats,
    decoding_graph,
    few_at_a_time,
    filled_group,
    gathered,
    has_convolutions,
    one_at_a_time,
)
from kvae.models import VAE

MEMORY = 64 << 20  # bytes of the largest tensor while decoding
MOST_LATENTS = 8192  # decoded at once; more is not faster
XLA_SAMPLES = 256  # the smallest K for which compiling is worthwhile
STREAM = 0x45000000  # separates these random numbers from those of samples with the same seed

Rows = dict[str, np.ndarray]


class SampleNoise(Noise):
    """Noise of sample k of image i: a function of only (seed, i, k).

    Args:
        seed: int32 `(2,)`, from `kvae.distributions.seed_words`.
        index: numbers of the images, int32 `(B,)`.
        start: number of the first sample, a scalar int32.

    Example:

        >>> index = np.arange(3, dtype="int32")
        >>> whole = SampleNoise(seed_words(7), index, 0).normal((4, 3, 2))
        >>> part = SampleNoise(seed_words(7), index[1:], 2).normal((2, 2, 2))
        >>> bool(ops.all(whole[2:, 1:] == part))
        True
    """

    def __init__(self, seed: Any, index: Any, start: Any):
        super().__init__(0)
        self.seed: Any = seed
        self.index, self.start = index, start

    def normal(self, shape: Sequence[Any]) -> Any:
        return normal_from_words(self._words(shape))

    def uniform(self, shape: Sequence[Any]) -> Any:
        return uniform_from_words(self._words(shape))

    def _words(self, shape: Sequence[Any]) -> Any:
        n, batch, *event = shape
        size = math.prod(event)
        blocks = (size + 1) // 2
        self.draws += 1
        key = (self.seed[0] + (STREAM + self.draws), self.seed[1])
        sample = self.start + ops.arange(n, dtype="int32")[:, None, None]
        counter = (ops.reshape(self.index, (1, -1, 1)), sample * blocks + ops.arange(blocks, dtype="int32"))
        words = ops.concatenate(threefry(key, counter), axis=-1)[..., :size]  # (n, B, size)
        return ops.reshape(words, (n, batch, *event))


def decoded_params(model: VAE, z: Any, c: Any, decode: Callable[..., np.ndarray] | None) -> Any:
    """Return raw parameters `(…, B, H, W, P)` of p(x|z), by the decoder, or those of the mean images of `decode`."""
    if decode is None:
        return model.decoder_params(z, c)
    flat = [tf.reshape(z, (-1, z.shape[-1]))]
    if c is not None:
        flat.append(tf.reshape(tf.ones_like(z[..., :1]) * c, (-1, c.shape[-1])))
    mean = tf.numpy_function(lambda *inputs: decode(*inputs).astype("float32"), flat, tf.float32)
    return model.likelihood.from_mean(tf.reshape(mean, (*tf.unstack(tf.shape(z)[:-1]), *model.event_shape)))


class ImportanceSampler:
    """A sampler that scores groups of images; all groups have the same size, so that one graph is compiled once.

    Args:
        model: a built `kvae.VAE`; later changes of its prior have no effect.
        num_samples: K.
        seed: seed of the noise.
        batch_size: largest number of images at once.
        same_noise: whether all images have the noise of the first one, so that a score depends only on its image.
        decode: function from latents `(N, D)` and conditions `(N, C)`, if there are any, to mean images, such as that
            of an exported file; it replaces the decoder in p(x|z), but not in the posterior of a hierarchy.
    """

    def __init__(
        self,
        model: VAE,
        num_samples: int,
        seed: int,
        batch_size: int,
        same_noise: bool = False,
        decode: Callable[..., np.ndarray] | None = None,
    ):
        posterior, likelihood, prior = model.posterior, model.likelihood, model.prior.fixed()
        decoding = decoding_graph(model, prior)
        latents = max(1, min(MOST_LATENTS, MEMORY // (4 * decoding_floats(decoding))))
        chunks = -(-num_samples // latents)
        self.model, self.num_samples, self.same_noise = model, num_samples, same_noise
        self.chunk = -(-num_samples // chunks)  # samples of each image at once
        self.group = max(1, min(batch_size, latents // num_samples))  # images at once
        self.kl, self.prior = closed_form_kl(posterior, prior), prior
        self.words = words = tf.constant(seed_words(seed))

        def joint(x: Any, q: Any, c: Any, index: Any, start: Any) -> tuple[Any, ...]:
            log_q, drawn = posterior.draw(q, self.chunk, SampleNoise(words, index, start))
            params = drawn.params if decode is None else decoded_params(model, drawn.z, c, decode)
            return likelihood.log_prob(params, x), prior.log_prob(drawn.z, c) - log_q, drawn.rates

        def draw(q: Any, c: Any, index: Any, start: Any) -> tuple[Any, Any]:
            z, log_q = posterior.sample_and_log_prob(q, self.chunk, SampleNoise(words, index, start))
            return z, prior.log_prob(z, c) - log_q  # (n, B, D), (n, B)

        def make_terms(compile_parts: bool) -> Callable[..., tuple[Any, ...]]:
            if posterior.is_joint:
                return joint
            drawn, log_prob = (tf.function(part, jit_compile=compile_parts) for part in (draw, likelihood.log_prob))

            def terms(x: Any, q: Any, c: Any, index: Any, start: Any) -> tuple[Any, Any]:
                z, log_ratio = drawn(q, c, index, start)
                return log_prob(
                    decoded_params(model, z, c, decode), x
                ), log_ratio  # (n, B) each: log p(x|z), log p(z)/q(z|x)

            return terms

        self.make_terms = make_terms
        self.compile_parts = num_samples >= XLA_SAMPLES and not posterior.is_joint and decode is None
        # oneDNN's convolutions, and its products of bfloat16, are faster than XLA's.
        plain = model.decoder.compute_dtype == "float32" and not has_convolutions(decoding)
        self.compile = self.compile_parts and plain
        self.graph: Any = None

    def encode(self, x: Any, c: Any) -> tuple[Any, Any, Any, Any]:
        q = self.model.encoder_params(x, c)
        rate = self.kl(self.model.posterior, q, self.prior, c) if self.kl else None
        return q, *self.model.posterior.top_moments(q), rate

    def groups(self, x: Any, c: Any, first: int, known: int, target: Any = None) -> Iterator[tuple[slice, Rows]]:
        """Yield the scores of the images of a batch after the first `known`; `first` is the number of its first image.

        `x` are checked images. `target` has the images of the likelihood, if they aren't `x`.
        """
        q, mean, variance, rate = self.encode(x, c)
        x = x if target is None else target

        def tensors(start: int) -> tuple[Any, ...]:
            _, row = filled_group(start, self.group, len(x))
            index = tf.constant(np.zeros_like(row) if self.same_noise else first + row, tf.int32)
            return *gathered((x, q, c), row), index

        def work(start: int) -> tuple[slice, Rows]:
            group, _ = filled_group(start, self.group, len(x))
            scores = {name: values[: group.stop - start] for name, values in self._scores(*tensors(start)).items()}
            if rate is not None:
                scores["rate"] = rate[group].numpy().astype(np.float64)
            return group, {**scores, "mean": mean[group].numpy(), "variance": variance[group].numpy()}

        self.graph = self.graph or self._graph(*tensors(known), tf.constant(0))
        yield from few_at_a_time(work, range(known, len(x), self.group))

    def entry_distortions(self, x: Any) -> np.ndarray:
        """Return −1/K Σ log p(x_i|z_k) of each entry i of images, `(N, *event)` in nats, with the noise of the scores.

        The last axis has size 1 if the channels of a pixel depend on each other (`Distribution.entry_distortion`).
        """
        model, parts = self.model, []
        for first in range(0, len(x), self.group):
            images = model.check_images(x[first : first + self.group])
            q = model.encoder_params(images, None)
            index = np.arange(first, first + len(images), dtype="int32") * (not self.same_noise)
            total: Any = 0.0
            for start in range(0, self.num_samples, self.chunk):
                noise = SampleNoise(self.words, index, start)
                count = min(self.chunk, self.num_samples - start)
                if model.posterior.is_joint:
                    params = model.posterior.draw(q, count, noise)[1].params
                else:
                    params = model.decoder_params(model.posterior.sample_and_log_prob(q, count, noise)[0], None)
                entries = model.likelihood.entry_distortion(params, images)  # (n, B, *event)
                total = total + entries.numpy().astype(np.float64).sum(axis=0)
            parts.append(total / self.num_samples)
        return np.concatenate(parts)

    def _graph(self, *inputs: Any) -> Any:
        """Compile everything, everything except the decoder, or nothing: what is worthwhile and XLA supports."""
        for whole in [True] * self.compile + [False] * self.compile_parts:
            terms = self.make_terms(compile_parts=True)
            graph = tf.function(terms, jit_compile=whole).get_concrete_function(*inputs)
            try:
                graph(*inputs)
                return graph if whole else one_at_a_time(graph)
            except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
                pass  # an operation that XLA can't compile
        return one_at_a_time(tf.function(self.make_terms(compile_parts=False)).get_concrete_function(*inputs))

    def _scores(self, x: Any, q: Any, c: Any, index: Any) -> Rows:
        log_sums, log_squares, log_p_xs, log_ratios, rates = [], [], [], [], []
        for start in range(0, self.num_samples, self.chunk):
            log_p_x, log_ratio, *of_layers = (
                term.numpy().astype(np.float64)[: self.num_samples - start]
                for term in self.graph(x, q, c, index, tf.constant(start))
            )
            log_sums.append(log_sum_exp(log_p_x + log_ratio))
            log_squares.append(log_sum_exp(2 * (log_p_x + log_ratio)))
            log_p_xs.append(log_p_x.sum(axis=0))
            log_ratios.append(log_ratio.sum(axis=0))
            rates += [rate.sum(axis=0) for rate in of_layers]
        log_sum, log_square = log_sum_exp(np.stack(log_sums)), log_sum_exp(np.stack(log_squares))
        with np.errstate(invalid="ignore"):
            ess = np.exp(2 * log_sum - log_square)
        return {
            "distortion": -np.sum(log_p_xs, axis=0) / self.num_samples,
            "rate": -np.sum(log_ratios, axis=0) / self.num_samples,
            "nll": math.log(self.num_samples) - log_sum,
            "ess": ess,
            **({"layer_rates": np.sum(rates, axis=0) / self.num_samples} if rates else {}),
        }


def sum_and_ess(log_w: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log Σ w and the effective sample size (Σ w)² / Σ w² of successive parts of these lengths.

    Example:

        >>> log_sum, ess = sum_and_ess(np.log([1.0, 3.0, 2.0, 2.0]), np.array([2, 2]))
        >>> np.exp(log_sum).round(2).tolist(), ess.round(2).tolist()
        ([4.0, 4.0], [1.6, 2.0])
    """
    starts = np.cumsum(lengths) - lengths
    top = np.maximum.reduceat(log_w, starts)
    shift = np.where(np.isfinite(top), top, 0.0)
    w = np.exp(log_w - np.repeat(shift, lengths))
    total = np.add.reduceat(w, starts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(total) + shift, total**2 / np.add.reduceat(w**2, starts)


def log_sum_exp(values: np.ndarray) -> np.ndarray:
    """Compute log Σ exp over the first axis without overflow; NaN and ±∞ are kept.

    Example:

        >>> log_sum_exp(np.array([[-1e4, 0.0], [-1e4, -np.inf]])).round(2).tolist()
        [-9999.31, 0.0]
    """
    top = np.max(values, axis=0)
    shift = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.sum(np.exp(values - shift), axis=0)) + shift
