"""Importance sampling from refined proposals: as many samples as an image requires."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.distributions import seed_words
from kvae.evaluation.graphs import decoding_floats, decoding_graph, few_at_a_time, filled_group, gathered, one_at_a_time
from kvae.evaluation.importance import MEMORY, MOST_LATENTS, Rows, SampleNoise, decoded_params, sum_and_ess
from kvae.evaluation.proposals import NormalProposal, refined_proposal
from kvae.models import VAE

FROM_Q, FROM_R = 5, 15  # samples of a block, from q and from the refined proposal
BLOCK = FROM_Q + FROM_R
ENOUGH = 10.0  # effective samples of an image
SPARE = 1.5  # factor of the samples that a pilot expects to suffice
PILOTS = (1, 4, 16, 64)  # blocks of successive pilots
FEW_IN_PILOT = 2.0  # effective samples; with fewer, a longer pilot follows
FINAL = sum(PILOTS)  # number of the first block that isn't a pilot's


class RefinedSampler:
    """A sampler that scores groups of images with samples of q and of a refined proposal r (`refined_proposal`).

    All samples have the weight p(x, z) / m(z) with the density m of the mixture, in which each has its share of the
    samples (Veach & Guibas 1995, the balance heuristic; Owen & Zhou 2000). p̂, the mean of the weights, is unbiased for
    any r, and no weight is more than four times that under q alone.

    Samples are drawn in blocks of 20. A pilot, which isn't used further, gives the share of effective samples; it is
    repeated with four times as many blocks while it has fewer than 2. The number of blocks follows from it, so that
    about 10 effective samples can be expected. The samples of the estimate are new: a rule that stops at good weights
    would bias it.

    Args:
        model: a built `kvae.VAE`; later changes of its prior have no effect.
        num_samples: number of samples of each image, rounded up to a multiple of 20; None lets pilots decide.
        most: largest number of samples of an image, if pilots decide.
        seed: seed of the noise.
        batch_size: largest number of images at once.
        steps: Newton steps.
        decode: function from latents `(N, D)` and conditions `(N, C)`, if there are any, to mean images, such as that
            of an exported file; it replaces the decoder in p(x|z), but not in the proposal.
        same_noise: whether all images have the noise of the first one, so that a score depends only on its image.
    """

    def __init__(
        self,
        model: VAE,
        num_samples: int | None,
        seed: int,
        batch_size: int,
        most: int = 5000,
        steps: int = 2,
        decode: Callable[..., np.ndarray] | None = None,
        same_noise: bool = False,
    ):
        self.model, self.prior, self.num_samples = model, model.prior.fixed(), num_samples
        self.decode = decode
        self.most, self.same_noise = -(-most // BLOCK), same_noise
        floats, size = decoding_floats(decoding_graph(model, self.prior)), model.latent_dim
        latents = max(1, min(MOST_LATENTS, MEMORY // (4 * floats)))
        self.group = max(1, min(batch_size, latents // (size + 1)))  # images that are refined at once
        self.pairs = max(1, min(latents // BLOCK, MEMORY // (4 * size**2)))  # blocks that are drawn at once
        self.words = tf.constant(seed_words(seed))
        refine = functools.partial(refined_proposal, model, self.prior, steps=steps)
        self.refine = one_at_a_time(tf.function(refine))
        self.draw = one_at_a_time(tf.function(self._draw, reduce_retracing=True))
        self.weigh = one_at_a_time(tf.function(self._weigh))

    def _weigh(self, z: Any, x: Any, q: Any, c: Any, r: NormalProposal) -> tuple[Any, Any]:
        """Return log p(x, z) − log m(z) of z `(n, B, D)`, and the logarithm of q's share in m(z), `(n, B)` each."""
        log_q = self.model.posterior.log_prob(q, z)
        log_q = tf.where(tf.math.is_finite(log_q), log_q, -math.inf) + math.log(
            FROM_Q / BLOCK
        )  # 0 beyond a flow's range
        log_r = r.log_prob(z) + math.log(FROM_R / BLOCK)
        log_m = tf.reduce_logsumexp(tf.stack([log_q, log_r]), axis=0)
        params = decoded_params(self.model, z, c, self.decode)
        log_p_x = self.model.likelihood.log_prob(params, x)
        return log_p_x + self.prior.log_prob(z, c) - log_m, log_q - log_m

    def _draw(self, x: Any, q: Any, c: Any, r: NormalProposal, index: Any, block: Any) -> Any:
        """Return the log-weights of one block for each row, `(20, B)`."""
        noise = SampleNoise(self.words, index, (block * BLOCK)[:, None])
        of_r = r.from_noise(noise.normal((FROM_R, tf.shape(x)[0], self.model.latent_dim)))
        z = tf.concat([self.model.posterior.sample(q, FROM_Q, noise), of_r], axis=0)
        return self._weigh(z, x, q, c, r)[0]

    def groups(
        self, x: Any, c: Any, first: int, known: int, target: Any = None, exact: Any = None
    ) -> Iterator[tuple[slice, Rows]]:
        """Yield the scores of the images of a batch after the first `known`; `first` is the number of its first image.

        Args:
            x: checked images.
            target: images of the likelihood, if they aren't `x`.
            exact: one sample of p(z|x) for each image, `(B, D)`, for `nll_lower`.
        """
        q = self.model.encoder_params(x, c)
        x = x if target is None else target

        def work(start: int) -> tuple[slice, Rows]:
            group, row = filled_group(start, self.group, len(x))
            *inputs, given = gathered((x, q, c, exact), row)
            r = self.refine(*inputs)
            index = np.zeros_like(row) if self.same_noise else first + row
            return group, self._scores(inputs, r, index, group.stop - start, given)

        yield from few_at_a_time(work, range(known, len(x), self.group))

    def _scores(self, images: Any, r: NormalProposal, index: np.ndarray, count: int, exact: Any) -> Rows:
        def blocks(rows: np.ndarray, first: int, numbers: np.ndarray) -> np.ndarray:
            """Return the log-weights of blocks `first`, `first` + 1, … of these images, one after the other."""
            row = np.repeat(rows, numbers)
            block = first + np.arange(len(row)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
            drawn = []
            for start in range(0, len(row), self.pairs):
                pair = slice(start, start + self.pairs)
                inputs, chosen = gathered(images, row[pair]), NormalProposal(*gathered(r, row[pair]))
                drawn.append(self.draw(*inputs, chosen, _int32(index[row[pair]]), _int32(block[pair])).numpy().T)
            return np.concatenate(drawn).ravel().astype(np.float64)

        numbers = self._numbers(blocks, count)
        log_w, samples = blocks(np.arange(count), FINAL, numbers), BLOCK * numbers
        log_sum, ess = sum_and_ess(log_w, samples)
        columns = {"nll": np.log(samples) - log_sum, "ess": ess, "samples": samples}
        if exact is not None:
            log_exact, log_share = self.weigh(exact[None], *images, r)
            is_of_q = np.random.default_rng(index[0]).random(count) < np.exp(log_share.numpy()[0, :count])
            replaced = np.cumsum(samples) - samples + np.where(is_of_q, 0, FROM_Q)  # the first sample of q or r
            log_w[replaced] = log_exact.numpy()[0, :count]
            columns["nll_lower"] = np.log(samples) - sum_and_ess(log_w, samples)[0]
        return columns

    def _numbers(self, blocks: Callable[..., np.ndarray], count: int) -> np.ndarray:
        """Return how many blocks each image gets, after its pilots."""
        if self.num_samples is not None:
            return np.full(count, -(-self.num_samples // BLOCK))
        numbers, rows, first = np.ones(count, int), np.arange(count), 0
        for size in PILOTS:
            sizes = np.full(len(rows), size)
            _, ess = sum_and_ess(blocks(rows, first, sizes), BLOCK * sizes)
            ess = np.where(np.isfinite(ess), ess, SPARE * ENOUGH * size)  # more samples don't help against NaN
            numbers[rows] = np.clip(np.ceil(SPARE * ENOUGH * size / ess), 1, self.most)
            rows, first = rows[ess < FEW_IN_PILOT], first + size
            if not len(rows) or size >= self.most:
                break
        return numbers


def _int32(values: np.ndarray) -> Any:
    return tf.constant(values, tf.int32)
