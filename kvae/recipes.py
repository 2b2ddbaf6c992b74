"""Published variants, each a composition of parts.

A recipe creates a `kvae.VAE` for images of a shape. `kvae recipes` lists them, and `kvae train SOURCE --recipe NAME`
trains one with the settings in its decorator.

    >>> import kvae
    >>> vae = kvae.recipes.beta_vae(image_shape=(8, 8, 1), latent_dim=2, beta=4.0)
    >>> vae.objective.beta
    4.0

Every recipe takes `image_shape`, and `latent_dim` unless it has a hierarchy of latents. Some take more arguments, which
the command provides: `num_steps` (number of training steps), `num_images` (number of training images), `condition_dim`
(number of classes), or `images` (some hundred training images).
"""

import math
from collections.abc import Callable
from typing import Any

from kvae import likelihoods, networks, objectives, posteriors, priors, schedules
from kvae.models import VAE

Shape = tuple[int, int, int]


def recipe(**settings: Any) -> Callable[[Callable[..., VAE]], Callable[..., VAE]]:
    """Mark a function as a recipe; `settings` are the settings of `kvae train` for it."""

    def mark(build: Callable[..., VAE]) -> Callable[..., VAE]:
        build.settings = settings  # type: ignore[attr-defined]
        return build

    return mark


# Objectives.


@recipe()
def vae(image_shape: Shape, latent_dim: int = 16) -> VAE:
    """Variational autoencoder (Kingma & Welling 2014, https://arxiv.org/abs/1312.6114)."""
    return VAE(latent_dim=latent_dim, image_shape=image_shape)


@recipe()
def beta_vae(image_shape: Shape, latent_dim: int = 10, beta: float = 4.0) -> VAE:
    """β-VAE: a larger weight of the rate (Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl)."""
    return VAE(latent_dim=latent_dim, image_shape=image_shape, objective=objectives.ELBO(beta))


