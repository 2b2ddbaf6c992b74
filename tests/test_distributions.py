"""Every family of `cases.py` against SciPy in float64, against its samples, and with extreme parameters."""

import itertools
import math

import cases
import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from keras import ops
from scipy import stats
from scipy.special import logsumexp

from kvae import likelihoods, posteriors, priors
from kvae.distributions import IndexedNoise, Noise, closed_form_kl, seed_words, standard_normal
from kvae.distributions.kl import _CLOSED_FORMS
from kvae.distributions.location_scale import soft_clip
from kvae.distributions.log_sigmoid import log_sigmoid, sum_log_sigmoid

RNG = np.random.default_rng(0)


# References: log-density of each example, from parameters (B, …) and values (B, …) in float64.


def logistic(x):
    return 1 / (1 + np.exp(-x))


def bounded(raw, low, high):
    return np.where(raw > 0, high * np.tanh(raw / high), low * np.tanh(raw / low))


def scale_of(raw):
    return np.exp(bounded(raw, math.log(1e-3), math.log(1e3)))


def summed(density):
    """Sum an elementwise log-density, the attribute `entries`, over the event."""

    def total(params, x):
        return density(params, x).reshape(len(x), -1).sum(axis=1)

    total.entries = density
    return total


def halves(params):
    return np.split(params, 2, axis=-1)


def continuous_bernoulli(params, x):
    # An exponential density cut off at 0 and 1, for |l| > 0, because SciPy divides by it.
    return stats.truncexpon(b=np.abs(params), scale=1 / np.abs(params)).logpdf(np.where(params > 0, 1 - x, x))


def diagonal_normal(params, x):
    mean, raw = halves(params)
    return stats.norm(mean, scale_of(raw)).logpdf(x)


def diagonal_laplace(params, x):
    mean, raw = halves(params)
    return stats.laplace(mean, scale_of(raw)).logpdf(x)


def low_rank_normal(params, x):
    channels = x.shape[-1]
    mean, raw = params[..., :channels], params[..., channels : 2 * channels]
    log_p = []
    for b in range(len(x)):
        scale = scale_of(raw[b]).ravel()
        factors = scale[:, None] * bounded(params[b, ..., 2 * channels :], -100, 100).reshape(len(scale), -1)
        covariance = np.diag(scale**2) + factors @ factors.T
        log_p.append(stats.multivariate_normal(mean[b].ravel(), covariance).logpdf(x[b].ravel()))
    return np.array(log_p)


def full_covariance_normal(params, x):
    size = x.shape[-1]
    log_p = []
    for p, value in zip(params, x):
        lower = np.eye(size)
        lower[np.tril_indices(size, -1)] = bounded(p[2 * size :], -10, 10)
        lower = scale_of(p[size : 2 * size])[:, None] * lower
        log_p.append(stats.multivariate_normal(p[:size], lower @ lower.T).logpdf(value))
    return np.array(log_p)


def bin_probability(y, mean, raw, levels):
    scale, half = np.exp(bounded(raw, -7, 3)), 1 / (levels - 1)
    mirror = np.where(y > mean, -1, 1)  # use the small tail of the distribution function, which keeps its digits
    y, mean = mirror * y, mirror * mean
    upper = np.where(y > 1 - half, 1.0, stats.logistic.cdf(y + half, mean, scale))
    return upper - np.where(y < half - 1, 0.0, stats.logistic.cdf(y - half, mean, scale))


def discretized_logistic(params, x):
    mean, raw = halves(params)
    return np.log(bin_probability(2 * x - 1, mean, raw, levels=32))


def discretized_mixture(params, x):
    """PixelCNN++, eq. 2–3, one pixel and component at a time."""
    size, channels = 3, x.shape[-1]
    y = (2 * x - 1).reshape(len(x), -1, channels)
    blocks = params.reshape(len(x), y.shape[1], -1, size)  # (B, pixel, block, K)
    log_p = np.empty((*y.shape[:2], size))
    for b, pixel, k in np.ndindex(log_p.shape):
        logit, *rest = blocks[b, pixel, :, k]
        mean, raw, slope = rest[:channels], rest[channels : 2 * channels], np.tanh(rest[2 * channels :])
        values = y[b, pixel]
        if channels == 3:
            red, green, _ = values
            mean = [mean[0], mean[1] + slope[0] * red, mean[2] + slope[1] * red + slope[2] * green]
        probability = [bin_probability(*channel, levels=4) for channel in zip(values, mean, raw)]
        log_p[b, pixel, k] = logit + np.log(probability).sum()
    per_pixel = logsumexp(log_p, axis=-1) - logsumexp(blocks[:, :, 0], axis=-1)
    return per_pixel.reshape(*x.shape[:-1], 1)


