"""Distortion, rate, ELBO and an importance-weighted likelihood, over a whole split."""

import math
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kvae.models import VAE

DECODES_AT_ONCE = 2048  # latents per call of the decoder: bounds the memory, whatever the batch and K
STREAM = 2  # random numbers apart from those of training (0) and validation (1)


class CollapseWarning(UserWarning):
    """The posterior has collapsed onto the prior: the latents carry (almost) nothing about x."""


def as_batches(data: Any, batch_size: int = 256) -> tf.data.Dataset:
    """An array of images or `(images, labels)` as a dataset of batches; a dataset as it is."""
    return data if isinstance(data, tf.data.Dataset) else tf.data.Dataset.from_tensor_slices(data).batch(batch_size)


def evaluate(model: VAE, data: Any, num_samples: int = 64, split: str = "test", progress: bool = False) -> dict:
    """Score a VAE: everything in nats per example, a bound or an estimate of −log p(x).

    * `distortion` and `rate`: −E_q log p(x|z) and KL(q ‖ p), means over the same K posterior samples;
    * `elbo` = −(distortion + rate), the evidence lower bound (Kingma & Welling 2014, eq. 3);
    * `nll`: −log p̂(x) with p̂ = mean_k p(x, z_k)/q(z_k|x), the importance-weighted bound with K samples (Burda
      et al. 2016, eq. 8), from above: it falls towards −log p(x) as K grows;
    * `bits_per_dim`: −ELBO / (ln 2 · H·W·C). For densities (Normal) it refers to x in [0, 1]; add 8 to compare
      with 8-bit images.

    Args:
        model: a built `kvae.VAE`.
        data: dataset of image batches (labels are ignored), or an array `(N, H, W, C)`.
        num_samples: K.
        split: what the data is called in the result.
        progress: whether to show a progress bar.

    Returns:
        Dict with `elbo`, `rate`, `distortion`, `bits_per_dim`, `active_units`, `nll`, `num_samples`, `split`,
        `examples`.

    Raises:
        ValueError: if there is no data, or num_samples < 1.

    Warns:
        CollapseWarning: if few or no latents are active.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> with warnings.catch_warnings(action="ignore"):  # untrained, it carries nothing
        ...     scores = evaluate(vae, np.zeros((10, 8, 8, 1), "float32"), num_samples=8)
        >>> scores["examples"], scores["nll"] <= -scores["elbo"]
        (10, True)
    """
    if num_samples < 1:
        raise ValueError(f"Argument `num_samples` must be >= 1. Received: num_samples={num_samples}")
    model.active_units.reset_state()
    chunk_terms = tf.function(_chunk_terms, reduce_retracing=True)
    sums = np.zeros(3)  # distortion, rate, log p̂(x)
    examples = 0
    for batch in _progress(as_batches(data), progress):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        size = int(x.shape[0])
        chunk = max(1, min(num_samples, DECODES_AT_ONCE // size))
        log_weights, distortions = [], []
        for start in range(0, num_samples, chunk):
            k = min(chunk, num_samples - start)
            seed_step = tf.constant(examples * num_samples + start, tf.int64)
            distortion, rate, log_weight, z_mean = chunk_terms(model, x, seed_step, k)
            distortions.append(distortion)
            log_weights.append(log_weight)
        log_weight = np.concatenate(log_weights).astype(np.float64)  # (K, B)
        evidence = np.logaddexp.reduce(log_weight, axis=0) - math.log(num_samples)  # log p̂(x)
        sums += np.mean(np.concatenate(distortions), axis=0).sum(), np.sum(rate), evidence.sum()
        model.active_units.update_state(z_mean)
        examples += size
    if not examples:
        raise ValueError(f"Expected images to evaluate. Received: an empty {split} split")
    distortion, rate, evidence = (float(total) / examples for total in sums)
    elbo = -(distortion + rate)
    active = int(model.active_units.result())
    if message := diagnose(active, model.latent_dim, rate):
        warnings.warn(message, CollapseWarning, stacklevel=2)
    return {
        "elbo": elbo,
        "rate": rate,
        "distortion": distortion,
        "bits_per_dim": -elbo / (math.log(2) * math.prod(model.image_shape)),
        "active_units": active,
        "nll": -evidence,
        "num_samples": num_samples,
        "split": split,
        "examples": examples,
    }


def diagnose(active_units: int, latent_dim: int, rate: float) -> str | None:
    """What is wrong with a VAE of which so few latents are active, and what to do; None if nothing is."""
    if active_units > latent_dim / 4 or active_units >= 2:
        return None
    return (
        f"Posterior collapse: {active_units} of {latent_dim} latents are active (rate {rate:.2f} nats), so the "
        "decoder draws nearly the same image for every z. Train longer, warm up or lower beta, or use a likelihood "
        "with a smaller variance."
    )


def _chunk_terms(model: VAE, x: Any, seed_step: Any, k: int) -> tuple[Any, Any, Any, Any]:
    terms = model.terms(model.check_images(x), model.noise(seed_step, STREAM), k)
    return terms.distortion, terms.rate, terms.log_weight, terms.z_mean


def _progress(dataset: tf.data.Dataset, show: bool) -> Any:
    from tqdm import tqdm

    total = int(dataset.cardinality())
    return tqdm(dataset, total=total if total >= 0 else None, disable=None if show else True, unit="batch", leave=False)