@recipe()
def warmup_vae(image_shape: Shape, latent_dim: int = 16, num_steps: int = 10_000) -> VAE:
    """KL warm-up: the weight of the rate rises from 0 to 1 (Sønderby et al. 2016, https://arxiv.org/abs/1602.02282)."""
    warmup = schedules.LinearWarmup(max(1, num_steps // 5))
    return VAE(latent_dim=latent_dim, image_shape=image_shape, objective=objectives.ELBO(warmup))


@recipe()
def cyclical_vae(image_shape: Shape, latent_dim: int = 16, num_steps: int = 10_000) -> VAE:
    """Cyclical annealing: four consecutive warm-ups (Fu et al. 2019, https://arxiv.org/abs/1903.10145)."""
    cycles = schedules.Cyclical(max(1, num_steps // 4), cycles=4)
    return VAE(latent_dim=latent_dim, image_shape=image_shape, objective=objectives.ELBO(cycles))


@recipe()
def free_bits(image_shape: Shape, latent_dim: int = 16, nats: float = 0.1) -> VAE:
    """Free bits: a rate below λ nats per latent costs nothing (Kingma et al. 2016, https://arxiv.org/abs/1606.04934)."""
    return VAE(latent_dim=latent_dim, image_shape=image_shape, objective=objectives.FreeBits(nats))


@recipe()
def capacity_vae(image_shape: Shape, latent_dim: int = 10, nats: float = 25.0, num_steps: int = 10_000) -> VAE:
    """Disentangled β-VAE: a capacity that grows to 25 nats (Burgess et al. 2018, https://arxiv.org/abs/1804.03599)."""
    capacity = schedules.LinearWarmup(max(1, num_steps // 2), end=nats)
    return VAE(latent_dim=latent_dim, image_shape=image_shape, objective=objectives.Capacity(capacity, gamma=100.0))


@recipe()
def control_vae(image_shape: Shape, latent_dim: int = 16, nats: float = 15.0, num_steps: int = 10_000) -> VAE:
    """ControlVAE: a controller of β keeps the rate at a target (Shao et al. 2020, https://arxiv.org/abs/2004.05988)."""
    gain = math.prod(image_shape) / 784  # with more pixels, a nat of rate is worth more distortion, and β is larger
    objective = objectives.TargetRate(nats, k_p=0.01 * gain, k_i=0.5 * gain / max(1, num_steps), max_beta=10.0)
    return VAE(latent_dim=latent_dim, image_shape=image_shape, objective=objective)


@recipe()
def beta_tc_vae(image_shape: Shape, latent_dim: int = 10, beta: float = 6.0, num_images: int = 50_000) -> VAE:
    """β-TC-VAE: a larger weight of the total correlation (Chen et al. 2018, https://arxiv.org/abs/1802.04942)."""
    objective = objectives.TotalCorrelation(beta, dataset_size=num_images)
    return VAE(latent_dim=latent_dim, image_shape=image_shape, objective=objective)


@recipe()
def dip_vae(image_shape: Shape, latent_dim: int = 10, weight: float = 10.0) -> VAE:
    """DIP-VAE-II: the aggregate posterior's covariance is near I (Kumar et al. 2018, https://arxiv.org/abs/1711.00848)."""
    return VAE(latent_dim=latent_dim, image_shape=image_shape, objective=objectives.DIP(weight, weight))


@recipe()
def info_vae(image_shape: Shape, latent_dim: int = 16, weight: float = 100.0) -> VAE:
    """InfoVAE: an MMD instead of most of the rate (Zhao et al. 2017, https://arxiv.org/abs/1706.02262)."""
    objective = objectives.MMD(weight, beta=0.2, kernel=objectives.RBF())
    return VAE(latent_dim=latent_dim, image_shape=image_shape, objective=objective)


@recipe()
def wae_mmd(image_shape: Shape, latent_dim: int = 16, weight: float = 100.0) -> VAE:
    """Wasserstein autoencoder with an MMD penalty (Tolstikhin et al. 2018, https://arxiv.org/abs/1711.01558)."""
    likelihood = likelihoods.Normal(scale=0.5**0.5)  # its distortion is the squared error
    return VAE(latent_dim=latent_dim, image_shape=image_shape, likelihood=likelihood, objective=objectives.MMD(weight))


# Several posterior samples.


@recipe(batch_size=20, learning_rate=1e-3)
def iwae(image_shape: Shape, latent_dim: int = 50, num_samples: int = 5, images: Any = None) -> VAE:
    """Importance-weighted autoencoder and its network (Burda et al. 2016, https://arxiv.org/abs/1509.00519)."""
    return VAE(
        encoder=networks.Encoder(latent_dim, networks.MLP((200, 200), "tanh")),
        decoder=networks.Decoder(image_shape, networks.MLP((200, 200), "tanh"), mean_image=_mean(images)),
        objective=objectives.IWAE(num_samples),
    )


@recipe()
def dreg(image_shape: Shape, latent_dim: int = 16, num_samples: int = 8) -> VAE:
    """IWAE with the doubly-reparametrised gradient (Tucker et al. 2019, https://arxiv.org/abs/1810.04152)."""
    return VAE(latent_dim=latent_dim, image_shape=image_shape, objective=objectives.DReG(num_samples))


@recipe()
def miwae(image_shape: Shape, latent_dim: int = 16, num_samples: int = 16, num_groups: int = 4) -> VAE:
    """MIWAE: a mean of importance-weighted bounds (Rainforth et al. 2018, https://arxiv.org/abs/1802.04537)."""
    objective = objectives.MIWAE(num_samples, num_groups)
    return VAE(latent_dim=latent_dim, image_shape=image_shape, objective=objective)


@recipe()
def ciwae(image_shape: Shape, latent_dim: int = 16, num_samples: int = 8, beta: float = 0.5) -> VAE:
    """CIWAE: a combination of the ELBO and IWAE (Rainforth et al. 2018, https://arxiv.org/abs/1802.04537)."""
    return VAE(latent_dim=latent_dim, image_shape=image_shape, objective=objectives.CIWAE(num_samples, beta))


@recipe()
def piwae(image_shape: Shape, latent_dim: int = 16, num_samples: int = 16, num_groups: int = 4) -> VAE:
    """PIWAE: IWAE for the decoder, MIWAE for the encoder (Rainforth et al. 2018, https://arxiv.org/abs/1802.04537)."""
    objective = objectives.PIWAE(num_samples, num_groups)
    return VAE(latent_dim=latent_dim, image_shape=image_shape, objective=objective)


# Other posteriors and priors.


@recipe()
def full_covariance_vae(image_shape: Shape, latent_dim: int = 16) -> VAE:
    """A posterior with a full covariance (Kingma & Welling 2019, §2.5.1, https://arxiv.org/abs/1906.02691)."""
    return VAE(latent_dim=latent_dim, image_shape=image_shape, posterior=posteriors.FullCovarianceNormal())


@recipe()
def iaf_vae(image_shape: Shape, latent_dim: int = 16) -> VAE:
    """An inverse autoregressive flow as posterior (Kingma et al. 2016, https://arxiv.org/abs/1606.04934)."""
    return VAE(latent_dim=latent_dim, image_shape=image_shape, posterior=posteriors.InverseAutoregressive())


@recipe()
def mixture_vae(image_shape: Shape, latent_dim: int = 16, components: int = 10) -> VAE:
    """A mixture of normals as prior (Dilokthanakul et al. 2016, https://arxiv.org/abs/1611.02648, without its y)."""
    return VAE(latent_dim=latent_dim, image_shape=image_shape, prior=priors.Mixture(components))


@recipe(batch_size=100, learning_rate=5e-4)
def gated_vae(image_shape: Shape, latent_dim: int = 40, num_steps: int = 50_000) -> VAE:
    """The gated dense VAE of the VampPrior paper with N(0, I) (Tomczak & Welling 2018, §4)."""
    return VAE(
        encoder=networks.Encoder(latent_dim, networks.MLP((300, 300), gated=True)),
        decoder=networks.Decoder(image_shape, networks.MLP((300, 300), gated=True)),
        objective=objectives.ELBO(schedules.LinearWarmup(max(1, num_steps // 5))),
    )


@recipe(batch_size=100, learning_rate=5e-4)
def vamp(image_shape: Shape, latent_dim: int = 40, num_steps: int = 50_000, images: Any = None) -> VAE:
    """`gated_vae` with a VampPrior of 500 pseudo-inputs (Tomczak & Welling 2018, https://arxiv.org/abs/1705.07120)."""
    prior = priors.VampPrior(500 if images is None else min(500, len(images)))
    model = gated_vae(image_shape, latent_dim, num_steps).with_prior(prior)
    if images is not None:  # pseudo-inputs start as images
        prior.images.assign(images[: prior.pseudo_inputs])
    return model


@recipe()
def flow_prior_vae(image_shape: Shape, latent_dim: int = 16) -> VAE:
    """RealNVP as prior (Dinh et al. 2017, https://arxiv.org/abs/1605.08803; Chen et al. 2017, arXiv:1611.02731)."""
    return VAE(latent_dim=latent_dim, image_shape=image_shape, prior=priors.RealNVP())


# Hierarchies of latents on grids. Without a latent_dim: it follows from the size of the images.


@recipe(batch_size=100, learning_rate=2e-3, epochs=60, ema=0.999)
def ladder(image_shape: Shape, nats: float = 1.0, num_samples: int = 1) -> VAE:
    """For a phone: three levels of latents on grids (Sønderby et al. 2016, https://arxiv.org/abs/1602.02282).

    Free bits for each layer (Kingma et al. 2016), or IWAE (arXiv:1509.00519) if num_samples > 1, for further training.
    """
    return _hierarchy(image_shape, [(2, 8, 64), (2, 4, 48), (2, 2, 48)], nats, num_samples)


@recipe(batch_size=100, learning_rate=2e-3, epochs=60, precision="bfloat16", ema=0.999)
def deep(image_shape: Shape, nats: float = 1.0, num_samples: int = 1) -> VAE:
    """A deep hierarchy of latents on grids, for the density (Child 2021, https://arxiv.org/abs/2011.10650).

    The objective is that of `ladder`."""
    return _hierarchy(image_shape, [(2, 8, 96), (4, 8, 96), (4, 4, 64)], nats, num_samples)


@recipe(batch_size=64, learning_rate=2e-3, epochs=40, precision="bfloat16", ema=0.999)
def deep_color(image_shape: Shape, nats: float = 1.0, num_samples: int = 1, components: int = 5) -> VAE:
    """`deep` for 8-bit colour, with a mixture of logistics (Salimans et al. 2017, arXiv:1701.05517)."""
    likelihood = likelihoods.DiscretizedLogisticMixture(components)
    return _hierarchy(image_shape, [(2, 16, 96), (4, 12, 96), (4, 8, 64)], nats, num_samples, likelihood)


# Other likelihoods.


@recipe()
def sigma_vae(image_shape: Shape, latent_dim: int = 16) -> VAE:
    """σ-VAE: the optimal variance of the pixels (Rybkin et al. 2021, https://arxiv.org/abs/2006.13202)."""
    return VAE(latent_dim=latent_dim, image_shape=image_shape, likelihood=likelihoods.OptimalNormal(scale=0.2))


@recipe()
def continuous_bernoulli_vae(image_shape: Shape, latent_dim: int = 16) -> VAE:
    """The continuous Bernoulli for grey values (Loaiza-Ganem & Cunningham 2019, https://arxiv.org/abs/1907.06845)."""
    return VAE(latent_dim=latent_dim, image_shape=image_shape, likelihood=likelihoods.ContinuousBernoulli())


@recipe()
def structured_vae(image_shape: Shape, latent_dim: int = 16, rank: int = 4) -> VAE:
    """A low-rank covariance of the pixels (after Dorta et al. 2018, https://arxiv.org/abs/1802.07079)."""
    likelihood = likelihoods.LowRankNormal(rank, min_scale=0.02)
    return VAE(latent_dim=latent_dim, image_shape=image_shape, likelihood=likelihood)


@recipe()
def logistic_mixture_vae(image_shape: Shape, latent_dim: int = 64, components: int = 5) -> VAE:
    """Discretised logistic mixtures for 8-bit images (PixelCNN++, Salimans et al. 2017, arXiv:1701.05517)."""
    likelihood = likelihoods.DiscretizedLogisticMixture(components)
    return VAE(latent_dim=latent_dim, image_shape=image_shape, likelihood=likelihood)


@recipe(conditional=True)
def conditional_vae(image_shape: Shape, latent_dim: int = 16, condition_dim: int = 10, num_steps: int = 10_000) -> VAE:
    """Conditional VAE: labels condition encoder, decoder and prior (Sohn, Lee & Yan 2015, NeurIPS 28)."""
    return VAE(
        latent_dim=latent_dim,
        image_shape=image_shape,
        condition_dim=condition_dim,
        prior=priors.ConditionalNormal(),
        objective=objectives.ELBO(schedules.LinearWarmup(max(1, num_steps // 5))),
    )


# Whole configurations.


@recipe(batch_size=128, learning_rate=1e-3, epochs=30)
def keras_example(image_shape: Shape, latent_dim: int = 2) -> VAE:
    """Networks of the size in keras.io's VAE example (Chollet 2020, https://keras.io/examples/generative/vae/)."""
    return VAE(
        encoder=networks.Encoder(latent_dim, networks.ConvDown((32, 64), units=16)),
        decoder=networks.Decoder(image_shape, networks.ConvUp((64, 32))),
    )


@recipe(batch_size=100, learning_rate=1e-3, epochs=500, ema=0.999)
def pythae_vae(image_shape: Shape, latent_dim: int = 40) -> VAE:
    """Dense 784-400-40, as reproduced by Pythae (Chadebec et al. 2022, https://arxiv.org/abs/2206.08309)."""
    return VAE(
        encoder=networks.Encoder(latent_dim, networks.MLP((400,))),
        decoder=networks.Decoder(image_shape, networks.MLP((400,))),
    )


@recipe(batch_size=100, learning_rate=1.2e-3, epochs=40, precision="bfloat16", ema=0.999)
def residual_flow(image_shape: Shape, latent_dim: int = 40, num_steps: int = 30_000, num_samples: int = 1) -> VAE:
    """The best density of a vector of latents: residual networks, RealNVP, IAF (Kingma et al. 2016, arXiv:1606.04934).

    The objective is the ELBO with a warm-up, or IWAE (arXiv:1509.00519) if num_samples > 1, to train a run further.
    The prior is from Dinh et al. 2017 (arXiv:1605.08803), the networks from He et al. 2016."""
    warmup = schedules.LinearWarmup(max(1, num_steps // 12))
    return VAE(
        encoder=networks.Encoder(latent_dim, networks.ResidualDown()),
        decoder=networks.Decoder(image_shape, networks.ResidualUp()),
        posterior=posteriors.InverseAutoregressive(num_steps=2, units=256),
        prior=priors.RealNVP(num_layers=8, units=(128,)),
        objective=objectives.ELBO(warmup) if num_samples == 1 else objectives.IWAE(num_samples),
    )


@recipe(batch_size=100, learning_rate=1.5e-3, epochs=60, ema=0.999)
def phone_vae(image_shape: Shape, latent_dim: int = 32, num_steps: int = 30_000, num_samples: int = 1) -> VAE:
    """For a phone: the small default networks, and a small RealNVP prior (Dinh et al. 2017).

    It is trained like `residual_flow`. An int8 file for MNIST's image size takes less than 1 MB.
    https://arxiv.org/abs/1605.08803"""
    warmup = schedules.LinearWarmup(max(1, num_steps // 12))
    return VAE(
        latent_dim=latent_dim,
        image_shape=image_shape,
        prior=priors.RealNVP(num_layers=4, units=(64,)),
        objective=objectives.ELBO(warmup) if num_samples == 1 else objectives.IWAE(num_samples),
    )


__all__ = sorted(name for name, value in vars().items() if hasattr(value, "settings"))


def _hierarchy(image_shape: Shape, rows: Any, nats: float, num_samples: int, likelihood: Any = None) -> VAE:
    levels = networks.pyramid(image_shape, rows)
    return VAE(
        encoder=networks.BottomUp(image_shape, levels),
        decoder=networks.TopDown(image_shape, levels),
        posterior=posteriors.TopDownNormal(),
        likelihood=likelihood,
        objective=objectives.FreeBits(nats) if num_samples == 1 else objectives.IWAE(num_samples),
    )


def _mean(images: Any) -> Any:
    return None if images is None else images.mean(axis=0)
