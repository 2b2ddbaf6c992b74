"""The variational autoencoder: six parts, wired together."""

import secrets
from typing import Any, NamedTuple

import keras
from keras import ops

from kvae.distributions import Bernoulli, DiagonalNormal, Distribution, Noise, closed_form_kl
from kvae.models.base import LatentModel
from kvae.models.metrics import ActiveUnits
from kvae.objectives import ELBO, Objective, Terms
from kvae.priors import Prior, StandardNormal

DECODE_BATCH = 256


class Posterior(NamedTuple):
    """Moments of q(z|x) for a batch: `mean` and `variance`, `(B, D)` each."""

    mean: Any
    variance: Any


@keras.saving.register_keras_serializable("kvae")
class VAE(LatentModel):
    """Variational autoencoder (Kingma & Welling 2014, https://arxiv.org/abs/1312.6114).

    An encoder, a decoder, a posterior q(z|x), a likelihood p(x|z), a prior p(z) and an objective. Every part
    has a default; a variant is another part, not a subclass. Images are float32 in [0, 1].

    `fit` and `evaluate` report, in nats per example and never weighted by β: `distortion` −E log p(x|z), `rate`
    KL(q ‖ p), `elbo` = −(distortion + rate); and `active_units`. In training `loss` is what the objective
    minimises; in evaluation (`val_loss`) it is −ELBO, so that runs with different β can be compared.

    Args:
        encoder: images to raw posterior parameters, any Keras model (default `kvae.Encoder`).
        decoder: latents to raw likelihood parameters, any Keras model (default `kvae.Decoder`).
        posterior: a family from `kvae.posteriors` (default `DiagonalNormal`).
        likelihood: a family from `kvae.likelihoods` (default `Bernoulli`).
        prior: one of `kvae.priors` (default `StandardNormal`).
        objective: one of `kvae.objectives` (default `ELBO`).
        latent_dim: D; needed unless the encoder knows it.
        image_shape: `(H, W, C)`; needed unless the decoder knows it.
        seed: of the posterior samples in training and evaluation.

    Raises:
        ValueError: if parts don't fit together; the message says which shape was expected.

    Example:

        >>> import numpy as np
        >>> vae = VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> vae.compile(optimizer="adam")
        >>> history = vae.fit(np.random.default_rng(0).random((64, 8, 8, 1)), verbose=0)
        >>> sorted(history.history)
        ['active_units', 'distortion', 'elbo', 'loss', 'rate']
    """

    value_names = ("loss", "elbo", "distortion", "rate")
    _parts = ("encoder", "decoder", "posterior", "likelihood", "prior", "objective")

    def __init__(
        self,
        encoder: keras.Model | None = None,
        decoder: keras.Model | None = None,
        posterior: Distribution | None = None,
        likelihood: Distribution | None = None,
        prior: Prior | None = None,
        objective: Objective | None = None,
        *,
        latent_dim: int | None = None,
        image_shape: tuple[int, int, int] | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(encoder, decoder, likelihood or Bernoulli(), latent_dim, image_shape, seed, **kwargs)
        self.posterior = posterior or DiagonalNormal()
        self.prior = prior or StandardNormal()
        self.objective = objective or ELBO()
        self.active_units = ActiveUnits(self.latent_dim)
        self.build()

    def posterior_size(self) -> int:
        return self.posterior.param_size((self.latent_dim,))

    def build(self, input_shape: Any = None) -> None:
        if not self.built:
            self.posterior.build((None, self.posterior_size()))
            self.prior.build((None, self.latent_dim))
        super().build(input_shape)

    # The model.

    def terms(self, x: Any, noise: Noise, num_samples: int = 1, training: bool = False) -> Terms:
        """Distortion, rate and importance weights of a batch of images for `num_samples` = K latents each."""
        q = self.encoder(x, training=training)  # (B, P)
        z, log_q = self.posterior.sample_and_log_prob(q, num_samples, noise)  # (K, B, D), (K, B)
        distortion = -self.likelihood.log_prob(self._decode_samples(z, training), x)  # (K, B)
        log_p = self.prior.log_prob(z)  # (K, B)
        kl = closed_form_kl(self.posterior, self.prior)
        rate = kl(self.posterior, q, self.prior) if kl else ops.mean(log_q - log_p, axis=0)  # (B,)
        return Terms(distortion, rate, log_p - distortion - log_q, z, self.posterior.mean(q))

    def _decode_samples(self, z: Any, training: bool) -> Any:
        """Raw likelihood parameters for latents `(K, B, D)`: `(K, B, H, W, P)`."""
        params = self.decoder(ops.reshape(z, (-1, self.latent_dim)), training=training)
        return ops.reshape(params, (z.shape[0], -1, *params.shape[1:]))

    def point(self, x: Any, training: bool = False) -> Any:
        return self.posterior.mean(self.encoder(x, training=training))

    def batch_values(self, x: Any, noise: Noise, training: bool) -> dict[str, Any]:
        terms = self.terms(x, noise, self.objective.num_samples, training)
        self.active_units.update_state(terms.z_mean)
        distortion = ops.mean(terms.distortion, axis=0)
        elbo = -(distortion + terms.rate)
        loss = self.objective(terms, self.step) if training else -elbo
        return {"loss": loss, "elbo": elbo, "distortion": distortion, "rate": terms.rate}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*super().metrics, self.active_units]

    # Using it.

    def encode(self, x: Any) -> Posterior:
        """Mean and variance of q(z|x), `(B, D)` each; `vae.posterior.covariance(vae.encoder(x))` has it whole."""
        q = self.encoder(self.check_images(x))
        return Posterior(self.posterior.mean(q), self.posterior.variance(q))

    def sample(self, n: int, seed: int | None = None, temperature: float = 1.0) -> Any:
        """Generate images with the decoder alone: the mean of x for `n` latents from the prior.

        Image i depends on the seed and i alone, and is that of `generate` in an exported file.

        Args:
            n: how many.
            seed: the same seed gives the same images; None draws new ones each time.
            temperature: scale of the prior's noise, >= 0; below 1 images are more typical and less diverse.

        Returns:
            `(n, H, W, C)`; in [0, 1] for a Bernoulli likelihood, about that for a normal one.

        Raises:
            ValueError: if n < 1 or temperature < 0.
        """
        if n < 1:
            raise ValueError(f"Argument `n` must be >= 1. Received: n={n}")
        if not temperature >= 0:
            raise ValueError(f"Argument `temperature` must be >= 0. Received: temperature={temperature}")
        z = self.prior.sample(n, secrets.randbelow(2**63) if seed is None else seed, temperature)
        batches = [self.decode(z[i : i + DECODE_BATCH]) for i in range(0, n, DECODE_BATCH)]
        return ops.concatenate(batches, axis=0)
