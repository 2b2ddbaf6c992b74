"""Images with the top levels of a hierarchy kept, and the details drawn again."""

from typing import Any

import numpy as np

from kvae.arguments import integer
from kvae.models import VAE


def redraw(model: VAE, images: Any, keep: int = 1, seed: int = 0, temperature: float = 1.0) -> np.ndarray:
    """Reconstruct images from the top levels of a hierarchy, with the latents of the other levels from the prior.

    What stays the same is what the top levels represent; what changes are the details of the others.

    Args:
        model: a `kvae.VAE` with a hierarchy of latents (`kvae.networks.TopDown`), without conditions.
        images: `(N, H, W, C)`.
        keep: number of levels that are kept, from 0 (samples of the model) to all (reconstructions).
        seed: seed of the latents from the prior; row i depends only on the seed and i.
        temperature: scale of the prior's noise.

    Returns:
        `(N, H, W, C)`.

    Raises:
        ValueError: for a model without levels, or another number of them.

    Example:

        >>> from kvae import VAE, networks, posteriors
        >>> shape, levels = (8, 8, 1), [(4, 1, 2, 8), (2, 1, 1, 8)]
        >>> parts = networks.BottomUp(shape, levels), networks.TopDown(shape, levels)
        >>> vae = VAE(*parts, posterior=posteriors.TopDownNormal())
        >>> redraw(vae, np.zeros((3, 8, 8, 1)), keep=1).shape
        (3, 8, 8, 1)
    """
    if not model.posterior.is_joint or model.condition_dim is not None:
        raise ValueError(
            "Expected a model with a hierarchy of latents (kvae.networks.TopDown), without conditions. Received: "
            f"{type(model.decoder).__name__} with condition_dim={model.condition_dim}"
        )
    sizes = model.decoder.level_sizes
    if integer("keep", keep, least=0) > len(sizes):
        raise ValueError(f"Argument `keep` must be at most {len(sizes)}, the number of levels. Received: keep={keep}")
    z = np.asarray(model.encode_mean(images))
    drawn = np.asarray(model.prior.fixed().sample(len(z), seed, temperature))
    cut = sum(sizes[:keep])
    return np.asarray(model.decode(np.concatenate([z[:, :cut], drawn[:, cut:]], axis=1)))
