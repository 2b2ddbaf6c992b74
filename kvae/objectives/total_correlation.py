"""Independent latents, by a penalty on their total correlation."""

from typing import Any

import keras
from keras import ops

from kvae.arguments import at_least
from kvae.objectives.base import Objective, Terms
from kvae.objectives.criterion import Criterion
from kvae.objectives.marginals import FACTORIZED, one_by_one
from kvae.schedules import Scheduled, check_weight, schedule_value


@keras.saving.register_keras_serializable("kvae")
class TotalCorrelation(Objective):
    """distortion + α · MI + β · TC + γ · Σ_d KL(q(z_d) ‖ p(z_d)): the β-TC-VAE, in nats.

    The rate, averaged over the data, is the sum of three terms: the mutual information MI of x and z, the total
    correlation TC = KL(q(z) ‖ Π_d q(z_d)) of the latents, and the KL of each single latent. β > 1 makes the latents
    more independent, without a penalty on their information about x (Chen et al. 2018,
    https://arxiv.org/abs/1802.04942, eq. 4). With weights of 1 it is the ELBO.

    log q(z) and log q(z_d) are estimated from the batch, by minibatch weighted sampling (eq. 3) or by stratified
    sampling (appendix C.2), which has less bias. Each posterior sample requires B² · D densities.

    Args:
        beta: weight of the total correlation, a number >= 0 or a schedule.
        dataset_size: number of training examples, N.
        alpha, gamma: weights of the mutual information and of the single latents, numbers >= 0 or schedules.
        stratified: whether to use stratified sampling.
        num_samples: posterior samples per example.

    Raises:
        ValueError: for negative weights, for N < 1, or if the posterior of the VAE isn't factorised.

    Example:

        >>> import kvae
        >>> objective = TotalCorrelation(beta=6.0, dataset_size=60_000)
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1), objective=objective)
    """

    def __init__(
        self,
        beta: Scheduled,
        dataset_size: int,
        alpha: Scheduled = 1.0,
        gamma: Scheduled = 1.0,
        stratified: bool = False,
        num_samples: int = 1,
        **kwargs: Any,
    ):
        super().__init__(num_samples, **kwargs)
        self.dataset_size, self.stratified = at_least("dataset_size", dataset_size, 1), stratified
        self.alpha, self.beta = check_weight("alpha", alpha), check_weight("beta", beta)
        self.gamma = check_weight("gamma", gamma)

    def connect(self, model: Any) -> None:
        if not isinstance(model.posterior, FACTORIZED):
            raise ValueError(
                "The total correlation requires a posterior of independent latents, such as `DiagonalNormal`. "
                f"Received: posterior={type(model.posterior).__name__}"
            )

    def call(self, terms: Terms, step: Any = None) -> Any:
        log_qz, log_qz_product = self.log_aggregates(terms)
        parts = [
            (self.alpha, terms.log_q - log_qz),  # mutual information
            (self.beta, log_qz - log_qz_product),  # total correlation
            (self.gamma, log_qz_product - terms.log_p),  # KL of each single latent
        ]  # The sum is log q(z|x) − log p(z), so the rate, which has no noise, replaces it for weights of 1.
        extra = sum((schedule_value(weight, step) - 1) * part for weight, part in parts)  # (K, B)
        return ops.mean(terms.distortion + extra, axis=0) + terms.rate

    def log_aggregates(self, terms: Terms) -> tuple[Any, Any]:
        """Return estimates of log q(z) and of log Π_d q(z_d), `(K, B)` each."""
        single = one_by_one(terms.q, terms.z.shape[-1])  # (B, D, P/D)
        log_q = terms.posterior.log_prob(single, terms.z[:, :, None, :, None])  # log q(z_id|x_j), (K, B, B, D)
        log_share = ops.log(self.shares(ops.shape(terms.q)[0]))  # (B, B)
        log_qz = ops.logsumexp(ops.sum(log_q, axis=-1) + log_share, axis=2)
        log_qz_product = ops.sum(ops.logsumexp(log_q + log_share[..., None], axis=2), axis=-1)
        return log_qz, log_qz_product

    def shares(self, batch: Any) -> Any:
        """Return the share of the data that example j represents in the estimate of q(z_i): `(B, B)`."""
        n, b = float(self.dataset_size), ops.cast(batch, "float32")
        if not self.stratified:
            return ops.ones((batch, batch), dtype="float32") / (n * b)
        i = ops.arange(batch, dtype="int32")
        own = i[:, None] == i
        last = ops.mod(i[:, None] + 1, batch) == i  # the example that represents the data outside the batch
        m = ops.maximum(b - 1, 1.0)
        return ops.where(own, 1 / n, ops.where(last, ops.maximum(n - m, 1.0) / (n * m), 1 / m))

    def criterion(self) -> Criterion:
        return Criterion(why="the total correlation is not a validation value")
