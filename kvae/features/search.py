"""Nearest neighbours in latent space."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.neighbors import NearestNeighbors

from kvae.evaluation.codes import as_codes
from kvae.features.extraction import extract
from kvae.models import LatentModel


class Neighbours(NamedTuple):
    """Neighbours of each query, nearest first: `indices` of images and `distances`, `(Q, k)` each."""

    indices: np.ndarray
    distances: np.ndarray


def nearest(model: LatentModel | None, images: Any, queries: Any, k: int = 5, metric: str = "euclidean") -> Neighbours:
    """Find the images whose latent means are nearest to those of the queries.

    Latents that the model doesn't use vary little, and hardly affect the result.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder` without conditions; None if images and queries are latents.
        images: the images to search, `(N, H, W, C)`, a dataset of batches, or their latent means `(N, D)`, so that
            several searches encode them once.
        queries: images `(Q, H, W, C)`, or latents `(Q, D)`.
        k: number of neighbours of each query, at most N.
        metric: metric of scikit-learn's `NearestNeighbors`: "euclidean", "cosine", …

    Raises:
        ValueError: if k is out of range, or latents are not finite.

    Example:

        >>> from kvae import VAE
        >>> images = np.random.default_rng(0).random((20, 8, 8, 1), "float32")
        >>> found = nearest(VAE(latent_dim=2, image_shape=(8, 8, 1)), images, images[3:5], k=2)
        >>> found.indices[:, 0].tolist(), found.indices.shape
        ([3, 4], (2, 2))
    """
    latents, wanted = latents_of(model, images), latents_of(model, queries)
    if not 1 <= k <= len(latents):
        raise ValueError(f"Argument `k` must be from 1 to {len(latents)}, the number of images. Received: k={k}")
    distances, indices = NearestNeighbors(n_neighbors=k, metric=metric).fit(latents).kneighbors(wanted)
    return Neighbours(indices, distances)


def latents_of(model: LatentModel | None, x: Any) -> np.ndarray:
    """Return the latent means `(N, D)` of images; return latents unchanged."""
    if np.ndim(x) == 2:
        return as_codes(x)
    if model is None:
        raise ValueError(f"Expected latents (N, D) without a model. Received: shape {np.shape(x)}")
    x = x if np.ndim(x) == 0 else np.asarray(x, np.float32)
    return as_codes(extract(model, x, hidden=False, all_levels=True)["mean"])