#: reference by name of `cases.py`, or the reason for no reference
POSTERIORS = {
    "DiagonalNormal": summed(diagonal_normal),
    "FullCovarianceNormal": full_covariance_normal,
    "InverseAutoregressive": "no closed form; samples and log_prob are compared with each other, and integrated",
}
LIKELIHOODS = {
    "Bernoulli": summed(lambda params, x: stats.bernoulli(logistic(params)).logpmf(x)),
    "ContinuousBernoulli": summed(continuous_bernoulli),
    "Normal": summed(lambda params, x: stats.norm(params, 0.3).logpdf(x)),
    "Normal learned": summed(lambda params, x: stats.norm(params, 0.3).logpdf(x)),
    "Normal learned per pixel": summed(lambda params, x: stats.norm(params, 0.3).logpdf(x)),
    "OptimalNormal": summed(lambda params, x: stats.norm(params, 0.3).logpdf(x)),
    "DiagonalNormal": summed(diagonal_normal),
    "LowRankNormal": low_rank_normal,
    "Laplace": summed(lambda params, x: stats.laplace(params, 0.3).logpdf(x)),
    "Laplace learned": summed(lambda params, x: stats.laplace(params, 0.3).logpdf(x)),
    "DiagonalLaplace": summed(diagonal_laplace),
    "Scaled": summed(lambda params, x: stats.norm(0.5 + 2.0 * params, 0.6).logpdf(x)),
    "DiscretizedLogistic": summed(discretized_logistic),
    "DiscretizedLogisticMixture": summed(discretized_mixture),
}
REFERENCES = {"posterior": POSTERIORS, "likelihood": LIKELIHOODS}
#: TopDownNormal exists only in a model: tests/test_hierarchy.py
TABLES = {
    "posterior": {name: make for name, make in cases.POSTERIORS.items() if name != "TopDownNormal"},
    "likelihood": cases.LIKELIHOODS,
}
EVENTS = {"posterior": (6,), "likelihood": (2, 3, 3)}


class Case:
    """A built family with random parameters and values."""

    def __init__(self, part, name, event):
        made = TABLES[part][name]()
        self.part, self.name, self.event = part, name, event
        self.family = type(made).from_config(made.get_config())
        self.params_shape = (*event[:-1], self.family.param_size(event))
        self.family.build((None, *self.params_shape))

    def params(self, *batch):
        return RNG.normal(size=(*batch, *self.params_shape)).astype("float32")

    def values(self, *batch):
        shape, support = (*batch, *self.event), self.family.support
        if support in ("binary", "levels"):
            levels = getattr(self.family, "levels", 2)
            return (RNG.integers(0, levels, shape) / (levels - 1)).astype("float32")
        return (RNG.random(shape) if support == "unit" else RNG.normal(size=shape)).astype("float32")

    @property
    def reference(self):
        return REFERENCES[self.part][self.name]


NAMES = [(part, name) for part, table in TABLES.items() for name in table]


def identify(name):
    return "-".join(name).replace(" ", "-")


def cases_except(excepted):
    """Parametrize a test by all cases except these."""
    names = [name for name in NAMES if name not in excepted]
    return pytest.mark.parametrize("part_and_name", names, ids=identify, indirect=True)


@pytest.fixture(params=NAMES, ids=identify)
def part_and_name(request):
    return request.param


@pytest.fixture
def case(part_and_name):
    """Return a case of latent vectors or of colour images."""
    return Case(*part_and_name, EVENTS[part_and_name[0]])


@pytest.fixture
def single(part_and_name):
    """Return a case of events with one number: a latent, or a grey pixel."""
    return Case(*part_and_name, (1,) if part_and_name[0] == "posterior" else (1, 1, 1))


def test_every_case_has_a_reference():
    for part, table in TABLES.items():
        assert set(REFERENCES[part]) == set(table)


WITHOUT_REFERENCE = {(part, name) for part, name in NAMES if isinstance(REFERENCES[part][name], str)}


@cases_except(WITHOUT_REFERENCE)
def test_log_prob_equals_scipy_in_float64(case, single):
    for event in (case, single):
        params, value = event.params(7), event.values(7)
        expected = event.reference(params.astype("float64"), value.astype("float64"))
        # float32 sums of up to 36 terms: a relative error of 36 · 2⁻²⁴ ≈ 2e-6, and the error of a matrix.
        np.testing.assert_allclose(event.family.log_prob(params, value), expected, rtol=1e-5, atol=1e-5)


