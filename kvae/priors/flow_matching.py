"""A flow that is fitted to latents after training, by regression."""

import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import initializers, ops

from kvae.arguments import integer, numbers, real
from kvae.distributions import normal_from_words
from kvae.distributions.diagonal_normal import normal_log_density
from kvae.distributions.exact import exact_dense, on_grid
from kvae.priors.base import Prior

BOUND = 8.0  # the velocity doesn't change beyond this number of standard deviations
REGULARIZATION = 1e-6  # added to variances of latents, as scikit-learn adds it to those of a mixture
CHECKED = 2000  # samples whose noise must be found again before a fitted flow has a density
ERROR = 1e-3  # largest error of the noise, in standard deviations
ITERATIONS = (8, 12, 16, 24, 32, 48, 64)  # numbers of iterations to try


@keras.saving.register_keras_serializable("kvae")
class FlowMatching(Prior):
    """A flow in a few steps from N(0, I) to latents, made by `kvae.priors.fit_flow_matching`. It isn't trained further.

    A draw starts as noise w₀ ~ N(0, I) and moves by Euler's rule: wᵢ₊₁ = wᵢ + h v(wᵢ, i), with h = ½π / steps. The
    latents are z = μ + L w, with the mean μ and the Cholesky factor L of the latents' covariance. v is a small network
    with a smooth ReLU, whose biases differ between steps. It is constant beyond 8 standard deviations. With v = 0, the
    prior is a normal distribution. Latents are drawn in exact arithmetic (`kvae.distributions.exact`), within 10⁻² of
    a standard deviation of float32.

    `log_prob` is the density of these samples, not of a continuous flow:
    log p(z) = log N(w₀; 0, I) − Σᵢ log |det(I + h ∂v/∂wᵢ)| − log |L|. Each step is inverted by fixed-point iterations
    (Behrmann et al. 2019, https://arxiv.org/abs/1811.00995, algorithm 1), and its Jacobian is computed exactly. The
    result is NaN where the iterations don't converge. If the steps aren't one-to-one, it counts only one of the noises
    that lead to z, and is a lower bound. A density costs many times as much as a sample.

    Args:
        units: widths of the hidden layers of v.
        steps: number of steps.
        iterations: iterations for the inverse of a step, up to 64. 0 means that the prior has samples but no density.

    Raises:
        ValueError: if there are no hidden layers, or a number is out of its range; from `log_prob`, if iterations is 0.

    Example:

        >>> p = FlowMatching(units=(16,), steps=4)
        >>> p.build((None, 3))
        >>> p.log_prob(ops.zeros((2, 3))).numpy().round(3)  # N(0, I) before it is fitted
        array([-2.757, -2.757], dtype=float32)
    """

    def __init__(self, units: tuple[int, ...] = (64, 64), steps: int = 8, iterations: int = 12, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = tuple(integer("units", width, 1) for width in units)
        if not self.units:
            raise ValueError(f"Argument `units` must have at least one width. Received: units={units}")
        self.steps, self.iterations = integer("steps", steps, 1), integer("iterations", iterations, 0, ITERATIONS[-1])

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        size = self.latent_dim
        widths = (size, *self.units, size)
        self.kernels = [self.add_constant(f"kernel_{i}", widths[i : i + 2]) for i in range(len(widths) - 1)]
        self.biases = [self.add_constant(f"biases_{i}", (self.steps, width)) for i, width in enumerate(widths[1:])]
        self.means = self.add_constant("means", (size,))
        self.scales = self.add_constant("scales", (size,), "ones")
        self.mixing = self.add_constant("mixing", (size, size), initializers.Identity())  # for w as a row vector
        self.whitening = self.add_constant("whitening", (size, size), initializers.Identity())  # its inverse

    @property
    def step_size(self) -> float:
        """The angle h of one step."""
        return 0.5 * math.pi / self.steps

    def velocity(self, w: Any, step: int) -> Any:
        """Return v(w, step) of `w` `(B, D)`: `(B, D)`."""
        return _velocity(self.kernels, [bias[step] for bias in self.biases], w)

    def log_prob(self, z: Any, condition: Any = None) -> Any:
        if self.iterations == 0:
            raise ValueError(
                "Expected a prior with a density. Received: FlowMatching(iterations=0), which has samples but no "
                "density, because its steps couldn't be inverted; fit it with more steps, or use `fit_mixture`"
            )
        z = ops.cast(z, "float32")
        w = ops.reshape((z - self.means) / self.scales, (-1, self.latent_dim))
        w, jacobians = self.invert(ops.matmul(w, self.whitening))
        log_det = ops.sum(ops.reshape(_log_det(ops.concatenate(jacobians)), (self.steps, -1)), axis=0)
        volume = ops.sum(ops.log(self.scales)) - ops.sum(ops.log(ops.diagonal(ops.convert_to_tensor(self.whitening))))
        log_p = ops.sum(normal_log_density(w, 0.0, 0.0), axis=-1) - log_det - volume
        return ops.reshape(log_p, ops.shape(z)[:-1])

    def invert(self, w: Any) -> tuple[Any, list[Any]]:
        """Return the noise `(B, D)` of whitened latents `w` `(B, D)`, and the Jacobian `(B, D, D)` of each step.

        Noise is NaN where the iterations don't converge.
        """
        h, jacobians, identity = self.step_size, [], ops.eye(self.latent_dim, dtype="float32")
        for step in reversed(range(self.steps)):
            u, last = w, w
            for _ in range(self.iterations):
                u, last = w - h * self.velocity(u, step), u
            error = ops.max(ops.abs(u - last), axis=-1, keepdims=True)
            tolerance = ERROR * (1.0 + ops.max(ops.abs(w), axis=-1, keepdims=True))
            w = ops.where(error < tolerance, u, math.nan)
            slopes = _slopes(self.kernels, [bias[step] for bias in self.biases], w)
            jacobians.append(identity + h * slopes)
        return w, jacobians

    def from_words(self, words: Any, temperature: Any = 1.0, condition: Any = None) -> Any:
        w = on_grid(temperature * normal_from_words(words))
        kernels = [ops.reshape(kernel, (1, -1)) for kernel in self.kernels]
        for step in range(self.steps):
            x = ops.clip(w, -BOUND, BOUND)
            for i, (kernel, bias) in enumerate(zip(kernels, self.biases)):
                x = exact_dense(_smooth_relu(x, on_grid) if i else x, kernel, bias[step])
            w = w + on_grid(self.step_size * x)
        w = exact_dense(w, ops.reshape(self.mixing, (1, -1)))
        return self.means + on_grid(self.scales * w)


def _smooth_relu(x: Any, rounded: Any = lambda x: x) -> Any:
    """Return max(x, 0), but ¼ (x + 1)² from −1 to 1. Its slope is continuous, and so is the density."""
    bend = ops.clip(x + 1.0, 0.0, 2.0)
    return rounded(0.25 * bend * bend) + ops.relu(x - 1.0)


def _velocity(kernels: list[Any], biases: list[Any], w: Any) -> Any:
    x = ops.clip(w, -BOUND, BOUND)
    for i, (kernel, bias) in enumerate(zip(kernels, biases)):
        x = ops.matmul(_smooth_relu(x) if i else x, kernel) + bias
    return x


def _slopes(kernels: list[Any], biases: list[Any], w: Any) -> Any:
    """Return the transposed Jacobian of v at `w` `(B, D)`: row i of `(B, D, D)` is ∂v/∂wᵢ."""
    x = ops.clip(w, -BOUND, BOUND)
    slopes = ops.cast(ops.abs(w) < BOUND, "float32")[:, :, None] * kernels[0]
    for i, (kernel, bias) in enumerate(zip(kernels[1:], biases)):
        x = ops.matmul(_smooth_relu(x) if i else x, kernels[i]) + bias
        slopes = ops.matmul(slopes * (0.5 * ops.clip(x + 1.0, 0.0, 2.0))[:, None, :], kernel)
    return slopes


def _log_det(matrices: Any) -> Any:
    """Return log det of `(B, D, D)`: `(B,)`, by elimination, because LiteRT has no determinant.

    No pivots are searched for. They are positive if the step is monotone, and otherwise the result may be NaN.
    """
    total = 0.0
    for _ in range(matrices.shape[-1]):
        pivot, row, column = matrices[:, :1, :1], matrices[:, :1, 1:], matrices[:, 1:, :1]
        total = total + ops.log(pivot[:, 0, 0])
        matrices = matrices[:, 1:, 1:] - column * (row / pivot)
    return total


class _Velocity(keras.Model):
    """The network v in training. It maps w `(B, D)` and steps `(B,)` to velocities."""

    def __init__(self, prior: FlowMatching, seed: int):
        super().__init__(name="velocity")
        last = len(prior.kernels) - 1

        def weight(i: int, like: Any, initializer: Any) -> Any:
            return self.add_weight(shape=like.shape, initializer=initializer if i < last else "zeros")

        self.kernels = [
            weight(i, like, initializers.GlorotUniform(seed=seed + i)) for i, like in enumerate(prior.kernels)
        ]
        self.biases = [
            weight(i, like, initializers.RandomUniform(-1.0, 1.0, seed=seed + last + i))
            for i, like in enumerate(prior.biases)
        ]

    def call(self, inputs: tuple[Any, Any]) -> Any:
        w, step = inputs
        return _velocity(self.kernels, [ops.take(bias, step, axis=0) for bias in self.biases], w)


class _Pairs(keras.utils.PyDataset):
    """Batches of points on paths from noise to latents, and the velocities of the paths."""

    def __init__(self, x: np.ndarray, steps: int, batches: int, batch_size: int, seed: int):
        super().__init__()
        self.x, self.steps, self.batches, self.batch_size, self.seed = x, steps, batches, batch_size, seed

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, batch: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        rng = np.random.default_rng([self.seed, batch])
        end = self.x[rng.integers(len(self.x), size=self.batch_size)]
        start = rng.standard_normal(end.shape, dtype="float32")
        step = (np.arange(self.batch_size) + batch) % self.steps
        angle = (0.5 * math.pi / self.steps * step[:, None]).astype("float32")
        cos, sin = np.cos(angle), np.sin(angle)
        return (cos * start + sin * end, step.astype("int32")), cos * end - sin * start


def fit_flow_matching(
    latents: Any,
    units: tuple[int, ...] = (64, 64),
    steps: int = 8,
    num_train_steps: int = 4000,
    batch_size: int = 1024,
    learning_rate: float = 5e-3,
    seed: int = 0,
) -> FlowMatching:
    """Fit a flow to latents after training, by conditional flow matching (Lipman et al. 2023, arXiv:2210.02747, eq. 9).

    Noise x₀ ~ N(0, I) and whitened latents x₁ are connected by the paths w_θ = cos θ · x₀ + sin θ · x₁, 0 ≤ θ ≤ ½π, and
    the network is trained to return their velocity: min E |v(w_θ, θ) − (cos θ · x₁ − sin θ · x₀)|², only at the angles
    of the steps. Up to scale and time, these paths are the straight paths of eq. 20, (1 − t) x₀ + t x₁. But their
    variance is 1 everywhere, so that a few steps don't shrink the latents, and normal latents need no velocity.

    Fit it to samples of the posterior, as `fit_mixture`, and pass the result to `vae.with_prior(...)`. It requires no
    number of components. Its density is used only if the noise of 2,000 samples is found again by fixed-point
    iterations, which fails for latents in clusters far apart. Then the prior has only samples (`iterations=0`), and a
    warning says so.

    Args:
        latents: `(N, D)`, N > D.
        units: widths of the hidden layers of the network.
        steps: number of steps from noise to latents. More steps are more precise, and samples cost more.
        num_train_steps: number of optimizer steps (Adam, cosine decay of the learning rate to 0).
        batch_size: latents per optimizer step.
        learning_rate: initial learning rate.
        seed: seed of the initial weights and the batches.

    Raises:
        ValueError: for latents that aren't `(N, D)`, finite and more than D, or for an argument out of its range.

    Example:

        >>> x = np.random.default_rng(0).normal([3, -3], size=(500, 2))
        >>> p = fit_flow_matching(x, units=(8,), steps=2, num_train_steps=20)
        >>> [round(float(mean)) for mean in np.mean(p.sample(1000, seed=0), axis=0)]
        [3, -3]
    """
    wanted = "Argument `latents` must be an array (N, D) with N > D"
    latents = numbers(wanted, latents).astype("float64")
    if latents.ndim != 2 or not latents.shape[0] > latents.shape[1] > 0:
        raise ValueError(f"{wanted}. Received: shape {latents.shape}")
    if not np.isfinite(latents).all():
        raise ValueError(f"{wanted} of finite numbers. Received: NaN or infinity in {latents.shape[0]} latents")
    batches, batch_size = integer("num_train_steps", num_train_steps, 1), integer("batch_size", batch_size, 1)
    if not real("learning_rate", learning_rate) > 0:
        raise ValueError(f"Argument `learning_rate` must be > 0. Received: learning_rate={learning_rate}")
    seed = integer("seed", seed, 0)

    prior = FlowMatching(units, steps)
    prior.build((None, latents.shape[1]))
    mean = latents.mean(axis=0)
    covariance = np.atleast_2d(np.cov(latents, rowvar=False)) + REGULARIZATION * np.eye(latents.shape[1])
    lower = np.linalg.cholesky(covariance)
    scales = np.sqrt(np.diagonal(covariance))
    mixing = (lower / scales[:, None]).T
    whitening = np.linalg.inv(mixing)
    for weight, value in zip(
        (prior.means, prior.scales, prior.mixing, prior.whitening), (mean, scales, mixing, whitening)
    ):
        weight.assign(value)

    net = _Velocity(prior, seed)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, batches)
    net.compile(keras.optimizers.Adam(schedule), "mse", steps_per_execution=min(20, batches), jit_compile=False)
    x = ((latents - mean) / scales @ whitening).astype("float32")
    net.fit(_Pairs(x, prior.steps, batches, batch_size, seed), shuffle=False, verbose=0)
    for mine, trained in zip((*prior.kernels, *prior.biases), (*net.kernels, *net.biases)):
        mine.assign(trained)
    prior.iterations = _sufficient_iterations(prior)
    return prior


def _sufficient_iterations(prior: FlowMatching) -> int:
    """Return how many iterations find the noise of samples again; 0 if no number tried does."""
    noise = np.random.default_rng(0).standard_normal((CHECKED, prior.latent_dim), dtype="float32")
    w = ops.convert_to_tensor(noise)
    for step in range(prior.steps):
        w = w + prior.step_size * prior.velocity(w, step)
    for prior.iterations in ITERATIONS:
        error = np.abs(np.asarray(prior.invert(w)[0]) - noise).max()
        if error < ERROR / 2:
            return prior.iterations
    warnings.warn(
        f"The steps of this flow couldn't be inverted: noise is found again within {error:.2g} standard deviations, "
        f"instead of {ERROR / 2:g}. The prior has samples, but no density. Fit it with more steps than {prior.steps}.",
        stacklevel=3,
    )
    return 0
