"""A mixture of normals with fixed weights, and its density."""

import math
from typing import Any

import keras
import numpy as np
from keras import initializers, ops

from kvae.arguments import at_least
from kvae.distributions import normal_from_words
from kvae.distributions.diagonal_normal import LOG_2PI
from kvae.distributions.exact import exact_dense, on_grid
from kvae.priors.base import Prior


def mixture_log_density(z: Any, log_weights: Any, means: Any, log_scales: Any, whitening: Any = None) -> Any:
    """Return log Σₖ wₖ N(z; μₖ, Σₖ) of `z` `(…, B, D)`: `(…, B)`, nats.

    Args:
        log_weights: logarithms of weights that sum to one, `(K,)`.
        means, log_scales: `(K, D)`.
        whitening: upper triangular matrices `(K, D, D)`, for components with a full covariance. The row vector
            (z − μ) / scale, times this matrix, is N(0, I).
    """
    z = ops.cast(z, "float32")
    size, ones = z.shape[-1], (1,) * (len(z.shape) - 1)  # components come first: (K, …, B, D)
    e = (z - ops.reshape(means, (-1, *ones, size))) * ops.exp(-ops.reshape(log_scales, (-1, *ones, size)))
    log_volume = ops.sum(log_scales, axis=-1)  # ½ log |Σₖ|
    if whitening is not None:
        e = ops.matmul(e, ops.reshape(whitening, (-1, *ones[1:], size, size)))
        log_volume = log_volume - ops.sum(
            ops.log(ops.sum(whitening * ops.eye(size, dtype="float32"), axis=-1)), axis=-1
        )
    log_joint = ops.reshape(log_weights - log_volume, (-1, *ones)) - 0.5 * ops.sum(ops.square(e) + LOG_2PI, axis=-1)
    top = ops.stop_gradient(ops.max(log_joint, axis=0, keepdims=True))
    return top[0] + ops.log(ops.sum(ops.exp(log_joint - top), axis=0))