def test_entry_log_prob_equals_scipy_or_is_refused(case):
    params, value = case.params(7), case.values(7)
    if not hasattr(case.reference, "entries"):
        with pytest.raises(ValueError, match=f"independent .*Received: {type(case.family).__name__}"):
            case.family.entry_log_prob(params, value)
        return
    expected = case.reference.entries(params.astype("float64"), value.astype("float64"))
    found = np.asarray(case.family.entry_log_prob(params, value))
    assert found.shape == expected.shape
    # float32: 2⁻²⁴ ≈ 6e-8 relative, and the differences of distribution functions.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_log_prob_of_several_samples(case):
    params, value = case.params(3, 7), case.values(7)
    together = np.asarray(case.family.log_prob(params, value))
    np.testing.assert_allclose(together, [case.family.log_prob(params[k], value) for k in range(3)], rtol=1e-5)
    values = case.values(3, 7)
    together = np.asarray(case.family.log_prob(params[0], values))
    np.testing.assert_allclose(together, [case.family.log_prob(params[0], values[k]) for k in range(3)], rtol=1e-5)


def test_sample_and_log_prob_agree(case):
    params = case.params(4)
    value, log_prob = case.family.sample_and_log_prob(params, 3, seed=2)
    assert value.shape == (3, 4, *case.event)
    np.testing.assert_allclose(log_prob, case.family.log_prob(params, value), rtol=1e-4, atol=1e-4)


#: Documented errors of the mean and the covariance.
APPROXIMATE = {
    "DiscretizedLogistic": (0.5 / 31, 0.0),  # half a level
    "DiscretizedLogisticMixture": (
        0.5 / 3,
        0.05,
    ),  # half of a wide level; error of clipping in later channels
}


@cases_except({("posterior", "InverseAutoregressive")})  # its moments are averages over a few draws
def test_sample_moments(case):
    n = 20_000
    params = case.params(2)
    samples = np.asarray(case.family.sample(params, n, seed=1), "float64").reshape(n, 2, -1)
    mean = np.reshape(case.family.mean(params), (2, -1))
    covariance = np.asarray(case.family.covariance(params))
    mean_bias, covariance_bias = APPROXIMATE.get(case.name, (0.0, 0.0))
    for b in range(2):
        error = np.abs(samples[:, b].mean(0) - mean[b])
        # Five standard errors of a mean and of a covariance of n samples. Every entry must pass.
        assert np.all(error < 5 * np.sqrt(samples[:, b].var(0) / n) + mean_bias + 1e-6)
        centred = samples[:, b] - samples[:, b].mean(0)
        sampled = centred.T @ centred / n
        standard_error = np.sqrt(np.maximum((centred**2).T @ centred**2 / n - sampled**2, 0) / n)
        assert np.all(np.abs(sampled - covariance[b]) < 5 * standard_error + covariance_bias + 1e-6)


def test_samples_lie_in_the_support(case):
    samples = np.asarray(case.family.sample(case.params(3), 20, seed=0))
    if case.family.support != "real":
        assert samples.min() >= 0
        assert samples.max() <= 1
    if case.family.is_discrete:
        k = samples * (getattr(case.family, "levels", 2) - 1)
        np.testing.assert_allclose(k, np.round(k), atol=1e-5)


def test_samples_depend_only_on_the_seed(case):
    params = np.zeros((2, *case.params_shape), "float32")
    same = [np.asarray(case.family.sample(params, 50, seed=s)) for s in (3, 3, 4)]
    np.testing.assert_array_equal(same[0], same[1])
    assert np.any(same[0] != same[2])


def test_indexed_noise_is_independent_of_the_batch(case):
    params, index = case.params(5), np.array([7, 3, 0, 9, 1], "int32")
    whole = case.family.sample(params, 2, IndexedNoise(seed_words(1), index))
    part = case.family.sample(params[[3]], 2, IndexedNoise(seed_words(1), index[[3]]))
    np.testing.assert_allclose(np.asarray(whole)[:, [3]], part, rtol=1e-5, atol=1e-6)  # another order of summation


@pytest.mark.parametrize("sign", ["+", "-", "both"])
def test_extreme_parameters_stay_finite(case, sign):
    shape = (2, *case.params_shape)
    signs = RNG.choice([-1.0, 1.0], shape) if sign == "both" else np.full(shape, float(f"{sign}1"))
    params = tf.constant(1e3 * signs, tf.float32)
    value = case.values(2)
    with tf.GradientTape() as tape:
        tape.watch(params)
        log_prob = case.family.log_prob(params, value)
    gradient = tape.gradient(log_prob, params)
    family = case.family
    for tensor in (log_prob, gradient, family.mean(params), family.variance(params), family.sample(params, 2, seed=0)):
        assert np.all(np.isfinite(tensor))


