"""A free rate for every latent."""

from typing import Any

import keras
from keras import ops

from kvae.distributions import closed_form_kl
from kvae.objectives.base import Objective, Terms
from kvae.objectives.criterion import Criterion
from kvae.objectives.marginals import FACTORIZED, one_by_one
from kvae.priors import StandardNormal
from kvae.schedules import Scheduled, check_weight, schedule_value


@keras.saving.register_keras_serializable("kvae")
class FreeBits(Objective):
    """distortion + Σ_d max(λ, KL_d), where KL_d is the mean over the batch of KL(q(z_d|x) ‖ p(z_d)).

    The loss doesn't reward a latent for using less than λ nats, which keeps the posterior from collapsing early in
    training (Kingma et al. 2016, https://arxiv.org/abs/1606.04934, appendix C.8). If the latents of the posterior
    depend on each other, or the prior isn't N(0, I), all latents form one group: max(D · λ, mean rate). In a hierarchy
    (`kvae.posteriors.TopDownNormal`) each stochastic layer is a group, and λ are the nats of a layer.

    Args:
        min_rate: λ in nats (despite the name of the method) per latent, or per layer of a hierarchy: a number >= 0 or a
            schedule.
        num_samples: posterior samples per example.

    Raises:
        ValueError: if λ is a negative number.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1), objective=FreeBits(0.1))
    """

    def __init__(self, min_rate: Scheduled = 0.1, num_samples: int = 1, **kwargs: Any):
        super().__init__(num_samples, **kwargs)
        self.min_rate = check_weight("min_rate", min_rate)

    def call(self, terms: Terms, step: Any = None) -> Any:
        rates, latents = _rates(terms)
        free = schedule_value(self.min_rate, step) * latents
        rate = ops.mean(rates, axis=0)  # (groups,)
        return ops.mean(terms.distortion, axis=0) + ops.sum(ops.maximum(free, rate))

    def criterion(self) -> Criterion:
        return Criterion(why="the rate of each latent is not a validation value")


def _rates(terms: Terms) -> tuple[Any, int]:
    """Return the rates of groups of latents, `(B, groups)`, and for how many λ each stands.

    The groups are the latents, if they are independent; the layers of a hierarchy; or all latents.
    """
    is_standard, size = isinstance(terms.prior, StandardNormal), terms.z.shape[-1]
    if is_standard and terms.rates is not None:
        return terms.rates, 1
    kl = closed_form_kl(terms.posterior, terms.prior)
    if kl and is_standard and isinstance(terms.posterior, FACTORIZED):
        return kl(terms.posterior, one_by_one(terms.q, size), terms.prior), 1
    return terms.rate[:, None], size
