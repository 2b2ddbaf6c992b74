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
BATCH = 256  # always the same, because the noise depends on the number of a batch
MOST_FULL = 64  # latents with full covariances: a component has more images than numbers
MOST_OF_FLOW = 128  # latents: the flow is inverted with a Jacobian for each image

_say = functools.partial(print, flush=True)


def _mixture(latents: np.ndarray) -> priors.Prior:
    return priors.fit_mixture(latents, covariance_type="full" if latents.shape[1] <= MOST_FULL else "diag")


METHODS: dict[FitPrior, Callable[[np.ndarray], priors.Prior]] = {
    "mixture": _mixture,
    "flow": priors.fit_flow_matching,
}


def with_fitted_prior(
    model: VAE,
    data: Any,
    fit: FitPrior | Callable[[np.ndarray], priors.Prior] = "mixture",
    *,
    limit: int = FIT_IMAGES,
) -> VAE:
    """Return the same networks with a prior that is fitted to draws from q(z|x), one for each training image.

    The latents of the data, the aggregate posterior, aren't distributed as N(0, I), and the decoder has never seen the
    regions between them. Their density is the prior with the highest ELBO of a trained model (Tomczak & Welling 2018,
    https://arxiv.org/abs/1705.07120, eq. 7). In a hierarchy, the prior of the top level is fitted.

    Args:
        model: a trained `kvae.VAE` without conditions.
        data: a `kvae.data.Data`, whose training images are used; or images `(N, H, W, C)`, a pair of images and
            labels, or a dataset of batches. Labels are ignored.
        fit: "mixture" is `kvae.priors.fit_mixture`, with full covariances of up to 64 latents; "flow" is
            `kvae.priors.fit_flow_matching`; or a function from latents `(N, D)` to a prior, such as
            `lambda z: fit_mixture(z, components=20)`.
        limit: largest number of images.

    Raises:
        TypeError: for a model that isn't a `kvae.VAE`.
        ValueError: for a model with conditions, which the prior would ignore, or an unknown `fit`.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> type(with_fitted_prior(vae, kvae.data.load("digits"), limit=100).prior).__name__
        'FixedMixture'
    """
    if not isinstance(model, VAE):
        raise TypeError(
            f"Argument `model` must be a `kvae.VAE`. Received: {type(model).__name__}; for codes of an autoencoder, "
            "use `kvae.priors.fit_mixture`"
        )
    if model.condition_dim is not None:
        raise ValueError(
            "Expected a model without conditions: a prior that is fitted to all latents ignores the class. Received: a "
            f"model with {model.condition_dim} conditions"
        )
    if not callable(fit) and fit not in METHODS:
        raise ValueError(f"Argument `fit` must be {' or '.join(map(repr, METHODS))}, or a function. Received: {fit!r}")
    if isinstance(data, Data):
        data = data.split("train", limit=min(limit, data.num_train), batch_size=BATCH)
    elif not isinstance(data, tf.data.Dataset):
        images = np.asarray(data[0] if isinstance(data, tuple) else data, "float32")
        data = tf.data.Dataset.from_tensor_slices(images).batch(BATCH)
    latents, count = [], 0
    for step, batch in enumerate(data):
        x = model.check_images(unpack(batch)[0])
        z = model.posterior.sample(model.encoder_params(x), 1, model.noise(step, stream=STREAM))[0]
        latents.append(z.numpy())
        count += len(x)
        if count >= limit:
            break
    z = np.concatenate(latents)[:limit]
    top = _fitted_size(model)
    prior = (fit if callable(fit) else METHODS[fit])(z[:, :top])
    return model.with_prior(prior if top == model.latent_dim else priors.TopLevel(prior, top))


def _fitted_size(model: VAE) -> int:
    """Return the number of latents whose prior is fitted."""
    return model.decoder.level_sizes[0] if model.posterior.is_joint else model.latent_dim


def fit_prior_of(run: Path, data: Data) -> None:
    """Fit the prior of a trained run if its settings say so, and replace its model.

    If the ELBO of validation images isn't higher with it, or it can't be fitted, the run keeps its prior, and a line
    says so. Repeating it after a kill gives the same result.
    """
    config = RunFolder(run).config
    method = config.get("fit_prior", "none")
    if method == "none" or "fitted_prior" in config:
        return
    model = load(run / MODEL)
    if type(model.prior).__name__ == config["parts"]["prior"]:  # otherwise killed after the model was replaced
        _say("\nFitting the prior to the latents …")
        try:
            fitted = with_fitted_prior(model, data, METHODS[method])
            before, after = (_elbo(each, data) for each in (model, fitted))
            why_not = None if after > before else f"−ELBO {-before:.2f}, with the fitted one {-after:.2f}"
        except Exception as error:  # the model is trained: nothing that happens now may cost it
            why_not = str(error)
        if why_not:
            _say(f"The prior of training is kept: {why_not}")
            write_json(run / CONFIG, {**config, "fitted_prior": None})
            return
        fitted.compile_from_config(model.get_compile_config())
        with atomic_file(run / MODEL) as temporary:
            fitted.save(temporary)
        _say(f"Fitted: −ELBO {-before:.2f} → {-after:.2f} on validation images.")
        model = fitted
    name = type(model.prior).__name__
    parts = {**config["parts"], "prior": name}
    write_json(run / CONFIG, {**config, "parts": parts, "weights": model.count_params(), "fitted_prior": name})


def _elbo(model: VAE, data: Data) -> float:
    images = data.split("validation", limit=min(CHECK_IMAGES, data.num_validation), batch_size=BATCH)
    with warnings.catch_warnings(action="ignore", category=evaluation.EvaluationWarning):  # the scores will have them
        return float(evaluation.evaluate(model, images, num_samples=8)["elbo"])


def check_fit_prior(model: VAE, method: str) -> None:
    """Raise a RunError if the prior of this model can't be fitted after training."""
    if method == "none":
        return
    if model.condition_dim is not None:
        raise RunError(
            "--fit-prior requires a model without conditions: a prior that is fitted to all latents ignores the class"
        )
    if method == "flow" and (size := _fitted_size(model)) > MOST_OF_FLOW:
        raise RunError(
            f"--fit-prior flow requires at most {MOST_OF_FLOW} latents, because of the memory for its density. "
            f"Received: {size}; use --fit-prior mixture"
        )