@cases_except(WITHOUT_REFERENCE)
def test_gradients_of_every_parameter_match_finite_differences(case):
    params, value, eps = case.params(3), case.values(3), 1e-5
    direction = RNG.normal(size=params.shape).astype("float32")
    variable = tf.constant(params)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        log_prob = tf.reduce_sum(case.family.log_prob(variable, value))
    gradient = np.asarray(tape.gradient(log_prob, variable))
    reference = case.reference
    plus, minus = (reference(params.astype("float64") + s * eps * direction, value.astype("float64")) for s in (1, -1))
    expected = (plus - minus).sum() / (2 * eps)
    # float32: 1e-5 of terms that are 10 to 100 times larger than their sum.
    assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_call_returns_the_mean_and_covariance_has_the_variance_as_diagonal(case):
    params, family = case.params(3), case.family
    np.testing.assert_array_equal(family(params), family.mean(params))
    assert family.mean(params).shape == family.variance(params).shape == (3, *case.event)
    covariance = np.asarray(family.covariance(params))
    assert covariance.shape == (3, math.prod(case.event), math.prod(case.event))
    diagonal = np.diagonal(covariance, axis1=1, axis2=2)
    np.testing.assert_allclose(diagonal, np.reshape(family.variance(params), (3, -1)), rtol=1e-5)


def test_float16_parameters_are_computed_in_float32(case):
    params = ops.convert_to_tensor(case.params(3).astype("float16"))
    for result in (
        case.family.log_prob(params, case.values(3)),
        case.family.mean(params),
        case.family.sample(params, 1, seed=0),
    ):
        assert keras.backend.standardize_dtype(result.dtype) == "float32"


def test_config_round_trip(case):
    made = TABLES[case.part][case.name]()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert type(again) is type(made)
    assert again.get_config() == made.get_config()


def test_densities_sum_or_integrate_to_one(single):
    family = single.family
    if family.is_discrete:
        levels = getattr(family, "levels", 2)
        grid = np.arange(levels) / (levels - 1)
    else:
        grid = np.linspace(0, 1, 1001) if family.support == "unit" else np.linspace(-60, 60, 120_001)
    params = np.repeat(single.params(1), len(grid), axis=0)
    density = np.exp(np.asarray(family.log_prob(params, grid.reshape(-1, *single.event).astype("float32")), "float64"))
    total = density.sum() if family.is_discrete else np.trapezoid(density, grid)
    assert total == pytest.approx(1, abs=1e-5)  # float32 densities


@pytest.mark.parametrize("name", ["DiscretizedLogistic", "DiscretizedLogisticMixture"])
def test_probabilities_of_all_colours_sum_to_one(name):
    settings = {} if name == "DiscretizedLogistic" else {"components": 3}
    family = getattr(likelihoods, name)(levels=5, **settings)
    size = family.param_size((3,))
    family.build((None, size))
    colours = np.array(list(itertools.product(np.arange(5) / 4, repeat=3)), "float32")
    for scale in (0.3, 1.0, 3.0, 1000.0):
        params = np.tile(scale * RNG.normal(size=(1, size)), (len(colours), 1)).astype("float32")
        assert np.exp(np.asarray(family.log_prob(params, colours), "float64")).sum() == pytest.approx(1, abs=1e-5)


def test_probabilities_of_256_levels_sum_to_one_at_any_scale():
    family = likelihoods.DiscretizedLogistic()
    family.build((None, 2))
    x = (np.arange(256) / 255).astype("float32")[:, None]
    for mean, raw in itertools.product((-3.0, -1.0, 0.1, 1.002, 1e3), (-1e3, -5.0, -1.0, 0.0, 2.0, 1e3)):
        params = np.tile(np.array([[mean, raw]], "float32"), (256, 1))
        log_p = np.asarray(family.log_prob(params, x), "float64")
        assert np.exp(log_p).sum() == pytest.approx(1, abs=3e-5)  # 256 float32 terms
        np.testing.assert_array_equal(
            log_p, family.log_prob(params, x + 0.3 / 255 * (x < 1))
        )  # rounded to the nearest level


