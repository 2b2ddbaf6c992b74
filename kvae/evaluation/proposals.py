"""Proposals near p(z|x): from the posterior mean, a few Newton steps towards the mode of p(x, z)."""

import math
from typing import Any, NamedTuple

import tensorflow as tf

from kvae.distributions.diagonal_normal import LOG_2PI
from kvae.models import VAE
from kvae.priors import Prior

STEP = 0.5  # of differences, in standard deviations of q: the curvature where p(z|x) has its mass, not only at a point
LENGTHS = (1.0, 0.5, 0.2)  # of a Newton step; the best one is taken, or none
INFLATION = 1.15  # of the variance: p(z|x) has heavier tails than a normal
LEAST_CURVATURE = 0.1  # of q's precision: a proposal is at most three times as wide as q, unless N(0, I) is wider


class NormalProposal(NamedTuple):
    """r(z|x) = N(mode, A Aᵀ) of each image: `mode` `(B, D)`, `root` A and its inverse `(B, D, D)`, log |det A| `(B,)`.

    Example:

        >>> r = NormalProposal(tf.zeros((1, 2)), 2 * tf.eye(2)[None], tf.eye(2)[None] / 2, tf.math.log([4.0]))
        >>> z = r.from_noise(tf.ones((3, 1, 2)))  # (n, B, D)
        >>> z.shape, round(float(r.log_prob(z)[0, 0]), 3)  # −log 2π − log 4 − 1
        (TensorShape([3, 1, 2]), -4.224)
    """

    mode: Any
    root: Any
    inverse: Any
    log_volume: Any

    def from_noise(self, noise: Any) -> Any:
        """Return z for noise from N(0, I), `(n, B, D)` both."""
        return self.mode + tf.einsum("bij,nbj->nbi", self.root, noise)

    def log_prob(self, z: Any) -> Any:
        """Return the log-density of z `(n, B, D)`, `(n, B)` in nats."""
        e = tf.einsum("bij,nbj->nbi", self.inverse, z - self.mode)
        return -self.log_volume - 0.5 * tf.reduce_sum(tf.square(e) + LOG_2PI, axis=-1)


def refined_proposal(model: VAE, prior: Prior, x: Any, q: Any, c: Any = None, steps: int = 2) -> NormalProposal:
    """Return a normal approximation of p(z|x), from q(z|x) by Newton steps.

    In units of q's standard deviations, z = μ_q + σ_q u, starting at u = 0. Each step computes the gradient g and the
    curvature C of log p(x, z), and takes the best of a few lengths of C⁻¹ g, or none. With l(z) the decoder's raw
    parameters, J = ∂l/∂u and W = −∂² log p(x|l) / ∂l²,

        C = JᵀWJ − ∂² log p(z) / ∂u²,

    the generalised Gauss–Newton matrix and the prior's own curvature. J, W J and the prior's term are differences of
    l, ∂ log p(x|l) / ∂l and ∂ log p(z) / ∂u at u and at D shifted points: one pass of the decoder for D + 1 latents per
    step, for any likelihood and prior. Eigenvalues of C are made positive: |λ|, with a lower bound. The proposal is
    N(u, 1.15 C⁻¹) with C of the last step. (Laplace's approximation as a proposal: Kuk 1999; Gauss–Newton for the
    encoder's starting point: after Park et al. 2019, "Variational Laplace Autoencoders".)

    Args:
        model: a built `kvae.VAE`.
        prior: its fixed prior.
        x: checked images `(B, H, W, C)`, as the likelihood scores them.
        q: raw parameters of q(z|x).
        c: condition vectors.
        steps: number of steps, >= 1.

    Example:

        >>> vae = VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> x = tf.zeros((3, 8, 8, 1))
        >>> r = refined_proposal(vae, vae.prior, x, vae.encoder_params(x))
        >>> r.mode.shape, r.root.shape
        (TensorShape([3, 2]), TensorShape([3, 2, 2]))
    """
    mean, variance = model.posterior.moments(q)
    scale = tf.sqrt(variance)
    x, c = x[:, None], None if c is None else c[:, None]  # beside several latents of each image, (B, n, D)
    lengths = tf.constant(LENGTHS)[:, None]

    def log_joint(u: Any) -> Any:
        z = mean[:, None] + scale[:, None] * u
        values = model.likelihood.log_prob(model.decoder_params(z, c), x) + prior.log_prob(z, c)  # (B, n)
        return tf.where(tf.math.is_finite(values), values, -math.inf)

    u = tf.zeros_like(mean)
    for _ in range(steps):
        gradient, curvature = _expansion(model, prior, mean, scale, u, x, c)
        root, inverse = _positive_roots(curvature, scale)
        newton = tf.matmul(root, tf.matmul(root, gradient[..., None], transpose_a=True))  # C⁻¹ g, (B, D, 1)
        tried = tf.concat([u[:, None], u[:, None] + lengths * newton[:, None, :, 0]], axis=1)
        u = tf.gather(tried, tf.argmax(log_joint(tried), axis=1), axis=1, batch_dims=1)
    width = math.sqrt(INFLATION)
    root, inverse = width * scale[:, :, None] * root, inverse / (width * scale[:, None, :])
    return NormalProposal(mean + scale * u, root, inverse, tf.linalg.slogdet(root).log_abs_determinant)


def _expansion(model: VAE, prior: Prior, mean: Any, scale: Any, u: Any, x: Any, c: Any) -> tuple[Any, Any]:
    """Return the gradient `(B, D)` and the curvature `(B, D, D)` of log p(x, z) in u, by differences."""
    size = u.shape[-1]
    shifts = tf.concat([tf.zeros((1, size)), STEP * tf.eye(size)], axis=0)
    z = mean[:, None] + scale[:, None] * (u[:, None] + shifts)  # (B, 1 + D, D)
    params = model.decoder_params(z, c)
    with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
        tape.watch([z, params])
        log_likelihood, log_prior = model.likelihood.log_prob(params, x), prior.log_prob(z, c)
    flat = (-1, 1 + size, math.prod(params.shape[2:]))
    slope = tf.reshape(tape.gradient(log_likelihood, params), flat)  # ∂ log p(x|l) / ∂l
    pull = tape.gradient(log_prior, z, unconnected_gradients="zero") * scale[:, None]  # ∂ log p(z) / ∂u
    params = tf.reshape(params, flat)
    jacobian = (params[:, 1:] - params[:, :1]) / STEP  # (B, D, N)
    bend = (slope[:, :1] - slope[:, 1:]) / STEP  # W J
    curvature = tf.matmul(jacobian, bend, transpose_b=True) + (pull[:, :1] - pull[:, 1:]) / STEP
    gradient = tf.linalg.matvec(jacobian, slope[:, 0]) + pull[:, 0]
    return gradient, 0.5 * (curvature + tf.linalg.matrix_transpose(curvature))


def _positive_roots(curvature: Any, scale: Any) -> tuple[Any, Any]:
    """Return A with A Aᵀ = C⁻¹, and its inverse, for C with its eigenvalues made positive, with a lower bound."""
    finite = tf.reduce_all(tf.math.is_finite(curvature), axis=(-2, -1), keepdims=True)
    values, vectors = tf.linalg.eigh(tf.where(finite, curvature, tf.eye(curvature.shape[-1])))
    of_normal = tf.matmul(tf.square(scale)[:, None], tf.square(vectors))[:, 0]  # the curvature of N(0, I)
    sigma = tf.sqrt(tf.maximum(tf.abs(values), tf.minimum(LEAST_CURVATURE, of_normal)))[:, None]
    return vectors / sigma, tf.linalg.matrix_transpose(vectors * sigma)
