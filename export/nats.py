"""The likelihood through a LiteRT file: what a precision costs in nats, with samples close to p(z|x)."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from kvae.evaluation import score_images
from kvae.evaluation.likelihood import standard_error
from kvae.evaluation.scoring import BATCH, SAMPLERS
from kvae.export import runtime
from kvae.models import VAE


def likelihood_through_file(
    model: VAE,
    path: str | os.PathLike[str],
    images: Any,
    condition: Any = None,
    num_samples: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Compute the importance-weighted likelihood of images by the decoder of a file, and what it loses, in nats.

    Both models are scored with the same latents, from the refined proposals of the Keras model
    (`kvae.evaluation.score_images(..., proposal="refined")`), which are valid for any decoder. For a hierarchy, they
    are samples of its posterior. The file's signature `decode` gives the mean of x. Therefore p(x|z) must be determined
    by it: a Bernoulli likelihood, or a scale that isn't an output of the network. A probability of Bernoulli is at
    least 1e-7, for both.

    Args:
        model: the Keras model of the file.
        path: path of a `.tflite` file with the signature `decode`, such as `decoder_int8.tflite`.
        images: `(N, H, W, C)`.
        condition: conditions of the images, for a conditional model.
        num_samples: number of samples of each image; with refined proposals rounded up to a multiple of 20.
        seed: seed of the samples.
        progress: whether to show progress bars.

    Returns:
        Dict with `nll_keras`, `nll_file`, and `nats_lost`, their difference; `nats_lost_error`, its standard error over
        the images; `images`, `samples` and `file`.

    Raises:
        ValueError: if the file has other images or latents than the model, or if the likelihood has other parameters.

    Example:

        >>> import kvae, kvae.export, tempfile
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> x = np.zeros((5, 8, 8, 1), "float32")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = kvae.export.export(vae, f"{folder}/out", precisions=["float32"])
        ...     nats = likelihood_through_file(vae, f"{folder}/out/decoder_float32.tflite", x)
        >>> abs(nats["nats_lost"]) < 1e-3
        True
    """
    file = runtime.load(path)
    wanted, received = ((m.event_shape, m.latent_dim, m.condition_dim) for m in (model, file))
    if wanted != received or "decode" not in file.info["signatures"]:
        raise ValueError(
            "Expected a file of the model with the signature 'decode', with (image_shape, latent_dim, condition_dim) = "
            f"{wanted}. Received: {file.path.name}, with {received} and {', '.join(file.info['signatures'])}"
        )
    model.likelihood.from_mean(np.full((1, *model.event_shape), 0.5, "float32"))  # an error before the work
    data = images if condition is None else (images, condition)
    proposal = "posterior" if model.posterior.is_joint else "refined"
    rows = []
    for decode in (_keras(model), file.decode):
        sampler = SAMPLERS[proposal](model, num_samples, seed, min(BATCH, len(images)), decode=decode)
        rows.append(score_images(model, data, num_samples, seed, progress, sampler=sampler, proposal=proposal))
    keras, through_file = (row["nll"] for row in rows)
    return {
        "nll_keras": float(np.mean(keras)),
        "nll_file": float(np.mean(through_file)),
        "nats_lost": float(np.mean(through_file - keras)),
        "nats_lost_error": standard_error(through_file - keras),
        "images": len(keras),
        "samples": int(rows[0]["samples"][0]) if "samples" in rows[0] else num_samples,
        "file": file.path.name,
    }


def _keras(model: VAE) -> Callable[..., np.ndarray]:
    return lambda z, c=None: np.asarray(model.likelihood.mean(model.decoder_params(z, c)))