def test_continuous_bernoulli_for_small_and_large_logits():
    family = likelihoods.ContinuousBernoulli()
    family.build((None, 1))
    a = np.array([1e-6, 1e-3, 0.1, 0.99, 1.01, 2.0, 20.0, 90.0, 700.0])
    logits = np.concatenate([-a[::-1], a]).astype("float32")[:, None]
    law = stats.truncexpon(b=np.abs(logits.astype("float64")), scale=1 / np.abs(logits.astype("float64")))
    mean = np.where(logits > 0, 1 - law.mean(), law.mean())
    exact = np.abs(logits) > 0.05  # SciPy's own moments cancel below
    np.testing.assert_allclose(np.asarray(family.mean(logits))[exact], mean[exact], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(family.variance(logits))[exact], law.var()[exact], rtol=2e-5)
    np.testing.assert_allclose(np.asarray(family.mean(logits))[~exact], 0.5 + logits[~exact] / 12, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(family.variance(logits))[~exact], 1 / 12, rtol=1e-5)
    samples = np.asarray(family.sample(logits, 4000, seed=0))[..., 0]  # (n, B)
    for column, logit in zip(samples.T.astype("float64"), logits[:, 0].astype("float64")):
        law = stats.truncexpon(b=abs(logit), scale=1 / abs(logit))
        assert stats.kstest(1 - column if logit > 0 else column, law.cdf).pvalue > 1e-4  # 18 tests


@pytest.mark.parametrize(
    # Components as narrow as in trained decoders, and components nearly as wide as the range, with much clipping.
    # Monte Carlo: 5 · 0.35 / √20000 = 0.012 at most, 0.002 on average; half a level is 0.002.
    ("spread", "largest", "average"),
    [(0.05, 0.02, 0.004), (0.5, 0.15, 0.035)],
)
def test_mixture_moments_are_close_to_sample_moments(spread, largest, average):
    family = likelihoods.DiscretizedLogisticMixture(components=3)
    family.build((None, family.param_size((3,))))
    params = RNG.normal(size=(40, family.param_size((3,)))).astype("float32")
    params[:, 3:12] *= 0.5  # means
    params[:, 12:21] = math.log(spread) + 0.3 * params[:, 12:21]  # log-scales
    samples = np.asarray(family.sample(params, 20_000, seed=0), "float64")
    for error in (
        np.abs(samples.mean(0) - family.mean(params)),
        np.abs(samples.std(0) - np.sqrt(family.variance(params))),
    ):
        assert error.max() < largest
        assert np.all(error.mean(0) < average)  # for each channel


def test_optimal_normal_uses_the_batch_in_training_and_the_average_afterwards():
    family = likelihoods.OptimalNormal(scale=0.5, momentum=0.5)
    family.build((None, 4, 4, 1))
    x, params = (RNG.normal(size=(8, 4, 4, 1)).astype("float32") for _ in range(2))
    variance = ((x - params).astype("float64") ** 2).mean()

    def at_best_scale(mean):  # Rybkin et al. 2021, eq. 11: σ² is the mean squared error, also in the gradient
        return -0.5 * x.size * (tf.math.log(2 * math.pi * tf.reduce_mean(tf.square(x - mean))) + 1)

    mean = tf.constant(params)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(mean)
        log_prob = tf.reduce_sum(family.training_log_prob(mean, x))
        expected = at_best_scale(mean)
    assert float(log_prob) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(tape.gradient(log_prob, mean), tape.gradient(expected, mean), rtol=1e-4, atol=1e-6)
    assert float(family.variance(params)[0, 0, 0, 0]) == pytest.approx((0.5 * 0.25 + variance) / 1.5, rel=1e-5)
    for _ in range(40):  # the weight of the initial value is 2⁻⁴⁰
        family.training_log_prob(params, x)
    assert float(family.variance(params)[0, 0, 0, 0]) == pytest.approx(variance, rel=1e-5)
    expected = stats.norm(params, math.sqrt(variance)).logpdf(x).sum((1, 2, 3))
    np.testing.assert_allclose(family.log_prob(params, x), expected, rtol=1e-4)
    assert not family.trainable_weights
    assert np.isfinite(family.training_log_prob(x, x)).all()  # an error of zero


def test_training_log_prob_equals_log_prob_except_for_optimal_normal(case):
    if not isinstance(case.family, likelihoods.OptimalNormal):
        params, value = case.params(3), case.values(3)
        np.testing.assert_array_equal(case.family.training_log_prob(params, value), case.family.log_prob(params, value))


