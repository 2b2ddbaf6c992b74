"""Every family against SciPy in float64, its own samples, and extreme parameters."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from kvae import likelihoods, posteriors, priors
from kvae.distributions import Noise, closed_form_kl, standard_normal
from kvae.distributions.diagonal_normal import soft_clip

RNG = np.random.default_rng(0)


def logistic(x):
    return 1 / (1 + np.exp(-x))


def bounded(raw, low, high):
    return np.where(raw > 0, high * np.tanh(raw / high), low * np.tanh(raw / low))


def scipy_bernoulli(params, x):
    return stats.bernoulli(logistic(params)).logpmf(x)


def scipy_normal(scale):
    return lambda params, x: stats.norm(params, scale).logpdf(x)


def scipy_diagonal(params, x):
    mean, raw = np.split(params, 2, axis=-1)
    return stats.norm(mean, np.exp(bounded(raw, math.log(1e-3), math.log(1e3)))).logpdf(x)


#: name: (family, event shape, density of a pixel in SciPy, values drawn for the test)
CASES = {
    "Bernoulli": (likelihoods.Bernoulli(), (4, 5, 1), scipy_bernoulli, "binary"),
    "Normal": (likelihoods.Normal(scale=0.3), (4, 5, 3), scipy_normal(0.3), "real"),
    "Normal learned": (likelihoods.Normal(scale=0.3, learned=True), (4, 5, 1), scipy_normal(0.3), "real"),
    "DiagonalNormal vector": (posteriors.DiagonalNormal(), (6,), scipy_diagonal, "real"),
    "DiagonalNormal image": (likelihoods.DiagonalNormal(), (4, 5, 2), scipy_diagonal, "real"),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request):
    family, event, reference, support = CASES[request.param]
    family = type(family).from_config(family.get_config())
    params_shape = (*event[:-1], family.param_size(event))
    family.build((None, *params_shape))
    return family, event, params_shape, reference, support


def draw(support, shape):
    return (
        RNG.integers(0, 2, shape).astype("float32") if support == "binary" else RNG.normal(size=shape).astype("float32")
    )


def test_log_prob_equals_scipy_in_float64(case):
    family, event, params_shape, reference, support = case
    params = RNG.normal(size=(7, *params_shape)).astype("float32")
    value = draw(support, (7, *event))
    expected = reference(params.astype("float64"), value).reshape(7, -1).sum(axis=1)
    # float32 sums of up to 60 terms: a relative error of 60 · 2⁻²⁴ ≈ 4e-6.
    np.testing.assert_allclose(family.log_prob(params, value), expected, rtol=1e-5)


def test_log_prob_takes_many_samples_at_once(case):
    family, event, params_shape, _, support = case
    params, value = RNG.normal(size=(3, 7, *params_shape)).astype("float32"), draw(support, (7, *event))
    together = np.asarray(family.log_prob(params, value))
    one_by_one = [family.log_prob(params[k], value) for k in range(3)]
    np.testing.assert_allclose(together, one_by_one, rtol=1e-5)


def test_sample_moments(case):
    family, _, params_shape, _, _ = case
    n = 20_000
    params = RNG.normal(size=(2, *params_shape)).astype("float32")
    samples = np.asarray(family.sample(params, n, seed=1), "float64")
    mean, variance = np.asarray(family.mean(params)), np.asarray(family.variance(params))
    # Five standard errors of a mean of n samples; every entry has to pass.
    assert np.all(np.abs(samples.mean(0) - mean) < 5 * np.sqrt(variance / n) + 1e-6)
    if not isinstance(family, likelihoods.Bernoulli):  # whose variance is a function of its mean
        assert np.all(np.abs(samples.var(0) / variance - 1) < 5 * math.sqrt(2 / n))


def test_samples_depend_on_the_seed_alone(case):
    family, _, params_shape, _, _ = case
    params = np.zeros((2, *params_shape), "float32")
    same = [np.asarray(family.sample(params, 50, seed=s)) for s in (3, 3, 4)]
    np.testing.assert_array_equal(same[0], same[1])
    assert np.any(same[0] != same[2])


@pytest.mark.parametrize("magnitude", [1e3, -1e3])
def test_extreme_parameters_stay_finite(case, magnitude):
    import tensorflow as tf

    family, event, params_shape, _, support = case
    params = tf.fill((2, *params_shape), tf.constant(magnitude, tf.float32))
    value = draw(support, (2, *event))
    with tf.GradientTape() as tape:
        tape.watch(params)
        log_prob = family.log_prob(params, value)
    gradient = tape.gradient(log_prob, params)
    for tensor in (
        log_prob,
        gradient,
        family.mean(params),
        family.variance(params),
        family.sample(params, 2, seed=0),
    ):
        assert np.all(np.isfinite(tensor))


def test_mean_is_what_the_layer_gives_and_covariance_is_diagonal(case):
    family, event, params_shape, _, _ = case
    params = RNG.normal(size=(3, *params_shape)).astype("float32")
    np.testing.assert_array_equal(family(params), family.mean(params))
    covariance = np.asarray(family.covariance(params))
    assert covariance.shape == (3, math.prod(event), math.prod(event))
    np.testing.assert_allclose(np.diagonal(covariance, axis1=1, axis2=2), np.reshape(family.variance(params), (3, -1)))


def test_float16_parameters_are_computed_in_float32(case):
    family, event, params_shape, _, support = case
    params = RNG.normal(size=(3, *params_shape)).astype("float16")
    log_prob = family.log_prob(ops.convert_to_tensor(params), draw(support, (3, *event)))
    assert keras.backend.standardize_dtype(log_prob.dtype) == "float32"


def test_densities_sum_or_integrate_to_one():
    grid = np.linspace(-40, 40, 40_001, dtype="float32")[:, None]
    for family, size in ((posteriors.DiagonalNormal(), 2), (likelihoods.Normal(scale=0.7), 1)):
        family.build((None, size))
        params = np.tile(np.asarray([[0.3, 0.5]], "float32")[:, :size], (len(grid), 1))
        density = np.exp(np.asarray(family.log_prob(params, grid), "float64"))
        assert np.trapezoid(density, grid[:, 0]) == pytest.approx(1, abs=1e-5)  # float32 densities
    bernoulli = likelihoods.Bernoulli()
    both = np.exp(bernoulli.log_prob(np.asarray([[0.7], [0.7]], "float32"), np.asarray([[0.0], [1.0]])))
    assert both.sum() == pytest.approx(1, abs=1e-6)


def test_closed_kl_equals_monte_carlo():
    q, p = posteriors.DiagonalNormal(), priors.StandardNormal()
    q.build((None, 8)), p.build((None, 4))
    params = RNG.normal(size=(3, 8)).astype("float32")
    kl = np.asarray(closed_form_kl(q, p)(q, params, p))
    z, log_q = q.sample_and_log_prob(params, 100_000, seed=2)
    difference = np.asarray(log_q - p.log_prob(z), "float64")
    error = difference.std(0) / math.sqrt(len(difference))
    assert np.all(np.abs(difference.mean(0) - kl) < 5 * error)


def test_closed_kl_is_zero_at_the_prior_and_absent_for_unknown_pairs():
    q, p = posteriors.DiagonalNormal(), priors.StandardNormal()
    assert np.all(np.asarray(closed_form_kl(q, p)(q, np.zeros((2, 8), "float32"), p)) == 0)
    assert closed_form_kl(likelihoods.Bernoulli(), p) is None


def test_prior_density_and_samples():
    prior = priors.StandardNormal()
    prior.build((None, 3))
    z = np.asarray(prior.sample(20_000, seed=5), "float64")
    np.testing.assert_allclose(prior.log_prob(z), stats.norm.logpdf(z).sum(-1), rtol=1e-5)
    assert np.all(np.abs(z.mean(0)) < 5 / math.sqrt(len(z)))
    assert np.abs(np.cov(z.T) - np.eye(3)).max() < 5 * math.sqrt(2 / len(z))


def test_soft_clip_is_smooth_and_bounded():
    x = np.linspace(-100, 100, 2001).astype("float32")
    y = np.asarray(soft_clip(x, -2.0, 5.0))
    assert y.min() >= -2
    assert y.max() <= 5
    assert np.all(np.diff(y) > -1e-5)  # float32
    np.testing.assert_allclose(y[995:1006], x[995:1006], atol=0.1)


def test_noise_is_a_function_of_seed_and_step_and_splits_over_replicas():
    whole = np.asarray(standard_normal((3, 8, 2), Noise(1, 5)))
    np.testing.assert_array_equal(whole, standard_normal((3, 8, 2), Noise(1, 5)))
    assert np.any(whole != np.asarray(standard_normal((3, 8, 2), Noise(1, 6))))
    assert np.any(whole != np.asarray(standard_normal((3, 8, 2), Noise(2, 5))))
    parts = [standard_normal((3, 2, 2), Noise(1, 5, (i, 4))) for i in range(4)]
    np.testing.assert_array_equal(whole, np.concatenate(parts, axis=1))
    noise = Noise(1, 5)
    first, second = (np.asarray(standard_normal((3, 8, 2), noise)) for _ in range(2))
    assert np.any(first != second)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: likelihoods.Normal(scale=0.0), "scale"),
        (lambda: likelihoods.Normal(scale=-1.0), "Received: scale=-1.0"),
        (lambda: posteriors.DiagonalNormal(min_scale=2.0), "min_scale=2.0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
