"""Annealed importance sampling: for models of so many latents that a Hessian is too large."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.distributions import seed_words
from kvae.distributions.diagonal_normal import LOG_2PI
from kvae.evaluation.graphs import decoding_floats, decoding_graph, filled_group, gathered
from kvae.evaluation.importance import MEMORY, MOST_LATENTS, Rows, SampleNoise, sum_and_ess
from kvae.models import VAE

CHAINS = 10
ACCEPTED = 0.65  # share of accepted moves for which the pilot adapts the step sizes
FASTER = 0.3  # change of log ε for an acceptance that is off by 1
PILOT, BACK = 1 << 20, 1 << 21  # draws before those of a pilot, and of the chain back: parts of the random key


class AnnealedSampler:
    """A sampler that scores groups of images by annealed importance sampling (AIS) with Hamiltonian Monte Carlo.

    A chain starts with a sample of r = N(μ_q, diag(σ_q²)) and moves through f_β(z) = r(z)^(1−β) p(x, z)^β, with β from
    0 to 1 in T levels. Its weight Π_t f_{β_t}(z_{t−1}) / f_{β_{t−1}}(z_{t−1}) has the expectation p(x) (Neal 2001,
    "Annealed importance sampling"; for decoders: Wu et al. 2017, https://arxiv.org/abs/1611.04273). The cost doesn't
    depend on D except through the decoder: T · leaps gradients for each chain, and as much for a pilot, which
    adapts the step sizes of each image and level. The chains of the estimate are new. All chains of an image are
    decoded at once.

    Args:
        model: a built `kvae.VAE`; later changes of its prior have no effect.
        num_samples: number of chains of each image; None for 10.
        seed: seed of the noise.
        batch_size: largest number of images at once.
        levels: number of levels, T.
        leaps: leapfrog steps of a move.
    """

    def __init__(
        self, model: VAE, num_samples: int | None, seed: int, batch_size: int, levels: int = 100, leaps: int = 4
    ):
        self.model, self.prior, self.leaps = model, model.prior.fixed(), leaps
        self.chains = num_samples or CHAINS
        latents = max(1, min(MOST_LATENTS, MEMORY // (4 * decoding_floats(decoding_graph(model, self.prior)))))
        self.group = max(1, min(batch_size, latents // self.chains))
        self.words = tf.constant(seed_words(seed))
        # Levels are close to each other at both ends, where the densities change fastest.
        sigmoid = 1 / (1 + np.exp(-np.linspace(-4, 4, levels + 1)))
        self.betas = ((sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])).astype("float32")
        self.run = tf.function(self._run)

    def groups(
        self, x: Any, c: Any, first: int, known: int, target: Any = None, exact: Any = None
    ) -> Iterator[tuple[slice, Rows]]:
        """Yield the scores of the images of a batch after the first `known`, as `RefinedSampler.groups` does."""
        q = self.model.encoder_params(x, c)
        mean, variance = self.model.posterior.moments(q)
        scale = tf.sqrt(variance)
        x = x if target is None else target
        for start in range(known, len(x), self.group):
            group, row = filled_group(start, self.group, len(x))
            *inputs, given = gathered((x, mean, scale, c, exact), row)
            yield group, self._scores(inputs, tf.constant(first + row, tf.int32), group.stop - start, given)

    def _noise(self, index: Any, start: Any, draws: int) -> SampleNoise:
        noise = SampleNoise(self.words, index, start)
        noise.draws = draws
        return noise

    def _scores(self, inputs: Any, index: Any, count: int, exact: Any) -> Rows:
        steps, up = tf.constant(self.betas[1:] - self.betas[:-1]), tf.constant(self.betas[1:])
        shape = (self.chains, self.group, self.model.latent_dim)
        some_size = tf.fill((len(steps), self.group), np.float32(0.5 * self.model.latent_dim**-0.25))

        def starts(number: int) -> Any:
            return self._noise(index, 0, number).normal(shape)

        _, sizes = self.run(starts(PILOT), steps, up, some_size, index, PILOT, True, *inputs)
        log_w = self.run(starts(0), steps, up, sizes, index, 0, False, *inputs)[0].numpy().astype(np.float64)
        nll, ess = _scored(log_w)
        columns = {"nll": nll, "ess": ess, "samples": np.full(self.group, self.chains)}
        if exact is not None:
            _, mean, scale, _ = inputs
            end = ((exact - mean) / scale)[None]
            down = tf.constant(self.betas[-2::-1])  # the levels of the chain from p(z|x) back to r
            back = tf.concat([sizes[-2::-1], sizes[:1]], axis=0)
            log_exact = self.run(end, steps[::-1], down, back, index, BACK, False, *inputs)
            log_w[0] = log_exact[0].numpy()[0]
            columns["nll_lower"], _ = _scored(log_w)
        return {name: values[:count] for name, values in columns.items()}

    def _run(
        self, u: Any, steps: Any, betas: Any, sizes: Any, index: Any, draws: int, adapt: bool, x: Any, mean: Any,
        scale: Any, c: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        """Return the log-weights `(n, B)` of chains that start at u `(n, B, D)`, and the sizes of their moves `(T, B)`.

        z = mean + scale · u. `steps` are the changes of β, `betas` the levels after them, `(T,)`.
        """

        def log_ratio(u: Any) -> tuple[Any, Any]:
            """Return log p(x, z) − log r(z), `(n, B)`, and its gradient in u."""
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(u)
                z = mean + scale * u
                log_p = self.model.likelihood.log_prob(self.model.decoder_params(z, c), x) + self.prior.log_prob(z, c)
                log_r = -0.5 * tf.reduce_sum(tf.square(u) + LOG_2PI, axis=-1) - tf.reduce_sum(tf.math.log(scale), -1)
                ratio = log_p - log_r
            return ratio, tape.gradient(ratio, u)

        def move(t: Any, u: Any, ratio: Any, slope: Any, size: Any) -> tuple[Any, ...]:
            """Move by HMC at level t, and return the share of accepted moves of each image as well."""
            noise = self._noise(index, (t + 1) * self.chains, draws)
            beta, e = betas[t], size[:, None]
            momentum = noise.normal(u.shape)
            new, new_ratio, new_slope = u, ratio, slope
            p = momentum + 0.5 * e * (beta * slope - u)
            for leap in range(self.leaps):
                new = new + e * p
                new_ratio, new_slope = log_ratio(new)
                p = p + (0.5 if leap == self.leaps - 1 else 1.0) * e * (beta * new_slope - new)

            def energy(ratio: Any, u: Any, p: Any) -> Any:
                return beta * ratio - 0.5 * tf.reduce_sum(tf.square(u) + tf.square(p), axis=-1)

            change = energy(new_ratio, new, p) - energy(ratio, u, momentum)
            change = tf.where(tf.math.is_finite(change), change, -math.inf)
            is_taken = tf.math.log(noise.uniform((*change.shape, 1))[..., 0]) < change
            keep = is_taken[..., None]
            accepted = tf.reduce_mean(tf.exp(tf.minimum(change, 0.0)), axis=0)
            u, slope = tf.where(keep, new, u), tf.where(keep, new_slope, slope)
            return u, tf.where(is_taken, new_ratio, ratio), slope, accepted

        ratio, slope = log_ratio(u)
        log_w, size = tf.zeros_like(ratio), sizes[0]
        used = tf.TensorArray(tf.float32, size=len(self.betas) - 1)
        for t in tf.range(len(self.betas) - 1):
            log_w += steps[t] * ratio
            size = size if adapt else sizes[t]
            used = used.write(t, size)
            u, ratio, slope, accepted = move(t, u, ratio, slope, size)
            size *= tf.exp(FASTER * (accepted - ACCEPTED))
        return log_w, used.stack()


def _scored(log_w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return −log p̂ and the effective sample size of each image, for log-weights `(n, B)`."""
    n, count = log_w.shape
    log_sum, ess = sum_and_ess(log_w.T.ravel(), np.full(count, n))
    return math.log(n) - log_sum, ess