def test_learned_scale_is_one_weight_or_one_per_pixel():
    one, many = likelihoods.Normal(0.3, learned=True), likelihoods.Laplace(0.3, learned=True, per_pixel=True)
    for family in (one, many):
        family.build((None, 4, 5, 2))
    assert [w.shape for w in one.trainable_weights] == [()]
    assert [w.shape for w in many.trainable_weights] == [(4, 5, 2)]
    many.raw_log_scale.assign(RNG.normal(size=(4, 5, 2)))
    scale = scale_of(np.asarray(many.raw_log_scale, "float64"))
    params, x = (RNG.normal(size=(3, 4, 5, 2)).astype("float32") for _ in range(2))
    expected = stats.laplace(params, scale).logpdf(x).sum((1, 2, 3))
    np.testing.assert_allclose(many.log_prob(params, x), expected, rtol=1e-5)
    np.testing.assert_allclose(many.variance(params)[0], 2 * scale**2, rtol=1e-5)


def test_config_without_per_pixel_loads():
    config = likelihoods.Normal(0.3, learned=True).get_config()
    del config["per_pixel"]
    assert likelihoods.Normal.from_config(config).learned


def test_low_rank_density_is_accurate_for_large_similar_factors():
    """The factors are nearly equal and fifty times larger than the noise, and explain most of x."""
    family = likelihoods.LowRankNormal(rank=3)
    family.build((None, 10, 10, 5))
    params = np.zeros((1, 10, 10, 5), "float32")
    params[..., 1] = -3.0
    params[..., 2:] = 50 + 5 * RNG.normal(size=(1, 10, 10, 3))
    a = np.exp(-3) * params[..., 2:]
    x = (a @ np.array([[1.0], [-0.5], [0.3]]) + 0.05 * RNG.normal(size=(1, 10, 10, 1))).astype("float32")
    expected = low_rank_normal(params.astype("float64"), x.astype("float64"))
    np.testing.assert_allclose(family.log_prob(params, x), expected, rtol=1e-3)


def test_full_covariance_works_for_128_latents():
    q, size = posteriors.FullCovarianceNormal(), 128
    q.build((None, q.param_size((size,))))
    params = (0.1 * RNG.normal(size=(2, q.param_size((size,))))).astype("float32")
    z, log_q = q.sample_and_log_prob(params, 3, seed=0)
    expected = np.stack([full_covariance_normal(params.astype("float64"), np.asarray(row, "float64")) for row in z])
    np.testing.assert_allclose(log_q, expected, rtol=1e-5)
    np.testing.assert_allclose(q.log_prob(params, z), expected, rtol=1e-4)  # substitution through 128 rows
    with pytest.raises(ValueError, match="vectors"):
        q.param_size((4, 4, 1))


#: all pairs with a closed form
KL_PAIRS = [
    (name, posterior, prior)
    for name, posterior in cases.POSTERIORS.items()
    for prior in cases.PRIORS.values()
    if closed_form_kl(posterior(), prior())
]


@pytest.mark.parametrize(("name", "posterior", "prior"), KL_PAIRS, ids=lambda value: str(value)[:24])
def test_closed_kl_equals_monte_carlo(name, posterior, prior):
    q, p = posterior(), prior()
    size = q.param_size((4,))
    if isinstance(p, priors.ConditionalNormal):
        p.condition_dim = 5
    q.build((None, size)), p.build((None, 4))
    for weight in p.weights:
        weight.assign(0.3 * RNG.normal(size=weight.shape))
    params = RNG.normal(size=(3, size)).astype("float32")
    c = RNG.normal(size=(3, 5)).astype("float32")
    kl = np.asarray(closed_form_kl(q, p)(q, params, p, c))
    z, log_q = q.sample_and_log_prob(params, 100_000, seed=2)
    difference = np.asarray(log_q - p.log_prob(z, c), "float64")
    error = difference.std(0) / math.sqrt(len(difference))
    assert np.all(np.abs(difference.mean(0) - kl) < 5 * error)


def test_every_closed_kl_has_a_case():
    tested = {(type(posterior()), type(prior())) for _, posterior, _ in KL_PAIRS for prior in cases.PRIORS.values()}
    assert set(_CLOSED_FORMS) <= tested


def test_closed_kl_is_zero_at_the_prior_and_absent_for_unknown_pairs():
    p = priors.StandardNormal()
    for q in (posteriors.DiagonalNormal(), posteriors.FullCovarianceNormal()):
        zeros = np.zeros((2, q.param_size((4,))), "float32")
        assert np.all(np.asarray(closed_form_kl(q, p)(q, zeros, p)) == 0)
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


