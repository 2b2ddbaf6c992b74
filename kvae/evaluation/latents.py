"""What each latent does, over a whole data set."""

from typing import NamedTuple

import numpy as np

from kvae.models.metrics import ACTIVE_VARIANCE


class LatentStatistics(NamedTuple):
    """Per latent: `kl` (nats, mean over the data) and `active`; `order` lists latents from most to least KL."""

    kl: np.ndarray  # (D,)
    active: np.ndarray  # (D,) bool
    order: np.ndarray  # (D,)


def latent_statistics(mean: np.ndarray, variance: np.ndarray) -> LatentStatistics:
    """KL of each latent's marginal posterior from N(0, 1), and which latents are active.

    Args:
        mean, variance: moments of q(z|x), `(N, D)`.

    Example:

        >>> statistics = latent_statistics(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([[0.1, 1.0]] * 2))
        >>> statistics.active.tolist(), statistics.kl.round(2).tolist()
        ([True, False], [1.2, 0.0])
    """
    kl = 0.5 * np.mean(np.square(mean) + variance - 1 - np.log(variance), axis=0)
    return LatentStatistics(kl, mean.var(axis=0) > ACTIVE_VARIANCE, np.argsort(-kl, kind="stable"))
