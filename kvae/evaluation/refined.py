"""Importance sampling from refined proposals: as many samples as an image requires."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.distributions import seed_words
from kvae.evaluation.graphs import decoding_floats, decoding_graph, few_at_a_time, one_at_a_time
from kvae.evaluation.importance import MEMORY, MOST_LATENTS, Rows, SampleNoise, log_sum_exp
from kvae.evaluation.proposals import NormalProposal, refined_proposal
from kvae.models import VAE

FROM_Q, FROM_R = 5, 15  # samples of a block, from q and from the refined proposal
BLOCK = FROM_Q + FROM_R
ENOUGH = 10.0  # effective samples of an image
SPARE = 1.5  # factor of the samples that a pilot expects to suffice
PILOTS = (1, 8, 64)  # blocks of successive pilots; the next one follows if the last has fewer than 5 effective samples
FEW_IN_PILOT = 5.0
FINAL = sum(PILOTS)  # number of the first block that isn't a pilot's


class RefinedSampler:
    """A sampler that scores groups of images with samples of q and of a refined proposal r (`refined_proposal`).

    All samples have the weight p(x, z) / m(z) with the density m of the mixture, in which each has its share of the
    samples (Veach & Guibas 1995, the balance heuristic; Owen & Zhou 2000). p̂, the mean of the weights, is unbiased for
    any r, and q's share bounds the weights where r is too narrow. A posterior whose density costs a pass for each
    latent (`InverseAutoregressive`) is left out: then all samples are from r.

    Samples are drawn in blocks of 20. A pilot, which isn't used further, gives the share of effective samples; it is
    repeated with more blocks if it has fewer than 5. The number of blocks follows from it, so that about 10 effective
    samples can be expected. The samples of the estimate are new: a rule that stops at good weights would bias it.

    Args:
        model: a built `kvae.VAE`; later changes of its prior have no effect.
        num_samples: number of samples of each image, rounded up to blocks; None lets pilots decide.
        most: largest number of samples of an image, if pilots decide.
        seed: seed of the noise.
        batch_size: largest number of images at once.
        steps: Newton steps.
    """

    def __init__(
        self,
        model: VAE,
        num_samples: int | None,
        seed: int,
        batch_size: int,
        most: int = 5000,
        steps: int = 2,
    ):
        self.model, self.prior, self.num_samples = model, model.prior.fixed(), num_samples
        self.most = -(-most // BLOCK)
        self.from_q = FROM_Q if model.posterior.has_fast_density else 0
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
        log_m, log_share = r.log_prob(z), None
        if self.from_q:
            log_q = self.model.posterior.log_prob(q, z) + math.log(self.from_q / BLOCK)
            log_r = log_m + math.log(1 - self.from_q / BLOCK)
            log_m = tf.reduce_logsumexp(tf.stack([log_q, log_r]), axis=0)
            log_share = log_q - log_m
        log_p_x = self.model.likelihood.log_prob(self.model.decoder_params(z, c), x)
        return log_p_x + self.prior.log_prob(z, c) - log_m, log_share

    def _draw(self, x: Any, q: Any, c: Any, r: NormalProposal, index: Any, block: Any) -> Any:
        """Return the log-weights of one block for each row, `(20, B)`."""
        noise = SampleNoise(self.words, index, (block * BLOCK)[:, None])
        shape = (BLOCK - self.from_q, tf.shape(x)[0], self.model.latent_dim)
        z = r.from_noise(noise.normal(shape))
        if self.from_q:
            z = tf.concat([self.model.posterior.sample(q, self.from_q, noise), z], axis=0)
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
            group = slice(start, min(start + self.group, len(x)))
            row = np.minimum(np.arange(start, start + self.group), len(x) - 1)  # the last image fills up the group
            inputs = [None if tensor is None else tf.gather(tensor, row) for tensor in (x, q, c)]
            r = self.refine(*inputs)
            given = None if exact is None else tf.gather(exact, row)
            return group, self._scores(*inputs, r, first + row, group.stop - start, given)

        yield from few_at_a_time(work, range(known, len(x), self.group))

    def _scores(self, x: Any, q: Any, c: Any, r: NormalProposal, index: np.ndarray, count: int, exact: Any) -> Rows:
        def blocks(first: int, numbers: np.ndarray) -> list[np.ndarray]:
            """Return the log-weights of this many blocks of each image, `(n,)` each, from block number `first` on."""
            row = np.repeat(np.arange(count), numbers)
            block = first + np.arange(len(row)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
            drawn = []
            for start in range(0, len(row), self.pairs):
                pair = slice(start, start + self.pairs)
                inputs = [None if tensor is None else tf.gather(tensor, row[pair]) for tensor in (x, q, c)]
                chosen = NormalProposal(*(tf.gather(tensor, row[pair]) for tensor in r))
                drawn.append(self.draw(*inputs, chosen, _int32(index[row[pair]]), _int32(block[pair])).numpy().T)
            log_w = np.concatenate(drawn).astype(np.float64)
            return [part.ravel() for part in np.split(log_w, np.cumsum(numbers)[:-1])]

        log_w = blocks(FINAL, self._numbers(blocks, count))
        columns = {
            "nll": np.array([_nll(w) for w in log_w]),
            "ess": np.array([_effective(w) for w in log_w]),
            "samples": np.array([len(w) for w in log_w]),
        }
        if exact is not None:
            log_exact, log_share = self.weigh(exact[None], x, q, c, r)
            columns["nll_lower"] = self._lower(log_w, log_exact.numpy()[0], log_share, index)
        return columns

    def _numbers(self, blocks: Any, count: int) -> np.ndarray:
        """Return how many blocks each image gets, after its pilots."""
        if self.num_samples is not None:
            return np.full(count, -(-self.num_samples // BLOCK))
        numbers, open_, first = np.ones(count, int), np.ones(count, bool), 0
        for size in PILOTS:
            ess = np.array([_effective(w) if len(w) else np.inf for w in blocks(first, np.where(open_, size, 0))])
            wanted = np.ceil(SPARE * ENOUGH * size / np.where(np.isfinite(ess), np.maximum(ess, 1), size))
            numbers = np.where(open_, np.clip(wanted, 1, self.most), numbers).astype(int)
            open_ &= ess < FEW_IN_PILOT
            first += size
            if not open_.any() or size >= self.most:
                break
        return numbers

    def _lower(self, log_w: list[np.ndarray], exact: np.ndarray, log_share: Any, index: np.ndarray) -> np.ndarray:
        """Return −log p̂ with one sample of each image replaced by the exact one, of its component of the mixture."""
        share = np.exp(log_share.numpy()[0]) if log_share is not None else np.zeros(len(exact))
        bounds = []
        for w, log_weight, of_q, number in zip(log_w, exact, share, index):
            is_q = np.random.default_rng([int(self.words[0]) & 0x7FFFFFFF, int(number)]).random() < of_q
            w = w.copy()
            w[0 if is_q else self.from_q] = log_weight
            bounds.append(_nll(w))
        return np.array(bounds)


def _int32(values: np.ndarray) -> Any:
    return tf.constant(values, tf.int32)


def _nll(log_w: np.ndarray) -> float:
    return float(math.log(len(log_w)) - log_sum_exp(log_w))


def _effective(log_w: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):
        return float(np.exp(2 * log_sum_exp(log_w) - log_sum_exp(2 * log_w)))