def test_noise_is_a_function_of_seed_and_step_and_is_divided_among_replicas():
    whole = np.asarray(standard_normal((3, 8, 2), Noise(1, 5)))
    np.testing.assert_array_equal(whole, standard_normal((3, 8, 2), Noise(1, 5)))
    assert np.any(whole != np.asarray(standard_normal((3, 8, 2), Noise(1, 6))))
    assert np.any(whole != np.asarray(standard_normal((3, 8, 2), Noise(2, 5))))
    parts = [standard_normal((3, 2, 2), Noise(1, 5, (2 * i, 2, 8))) for i in range(4)]
    np.testing.assert_array_equal(whole, np.concatenate(parts, axis=1))
    uneven = [standard_normal((3, own, 2), Noise(1, 5, (first, own, 8))) for first, own in ((0, 5), (5, 3), (8, 0))]
    np.testing.assert_array_equal(whole, np.concatenate(uneven, axis=1))
    of_four = [standard_normal((3, 2 * own, 2), Noise(1, 5, (first, own, 4))) for first, own in ((0, 3), (3, 1))]
    np.testing.assert_array_equal(whole, np.concatenate(of_four, axis=1))  # two rows of each example
    noise = Noise(1, 5)
    first, second = (np.asarray(standard_normal((3, 8, 2), noise)) for _ in range(2))
    assert np.any(first != second)


def test_supports():
    assert likelihoods.Bernoulli().is_discrete
    assert likelihoods.DiscretizedLogistic().is_discrete
    assert not likelihoods.ContinuousBernoulli().is_discrete
    assert not posteriors.DiagonalNormal().is_discrete


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: likelihoods.Normal(scale=0.0), "scale"),
        (lambda: likelihoods.Normal(scale=-1.0), "Received: scale=-1.0"),
        (lambda: likelihoods.Normal(per_pixel=True), "learned=True"),
        (lambda: likelihoods.OptimalNormal(scale=0.0), "scale=0.0"),
        (lambda: likelihoods.OptimalNormal(momentum=1.0), "momentum=1.0"),
        (lambda: likelihoods.Laplace(scale=0.0), "scale=0.0"),
        (lambda: likelihoods.DiagonalLaplace(max_scale=0.5), "max_scale=0.5"),
        (lambda: likelihoods.LowRankNormal(rank=0), "rank=0"),
        (lambda: likelihoods.DiscretizedLogistic(levels=1), "levels=1"),
        (lambda: likelihoods.DiscretizedLogisticMixture(components=0), "components=0"),
        (lambda: posteriors.DiagonalNormal(min_scale=2.0), "min_scale=2.0"),
        (lambda: posteriors.FullCovarianceNormal(min_scale=2.0), "min_scale=2.0"),
    ],
)
def test_invalid_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_conversion_to_built_in_operators_of_litert(tmp_path):
    """Convert means and densities of likelihoods, and moments and samples of posteriors."""
    from ai_edge_litert.interpreter import Interpreter

    from kvae.export.litert import convert

    signatures, inputs, expected, weights = {}, {}, {}, []

    def add(name, function, *arrays):
        traced = tf.function(lambda *tensors: {f"out_{i}": out for i, out in enumerate(function(*tensors))})
        specs = [tf.TensorSpec(array.shape, array.dtype, name=f"in_{i}") for i, array in enumerate(arrays)]
        signatures[name] = traced.get_concrete_function(*specs)
        inputs[name] = {f"in_{i}": array for i, array in enumerate(arrays)}
        expected[name] = [np.asarray(out) for out in function(*map(tf.constant, arrays))]

    for part, name in NAMES:
        case = Case(part, name, EVENTS[part])
        family, key = case.family, f"{part}_{name}".replace(" ", "_")
        weights += [variable.value for variable in family.variables]
        if part == "likelihood":
            add(f"{key}_mean", lambda p, f=family: [f.mean(p)], case.params(4))
            add(f"{key}_log_prob", lambda p, x, f=family: [f.log_prob(p, x)], case.params(2, 4), case.values(4))
        else:

            def moments_and_samples(params, seed, index, f=family):
                noise = IndexedNoise(seed, index)
                return [f.mean(params), f.variance(params), *f.sample_and_log_prob(params, 1, noise)]

            add(key, moments_and_samples, case.params(4), seed_words(5), np.arange(4, dtype="int32"))
    module = tf.Module()
    module.weights = weights  # tracked, so that the converter includes them
    tf.saved_model.save(module, str(tmp_path), signatures=signatures)
    interpreter = Interpreter(model_content=convert(tmp_path, list(signatures)))
    for name in signatures:
        outputs = interpreter.get_signature_runner(name)(**inputs[name])
        for i, out in enumerate(expected[name]):
            # exp and log of another library: a few units in the last place for each of up to 36 terms.
            np.testing.assert_allclose(outputs[f"out_{i}"], out, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (log_sigmoid, 0.5),
        (lambda x: sum_log_sigmoid(x[None], tf.zeros((1, 1)), rank=1), 0.5),
        (lambda x: likelihoods.ContinuousBernoulli().log_prob(x[None], tf.fill((1, 1), 0.5)), 0.0),
    ],
    ids=["log_sigmoid", "sum_log_sigmoid", "ContinuousBernoulli"],
)
def test_derivative_at_the_boundary_of_two_branches(function, slope):
    x = tf.zeros((1,))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    assert float(tape.gradient(y, x)[0]) == pytest.approx(slope)


