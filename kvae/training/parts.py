"""The parts that settings name, and the model that is built from them."""

import inspect
from pathlib import Path
from typing import Any

from kvae import data, likelihoods, networks, objectives, posteriors, priors, recipes, schedules
from kvae.models import VAE, load
from kvae.run import MODEL, RunError
from kvae.training.settings import Settings

LIKELIHOODS: dict[str, Any] = {
    "bernoulli": likelihoods.Bernoulli,
    "continuous-bernoulli": likelihoods.ContinuousBernoulli,
    "normal": lambda: likelihoods.Normal(scale=0.1),
    "normal-learned": lambda: likelihoods.Normal(scale=0.2, learned=True),
    "normal-optimal": lambda: likelihoods.OptimalNormal(scale=0.2),
    "normal-pixel": lambda: likelihoods.DiagonalNormal(min_scale=0.02),
    "normal-low-rank": lambda: likelihoods.LowRankNormal(min_scale=0.02),
    "laplace": lambda: likelihoods.Laplace(scale=0.2, learned=True),
    "logistic": likelihoods.DiscretizedLogistic,
    "logistic-mixture": likelihoods.DiscretizedLogisticMixture,
}
POSTERIORS: dict[str, Any] = {
    "normal": posteriors.DiagonalNormal,
    "full-covariance": posteriors.FullCovarianceNormal,
    "flow": posteriors.InverseAutoregressive,
}
FITTED = (priors.FixedMixture, priors.FlowMatching, priors.TopLevel)  # after training (`with_fitted_prior`)
PRIORS: dict[str, Any] = {
    "normal": priors.StandardNormal,
    "mixture": priors.Mixture,
    "vamp": priors.VampPrior,
    "flow": priors.RealNVP,
}
BODIES: dict[str, Any] = {
    "conv": lambda: (None, None),
    "mlp": lambda: (networks.MLP((512, 256)), networks.MLP((256, 512))),
    "residual": lambda: (networks.ResidualDown(), networks.ResidualUp()),
}
#: likelihoods of numbers in [0, 1]
OF_IMAGES = ("bernoulli", "continuous-bernoulli", "logistic", "logistic-mixture")
SEEN_IMAGES = 1000  # training images passed to a recipe


def model_of(settings: Settings, images: data.Data) -> VAE:
    """Build the VAE that settings describe, for these images.

    Raises:
        RunError: if the settings contradict each other, or the data.
    """
    if settings.conditional and not images.has_labels:
        raise RunError(f"A conditional VAE requires labels. Received: {images.name}, which has none")
    if settings.conditional and (bare := sorted(images.source.unlabelled)):
        raise RunError(
            "A conditional VAE requires labels in every split: move the unlabelled images elsewhere. "
            f"Received: {images.name}, whose {' and '.join(bare)} split has none"
        )
    condition_dim = images.num_classes if settings.conditional else None
    if settings.recipe is None and settings.num_samples is not None:
        raise RunError("--importance-samples requires a recipe: add --recipe iwae, or leave it out")
    if settings.recipe is not None and images.schema is not None:
        raise RunError(f"--recipe is for images: leave it out for {networks.kind_of(images.event_shape)}")
    if settings.recipe is not None:
        model = _by_recipe(settings, images, condition_dim)
    else:
        encoder, decoder = BODIES[settings.network]()
        beta = schedules.LinearWarmup(settings.warmup, end=settings.beta) if settings.warmup else settings.beta
        model = VAE(
            networks.Encoder(settings.latent_dim or 16, encoder),
            networks.Decoder(images.event_shape, decoder),
            posterior=POSTERIORS[settings.posterior](),
            likelihood=_likelihood(settings, images),
            prior=PRIORS[settings.prior](),
            objective=objectives.ELBO(beta),
            condition_dim=condition_dim,
            bounded=images.schema is None,
        )
    model.seed = settings.seed
    if settings.start is not None:
        _start_from(model, load(Path(settings.start) / MODEL), settings.start)
    return model


def _likelihood(settings: Settings, images: data.Data) -> likelihoods.Distribution:
    """Return the likelihood that settings name, of x in its units."""
    name, schema = settings.likelihood, images.schema
    if schema is None:
        return LIKELIHOODS[name]()
    if name == "auto":
        return schema.likelihood()
    if not isinstance(schema, data.SeriesSchema) or name in OF_IMAGES:
        real = ", ".join(["auto", *(known for known in LIKELIHOODS if known not in OF_IMAGES)])
        wanted = f"one of {real}, for series" if schema.kind == "series" else "auto, for tables"
        raise RunError(f"Expected --likelihood to be {wanted}. Received: {name}")
    return schema.likelihood(LIKELIHOODS[name]())


def _by_recipe(settings: Settings, images: data.Data, condition_dim: int | None) -> VAE:
    build = getattr(recipes, settings.recipe or "")
    wanted = inspect.signature(build).parameters
    assert settings.epochs is not None
    known: dict[str, Any] = {
        "image_shape": images.event_shape,
        "latent_dim": settings.latent_dim,
        "num_steps": settings.epochs * images.batches_per_epoch,
        "num_images": images.num_train,
        "num_samples": settings.num_samples,
        "condition_dim": condition_dim,
    }
    if "images" in wanted:
        known["images"] = images.arrays("train", limit=SEEN_IMAGES)[0]
    options = {"condition_dim": "--conditional", "num_samples": "--importance-samples", "latent_dim": "--latent-dim"}
    for name, option in options.items():
        if known[name] is not None and name not in wanted:
            raise RunError(f"Recipe {settings.recipe} doesn't use {option}: leave it out")
    return build(**{name: value for name, value in known.items() if name in wanted and value is not None})


def _start_from(model: VAE, other: VAE, name: str) -> None:
    """Copy the weights of `other` to `model`; raise a RunError if the networks differ."""
    for part in ("encoder", "decoder", "posterior", "likelihood", "prior"):
        mine, theirs = getattr(model, part), getattr(other, part)
        if isinstance(theirs, FITTED) and not isinstance(mine, FITTED):
            print(f"The model starts with the networks of {name}, and without its prior, which was fitted afterwards.")
            continue
        shapes = [[tuple(weight.shape) for weight in layer.weights] for layer in (mine, theirs)]
        if shapes[0] != shapes[1]:
            raise RunError(f"Expected --from to be a run with the same {part} as this model. Received: {name}")
        mine.set_weights(theirs.get_weights())
