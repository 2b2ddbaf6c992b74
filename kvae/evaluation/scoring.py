"""Scores of images, one by one: independent of batches, resumable, and for every proposal."""

import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.arguments import integer
from kvae.data.pipeline import without_autotuning
from kvae.evaluation.annealed import AnnealedSampler
from kvae.evaluation.importance import ImportanceSampler, Rows
from kvae.evaluation.refined import RefinedSampler
from kvae.models import VAE
from kvae.models.batches import batch_of

BATCH = 256  # images of an array at once
SAVE_SECONDS = 20.0
#: samplers by the name of their proposals
SAMPLERS: dict[str, Callable[..., Any]] = {
    "posterior": ImportanceSampler, "refined": RefinedSampler, "annealed": AnnealedSampler,
}  # fmt: skip


def score_images(
    model: VAE,
    data: Any,
    num_samples: int | None,
    seed: int = 0,
    progress: bool = False,
    done: Mapping[str, np.ndarray] | None = None,
    save: Callable[[Rows], None] | None = None,
    sampler: ImportanceSampler | RefinedSampler | AnnealedSampler | None = None,
    proposal: str = "posterior",
) -> Rows:
    """Compute distortion, rate and importance-weighted likelihood of every image, in nats.

    With the proposal "posterior", z_k ~ q(z|x), k = 1 … K, and weights w_k = p(x, z_k) / q(z_k|x):

    * `distortion` = −1/K Σ log p(x|z_k), `rate` = KL(q ‖ p) in closed form, or 1/K Σ log q(z_k|x) − log p(z_k);
    * `nll` = −log 1/K Σ w_k (Burda et al. 2016, https://arxiv.org/abs/1509.00519, eq. 8), sums in float64;
    * `ess` = (Σ w_k)² / Σ w_k², the effective sample size, from 1 to K.

    With "refined", samples come from a normal distribution near p(z|x) as well (`RefinedSampler`). This bound is closer
    to −log p(x) with far fewer samples. "annealed" is for models of more than about 500 latents (`AnnealedSampler`).
    The rows of both have `nll`, `ess` and `samples`, the number K of each image.

    The encoder sees each image once. The noise is a function of only the seed, the number of the image and k, so that
    batches and chunks of the K samples change results by no more than rounding.

    In addition to the rows (2·D + 7 numbers per image) and a batch of images, memory is bounded: the largest tensor of
    a chunk has at most 64 MiB (or the size for a single latent; with "refined", for D + 1 latents), a network has a few
    of them at a time, and one chunk per core is processed at a time, up to four.

    Args:
        model: a built `kvae.VAE`.
        data: dataset of batches as for `fit`, or an array `(N, H, W, C)`, or a pair of arrays. With a pair of noisy and
            clean images, the clean images are scored with z ~ q(z|noisy).
        num_samples: K; None with "refined" draws as many as an image requires, with "annealed" 10.
        seed: seed of the noise.
        progress: whether to show a progress bar.
        done: rows of an interrupted call. The call resumes after them, and its results are the same.
        save: function that is called with the finished rows from time to time, and on Ctrl-C.
        sampler: sampler of an earlier call with the same model, proposal, K and seed, to avoid compiling again.
        proposal: "posterior", "refined" or "annealed".

    Returns:
        Rows, each with an entry per image: the values above, `(N,)`; with "posterior" `mean` and `variance` of q(z|x),
        `(N, D)`; `outside`, whether the image is outside the likelihood's support; `binary`, whether all of its values
        are 0 or 1; `image`, a checksum.

    Raises:
        ValueError: if num_samples < 1, for an unknown proposal, or if the rows `done` have other images.

    Example:

        >>> vae = VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> rows = score_images(vae, np.zeros((3, 8, 8, 1), "float32"), num_samples=4)
        >>> rows["nll"].shape, rows["mean"].shape, bool(np.all(rows["ess"] <= 4.001))
        ((3,), (3, 2), True)
    """
    check_proposal(proposal, num_samples)
    from tqdm import tqdm

    dataset = as_batches(data)
    parts: list[Mapping[str, np.ndarray]] = [done] if done else []
    finished = len(done["image"]) if done else 0
    first = 0  # the number of the batch's first image
    saved = time.monotonic()
    bar = tqdm(disable=None if progress else True, unit="image", leave=False)
    try:
        for batch in dataset:
            x, y, target, _ = batch_of(batch, model.event_shape, model.condition_dim is not None)
            rows = _image_rows(model, x if target is None else target)
            x, target = model.check_images(x), None if target is None else model.check_images(target)
            if sampler is None or not bar.total:
                sampler = sampler or SAMPLERS[proposal](model, num_samples, seed, len(x))
                bar.total = max(0, int(dataset.cardinality())) * len(x) or None
            known = max(0, min(finished - first, len(x)))
            if known and np.any(rows["image"][:known] != done["image"][first : first + known]):  # type: ignore[index]
                raise ValueError(
                    "Expected the images of the interrupted evaluation. "
                    f"Received: different images among {first} to {first + known - 1}; start again without `done`"
                )
            bar.update(known)
            if known < len(x):
                for group, scores in sampler.groups(x, model.condition(y, labels=True), first, known, target):
                    parts.append({name: row[group] for name, row in rows.items()} | scores)
                    bar.update(len(scores["nll"]))
                    if save is not None and time.monotonic() - saved > SAVE_SECONDS:
                        save(joined(parts))
                        saved = time.monotonic()
            first += len(x)
        if finished > first:
            raise ValueError(
                f"Expected at least the {finished} images of the interrupted evaluation. "
                f"Received: {first} images; start again without `done`"
            )
    except KeyboardInterrupt:
        if save is not None and parts:
            save(joined(parts))
        raise
    finally:
        bar.close()
    return joined(parts) if parts else {}


def check_proposal(proposal: str, num_samples: int | None) -> None:
    """Raise a ValueError for an unknown proposal, or a number of samples that doesn't fit."""
    if proposal not in SAMPLERS:
        raise ValueError(f"Argument `proposal` must be one of {', '.join(SAMPLERS)}. Received: proposal={proposal!r}")
    if num_samples is None and proposal == "posterior":
        raise ValueError("Argument `num_samples` must be >= 1 for proposal='posterior'. Received: num_samples=None")
    if num_samples is not None:
        integer("num_samples", num_samples, least=1)


def as_batches(data: Any, batch_size: int = BATCH) -> tf.data.Dataset:
    """Return a dataset of batches of an array of images or a pair `(images, labels)`; return a dataset unchanged."""
    if isinstance(data, tf.data.Dataset):
        return data
    return without_autotuning(tf.data.Dataset.from_tensor_slices(data).batch(batch_size))


def _image_rows(model: VAE, x: Any) -> Rows:
    """Return the columns that don't require the model: checksums, whether images are binary or outside the support."""
    x = np.asarray(x)
    flat = x.reshape(len(x), -1).astype(np.float32)
    binary = np.all((flat == 0) | (flat == 1), axis=1)
    outside = np.zeros(len(x), bool)
    if model.likelihood.support == "binary":
        outside = ~binary
    elif model.likelihood.support == "levels":
        levels = flat.astype(np.float64) * (model.likelihood.levels - 1)
        outside = np.any(np.abs(levels - np.round(levels)) > 1e-3, axis=1)
    image = np.array([zlib.crc32(pixels.tobytes()) for pixels in flat], np.uint32)
    return {"image": image, "binary": binary, "outside": outside}


def joined(parts: list[Mapping[str, np.ndarray]]) -> Rows:
    """Return the rows of all parts, one part after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
