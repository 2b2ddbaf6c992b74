"""A prior that is fitted to the latents of the training images, after training."""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kvae import evaluation, priors
from kvae.data import Data
from kvae.files import atomic_file
from kvae.models import VAE, load
from kvae.models.batches import unpack
from kvae.run import CONFIG, MODEL, RunError, RunFolder, write_json
from kvae.training.settings import FitPrior

FIT_IMAGES, CHECK_IMAGES = 20_000, 2_000  # largest numbers of training and validation images
STREAM = 2  # of the noise; training has 0, evaluation 1
METHODS: dict[FitPrior, Callable[[np.ndarray], priors.Prior]] = {
    "mixture": priors.fit_mixture,
    "flow": priors.fit_flow_matching,
}

_say = functools.partial(print, flush=True)


def with_fitted_prior(
    model: VAE,
    data: Any,
    fit: Callable[[np.ndarray], priors.Prior] = priors.fit_mixture,
    *,
    limit: int = FIT_IMAGES,
) -> VAE:
    """Return the same networks with a prior that is fitted to draws from q(z|x), one for each training image.

    The latents of the data, the aggregate posterior, aren't distributed as N(0, I), and the decoder has never seen what
    is between them. Their density is the prior with the highest ELBO of a trained model (Tomczak & Welling 2018,
    https://arxiv.org/abs/1705.07120, eq. 7). In a hierarchy, the prior of the top level is fitted.

    Args:
        model: a trained `kvae.VAE` without conditions.
        data: a `kvae.data.Data`, whose training images are used; or images `(N, H, W, C)`, or a dataset of batches.
        fit: function from latents `(N, D)` to a prior: `kvae.priors.fit_mixture` or `fit_flow_matching`, or one with
            other arguments, such as `lambda z: fit_mixture(z, components=20)`.
        limit: largest number of images.

    Raises:
        ValueError: for a model with conditions, whose prior would ignore them.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> type(with_fitted_prior(vae, kvae.data.load("digits"), limit=100).prior).__name__
        'FixedMixture'
    """
    if model.condition_dim is not None:
        raise ValueError(
            "Expected a model without conditions: a prior that is fitted to all latents ignores the class. Received: a "
            f"model with {model.condition_dim} conditions"
        )
    if isinstance(data, Data):
        data = data.split("train", limit=min(limit, data.num_train))
    elif not isinstance(data, tf.data.Dataset):
        data = tf.data.Dataset.from_tensor_slices(np.asarray(data, "float32")).batch(256)
    latents, count = [], 0
    for step, batch in enumerate(data):
        x = model.check_images(unpack(batch)[0])
        z = model.posterior.sample(model.encoder_params(x), 1, model.noise(step, stream=STREAM))[0]
        latents.append(z.numpy())
        count += len(x)
        if count >= limit:
            break
    z = np.concatenate(latents)[:limit]
    if not model.posterior.is_joint:
        return model.with_prior(fit(z))
    top = model.decoder.level_sizes[0]
    prior = fit(z[:, :top])
    return model.with_prior(prior if top == model.latent_dim else priors.TopLevel(prior, top))


def fit_prior_of(run: Path, data: Data) -> None:
    """Fit the prior of a trained run if its settings say so, and replace its model.

    If the ELBO of validation images isn't higher with it, the run keeps its prior, and a line says so. Repeating it
    after a kill gives the same result.
    """
    config = RunFolder(run).config
    method = config.get("fit_prior", "none")
    if method == "none" or "fitted_prior" in config:
        return
    model = load(run / MODEL)
    if type(model.prior).__name__ == config["parts"]["prior"]:  # otherwise killed after the model was replaced
        fitted = with_fitted_prior(model, data, METHODS[method])
        before, after = (_elbo(each, data) for each in (model, fitted))
        if not after > before:
            _say(f"\nThe prior of training is kept: −ELBO {-before:.2f}, with the fitted one {-after:.2f}.")
            write_json(run / CONFIG, {**config, "fitted_prior": None})
            return
        fitted.compile_from_config(model.get_compile_config())
        with atomic_file(run / MODEL) as temporary:
            fitted.save(temporary)
        _say(f"\nFitted the prior to the latents: −ELBO {-before:.2f} → {-after:.2f} on validation images.")
        model = fitted
    name = type(model.prior).__name__
    write_json(run / CONFIG, {**config, "parts": {**config["parts"], "prior": name}, "fitted_prior": name})


def _elbo(model: VAE, data: Data) -> float:
    images = data.split("validation", limit=min(CHECK_IMAGES, data.num_validation))
    with warnings.catch_warnings(action="ignore", category=evaluation.EvaluationWarning):  # the scores will have them
        return float(evaluation.evaluate(model, images, num_samples=8)["elbo"])


def check_fit_prior(model: VAE, method: str) -> None:
    """Raise a RunError if the prior of this model can't be fitted after training."""
    if method != "none" and model.condition_dim is not None:
        raise RunError(
            "--fit-prior requires a model without conditions: a prior that is fitted to all latents ignores the class"
        )
