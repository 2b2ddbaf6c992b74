"""Latents that are uncorrelated."""

from typing import Any

import keras
from keras import ops

from kvae.objectives.base import Objective, Terms
from kvae.objectives.criterion import Criterion
from kvae.schedules import Scheduled, check_weight, schedule_value


@keras.saving.register_keras_serializable("kvae")
class DIP(Objective):
    """−ELBO + λ_od Σ_{i≠j} C_ij² + λ_d Σ_i (C_ii − 1)²: disentangled inferred prior.

    C is a covariance over the batch (Kumar et al. 2018, https://arxiv.org/abs/1711.00848, eq. 6–7). In DIP-VAE-II it is
    the covariance of z ~ q(z|x): the covariance of the posterior means plus the mean of the posterior covariances. In
    DIP-VAE-I it is the covariance of the posterior means. The ELBO is in nats.

    Args:
        off_diagonal: λ_od, a number >= 0 or a schedule.
        diagonal: λ_d, a number >= 0 or a schedule.
        means_only: whether to use DIP-VAE-I.
        num_samples: posterior samples per example.

    Raises:
        ValueError: for negative weights.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1), objective=DIP(off_diagonal=5.0, diagonal=50.0))
    """

    def __init__(
        self,
        off_diagonal: Scheduled = 10.0,
        diagonal: Scheduled = 10.0,
        means_only: bool = False,
        num_samples: int = 1,
        **kwargs: Any,
    ):
        super().__init__(num_samples, **kwargs)
        self.off_diagonal = check_weight("off_diagonal", off_diagonal)
        self.diagonal = check_weight("diagonal", diagonal)
        self.means_only = means_only

    def call(self, terms: Terms, step: Any = None) -> Any:
        centred = terms.z_mean - ops.mean(terms.z_mean, axis=0)  # (B, D)
        covariance = ops.mean(centred[:, :, None] * centred[:, None, :], axis=0)  # (D, D)
        if not self.means_only:
            covariance = covariance + ops.mean(terms.posterior.covariance(terms.q), axis=0)
        identity = ops.eye(centred.shape[-1], dtype="float32")
        excess = ops.square(covariance - identity)
        weight = ops.where(identity > 0, schedule_value(self.diagonal, step), schedule_value(self.off_diagonal, step))
        return ops.mean(terms.distortion, axis=0) + terms.rate + ops.sum(ops.cast(weight, "float32") * excess)

    def criterion(self) -> Criterion:
        return Criterion(why="the covariance of the latents is not a validation value")
