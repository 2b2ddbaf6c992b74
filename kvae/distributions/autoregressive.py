"""Inverse autoregressive flow: a posterior that is more flexible than a normal."""

from typing import Any

import keras
import numpy as np
from keras import ops

from kvae.arguments import at_least
from kvae.distributions.base import Distribution, Part
from kvae.distributions.diagonal_normal import DiagonalNormal, normal_log_density
from kvae.distributions.log_sigmoid import log_sigmoid
from kvae.distributions.noise import Seed, standard_normal

PAIRS = 8  # antithetic pairs of draws for the mean and the variance
MORE_PAIRS = 512  # antithetic pairs of draws for the covariance


@keras.saving.register_keras_serializable("kvae")
class MaskedNetwork(Part):
    """Two numbers for each z_d that depend only on z_1 … z_{d−1} and a context (MADE, Germain et al. 2015).

    The network has one hidden layer with masked weights. The context is added to the hidden layer.

    Args:
        units: width of the hidden layer, and size of the context.
        reverse: whether the order of the latents is z_D … z_1.
    """

    def __init__(self, units: int, reverse: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.units, self.reverse = units, reverse

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        size = input_shape[-1]
        assert size is not None
        self.kernel_in = self.add_weight(name="kernel_in", shape=(size, self.units))
        self.kernel_out = self.add_weight(name="kernel_out", shape=(self.units, 2 * size), initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=(2 * size,), initializer="zeros")
        degree = np.arange(size)[::-1] if self.reverse else np.arange(size)
        hidden = np.arange(self.units) % max(size - 1, 1)  # unit j sees the latents of degree <= hidden[j]
        self.mask_in = (degree[:, None] <= hidden).astype("float32")  # (D, units)
        self.mask_out = np.tile(hidden[:, None] < degree, (1, 2)).astype("float32")  # (units, 2·D)
        self.built = True

    def call(self, z: Any, context: Any) -> tuple[Any, Any]:
        hidden = ops.relu(ops.matmul(z, self.kernel_in * self.mask_in) + context)
        shift, gate = ops.split(ops.matmul(hidden, self.kernel_out * self.mask_out) + self.bias, 2, axis=-1)
        return shift, gate


@keras.saving.register_keras_serializable("kvae")
class InverseAutoregressive(Distribution):
    """Inverse autoregressive flow (Kingma et al. 2016, https://arxiv.org/abs/1606.04934) on a diagonal normal.

    z₀ ~ N(mean, scale²) and z_t = σ_t ⊙ z_{t−1} + (1 − σ_t) ⊙ m_t (eq. 10, 13–14), where σ_t = sigmoid(s_t + 2) and
    m_t are functions of the earlier entries of z_{t−1} and of a context h from the encoder. Each step reverses the
    order of the latents. The flow starts near a diagonal normal.

    Samples and their densities require one pass. The density of any other value requires D passes per step, because
    the flow must be inverted. Far from the samples, the inverse may overflow, and the density isn't finite.

    `mean` and `variance` have no closed form: they are averages over 16 fixed antithetic draws.

    Args:
        num_steps: number of steps, T.
        units: width of the hidden layer of each step's network, and size of h.

    Raises:
        ValueError: if num_steps or units are not positive.

    Example:

        >>> q = InverseAutoregressive(num_steps=2, units=16)
        >>> q.build((None, q.param_size((3,))))
        >>> z, log_q = q.sample_and_log_prob(ops.zeros((2, q.param_size((3,)))), 5, seed=0)
        >>> z.shape, log_q.shape
        (TensorShape([5, 2, 3]), TensorShape([5, 2]))
    """

    roles = ("posterior",)
    unbounded = "means, log-scales and context"

    def __init__(self, num_steps: int = 2, units: int = 128, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_steps, self.units = at_least("num_steps", num_steps, 1), at_least("units", units, 1)
        self.base = DiagonalNormal()

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        assert input_shape[-1] is not None
        size = (input_shape[-1] - self.units) // 2
        self.networks = []
        for i in range(self.num_steps):
            network = MaskedNetwork(self.units, bool(i % 2))
            network.build((None, size))
            self.networks.append(network)
        # The draws are the same for every batch and platform.
        self.draws = _draws(PAIRS, size)
        super().build(input_shape)

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        return 2 * event_shape[-1] + self.units

    def split(self, params: Any) -> tuple[Any, Any, Any]:
        """Return the mean and log-scale of the normal, and the context h."""
        params = ops.cast(params, "float32")
        normal, context = params[..., : -self.units], params[..., -self.units :]
        return (*self.base.split(normal), context)

    def transform(self, params: Any, epsilon: Any) -> tuple[Any, Any]:
        """Transform standard normal numbers `(n, B, D)` to samples and their log-density `(n, B)`."""
        mean, log_scale, context = self.split(params)
        z = mean + ops.exp(log_scale) * epsilon
        log_q = ops.sum(normal_log_density(epsilon, 0.0, 0.0) - log_scale, axis=-1)
        for network in self.networks:
            shift, gate = network(z, context)
            sigma = ops.sigmoid(gate + 2.0)
            z = sigma * z + (1.0 - sigma) * shift
            log_q = log_q - ops.sum(log_sigmoid(gate + 2.0), axis=-1)
        return z, log_q

    def sample_and_log_prob(self, params: Any, n: int, seed: Seed) -> tuple[Any, Any]:
        size = (params.shape[-1] - self.units) // 2
        return self.transform(params, standard_normal((n, ops.shape(params)[0], size), seed))

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        return self.sample_and_log_prob(params, n, seed)[0]

    def log_prob(self, params: Any, value: Any) -> Any:
        mean, log_scale, context = self.split(params)
        z, log_det = ops.cast(value, "float32"), 0.0
        for network in reversed(self.networks):
            u, last = z, z.shape[-1] - 1
            for d in range(last + 1):  # pass d corrects the entry that depends on d other entries
                shift, gate = network(u, context)
                sigma = ops.sigmoid(gate + 2.0)
                is_current = ops.arange(last + 1, dtype="int32") == (last - d if network.reverse else d)
                u = ops.where(is_current, (z - (1.0 - sigma) * shift) / sigma, u)
            z, log_det = u, log_det + ops.sum(log_sigmoid(network(u, context)[1] + 2.0), axis=-1)
        return ops.sum(normal_log_density(z, mean, log_scale), axis=-1) - log_det

    def mean(self, params: Any) -> Any:
        return ops.mean(self.transform(params, self.draws)[0], axis=0)

    def variance(self, params: Any) -> Any:
        return ops.var(self.transform(params, self.draws)[0], axis=0)

    def covariance(self, params: Any) -> Any:
        """Return the covariance `(B, D, D)` of 1,024 fixed draws: within some hundredths of the standard deviations."""
        z = self.transform(params, _draws(MORE_PAIRS, (params.shape[-1] - self.units) // 2))[0]
        centred = z - ops.mean(z, axis=0)
        return ops.einsum("nbi,nbj->bij", centred, centred) / (2 * MORE_PAIRS)


def _draws(pairs: int, size: int) -> Any:
    """Return antithetic standard normal numbers `(2·pairs, 1, D)`, with variance 1 for each latent."""
    draws = np.random.default_rng(0).standard_normal((pairs, 1, size))
    draws /= np.sqrt(np.mean(np.square(draws), axis=0))
    return np.concatenate([draws, -draws]).astype("float32")