@pytest.mark.parametrize("name", TABLES["posterior"])
def test_posteriors_in_functional_models(name):
    """Feature models are functional Keras models, whose tensors are symbolic."""
    case = Case("posterior", name, EVENTS["posterior"])
    params = keras.Input(case.params_shape)
    found = keras.Model(params, [case.family.mean(params), case.family.variance(params)])(given := case.params(3))
    for symbolic, eager in zip(found, (case.family.mean(given), case.family.variance(given)), strict=True):
        np.testing.assert_allclose(symbolic, eager, rtol=1e-5, atol=1e-5)


def test_log_sigmoid_in_functional_models():
    x = RNG.normal(size=(3, 5, 2)).astype("float32")
    symbol = keras.Input((5, 2))
    one, total = keras.Model(symbol, [log_sigmoid(symbol), sum_log_sigmoid(symbol, symbol, 2)])(x)
    np.testing.assert_allclose(one, log_sigmoid(x), rtol=1e-6)
    np.testing.assert_allclose(total, sum_log_sigmoid(x, x, 2), rtol=1e-6, atol=1e-5)  # sums of 10 terms, near 0


def test_derivatives_of_log_sigmoid():
    x = tf.constant([-1e3, -5.0, -0.1, 0.3, 4.0, 1e3])
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = log_sigmoid(x)
        first = tape.gradient(y, x)
    np.testing.assert_allclose(y, scipy.special.log_expit(x.numpy().astype("float64")), rtol=1e-6)
    np.testing.assert_allclose(first, scipy.special.expit(-x.numpy()), rtol=1e-6)
    second = outer.gradient(first, x)
    np.testing.assert_allclose(second, -scipy.special.expit(x.numpy()) * scipy.special.expit(-x.numpy()), atol=1e-7)


@pytest.mark.parametrize("event", [(7,), (113,), (12, 14, 1), (16, 16, 3)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3], ids=str)
def test_sum_log_sigmoid(event, scale):
    """The cases include a prime number of terms, and terms that cancel the added ones."""
    rank, axes = len(event), tuple(range(-len(event), 0))
    rng = np.random.default_rng(0)
    x, plus = (scale * rng.normal(size=(2, 3, *event)).astype("float32") for _ in range(2))
    with tf.GradientTape() as tape:
        inputs = tf.constant(x), tf.constant(plus)
        tape.watch(inputs)
        y = sum_log_sigmoid(*inputs, rank)
        given = tf.reshape(tf.range(1.0, 7.0), (2, 3))
        loss = tf.reduce_sum(given * y)
    terms = plus.astype("float64") + scipy.special.log_expit(x.astype("float64"))
    np.testing.assert_allclose(y, terms.sum(axes), rtol=1e-6, atol=1e-6 * np.abs(terms).sum(axes).max())
    slopes = tape.gradient(loss, inputs)
    weight = given.numpy().reshape(2, 3, *[1] * rank)
    np.testing.assert_allclose(slopes[0], weight * scipy.special.expit(-x), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(slopes[1], np.broadcast_to(weight, x.shape))
    exact = sum_log_sigmoid(tf.fill((1, *event), -1e3), tf.fill((1, *event), 1e3), rank)
    assert float(exact[0]) == 0.0  # a pixel that is certain and correct


def test_optimal_scale_ignores_empty_and_non_finite_batches():
    p = likelihoods.OptimalNormal(scale=0.5)
    p.build((None, 4))
    for batch in (np.zeros((0, 4), "float32"), np.full((2, 4), np.nan, "float32")):
        p.training_log_prob(tf.zeros(batch.shape), batch)
    assert float(p.log_scale) == pytest.approx(np.log(0.5))
