"""The maximum mean discrepancy of the aggregate posterior and the prior."""

from typing import Any

import keras
from keras import ops

from kvae.objectives.base import Objective, Terms
from kvae.objectives.criterion import Criterion
from kvae.objectives.kernels import IMQ, Kernel
from kvae.priors import Prior
from kvae.schedules import Scheduled, check_weight, schedule_value


@keras.saving.register_keras_serializable("kvae")
class MMD(Objective):
    """distortion + β · rate + λ · MMD²(q(z), p(z)), with the maximum mean discrepancy of a batch's samples.

    The latents of all data together are trained to match the prior; the latents of a single x aren't. Distortion and
    rate are in nats; MMD² is between 0 and 2.

    * β = 0 is the Wasserstein autoencoder WAE-MMD (Tolstikhin et al. 2018, https://arxiv.org/abs/1711.01558,
      algorithm 2); the distortion of a `Normal` likelihood is its squared error.
    * InfoVAE (Zhao et al. 2017, https://arxiv.org/abs/1706.02262), with the paper's α and λ, has `beta` = 1 − α and
      `weight` = λ + α − 1.

    MMD² = E k(z, z′) + E k(y, y′) − 2 E k(z, y) for z ~ q, y ~ p. The estimator is unbiased: it omits k(z, z), so it
    can be negative. Its gradient goes only to z, not to a learned prior.

    Args:
        weight: λ, a number >= 0 or a schedule.
        beta: β, a number >= 0 or a schedule.
        kernel: `kvae.objectives.IMQ` (default) or `RBF`.
        num_samples: posterior samples per example.

    Raises:
        ValueError: for negative weights, or for a prior that must be converted (`fixed`) before it is sampled.

    Example:

        >>> import kvae
        >>> wae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1), objective=MMD(weight=100.0))
    """

    def __init__(
        self,
        weight: Scheduled,
        beta: Scheduled = 0.0,
        kernel: Kernel | None = None,
        num_samples: int = 1,
        **kwargs: Any,
    ):
        super().__init__(num_samples, **kwargs)
        self.weight, self.beta = check_weight("weight", weight), check_weight("beta", beta)
        self.kernel = IMQ() if kernel is None else kernel

    def connect(self, model: Any) -> None:
        if type(model.prior).from_words is Prior.from_words:  # its samples come from `fixed()`, outside of training
            raise ValueError(
                "MMD draws from the prior in every training step: use a prior such as `StandardNormal`, "
                f"`FixedMixture` or `RealNVP`. Received: prior={type(model.prior).__name__}"
            )

    def call(self, terms: Terms, step: Any = None) -> Any:
        discrepancy = ops.mean(mmd2(self.kernel, terms.z, prior_samples(terms)))  # over K
        loss = ops.mean(terms.distortion, axis=0) + schedule_value(self.beta, step) * terms.rate
        return loss + schedule_value(self.weight, step) * discrepancy

    def criterion(self) -> Criterion:
        return Criterion(why="the MMD of the latents is not a validation value")


def prior_samples(terms: Terms) -> Any:
    """Return a latent from p(z) for each example of the batch, `(B, D)`, as constants."""
    first = 0 if terms.noise.rows is None else terms.noise.rows[0]
    index = first + ops.arange(ops.shape(terms.q)[0], dtype="int32")
    return ops.stop_gradient(terms.prior.draw(terms.noise.next(), index, condition=terms.c))


def mmd2(kernel: Kernel, z: Any, y: Any) -> Any:
    """Return an unbiased estimate of MMD² from samples `(…, B, D)` of two distributions: `(…)`."""
    return mean_of_pairs(kernel(z, z)) + mean_of_pairs(kernel(y, y)) - 2 * ops.mean(kernel(z, y), axis=(-1, -2))


def mean_of_pairs(k: Any) -> Any:
    """Return the mean of `(…, B, B)` off the diagonal, or 0 for one sample, which has no pairs."""
    batch = ops.shape(k)[-1]
    size = ops.cast(batch, "float32")
    return ops.sum(k * (1 - ops.eye(batch, dtype="float32")), axis=(-1, -2)) / ops.maximum(size * (size - 1), 1.0)
