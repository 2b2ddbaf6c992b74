"""Directions in latent space: find the direction between two groups of images, and move images along it.

`kvae.features.attributes` finds and checks the direction of a label.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression

from kvae.evaluation.codes import ROUNDING, as_codes, threads_for
from kvae.features.search import latents_of
from kvae.models import LatentModel

METHODS = ("mean", "logistic")


class Direction(NamedTuple):
    """A unit vector `(D,)` in latent space, and the `distance` of the means of two groups along it."""

    vector: np.ndarray
    distance: float


class AttributeDirection(NamedTuple):
    """A direction with a name, its range, and the result of its check: the result of `attribute_direction`.

    The *position* of latents z along the direction is (z · `vector` − `middle`) / `distance`. It is −½ at the mean of
    the images without the attribute, and ½ at the mean of those with it. `move` by a step of 1 adds 1 to it.

    Attributes:
        vector: a unit vector `(D,)`, float32.
        distance: the distance between the two means along the vector, in latent units.
        name: name of the attribute, such as "smile".
        middle: z · `vector` midway between the two means.
        low, high: the positions between which the direction holds, because images were encoded there.
        accuracy: the share of held-out images whose label a probe finds from the position.
        majority: the same for the larger of the two classes (a control).
        auroc: area under the ROC curve of the position; 0.5 is chance.
        flips: the share of held-out images that the probe decides differently after they were moved by one step to the
            other side, decoded and encoded; the mean over both sides.
    """

    vector: np.ndarray
    distance: float
    name: str
    middle: float
    low: float
    high: float
    accuracy: float
    majority: float
    auroc: float
    flips: float

    def position(self, z: np.ndarray) -> np.ndarray:
        """Return the positions of latents `(…, D)` along the direction, `(…,)`.

        Example:

            >>> smile = AttributeDirection(np.array([0.0, 1.0]), 4.0, "smile", 1.0, -1.0, 1.0, 0.9, 0.5, 0.95, 0.8)
            >>> smile.position(np.array([[7.0, 1.0], [7.0, 3.0]])).tolist()
            [0.0, 0.5]
        """
        return (np.asarray(z, np.float64) @ self.vector - self.middle) / self.distance


def direction(model: LatentModel, first: Any, second: Any, method: str = "mean") -> Direction:
    """Return the direction in latent space from the first group of images to the second.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder` without conditions.
        first, second: images `(N, H, W, C)`, datasets, or latents `(N, D)`, such as faces without and with a smile.
        method: "mean", the difference of the groups' mean latents (Larsen et al. 2016,
            https://arxiv.org/abs/1512.09300, §4.3); or "logistic", the normal of the plane that separates the groups
            in a logistic regression. It doesn't change properties that the groups share.

    Raises:
        ValueError: if the method is unknown, or the groups' means are equal up to rounding.

    Example:

        >>> from kvae import VAE
        >>> a = np.random.default_rng(0).normal(size=(50, 2)) + [2, 0]
        >>> found = direction(VAE(latent_dim=2, image_shape=(8, 8, 1)), -a, a)
        >>> bool(found.vector[0] > 0.99), bool(3.5 < found.distance < 4.5)
        (True, True)
    """
    if method not in METHODS:
        raise ValueError(f"Argument `method` must be one of {', '.join(METHODS)}. Received: method={method!r}")
    a, b = latents_of(model, first), latents_of(model, second)
    both = as_codes(np.concatenate([a, b]))
    apart = both[len(a) :].mean(axis=0, dtype=np.float64) - both[: len(a)].mean(axis=0, dtype=np.float64)
    if not np.linalg.norm(apart) > ROUNDING * np.abs(both).max():
        raise ValueError("Expected two groups that differ. Received: groups with the same mean in latent space")
    if method == "logistic":
        labels = np.repeat([0, 1], [len(a), len(b)])
        with threads_for(len(both)):
            vector = LogisticRegression(max_iter=1000).fit(both - both[0], labels).coef_[0]  # constant latents are 0
    else:
        vector = apart
    vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return Direction(vector, float(apart @ vector))


def move(
    model: LatentModel, images: Any, along: Direction | AttributeDirection | np.ndarray, steps: Sequence[float]
) -> np.ndarray:
    """Move each image along a direction in latent space: `(N, S, H, W, C)`; step 0 is its reconstruction.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder` without conditions.
        images: `(N, H, W, C)`, or latents `(N, D)`.
        along: the result of `direction` or `attribute_direction`, where a step of 1 is its distance; or a vector
            `(D,)`.
        steps: S multiples of the direction.

    Example:

        >>> from kvae import VAE
        >>> vae = VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> move(vae, np.zeros((3, 8, 8, 1)), np.array([1.0, 0.0]), steps=[-1, 0, 1]).shape
        (3, 3, 8, 8, 1)
    """
    if isinstance(along, Direction | AttributeDirection):
        vector = along.vector * along.distance
    else:
        vector = np.asarray(along)
    if vector.shape != (model.latent_dim,):
        raise ValueError(f"Expected a direction of {model.latent_dim} latents. Received: shape {vector.shape}")
    z = latents_of(model, images)[:, None] + np.asarray(steps)[:, None] * vector  # (N, S, D)
    decoded = np.asarray(model.decode(z.reshape(-1, model.latent_dim).astype(np.float32)))
    return decoded.reshape(len(z), len(steps), *model.event_shape)


def arithmetic(model: LatentModel, a: Any, b: Any, c: Any) -> np.ndarray:
    """Return the decoded z(a) − z(b) + z(c), `(N, H, W, C)`.

    It is to c as a is to b (Radford et al. 2016, https://arxiv.org/abs/1511.06434, §6.3.2). Means over several images
    are more stable than single images.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder` without conditions.
        a, b: images `(M, H, W, C)` or latents `(M, D)`; their mean latents are used.
        c: images `(N, H, W, C)` or latents `(N, D)`.

    Example:

        >>> from kvae import VAE
        >>> x = np.zeros((4, 8, 8, 1))
        >>> arithmetic(VAE(latent_dim=2, image_shape=(8, 8, 1)), x, x, x[:1]).shape
        (1, 8, 8, 1)
    """
    offset = latents_of(model, a).mean(axis=0) - latents_of(model, b).mean(axis=0)
    return move(model, c, offset, [1.0])[:, 0]
