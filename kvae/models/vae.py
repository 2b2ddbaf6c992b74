"""The variational autoencoder: a composition of six parts."""

import secrets
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kvae.arguments import integer, real, shown
from kvae.distributions import (
    DiagonalNormal,
    Distribution,
    IndexedNoise,
    Noise,
    closed_form_kl,
    seed_words,
)
from kvae.models.base import LatentModel, Posterior
from kvae.models.metrics import ActiveUnits, StepMean
from kvae.models.parts import check_family, check_part, check_raw_outputs
from kvae.objectives import ELBO, Criterion, GradientScale, Objective, Terms
from kvae.objectives.iwae import log_mean_exp
from kvae.priors import Prior, StandardNormal
from kvae.saving import arguments_of

DECODE_BATCH = 256


@keras.saving.register_keras_serializable("kvae")
class VAE(LatentModel):
    """Variational autoencoder (Kingma & Welling 2014, https://arxiv.org/abs/1312.6114).

    A VAE has an encoder, a decoder, a posterior q(z|x), a likelihood p(x|z), a prior p(z) and an objective. Every part
    has a default; a variant replaces a part instead of subclassing. Images are float32 in [0, 1]. A model of
    series, of rows of numbers or of other unbounded values has `bounded=False` and a likelihood of real numbers.

    `fit` and `evaluate` report, in nats per example and never weighted by β: `distortion` −E log p(x|z), `rate`
    KL(q ‖ p), `elbo` = −(distortion + rate); and `active_units`. An objective with K > 1 samples adds `nll`, the
    importance-weighted bound on −log p(x). In training, `loss` is the value that the objective minimises. In
    evaluation, `val_loss` is −ELBO, so that runs with different β can be compared.

    Args:
        encoder: images to raw posterior parameters, any Keras model (default `kvae.Encoder`).
        decoder: latents to raw likelihood parameters, any Keras model (default `kvae.Decoder`).
        posterior: a family from `kvae.posteriors` (default `DiagonalNormal`).
        likelihood: a family from `kvae.likelihoods` (default `Bernoulli`).
        prior: one of `kvae.priors` (default `StandardNormal`).
        objective: one of `kvae.objectives` (default `ELBO`).
        latent_dim: D; required unless the encoder defines it.
        event_shape: shape of x: `(H, W, C)` of an image, `(T, F)` of a series of T steps, `(columns,)` of a row of a
            table, or `(D, H, W, C)` of a volume; required unless the decoder defines it.
        condition_dim: size of the condition c of a conditional VAE (Sohn et al. 2015). The encoder gets c as additional
            channels of the image, the decoder as additional entries of the latents, and the prior may use it. Pass
            c as labels: integers below `condition_dim`, or vectors.
        bounded: whether x must be in [0, 1]. If False, x may have any values; this requires a likelihood of real
            numbers.
        seed: seed of the posterior samples in training and evaluation.
        image_shape: another name of event_shape, for images.

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

    value_names: tuple[str, ...] = ("loss", "elbo", "distortion", "rate")

    def __init__(
        self,
        encoder: keras.Model | None = None,
        decoder: keras.Model | None = None,
        *,
        posterior: Distribution | None = None,
        likelihood: Distribution | None = None,
        prior: Prior | None = None,
        objective: Objective | None = None,
        latent_dim: int | None = None,
        event_shape: tuple[int, ...] | None = None,
        condition_dim: int | None = None,
        bounded: bool = True,
        seed: int = 0,
        image_shape: tuple[int, int, int] | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            encoder, decoder, likelihood, latent_dim, event_shape, image_shape, seed, condition_dim, bounded, **kwargs
        )
        self.posterior = check_family("posterior", DiagonalNormal() if posterior is None else posterior)
        self.prior = check_part("prior", StandardNormal() if prior is None else prior, Prior)
        self.objective = check_part("objective", ELBO() if objective is None else objective, Objective)
        self.active_units = ActiveUnits(self.latent_dim)
        if self.objective.num_samples > 1:
            self.trackers["nll"] = StepMean(name="nll")
        self.build()

    def posterior_size(self) -> int:
        return self.posterior.param_size((self.latent_dim,))

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        self.posterior.connect(self)
        if self.posterior.is_joint:
            self.trackers.update({name: StepMean(name=name) for name in self.decoder.level_names})
        super().build(input_shape)
        check_raw_outputs("encoder", self.encoder, self.encoder_shape, self.posterior)
        if not self.posterior.built:
            self.posterior.build((None, self.posterior_size()))
        self.prior.connect(self)
        if not self.prior.built:
            self.prior.build((None, self.latent_dim))
        elif self.prior.latent_dim != self.latent_dim:
            raise ValueError(
                f"Expected a prior of {self.latent_dim} latents, as the encoder has. "
                f"Received: a prior that is built for {self.prior.latent_dim}"
            )
        if not self.objective.built:
            self.objective.build()
        self.objective.connect(self)

    # The model.

    def terms(
        self,
        x: Any,
        noise: Noise,
        num_samples: int = 1,
        training: bool = False,
        c: Any = None,
        target: Any = None,
    ) -> Terms:
        """Return distortion, rate and importance weights of a batch of images, with `num_samples` = K latents each.

        `c` are the condition vectors of a conditional model, `(B, condition_dim)`. `target` are the images that the
        likelihood evaluates (default `x`).
        """
        q = self.encoder_params(x, c, training)  # (B, P)
        path = GradientScale() if training else None
        rates = None
        if self.posterior.is_joint:
            log_q, drawn = self.posterior.draw(q, num_samples, noise)
            z = u = drawn.z
            z_mean, rates, params = ops.mean(drawn.mean, axis=0), ops.mean(drawn.rates, axis=0), drawn.params
        else:
            z, log_q = self.posterior.sample_and_log_prob(q, num_samples, noise)  # (K, B, D), (K, B)
            if training and self.objective.stop_posterior:
                log_q = self.posterior.log_prob(ops.stop_gradient(q), z)
            u = path(z) if path else z  # equal to z, with a scaled gradient
            z_mean, params = self.posterior.mean(q), self.decoder_params(u, c, training)
        log_likelihood = self.likelihood.training_log_prob if training else self.likelihood.log_prob
        distortion = -log_likelihood(params, x if target is None else target)  # (K, B)
        log_p = self.prior.log_prob(u, c)  # (K, B)
        if rates is not None and isinstance(self.prior, StandardNormal):
            rate = ops.sum(rates, axis=-1)  # (B,)
        else:
            kl = closed_form_kl(self.posterior, self.prior)
            rate = kl(self.posterior, q, self.prior, c) if kl else ops.mean(log_q - log_p, axis=0)
        return Terms(
            distortion, rate, log_p - distortion - log_q, z, z_mean,
            log_q=log_q, log_p=log_p, q=q, posterior=self.posterior, prior=self.prior, noise=noise,
            c=c, path=path, rates=rates, params=params,
        )  # fmt: skip

    def encoder_params(self, x: Any, c: Any = None, training: bool = False) -> Any:
        params = super().encoder_params(x, c, training)
        return ops.concatenate([params, c], axis=-1) if self.posterior.is_joint and c is not None else params

    def reconstruction_params(self, x: Any, c: Any = None, training: bool = False) -> Any:
        if self.posterior.is_joint:
            return self.posterior.middle(self.encoder_params(x, c, training)).params[0]
        return super().reconstruction_params(x, c, training)

    def point(self, x: Any, c: Any = None, training: bool = False) -> Any:
        return self.posterior.mean(self.encoder_params(x, c, training))

    def batch_values(self, x: Any, noise: Noise, training: bool, y: Any = None, target: Any = None) -> dict[str, Any]:
        c = self.condition(y, x.shape[0], labels=True)
        terms = self.terms(x, noise, self.objective.num_samples, training, c, target)
        distortion = ops.mean(terms.distortion, axis=0)
        elbo = -(distortion + terms.rate)
        loss = self.objective(terms, self.step) if training else -elbo
        values = {"loss": loss, "elbo": elbo, "distortion": distortion, "rate": terms.rate, "z_mean": terms.z_mean}
        if self.objective.num_samples > 1:
            values["nll"] = -log_mean_exp(terms.log_weight)
        if terms.rates is not None:
            values |= self.decoder.by_level(terms.rates)
        return values

    def criterion(self) -> Criterion:
        """Return the objective's criterion for the epoch that is kept."""
        return self.objective.criterion()

    def after_step(self, values: dict[str, Any]) -> None:
        self.objective.update(values, self.step)

    def _update_metrics(self, values: dict[str, Any], sample_weight: Any) -> dict[str, Any]:
        self.active_units.update_state(values["z_mean"], sample_weight=sample_weight)
        return super()._update_metrics(values, sample_weight)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*super().metrics, self.active_units]

    # Use.

    def encode(self, x: Any, condition: Any = None) -> Posterior:
        """Return mean and variance of q(z|x), `(B, D)` each.

        The covariance matrix is `vae.posterior.covariance(vae.encoder(x))`.
        """
        x = self.check_images(x)
        q = self.encoder_params(x, self.condition(condition, x.shape[0]))
        return Posterior(*self.posterior.moments(q))

    def generate(
        self,
        n: int,
        seed: int | None = None,
        temperature: float | Sequence[float] = 1.0,
        condition: Any = None,
        pixel_noise: bool = False,
    ) -> Any:
        """Generate images with the decoder: the mean of x for `n` latents from the prior.

        Image i depends only on the seed, i and its condition, and equals image i of `generate` in an exported file.

        Args:
            n: number of images.
            seed: seed of the latents: the same seed gives the same images. None draws a new seed each time.
            temperature: scale of the prior's noise, >= 0; below 1 images are more typical and less diverse. For a
                hierarchy also one number for each level, from the top.
            condition: condition of a conditional model, one for all images or one for each.
            pixel_noise: whether to sample x from p(x|z) instead of returning its mean.

        Returns:
            `(n, H, W, C)`; in [0, 1] for a Bernoulli likelihood, approximately in [0, 1] for a normal one.

        Raises:
            ValueError: if n < 1 or temperature < 0, or for a condition that doesn't fit.
        """
        n, temperature = integer("n", n, least=1), self._temperature(temperature)
        seed = secrets.randbelow(2**63) if seed is None else seed
        c = self.condition(condition, n)
        z = self.prior.fixed().sample(n, seed, temperature, c)
        images = []
        for i in range(0, n, DECODE_BATCH):
            rows = slice(i, min(i + DECODE_BATCH, n))
            params = self.decoder_params(z[rows], None if c is None else c[rows])
            noise = IndexedNoise(seed_words(seed), ops.arange(rows.start, rows.stop, dtype="int32"))
            images.append(self.likelihood.sample(params, 1, noise)[0] if pixel_noise else self.likelihood.mean(params))
        return ops.concatenate(images, axis=0)

    def _temperature(self, temperature: Any) -> Any:
        """Return a checked temperature: a number, or one for each latent `(D,)`."""
        if not isinstance(temperature, Sequence | np.ndarray) or not np.ndim(temperature):
            return real("temperature", temperature, least=0)
        sizes = self.decoder.level_sizes if self.posterior.is_joint else []
        if len(temperature) != len(sizes):
            raise ValueError(
                "Argument `temperature` must be a number, or one number for each level of a hierarchy, here "
                f"{len(sizes)}. Received: temperature={shown(temperature)}"
            )
        numbers = [real("temperature", number, least=0) for number in temperature]
        return np.repeat(np.array(numbers, "float32"), sizes)

    def with_prior(self, prior: Prior) -> "VAE":
        """Return a VAE with the same networks and another prior, such as one fitted to the latents after training.

        It shares the other parts, and its step counter starts at the step of this model.
        """
        model = type(self)(**{**arguments_of(self), "prior": prior})
        model.step.assign(self.step)
        return model
