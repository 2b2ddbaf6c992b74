"""Flows: inverse, log-determinant, and densities that integrate to one."""

import numpy as np
import pytest
import tensorflow as tf

from kvae import posteriors, priors
from kvae.distributions import Noise, autoregressive, coupling, standard_normal
from kvae.distributions.exact import log_rational_scale, rational_scale

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def reset_rng():
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def randomize(layer, scale=0.2):
    """Set random weights, so that the layer isn't the identity. Return the layer."""
    for weight in layer.weights:
        weight.assign(scale * RNG.normal(size=weight.shape))
    return layer


def log_det_jacobian(f, z):
    z = tf.constant(z, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(z)
        u = f(z)
    return np.linalg.slogdet(np.asarray(tape.batch_jacobian(u, z), "float64"))[1]


def flow_posterior(size, num_steps=3, units=16):
    q = posteriors.InverseAutoregressive(num_steps, units)
    q.build((None, q.param_size((size,))))
    return randomize(q), RNG.normal(size=(3, q.param_size((size,)))).astype("float32")


def test_rational_scale_is_the_exponential_of_its_logarithm():
    raw = np.concatenate([np.linspace(-5, 5, 101), [-1e3, 1e3]]).astype("float32")
    np.testing.assert_allclose(np.exp(np.asarray(log_rational_scale(raw), "float64")), rational_scale(raw), rtol=1e-5)


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("swap", [False, True])
def test_coupling_log_det_is_that_of_its_jacobian(size, swap):
    layer = coupling.AffineCoupling((8,), swap)
    layer.build((None, size))
    randomize(layer, 0.5)
    z = RNG.normal(size=(5, size)).astype("float32")
    u, log_det = layer(z)
    np.testing.assert_allclose(log_det, log_det_jacobian(lambda z: layer(z)[0], z), atol=1e-5)
    a, b = layer.split(u)
    raw, shift = layer.scale_and_shift(a)
    np.testing.assert_allclose(layer.join(a, b * rational_scale(raw) + shift), z, atol=1e-5)  # the inverse


def test_coupling_of_a_single_number_is_refused():
    with pytest.raises(ValueError, match=r"at least 2 numbers. Received: 1"):
        coupling.AffineCoupling().build((None, 1))


def test_real_nvp_starts_as_standard_normal_and_integrates_to_one():
    prior, normal = priors.RealNVP(4, (16,)), priors.StandardNormal()
    prior.build((None, 2)), normal.build((None, 2))
    z = RNG.normal(size=(9, 2)).astype("float32")
    np.testing.assert_allclose(prior.log_prob(z), normal.log_prob(z), rtol=1e-5)
    grid = np.linspace(-15, 15, 300)
    points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2).astype("float32")
    density = np.exp(np.asarray(randomize(prior).log_prob(points), "float64"))
    assert density.sum() * (grid[1] - grid[0]) ** 2 == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("reverse", [False, True])
def test_masked_network_depends_only_on_earlier_entries(reverse):
    network = autoregressive.MaskedNetwork(16, reverse)
    network.build((None, 5))
    randomize(network, 1.0)
    z = tf.constant(RNG.normal(size=(1, 5)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(z)
        shift = network(z, tf.ones((1, 16)))[0]
    jacobian = np.asarray(tape.batch_jacobian(shift, z))[0]
    allowed = np.triu(np.ones((5, 5)), 1) if reverse else np.tril(np.ones((5, 5)), -1)
    assert np.all(jacobian[allowed == 0] == 0)
    assert np.all(jacobian[allowed == 1] != 0)


def test_log_prob_of_samples_equals_sample_log_prob():
    q, params = flow_posterior(4)
    z, log_q = q.sample_and_log_prob(params, 5, seed=0)
    np.testing.assert_allclose(q.log_prob(params, z), log_q, atol=1e-4)  # four inversions in float32


def test_flow_posterior_integrates_to_one():
    q, params = flow_posterior(2, num_steps=2)
    grid = np.linspace(-20, 20, 750)
    points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 1, 2).astype("float32")
    density = np.exp(np.asarray(q.log_prob(params[:1], points), "float64"))
    assert density.sum() * (grid[1] - grid[0]) ** 2 == pytest.approx(1, abs=1e-3)


def test_flow_posterior_log_det_is_that_of_its_jacobian():
    q, params = flow_posterior(3)
    epsilon = RNG.normal(size=(3, 3)).astype("float32")
    _, log_q = q.transform(params, epsilon)
    log_normal = -0.5 * np.sum(np.square(epsilon) + np.log(2 * np.pi), axis=-1)
    log_det = log_det_jacobian(lambda e: q.transform(params, e)[0], epsilon)
    np.testing.assert_allclose(log_q, log_normal - log_det, atol=1e-5)


def test_flow_moments_are_close_to_sample_moments():
    q, params = flow_posterior(3)
    samples = np.asarray(q.sample(params, 20_000, seed=1), "float64")
    # 8 antithetic pairs: the error of the mean is at most a third of the standard deviation here.
    assert np.all(np.abs(q.mean(params) - samples.mean(0)) < samples.std(0) / 3)
    assert np.all(np.abs(np.log(q.variance(params) / samples.var(0))) < 1.5)


def test_flow_samples_are_a_function_of_the_noise():
    q, params = flow_posterior(3)
    z, _ = q.sample_and_log_prob(params, 2, Noise(0, 7))
    epsilon = standard_normal((2, 3, 3), Noise(0, 7))
    np.testing.assert_array_equal(z, q.transform(params, epsilon)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: posteriors.InverseAutoregressive(num_steps=0), "num_steps=0"),
        (lambda: posteriors.InverseAutoregressive(units=0), "units=0"),
        (lambda: priors.RealNVP(num_layers=0), "num_layers=0"),
    ],
)
def test_invalid_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def posterior_of(size, weight_scale):
    q = posteriors.InverseAutoregressive(num_steps=2, units=16)
    q.build((None, q.param_size((size,))))
    if weight_scale:
        randomize(q, weight_scale)
    return q, RNG.normal(size=(2, q.param_size((size,)))).astype("float32")


def test_variance_of_initial_flow_is_exact():
    q, params = posterior_of(6, None)
    _, log_scale, _ = q.split(params)
    gates = (1 / (1 + np.exp(-2.0))) ** 4  # two steps, squared
    np.testing.assert_allclose(q.variance(params), gates * np.exp(2 * np.asarray(log_scale)), rtol=1e-5)


def test_covariance_is_close_to_sample_covariance():
    q, params = posterior_of(4, 1.0)
    z = np.asarray(q.sample(params, 50_000, seed=3), "float64")
    right = np.stack([np.cov(z[:, b].T) for b in range(2)])
    scale = np.sqrt(np.einsum("bi,bj->bij", z.var(0), z.var(0)))
    assert np.max(np.abs(q.covariance(params) - right) / scale) < 0.15
    assert np.max(np.abs(right / scale - np.eye(4))) > 0.2  # the latents are correlated


def test_log_prob_of_samples_is_finite():
    q, params = posterior_of(16, 0.3)
    z, log_q = q.sample_and_log_prob(params, 500, seed=0)
    again = np.asarray(q.log_prob(params, z))
    assert np.mean(np.isfinite(again)) > 0.99
    assert np.median(np.abs(again - log_q)) < 1e-2