@keras.saving.register_keras_serializable("kvae")
class FixedMixture(Prior):
    """Mixture of normals with weights that aren't trained, p(z) = Σₖ wₖ N(z; μₖ, Σₖ).

    Other mixtures are converted to a `FixedMixture` to be sampled and exported. Make one with `FixedMixture.of` or
    `kvae.priors.fit_mixture`.

    One random word selects the component by integer thresholds. The other words are the noise. At temperature 0,
    latents are means of components, with frequencies equal to the weights. Latents deviate from μ + L ε by less than
    10⁻³ of a standard deviation.

    Args:
        components: number of components, K.
        full: whether covariances are full instead of diagonal.

    Raises:
        ValueError: if components < 1.

    Example:

        >>> p = FixedMixture.of(np.log([0.25, 0.75]), means=np.array([[-2.0], [2.0]]), scales=np.ones((2, 1)))
        >>> p.sample(4, seed=0, temperature=0.0).numpy().ravel()
        array([ 2.,  2.,  2., -2.], dtype=float32)
    """

    def __init__(self, components: int, full: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.components, self.full = at_least("components", components, 1), full

    @classmethod
    def of(cls, log_weights: Any, means: Any, scales: Any, lower: Any = None) -> "FixedMixture":
        """Return the mixture of N(μₖ, Lₖ Lₖᵀ) with L = diag(scale) · lower.

        Args:
            log_weights: logarithms of the weights, up to a constant, `(K,)`.
            means, scales: `(K, D)`.
            lower: lower triangular matrices, `(K, D, D)`. None is the identity.
        """
        log_weights, means, scales = (np.asarray(value, "float64") for value in (log_weights, means, scales))
        prior = cls(len(means), full=lower is not None)
        prior.build((None, means.shape[1]))
        if lower is not None:
            lower = np.asarray(lower, "float64")
            norm = np.sqrt(np.sum(lower**2, axis=-1))  # (K, D)
            mixing = np.swapaxes(lower / norm[..., None], -1, -2)
            scales = scales * norm
            prior.mixing.assign(mixing)
            prior.whitening.assign(np.linalg.inv(mixing))
        prior.means.assign(means)
        prior.scales.assign(scales)
        log_weights = log_weights - np.logaddexp.reduce(log_weights)
        prior.log_weights.assign(log_weights)
        prior.thresholds.assign(_thresholds(np.exp(log_weights)))
        return prior

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        k, d = self.components, self.latent_dim
        self.log_weights = self.add_constant("log_weights", (k,), initializers.Constant(-math.log(k)))
        self.means = self.add_constant("means", (k, d), "zeros")
        self.scales = self.add_constant("scales", (k, d), "ones")
        if self.full:
            self.mixing = self.add_constant("mixing", (k, d, d), _identities)  # for noise as a row vector
            self.whitening = self.add_constant("whitening", (k, d, d), _identities)  # its inverse
        self.thresholds = self.add_constant("thresholds", (k,), _even_thresholds, "int64")

    def log_prob(self, z: Any, condition: Any = None) -> Any:
        whitening = ops.convert_to_tensor(self.whitening) if self.full else None
        return mixture_log_density(z, self.log_weights, self.means, ops.log(self.scales), whitening)

    @property
    def num_words(self) -> int:
        return self.latent_dim + 1

    def from_words(self, words: Any, temperature: Any = 1.0, condition: Any = None) -> Any:
        component = ops.sum(ops.cast(words[:, :1] > ops.cast(self.thresholds, "int32"), "int32"), axis=1)  # (B,)
        noise = on_grid(temperature * normal_from_words(words[:, 1:]))  # (B, D)
        if self.full:
            mixing = ops.reshape(self.mixing, (self.components, -1))
            noise = exact_dense(noise, ops.take(mixing, component, axis=0))
        return ops.take(self.means, component, axis=0) + on_grid(ops.take(self.scales, component, axis=0) * noise)


def _identities(shape: tuple[int, ...], dtype: Any = None) -> Any:
    return ops.broadcast_to(ops.eye(shape[-1], dtype=dtype), shape)


def _even_thresholds(shape: tuple[int, ...], dtype: Any = None) -> Any:
    return ops.convert_to_tensor(_thresholds(np.full(shape, 1 / shape[0])), dtype)


def _thresholds(weights: np.ndarray) -> np.ndarray:
    """Return integer thresholds: a word above k of them selects component k. No word is above the last, 2³¹ − 1."""
    cumulative = np.minimum(np.cumsum(weights), 1.0)
    cumulative[-1] = 1.0
    return np.maximum(np.round(cumulative * 2.0**32) - 2.0**31 - 1, -(2.0**31)).astype("int64")


def fit_mixture(latents: Any, components: int = 10, covariance_type: str = "full", seed: int = 0) -> FixedMixture:
    """Fit a mixture of normals to latents after training, by scikit-learn's expectation maximisation.

    Fit it to samples of the posterior, because their density is the best prior of a trained model (Tomczak & Welling
    2018, eq. 7). Pass the result to `vae.with_prior(...)`.

    Args:
        latents: `(N, D)`.
        components: number of components, K.
        covariance_type: "full" or "diag".
        seed: seed of the initialisation.

    Raises:
        ValueError: for another covariance type, or latents that aren't `(N, D)` with N >= K.

    Example:

        >>> p = fit_mixture(np.random.default_rng(0).normal([3, -3], size=(500, 2)), components=1)
        >>> [round(float(mean)) for mean in p.means[0]]
        [3, -3]
    """
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    latents = np.asarray(latents, "float64")
    if covariance_type not in ("full", "diag"):
        raise ValueError(
            f"Argument `covariance_type` must be 'full' or 'diag'. Received: covariance_type={covariance_type!r}"
        )
    if latents.ndim != 2 or len(latents) < max(components, 2):
        raise ValueError(f"Expected latents (N, D) with N >= {max(components, 2)}. Received: shape {latents.shape}")
    with threadpool_limits(1):  # the matrices are small, and threads that wait for a busy core cost minutes
        fitted = GaussianMixture(components, covariance_type=covariance_type, random_state=seed).fit(latents)
    log_weights, means = np.log(fitted.weights_), fitted.means_
    if covariance_type == "diag":
        return FixedMixture.of(log_weights, means, np.sqrt(fitted.covariances_))
    return FixedMixture.of(log_weights, means, np.ones_like(means), np.linalg.cholesky(fitted.covariances_))
