"""Two coordinates for each latent."""

from typing import Any

import numpy as np
from sklearn.manifold import TSNE

from kvae.evaluation.codes import as_codes, principal_components, threads_for

METHODS = ("pca", "tsne")


def latent_plane(latents: Any, method: str = "tsne", seed: int = 0) -> np.ndarray:
    """Return two coordinates for each latent, `(N, 2)`, which keep neighbours close to each other.

    Equal latents have the same coordinates. If all latents are equal, the coordinates are 0.

    Args:
        latents: `(N, D)`.
        method: "pca", the two directions of most variance, a linear map; or "tsne", which keeps neighbours together and
            whose distances have no meaning (van der Maaten & Hinton 2008), started from PCA.
        seed: seed of t-SNE.

    Raises:
        ValueError: if the method is unknown, there are fewer than three latents, or latents are not finite.

    Example:

        >>> latents = np.random.default_rng(0).normal(size=(30, 4))
        >>> latent_plane(latents).shape, latent_plane(latents, "pca").shape
        ((30, 2), (30, 2))
    """
    if method not in METHODS:
        raise ValueError(f"Argument `method` must be one of {', '.join(METHODS)}. Received: method={method!r}")
    latents = as_codes(latents)
    if len(latents) < 3:
        raise ValueError(f"Expected three latents or more. Received: {len(latents)}")
    if method == "pca" or latents.shape[1] == 1:
        return principal_components(latents)[0]
    distinct, place = np.unique(latents, axis=0, return_inverse=True)
    return _tsne(distinct, seed)[place.reshape(-1)]


def _tsne(latents: np.ndarray, seed: int) -> np.ndarray:
    """Return t-SNE of distinct latents; with equal latents its tree of points and its start are undefined."""
    start, _ = principal_components(latents)
    scale = start[:, 0].std()  # t-SNE doesn't depend on the scale, but its squares have the range of float32
    if len(latents) < 3 or not scale > 0:
        return start
    start = (start / scale * 1e-4).astype(np.float32)
    perplexity = min(30.0, (len(latents) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init=start, random_state=seed)
    with threads_for(len(latents)):
        return tsne.fit_transform(latents / scale)
