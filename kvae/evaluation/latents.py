"""What the latents do, over a whole data set."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kvae.distributions import seed_words
from kvae.evaluation.importance import SampleNoise, as_batches, log_sum_exp
from kvae.models import VAE
from kvae.models.batches import unpack
from kvae.models.metrics import ACTIVE_VARIANCE
from kvae.priors import StandardNormal

PAIRS_AT_ONCE = 1 << 15  # densities of one latent vector under one image's posterior
SATURATED = 1.0  # nats: mutual information that is as near to log N, its largest value, is a lower bound only


class LatentStatistics(NamedTuple):
    """Per latent: `kl` (nats, mean over the data) and `active`; `order` lists latents from most to least KL."""

    kl: np.ndarray  # (D,)
    active: np.ndarray  # (D,) bool
    order: np.ndarray  # (D,)


def latent_statistics(mean: np.ndarray, variance: np.ndarray) -> LatentStatistics:
    """KL of each latent's marginal posterior from N(0, 1), and which latents are active.

    Args:
        mean, variance: moments of q(z|x), `(N, D)`. What isn't finite stays so in `kl`, and its latent isn't active.

    Example:

        >>> statistics = latent_statistics(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([[0.1, 1.0]] * 2))
        >>> statistics.active.tolist(), statistics.kl.round(2).tolist()
        ([True, False], [1.2, 0.0])
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # of a variance of 0 the KL is infinite
        kl = 0.5 * np.mean(np.square(mean) + variance - 1 - np.log(variance), axis=0)
    return LatentStatistics(kl, mean.var(axis=0) > ACTIVE_VARIANCE, np.argsort(-kl, kind="stable"))


def aggregate_posterior(model: VAE, data: Any, seed: int = 0) -> dict[str, float]:
    """The rate in two parts: what the latents know about the image, and how far they are from the prior, in nats.

    With q(z) = 1/N Σ_n q(z|x_n), the rate is I(n; z) + KL(q(z) ‖ p(z)) (Hoffman & Johnson 2016, "ELBO surgery", eq.
    7). Both parts are means over one z_n ~ q(z|x_n) per image, with q(z_n) from all N² pairs. So N images are taken
    for the whole of the data: I is at most log N. Where it is within 1 nat of that (`is_saturated`), it is a lower
    bound of what it is for the data's distribution, and the marginal KL an upper one. Compare numbers of the same N.

    `marginal_kl_normal` doesn't saturate, and is at most the marginal KL: that of the normal distribution with the
    mean and covariance of q(z), less D (D + 3) / 4N for what these of N draws differ by. It is given for a standard
    normal prior and more images than latents. `mismatch` says which of the two to take.

    Args:
        model: a built `kvae.VAE`, not a conditional one.
        data: images, as for `evaluate`; 2,000 are enough to tell a mismatch from none.
        seed: of the latents.

    Returns:
        Dict with `mutual_information`, `marginal_kl`, `log_n`, the most that the first can be, and perhaps
        `marginal_kl_normal`.

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
        raise ValueError("Expected images. Received: none")
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
    """Whether the mutual information that `aggregate_posterior` gives is a lower bound only: within 1 nat of log N."""
    return parts["mutual_information"] > parts["log_n"] - SATURATED


def mismatch(parts: Mapping[str, Any]) -> tuple[str, float]:
    """KL(q(z) ‖ p(z)) by the estimate that holds: "" and the number, or "at least" or "at most", where it is a bound.

    Args:
        parts: what `aggregate_posterior` gives.

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
    """What `aggregate_posterior` gives in a line, which says where a number is a bound only.

    Example:

        >>> print(parts_of_the_rate({"mutual_information": 6.18, "marginal_kl": 9.0, "log_n": 6.21}))
        mutual information at least 6.18 (of N images at most log N = 6.21 is seen), KL(q(z) ‖ p) at most 9.00 nats
    """
    bound, nats = mismatch(parts)
    information = f"{parts['mutual_information']:.2f}"
    if is_saturated(parts):
        information = f"at least {information} (of N images at most log N = {parts['log_n']:.2f} is seen)"
    return f"mutual information {information}, KL(q(z) ‖ p) {f'{bound} {nats:.2f}'.lstrip()} nats"


def _normal_kl(z: np.ndarray) -> float:
    """KL(N(m, S) ‖ N(0, I)) with the moments of draws `(N, D)`, less its bias."""
    n, d = z.shape
    mean, covariance = z.mean(axis=0), np.atleast_2d(np.cov(z.T, bias=True))
    _, log_det = np.linalg.slogdet(covariance)
    return float(0.5 * (np.trace(covariance) + mean @ mean - d - log_det) - d * (d + 3) / (4 * n))
