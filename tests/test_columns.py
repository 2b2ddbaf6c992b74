"""The likelihood of rows of a table, against SciPy in float64, its own samples, and LiteRT."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from scipy.special import log_expit, log_softmax, logsumexp

from kvae import likelihoods
from kvae.distributions import IndexedNoise, seed_words
from kvae.distributions.negative_binomial import negative_binomial_log_prob

RNG = np.random.default_rng(0)
#: a table with two columns of each type, mixed; the raw parameters are sorted by type
TABLE = [
    {"name": "height", "type": "number", "location": 170.0, "scale": 10.0},
    {"name": "city", "type": "category", "categories": ["Oslo", "Paris", "Rome"], "missing": True},
    {"name": "visits", "type": "count", "location": 1.0, "scale": 0.5, "high": 60.0},
    {"name": "member", "type": "boolean", "missing": True},
    {"name": "born", "type": "date", "location": 100.0, "scale": 365.0},
    {"name": "colour", "type": "category", "categories": ["red", "blue"]},
    {"name": "errors", "type": "count", "location": 0.1, "scale": 0.3, "high": 60.0},
    {"name": "active", "type": "boolean"},
]
KINDS = {kind: [i for i, column in enumerate(TABLE) if column["type"] in kind.split()] for kind in
         ("number date", "count", "boolean", "category")}  # fmt: skip


def made(components=1, **options):
    family = likelihoods.Columns(TABLE, components=components, **options)
    family = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(family))
    family.build((None, family.param_size((len(TABLE),))))
    return family


def rows(count):
    """Return possible values of the columns."""
    numbers, others = RNG.normal(size=(count, 8)), RNG.integers(0, 2, (count, 8))
    x = np.where([column["type"] in ("number", "date") for column in TABLE], numbers * 10 + 150, others)
    x[:, 1], x[:, 2] = RNG.integers(0, 3, count), RNG.integers(0, 40, count)
    return x.astype("float32")


def bounded(raw, low, high):
    return np.where(raw > 0, high * np.tanh(raw / high), low * np.tanh(raw / low))


def reference(family, params, x):
    """Return the log-density of each column, one row and column at a time."""
    k, params, x = family.components, params.astype("float64"), x.astype("float64")
    size = 2 * k * (2 if k == 1 else 3)
    numbers, log_mean, log_r, logits, city, colour = np.split(params, size + np.cumsum([0, 2, 2, 2, 3]), axis=1)
    means, raw, *weights = numbers.reshape(len(x), -1, 2, k).swapaxes(0, 1)  # (B, column, K) each
    means = means + (np.linspace(-2, 2, k) if k > 1 else 0)
    scales = np.exp(bounded(raw - math.log(max(1, k / 4)), math.log(1e-2), math.log(1e2)))
    log_weights = log_softmax(weights[0], axis=-1) if weights else np.zeros_like(means)
    found = np.zeros(x.shape)
    for b in range(len(x)):
        for n, i in enumerate(KINDS["number date"]):
            column = TABLE[i]
            y = (x[b, i] - column["location"]) / column["scale"]
            log_p = logsumexp(log_weights[b, n] + stats.norm(means[b, n], scales[b, n]).logpdf(y))
            found[b, i] = log_p - math.log(column["scale"])
        for n, i in enumerate(KINDS["count"]):
            mu = math.exp(bounded(TABLE[i]["location"] + log_mean[b, n], -10, 10))
            r = math.exp(bounded(log_r[b, n], math.log(1e-2), math.log(1e3)))
            found[b, i] = stats.nbinom(r, r / (r + mu)).logpmf(x[b, i])
        for n, i in enumerate(KINDS["boolean"]):
            found[b, i] = log_expit(logits[b, n] if x[b, i] else -logits[b, n])
        for i, p in zip(KINDS["category"], (city, colour)):
            found[b, i] = log_softmax(p[b])[int(x[b, i])]
    return found


@pytest.fixture(params=[1, 3], ids=["normal", "mixture"])
def family(request):
    return made(request.param)


def drawn(family, *batch):
    return RNG.normal(size=(*batch, family.param_size((8,)))).astype("float32")


def test_log_prob_equals_scipy_in_float64(family):
    params, x = drawn(family, 20), rows(20)
    expected = reference(family, params, x)
    # float32: a few units in the last place of terms of up to 100 nats.
    np.testing.assert_allclose(family.entry_log_prob(params, x), expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(family.log_prob(params, x), expected.sum(1), rtol=2e-5, atol=5e-5)


def test_missing_values_are_left_out_of_values_and_gradients(family):
    params, x = drawn(family, 30), rows(30)
    hidden = RNG.random(x.shape) < 0.4
    with_nan = np.where(hidden, np.nan, x).astype("float32")
    expected = np.where(hidden, 0, reference(family, params, x))
    variable = tf.constant(params)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        log_prob = family.log_prob(variable, with_nan)
    np.testing.assert_allclose(log_prob, expected.sum(1), rtol=2e-5, atol=5e-5)
    gradient = np.asarray(tape.gradient(log_prob, variable))
    assert np.isfinite(gradient).all()
    logits = gradient[:, -2:]  # of "colour", the last of the columns by type
    np.testing.assert_array_equal(np.any(logits != 0, axis=1), ~hidden[:, 5])
    assert float(family.log_prob(params[:1], np.full((1, 8), np.nan, "float32"))[0]) == 0


def test_samples_broadcast(family):
    params, x = drawn(family, 3, 7), rows(7)
    together = np.asarray(family.log_prob(params, x))
    np.testing.assert_allclose(together, [family.log_prob(p, x) for p in params], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sign", ["+", "-", "both"])
def test_extreme_parameters_stay_finite(family, sign):
    shape = (4, family.param_size((8,)))
    signs = RNG.choice([-1.0, 1.0], shape) if sign == "both" else np.full(shape, float(f"{sign}1"))
    params = tf.constant(1e3 * signs, tf.float32)
    for x in (rows(4), np.float32(1e3) * rows(4), -rows(4)):
        with tf.GradientTape() as tape:
            tape.watch(params)
            log_prob = family.log_prob(params, x)
        for value in (log_prob, tape.gradient(log_prob, params)):
            assert np.isfinite(value).all()
    for value in (family.mean(params), family.variance(params), family.sample(params, 2, 0)):
        assert np.isfinite(value).all()


def test_sample_moments(family):
    n = 20_000
    params = 0.5 * drawn(family, 2)
    samples = np.asarray(family.sample(params, n, seed=1), "float64")
    at = [i for kind, found in KINDS.items() for i in found if kind != "category"]
    deviation = samples.std(0) / math.sqrt(n)
    # Five standard errors. Counts beyond 10 + 2 · high, 1 in 10⁵ here, are cut off.
    assert np.all(np.abs(samples.mean(0) - family.mean(params))[:, at] < 5 * deviation[:, at] + 1e-3)
    centred = (samples - samples.mean(0)) ** 2
    assert np.all(np.abs(centred.mean(0) - family.variance(params)) < 5 * centred.std(0) / math.sqrt(n) + 1e-2)
    for i, p in zip(KINDS["category"], np.split(params[:, -5:].astype("float64"), [3], axis=1)):
        shares = np.stack([(samples[..., i] == c).mean(0) for c in range(p.shape[1])], 1)
        expected = np.exp(log_softmax(p, axis=1))
        assert np.all(np.abs(shares - expected) < 5 * np.sqrt(expected * (1 - expected) / n))
        np.testing.assert_array_equal(np.asarray(family.mean(params))[:, i], p.argmax(1))


def test_columns_are_sampled_independently_and_depend_only_on_the_seed(family):
    params = np.zeros((1, family.param_size((8,))), "float32")
    same = [np.asarray(family.sample(params, 4000, seed=s))[:, 0] for s in (3, 3, 4)]
    np.testing.assert_array_equal(same[0], same[1])
    assert np.any(same[0] != same[2])
    correlation = np.corrcoef(same[0].T) - np.eye(8)
    assert np.abs(correlation).max() < 5 / math.sqrt(4000)


def test_indexed_noise_is_independent_of_the_batch(family):
    params, index = drawn(family, 5), np.array([7, 3, 0, 9, 1], "int32")
    whole = family.sample(params, 2, IndexedNoise(seed_words(1), index))
    part = family.sample(params[[3]], 2, IndexedNoise(seed_words(1), index[[3]]))
    np.testing.assert_allclose(np.asarray(whole)[:, [3]], part, rtol=1e-5, atol=1e-4)  # another order of summation


def test_inputs_of_the_encoder():
    x = np.array([[180, 2, np.e - 1, 1, 465, 0, np.nan, 0], [np.nan, np.nan, 0, np.nan, 100, 1, 0, 1]], "float32")
    expected = [  # height, born; visits, errors; member, active; city, colour; city and member missing
        [1, 1, 0, 0, 1, -1, 0, 0, 1, 1, 0, 0, 0],
        [0, 0, -2, -1 / 3, 0, 1, 0, 0, 0, 0, 1, 1, 1],
    ]
    np.testing.assert_allclose(made().standardize(x), expected, atol=1e-6)
    everywhere = made(mask_all=True)
    assert everywhere.standardized_shape((8,)) == (11 + 8,)
    np.testing.assert_array_equal(np.asarray(everywhere.standardize(x))[:, 11:], np.isnan(x))


def test_averages_over_several_latents(family):
    n = 8000
    params, weight = 0.5 * drawn(family, 4, 3), RNG.dirichlet(np.ones(4), 3).T.astype("float32")
    value, uncertainty = (np.asarray(part) for part in family.averaged(params, weight))
    samples = np.asarray(family.sample(params.reshape(12, -1), n, seed=0), "float64").reshape(n, 4, 3, 8)
    for i in (*KINDS["number date"], *KINDS["count"]):
        mean = (weight * samples[..., i].mean(0)).sum(0)
        second = (weight * (samples[..., i] ** 2).mean(0)).sum(0)
        deviation = np.sqrt(second - mean**2)
        np.testing.assert_allclose(value[:, i], mean, atol=0.06 * deviation.max())  # 5 standard errors
        np.testing.assert_allclose(uncertainty[:, i], deviation, rtol=0.1)
    for i in (*KINDS["boolean"], *KINDS["category"]):
        levels = np.arange(3)[:, None, None]
        shares = (weight * (samples[..., i][:, None] == levels).mean(0)).sum(1)  # (3, B)
        shown = np.round(value[:, i]) if i in KINDS["boolean"] else value[:, i]
        share_of_shown = np.take_along_axis(shares, shown[None].astype(int), 0)[0]
        np.testing.assert_allclose(share_of_shown, shares.max(0), atol=0.03)  # nearly equal ones may be exchanged
        np.testing.assert_allclose(uncertainty[:, i], 1 - shares.max(0), atol=0.03)
    one = [family.averaged(params[:1], np.ones((1, 3), "float32"))[0], family.mean(params[0])]
    np.testing.assert_allclose(*one, rtol=1e-6)


@pytest.mark.parametrize("mean", [1e-3, 0.7, 30.0, 900.0])
@pytest.mark.parametrize("dispersion", [0.011, 1.0, 40.0, 990.0])
def test_negative_binomial(mean, dispersion):
    x = np.array([0, 1, 2, 3, 7, 40, 300, 1000], "float32")
    expected = stats.nbinom(dispersion, dispersion / (dispersion + mean)).logpmf(x.astype("float64"))
    found = negative_binomial_log_prob(x, np.float32(math.log(mean)), np.float32(math.log(dispersion)))
    # The arguments are rounded to 2⁻²⁴ of a logarithm of up to 7, which counts x times: 1000 · 7 · 2⁻²⁴ = 4e-4.
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=4e-4)


def test_litert_computes_the_same_with_its_own_operators(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    from kvae.export.litert import convert

    family = made(components=3)
    params, x = drawn(family, 6), rows(6)
    x[RNG.random(x.shape) < 0.3] = np.nan

    def outputs(params, x):
        return {
            "log_prob": family.log_prob(params, x), "inputs": family.standardize(x), "mean": family.mean(params),
            "variance": family.variance(params),
        }  # fmt: skip

    module = tf.Module()
    specs = [tf.TensorSpec(value.shape, tf.float32, name) for name, value in (("params", params), ("x", x))]
    function = tf.function(outputs).get_concrete_function(*specs)
    tf.saved_model.save(module, str(tmp_path), signatures={"all": function})
    runner = Interpreter(model_content=convert(tmp_path, ["all"])).get_signature_runner("all")
    found = runner(params=params, x=x)
    for name, expected in outputs(params, x).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([], "one or more columns"),
        ([{"name": "a", "type": "colour"}], "one of the types number, date, count, boolean, category"),
        ([{"type": "number"}], "'name'"),
        ([{"name": "a", "type": "category"}], "'categories' of the column 'a'"),
        ([{"name": "a", "type": "number", "scale": 0.0}], "scale > 0 of the column 'a'"),
        ([{"name": "a", "type": "number", "location": math.nan}], "finite location"),
    ],
)
def test_invalid_columns(columns, message):
    with pytest.raises(ValueError, match=message):
        likelihoods.Columns(columns)


def test_rows_of_another_length():
    with pytest.raises(ValueError, match=r"Expected rows of 8 columns.*Received: event_shape=\(7,\)"):
        made().param_size((7,))


def test_config_round_trip():
    family = likelihoods.Columns(TABLE, components=2, mask_all=True)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(family))
    assert again.get_config() == family.get_config()
    assert again.describe() == {"kind": "table", "columns": TABLE}
