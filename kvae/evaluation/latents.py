"""Statistics of the latents over a whole dataset."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kvae.distributions import seed_words
from kvae.evaluation.importance import SampleNoise, log_sum_exp
from kvae.evaluation.scoring import as_batches
from kvae.models import VAE
from kvae.models.batches import unpack
from kvae.models.metrics import ACTIVE_VARIANCE
from kvae.priors import StandardNormal

PAIRS_AT_ONCE = 1 << 15  # densities of one latent vector under one image's posterior
SATURATED = 1.0  # nats: mutual information within this distance of log N, its largest value, is only a lower bound


class LatentStatistics(NamedTuple):
    """Statistics per latent: `kl` (nats, mean over the data), `active`, and `order`, the latents by descending KL."""

    kl: np.ndarray  # (D,)
    active: np.ndarray  # (D,) bool
    order: np.ndarray  # (D,)


def latent_statistics(mean: np.ndarray, variance: np.ndarray) -> LatentStatistics:
    """Return the KL of each latent's marginal posterior from N(0, 1), and which latents are active.

    Args:
        mean, variance: moments of q(z|x), `(N, D)`. With values that aren't finite, `kl` isn't finite and the latent
            isn't active.

    Example:

        >>> statistics = latent_statistics(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([[0.1, 1.0]] * 2))
        >>> statistics.active.tolist(), statistics.kl.round(2).tolist()
        ([True, False], [1.2, 0.0])
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # with a variance of 0 the KL is infinite
        kl = 0.5 * np.mean(np.square(mean) + variance - 1 - np.log(variance), axis=0)
    return LatentStatistics(kl, mean.var(axis=0) > ACTIVE_VARIANCE, np.argsort(-kl, kind="stable"))


def aggregate_posterior(model: VAE, data: Any, seed: int = 0) -> dict[str, float]:
    """Return the two parts of the rate: mutual information of image and latents, and their KL from the prior, in nats.

    With q(z) = 1/N Σ_n q(z|x_n), the rate is I(n; z) + KL(q(z) ‖ p(z)) (Hoffman & Johnson 2016, "ELBO surgery", eq.
    7). Both parts are means over one z_n ~ q(z|x_n) per image, with q(z_n) from all N² pairs. The N images stand for
    all data, and I is at most log N. If I is within 1 nat of log N (`is_saturated`), it is a lower bound of its value
    for the data's distribution, and the marginal KL is an upper bound. Compare only numbers with the same N.

    `marginal_kl_normal` doesn't saturate, and is at most the marginal KL. It is the KL of the normal distribution with
    the mean and covariance of q(z), minus D (D + 3) / 4N, the bias of moments of N draws. It requires a standard
    normal prior and more images than latents. `mismatch` chooses between the two.

    Args:
        model: a built `kvae.VAE` without conditions.
        data: images, as for `evaluate`; 2,000 are enough to detect a mismatch.
        seed: seed of the latents.

    Returns:
        Dict with `mutual_information`, `marginal_kl`, `log_n` (the largest value of the mutual information), and
        `marginal_kl_normal` if it is defined.

    Raises:
        ValueError: if there is no data, or the model is conditional.

    Example:

        >>> vae = VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> parts = aggregate_posterior(vae, np.zeros((10, 8, 8, 1), "float32"))
        >>> round(abs(parts["mutual_information"]), 6), round(parts["log_n"], 2)  # equal images
        (0.0, 2.3)
    """
    if model.condition_dim is not None:
        raise ValueError("Expected a model without conditions. Received: condition_dim=" + str(model.condition_dim))
    batches = (unpack(batch)[0] for batch in as_batches(data))
    params = [model.encoder_params(model.check_images(x)) for x in batches]
    if not params:
        raise ValueError("Expected images. Received: 0 images")
    q = tf.concat(params, axis=0)  # (N, P)
    n = int(q.shape[0])
    noise = SampleNoise(tf.constant(seed_words(seed)), tf.range(n), tf.constant(0))
    z, own = (value[0] for value in model.posterior.sample_and_log_prob(q, 1, noise))  # (N, D), (N,)

    rows = max(1, PAIRS_AT_ONCE // n)
    log_q = []  # log q(z_n)
    for i in range(0, n, rows):
        pairs = model.posterior.log_prob(q, tf.repeat(z[i : i + rows, None], n, axis=1))  # (J, N)
        log_q.append(log_sum_exp(pairs.numpy().T.astype(np.float64)) - math.log(n))
    prior = model.prior.fixed()
    parts = {
        "mutual_information": float(np.mean(own.numpy() - np.concatenate(log_q))),
        "marginal_kl": float(np.mean(np.concatenate(log_q) - prior.log_prob(z).numpy())),
        "log_n": math.log(n),
    }
    if isinstance(prior, StandardNormal) and n > model.latent_dim:
        parts["marginal_kl_normal"] = _normal_kl(z.numpy().astype(np.float64))
    return parts


def is_saturated(parts: Mapping[str, Any]) -> bool:
    """Return whether the mutual information of `aggregate_posterior` is only a lower bound: within 1 nat of log N."""
    return parts["mutual_information"] > parts["log_n"] - SATURATED


def mismatch(parts: Mapping[str, Any]) -> tuple[str, float]:
    """Return the best estimate of KL(q(z) ‖ p(z)): "" and the number, or "at least" or "at most" if it is a bound.

    Args:
        parts: result of `aggregate_posterior`.

    Example:

        >>> parts = {"mutual_information": 6.1, "marginal_kl": 9.0, "log_n": 6.2}
        >>> mismatch(parts), mismatch({**parts, "marginal_kl_normal": 0.4}), mismatch({**parts, "log_n": 7.6})
        (('at most', 9.0), ('at least', 0.4), ('', 9.0))
    """
    if not is_saturated(parts):
        return "", parts["marginal_kl"]
    if "marginal_kl_normal" in parts:
        return "at least", max(parts["marginal_kl_normal"], 0.0)
    return "at most", parts["marginal_kl"]


def parts_of_the_rate(parts: Mapping[str, Any]) -> str:
    """Return the result of `aggregate_posterior` in one line, which marks bounds.

    Example:

        >>> print(parts_of_the_rate({"mutual_information": 6.18, "marginal_kl": 9.0, "log_n": 6.21}))
        mutual information at least 6.18 (N images limit it to log N = 6.21), KL(q(z) ‖ p) at most 9.00 nats
    """
    bound, nats = mismatch(parts)
    information = f"{parts['mutual_information']:.2f}"
    if is_saturated(parts):
        information = f"at least {information} (N images limit it to log N = {parts['log_n']:.2f})"
    return f"mutual information {information}, KL(q(z) ‖ p) {f'{bound} {nats:.2f}'.lstrip()} nats"


def _normal_kl(z: np.ndarray) -> float:
    """Return KL(N(m, S) ‖ N(0, I)) with the moments of draws `(N, D)`, minus its bias."""
    n, d = z.shape
    mean, covariance = z.mean(axis=0), np.atleast_2d(np.cov(z.T, bias=True))
    _, log_det = np.linalg.slogdet(covariance)
    return float(0.5 * (np.trace(covariance) + mean @ mean - d - log_det) - d * (d + 3) / (4 * n))
