"""Latents on a plane."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

METHODS = ("pca", "tsne")


def latent_plane(latents: np.ndarray, method: str = "tsne", seed: int = 0) -> np.ndarray:
    """Two coordinates for each latent, `(N, 2)`, in which neighbours stay neighbours.

    Args:
        latents: `(N, D)`.
        method: "pca", the two directions of most variance, a linear map; or "tsne", which keeps neighbours together and
            says nothing by distances (van der Maaten & Hinton 2008), started from PCA.
        seed: of t-SNE.

    Raises:
        ValueError: for another method, or fewer than three latents.

    Example:

        >>> latents = np.random.default_rng(0).normal(size=(30, 4))
        >>> latent_plane(latents).shape, latent_plane(latents, "pca").shape
        ((30, 2), (30, 2))
    """
    if method not in METHODS:
        raise ValueError(f"Argument `method` must be one of {', '.join(METHODS)}. Received: method={method!r}")
    if len(latents) < 3:
        raise ValueError(f"Expected three latents or more. Received: {len(latents)}")
    if latents.shape[1] == 1:
        return np.column_stack([latents, np.zeros(len(latents))])
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(latents)
    perplexity = min(30.0, (len(latents) - 1) / 3)
    start = "pca" if np.asarray(latents).var() > 0 else "random"
    return TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(latents)
