"""A sandwich of log p(x) on images drawn from the model: how far an estimate is from the truth."""

import math
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from kvae.arguments import integer
from kvae.distributions import IndexedNoise, seed_words
from kvae.evaluation.importance import ImportanceSampler, Rows
from kvae.evaluation.likelihood import standard_error
from kvae.evaluation.scoring import SAMPLERS, check_proposal, joined
from kvae.models import VAE


def audit(
    model: VAE,
    num_images: int = 200,
    num_samples: int | None = None,
    proposal: str = "refined",
    seed: int = 0,
    condition: Any = None,
) -> dict[str, Any]:
    """Bound the error of the importance-weighted likelihood on images that the model draws.

    For z* ~ p(z) and x ~ p(x|z*), z* is an exact sample of p(z|x). The estimate log p̂(x) with new samples is at most
    log p(x) in expectation. If one sample of the estimate is replaced by z*, it is at least log p(x): the samples then
    have the density Q(z₁ … z_K) p̂/p, under which E[1/p̂] = 1/p. (Bidirectional Monte Carlo, Grosse et al. 2015,
    https://arxiv.org/abs/1511.02543; Wu et al. 2017, https://arxiv.org/abs/1611.04273; here with importance sampling in
    both directions. A sample of a mixture replaces one of the component that is drawn from its shares in m(z*).) So
    the mean error of `nll` on these images is at most the mean `gap`. Images of a dataset may be harder.

    Args:
        model: a built `kvae.VAE`.
        num_images: number of images.
        num_samples: K; None with "refined" draws as many as an image requires, with "annealed" 10.
        proposal: "posterior", "refined" or "annealed", as in `evaluate`.
        seed: seed of the images and of the samples.
        condition: conditions of the images, for a conditional model; as for `VAE.generate`.

    Returns:
        Dict with `nll` and `nll_lower`, mean bounds of −log p(x) in nats; `gap`, their difference; `gap_error`, its
        standard error over the images; `images`, `proposal` and `samples`, the mean number of samples.

    Raises:
        ValueError: if num_images < 1, or num_samples < 2.

    Example:

        >>> vae = VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> result = audit(vae, num_images=20)
        >>> result["images"], result["gap"] < 0.1
        (20, True)
    """
    check_proposal(proposal, num_samples)
    integer("num_images", num_images, least=1)
    if num_samples is not None:
        integer("num_samples", num_samples, least=2)
    c = model.condition(condition, num_images)
    z = model.prior.fixed().sample(num_images, seed, condition=c)
    noise = IndexedNoise(seed_words(seed), ops.arange(num_images, dtype="int32"))
    x = model.likelihood.sample(model.decoder_params(z, c), 1, noise)[0]
    seen = tf.clip_by_value(x, 0.0, 1.0) if model.bounded else x  # by the encoder; any proposal is valid
    if proposal == "posterior":
        rows = _with_posterior(model, seen, c, x, z, num_samples, seed)
    else:
        sampler = SAMPLERS[proposal](model, num_samples, seed, len(x))
        rows = joined([scores for _, scores in sampler.groups(seen, c, 0, 0, x, exact=z)])
    gap = rows["nll"] - rows["nll_lower"]
    return {
        "nll": float(np.mean(rows["nll"])),
        "nll_lower": float(np.mean(rows["nll_lower"])),
        "gap": float(np.mean(gap)),
        "gap_error": standard_error(gap),
        "images": num_images,
        "proposal": proposal,
        "samples": float(np.mean(rows["samples"])),
    }


def _with_posterior(model: VAE, seen: Any, c: Any, x: Any, z: Any, num_samples: Any, seed: int) -> Rows:
    """Score with K − 1 samples of q; the exact sample is the last one of the lower bound."""
    sampler = ImportanceSampler(model, num_samples - 1, seed, len(x))
    rows = joined([scores for _, scores in sampler.groups(seen, c, 0, 0, x)])
    log_p = model.likelihood.log_prob(model.decoder_params(z, c), x) + model.prior.fixed().log_prob(z, c)
    log_weight = (log_p - model.posterior.log_prob(model.encoder_params(seen, c), z)).numpy().astype(np.float64)
    log_sum = math.log(num_samples - 1) - rows["nll"]
    lower = math.log(num_samples) - np.logaddexp(log_sum, log_weight)
    return rows | {"nll_lower": lower, "samples": np.full(len(x), num_samples)}
