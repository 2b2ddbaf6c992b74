"""N(mean, L Lᵀ) with a full matrix L: a posterior whose latents are correlated."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from kvae.distributions.diagonal_normal import LOG_2PI, normal_log_density
from kvae.distributions.location_scale import BoundedScale, soft_clip
from kvae.distributions.noise import Seed, standard_normal

MAX_SLOPE = 10.0  # bound of the slope of one latent on another, in units of its own scale


@keras.saving.register_keras_serializable("kvae")
class FullCovarianceNormal(BoundedScale):
    """Normal posterior with a full covariance; the network returns `[mean, raw log-scale, raw entries below]`.

    z = μ + L ε with the Cholesky factor L = diag(σ) (I + T), T strictly lower triangular (Kingma & Welling 2019,
    https://arxiv.org/abs/1906.02691, §2.5.1): D + D (D + 1) / 2 numbers for D latents. The entries of T, in units of σ,
    are smoothly bounded to ±10. log q(z|x) = −½ |ε|² − ½ D log 2π − Σ log σ, nats. For a new sample, ε is known.
    `log_prob` of any other value requires a triangular solve. LiteRT has none, but exported files don't need it.

    Args:
        min_scale, max_scale: smooth bounds of σ, 0 < min_scale < 1 < max_scale.

    Raises:
        ValueError: for other bounds, or for an event that isn't a vector.

    Example:

        >>> q = FullCovarianceNormal()
        >>> q.param_size((2,))
        5
        >>> q.covariance(np.array([[0, 0, 0, 0, 0.1]], "float32")).numpy().round(2)  # μ, raw log σ, raw T₂₁
        array([[[1.  , 0.1 ],
                [0.1 , 1.01]]], dtype=float32)
    """

    roles = ("posterior",)

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        if len(event_shape) != 1:
            raise ValueError(f"FullCovarianceNormal is a distribution of vectors. Received: event shape {event_shape}")
        return event_shape[0] + event_shape[0] * (event_shape[0] + 1) // 2

    def split(self, params: Any) -> tuple[Any, Any, Any]:
        """Return the mean `(…, D)`, log σ `(…, D)` and T `(…, D, D)`."""
        params = ops.cast(params, "float32")
        size = (math.isqrt(9 + 8 * params.shape[-1]) - 3) // 2  # P = D (D + 3) / 2
        mean, raw, below = ops.split(params, [size, 2 * size], axis=-1)
        # Every entry of T is a number below the diagonal, row by row, or the zero before these numbers.
        place = np.zeros((size, size), "int32")
        place[np.tril_indices(size, -1)] = 1 + np.arange(size * (size - 1) // 2)
        entries = ops.concatenate([ops.zeros_like(mean[..., :1]), soft_clip(below, -MAX_SLOPE, MAX_SLOPE)], axis=-1)
        return mean, self.bounded(raw), ops.take(entries, place, axis=-1)

    def cholesky(self, params: Any) -> Any:
        """Return L, `(…, D, D)`."""
        _, log_scale, slopes = self.split(params)
        return ops.exp(log_scale)[..., None] * (ops.eye(log_scale.shape[-1], dtype="float32") + slopes)

    def log_prob(self, params: Any, value: Any) -> Any:
        mean, log_scale, slopes = self.split(params)
        e = (ops.cast(value, "float32") - mean) * ops.exp(-log_scale)  # (…, B, D)
        lower = ops.reshape(slopes, (*(1,) * (len(e.shape) + 1 - len(slopes.shape)), *ops.shape(slopes)))
        epsilon = ops.linalg.solve_triangular(ops.eye(e.shape[-1], dtype="float32") + lower, e[..., None], lower=True)[
            ..., 0
        ]
        return ops.sum(normal_log_density(epsilon, 0.0, 0.0) - log_scale, axis=-1)

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        return self.sample_and_log_prob(params, n, seed)[0]

    def sample_and_log_prob(self, params: Any, n: int, seed: Seed) -> tuple[Any, Any]:
        mean, log_scale, slopes = self.split(params)
        epsilon = standard_normal((n, *ops.shape(mean)), seed)  # (n, B, D)
        correlated = epsilon + ops.matmul(slopes, epsilon[..., None])[..., 0]  # (I + T) ε
        log_q = ops.sum(-0.5 * (LOG_2PI + ops.square(epsilon)) - log_scale, axis=-1)
        return mean + ops.exp(log_scale) * correlated, log_q

    def mean(self, params: Any) -> Any:
        return self.split(params)[0]

    def variance(self, params: Any) -> Any:
        _, log_scale, slopes = self.split(params)
        return ops.exp(2 * log_scale) * (1 + ops.sum(ops.square(slopes), axis=-1))

    def covariance(self, params: Any) -> Any:
        lower = self.cholesky(params)
        return ops.matmul(lower, ops.swapaxes(lower, -1, -2))
