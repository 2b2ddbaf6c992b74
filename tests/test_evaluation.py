"""Evaluation compared with closed forms; features and probes on data with known answers."""

import os
import threading
import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import kvae
from kvae import evaluation, features, likelihoods, networks, priors
from kvae.evaluation import graphs, importance, latents, scoring

TERMS = ("distortion", "rate", "elbo", "nll")
KEYS = {
    *TERMS, *(f"{term}_error" for term in TERMS), "bits_per_dim", "bits_per_dim_nll", "active_units",
    "kl_per_dimension", "ess_median", "ess_below_2", "num_samples", "seed", "split", "proposal", "examples", "images",
    "binarisation", "support", "precision", "outside_support", "non_finite", "event_shape", "bounded",
}  # fmt: skip


@pytest.fixture(scope="module")
def ppca():
    """A linear-Gaussian VAE with its exact posterior, and the marginal p(x) = N(b, WWᵀ + σ²I) (probabilistic PCA)."""
    rng = np.random.default_rng(0)
    sigma, latents, pixels = 0.1, 3, 12
    w = np.linalg.qr(rng.normal(size=(pixels, latents)))[0] * [
        0.3,
        0.2,
        0.15,
    ]  # orthogonal: posterior is diagonal
    b = np.full(pixels, 0.5)
    precision = np.diag(w.T @ w) / sigma**2 + 1
    encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2 * latents)])
    decoder = keras.Sequential([keras.layers.Dense(pixels), keras.layers.Reshape((3, 4, 1))])
    vae = kvae.VAE(encoder, decoder, likelihood=likelihoods.Normal(sigma), latent_dim=latents, image_shape=(3, 4, 1))
    to_mean = w / sigma**2 / precision
    low = np.log(1e-3)
    raw = low * np.arctanh(-0.5 * np.log(precision) / low)  # the inverse of the bounded log-scale
    encoder.layers[-1].set_weights([np.hstack([to_mean, 0 * to_mean]), np.concatenate([-b @ to_mean, raw])])
    decoder.layers[0].set_weights([w.T, b])
    marginal = stats.multivariate_normal(b, w @ w.T + sigma**2 * np.eye(pixels))
    x = np.clip(marginal.rvs(500, random_state=1), 0, 1).astype("float32")
    return vae, x.reshape(-1, 3, 4, 1), marginal.logpdf(x)


@pytest.mark.parametrize("num_samples", [1, 7, 300])
def test_evidence_is_exact_with_the_exact_posterior(ppca, num_samples):
    """With the exact posterior every importance weight is p(x): no variance for any K, and ELBO = log p(x)."""
    vae, x, log_evidences = ppca
    log_evidence = log_evidences.mean()
    scores = evaluation.evaluate(vae, x, num_samples)
    assert set(scores) == KEYS
    assert scores["nll"] == pytest.approx(-log_evidence, abs=2e-4)  # float32 terms of about 20 nats
    # The distortion is sampled: 500 · K draws of a half χ² with 3 degrees of freedom scaled below one.
    assert scores["elbo"] == pytest.approx(log_evidence, abs=5 * np.sqrt(3 / 2 / (500 * num_samples)))
    assert scores["active_units"] == 3
    assert scores["examples"] == 500
    assert scores["bits_per_dim"] == pytest.approx(-scores["elbo"] / np.log(2) / 12)
    assert scores["bits_per_dim_nll"] == pytest.approx(scores["nll"] / np.log(2) / 12)
    assert scores["nll_error"] == pytest.approx(log_evidences.std(ddof=1) / np.sqrt(500), rel=1e-3)
    assert scores["ess_median"] == pytest.approx(num_samples, rel=1e-3)  # weights that are all equal
    assert sum(scores["kl_per_dimension"]) == pytest.approx(scores["rate"], rel=1e-5)
    assert scores["binarisation"] is None


@pytest.fixture(scope="module")
def loose(ppca):
    """The same model with an inexact posterior: a mean shifted by ½ of its scale, and scales 1.3 times as wide."""
    vae = keras.models.clone_model(ppca[0])
    vae.set_weights(ppca[0].get_weights())
    head = vae.encoder.layers[-1]
    kernel, bias = head.get_weights()
    low = np.log(1e-3)
    bias[3:] = low * np.arctanh(np.tanh(bias[3:] / low) + np.log(1.3) / low)
    bias[:3] += 0.5 * np.exp(low * np.tanh(bias[3:] / low))
    head.set_weights([kernel, bias])
    return vae


def test_estimate_equals_the_likelihood_with_an_inexact_posterior(ppca, loose):
    _, x, log_evidences = ppca
    exact = -log_evidences[:200]
    bounds = {k: evaluation.score_images(loose, x[:200], k) for k in (1, 10, 3000)}
    many = bounds[3000]["nll"] - exact
    # Var log p̂ ≈ (K / ess − 1) / K for an image; 200 of them, at 5 standard errors.
    assert abs(many.mean()) < 5 * np.sqrt(np.mean(1 / bounds[3000]["ess"]) / 200)
    assert np.abs(many).max() < 6 * np.sqrt(1 / bounds[3000]["ess"].min())
    # The bound falls from K = 1 to 10 to 3000; with K = 1 it is −ELBO in expectation.
    assert bounds[1]["nll"].mean() > bounds[10]["nll"].mean() + 0.1 > bounds[3000]["nll"].mean() + 0.1
    one = bounds[1]["nll"] - (bounds[3000]["distortion"] + bounds[3000]["rate"])
    assert abs(one.mean()) < 5 * one.std() / np.sqrt(200)
    assert np.all((bounds[3000]["ess"] > 300) & (bounds[3000]["ess"] < 2900))


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [5, 300])
def test_scores_do_not_depend_on_batches_and_chunks(loose, ppca, num_samples, monkeypatch):
    x = ppca[1][:50]
    whole = evaluation.score_images(loose, x, num_samples)
    monkeypatch.setattr(importance, "MOST_LATENTS", 44)
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros(50))).batch(17)
    pieces = evaluation.score_images(loose, data, num_samples)
    assert set(whole) == set(pieces)
    for name in whole:
        # Sums of 12 float32 terms of a density, in another order.
        np.testing.assert_allclose(whole[name], pieces[name], rtol=1e-4, atol=1e-4)
    other = evaluation.score_images(loose, x, num_samples, seed=1)
    assert np.all(other["nll"] != whole["nll"])


@pytest.mark.slow
def test_resumed_evaluation_equals_an_unbroken_one(loose, ppca, monkeypatch):
    x = ppca[1][:60]
    monkeypatch.setattr(importance, "MOST_LATENTS", 44)  # 6 images at once, then 1 in 2 chunks
    monkeypatch.setattr(scoring, "SAVE_SECONDS", -1.0)
    data = tf.data.Dataset.from_tensor_slices(x).batch(25)
    for num_samples in (7, 50):
        saved = []
        whole = evaluation.score_images(loose, data, num_samples, save=saved.append)
        for done in (saved[0], saved[len(saved) // 2], saved[-1]):
            resumed = evaluation.score_images(loose, data, num_samples, done=done)
            for name in whole:
                np.testing.assert_array_equal(resumed[name], whole[name])
    with pytest.raises(ValueError, match="Received: different images among"):
        evaluation.score_images(loose, x[::-1], 50, done=saved[0])


def test_threads_keep_the_order_and_stop_early():
    begun, release = [], threading.Event()

    def work(item):
        begun.append(item)
        if item == 0:
            assert release.wait(10)
        return -item

    results = graphs.few_at_a_time(work, range(1000))
    threading.Timer(0.1, release.set).start()
    assert [next(results) for _ in range(3)] == [0, -1, -2]
    results.close()  # as an exception in the caller would
    assert len(begun) < 20


def test_threads_call_an_uncompiled_graph_one_at_a_time(monkeypatch):
    inside, most = [], []

    def graph(item):
        inside.append(item)
        most.append(len(inside))
        time.sleep(0.01)
        inside.remove(item)
        return item

    monkeypatch.setattr(graphs, "THREADS", 4)
    assert list(graphs.few_at_a_time(graphs.one_at_a_time(graph), range(8))) == list(range(8))
    assert max(most) == 1


def test_compiled_and_uncompiled_decoders_have_equal_scores(ppca):
    """Dense decoders are compiled for large K, with the same noise."""
    vae, x = ppca[:2]
    rows = []
    for most in (1, 10_000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(importance, "XLA_SAMPLES", most)
            rows.append(evaluation.score_images(vae, x[:30], 300))
    np.testing.assert_allclose(rows[0]["nll"], rows[1]["nll"], rtol=1e-5)
    assert importance.ImportanceSampler(vae, 300, 0, 30).compile
    assert not graphs.has_convolutions(graphs.decoding_graph(vae, vae.prior.fixed()))
    default = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
    assert graphs.has_convolutions(graphs.decoding_graph(default, default.prior.fixed()))


def test_a_decoder_that_xla_cannot_compile_is_scored():
    class Python(keras.layers.Layer):
        def call(self, z):
            y = tf.numpy_function(lambda values: np.tanh(values), [z], tf.float32)
            return tf.ensure_shape(y, z.shape)

        def compute_output_shape(self, shape):
            return shape

    decoder = kvae.Decoder((8, 8, 1), keras.Sequential([keras.Input((2,)), Python(), keras.layers.Dense(4)]))
    vae = kvae.VAE(decoder=decoder, latent_dim=2, image_shape=(8, 8, 1))
    rows = evaluation.score_images(vae, np.zeros((3, 8, 8, 1), "float32"), 300)
    assert np.all(np.isfinite(rows["nll"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "network"),
    [
        ("likelihood", networks.MLP((4,))),
        ("posterior", networks.ConvUp((8, 8))),
        ("prior", networks.MLP((4,))),
        pytest.param("likelihood", networks.ConvUp((8, 8)), marks=pytest.mark.slow),
        pytest.param("posterior", networks.MLP((4,)), marks=pytest.mark.slow),
        pytest.param("prior", networks.ConvUp((8, 8)), marks=pytest.mark.slow),
    ],
)
def test_a_part_that_xla_cannot_compile_is_scored(part, network, monkeypatch):
    def same(values):
        return tf.ensure_shape(tf.numpy_function(np.copy, [values], tf.float32), values.shape)

    decoder = kvae.Decoder((8, 8, 1), network)
    vae = kvae.VAE(decoder=decoder, latent_dim=2, image_shape=(8, 8, 1))
    x = np.zeros((3, 8, 8, 1), "float32")
    expected = evaluation.score_images(vae, x, 300)
    kind, name = type(getattr(vae, part)), "sample_and_log_prob" if part == "posterior" else "log_prob"
    method = getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda *args, **kwargs: tf.nest.map_structure(same, method(*args, **kwargs)))
    rows = evaluation.score_images(vae, x, 300)
    np.testing.assert_allclose(rows["nll"], expected["nll"], rtol=1e-5)  # other orders of float32 sums


def test_a_model_of_mixed_precision_can_be_scored_in_float32():
    def model(dtype):
        return kvae.VAE(
            encoder=kvae.Encoder(3, networks.MLP((16,), dtype=dtype)),
            decoder=kvae.Decoder((8, 8, 1), networks.MLP((16,), dtype=dtype), dtype=dtype),
        )

    mixed, plain = model("mixed_bfloat16"), model("float32")
    plain.set_weights(mixed.get_weights())
    x = np.random.default_rng(0).integers(0, 2, (9, 8, 8, 1)).astype("float32")
    expected, rounded = (evaluation.evaluate(vae, x, num_samples=4) for vae in (plain, mixed))
    with kvae.models.float32_compute(mixed):
        scores = evaluation.evaluate(mixed, x, num_samples=4)
    assert scores == expected
    assert (rounded["precision"], scores["precision"]) == ("bfloat16", "float32")
    assert 0 < abs(rounded["nll"] - scores["nll"]) < 0.05
    assert evaluation.evaluate(mixed, x, num_samples=4) == rounded  # the policy is restored


def test_cores_are_those_available_to_the_process(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3}, raising=False)
    assert graphs.cores() == 1
    monkeypatch.delattr("os.sched_getaffinity")
    assert graphs.cores() == os.cpu_count()


def test_ctrl_c_saves_finished_rows(loose, ppca):
    def images():
        yield ppca[1][:20]
        raise KeyboardInterrupt

    class Interrupted:
        def __iter__(self):
            return images()

        def cardinality(self):
            return 2

    saved = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scoring, "as_batches", lambda data: data)
        evaluation.score_images(loose, Interrupted(), 3, save=saved.append)
    assert len(saved[0]["nll"]) == 20


@pytest.mark.slow
def test_memory_is_bounded(monkeypatch):
    """The largest tensor of the decoder, 16 × 16 × 32 numbers per latent vector, is the bound for any batch and K."""
    decoder = kvae.Decoder((32, 32, 3), networks.ConvUp((64, 64, 32)))
    vae = kvae.VAE(decoder=decoder, likelihood=likelihoods.Normal(0.5), latent_dim=2, image_shape=(32, 32, 3))
    assert graphs.decoding_floats(graphs.decoding_graph(vae, vae.prior.fixed())) == 16 * 16 * 32
    monkeypatch.setattr(importance, "MEMORY", 40 * 16 * 16 * 32 * 4)
    decoded = []
    decoder_params = vae.decoder_params
    monkeypatch.setattr(vae, "decoder_params", lambda z, c: decoded.append(z.shape) or decoder_params(z, c))
    encoded = []
    encoder_params = vae.encoder_params
    monkeypatch.setattr(vae, "encoder_params", lambda x, c: encoded.append(x.shape) or encoder_params(x, c))
    for num_samples, shape in ((10, (10, 4, 2)), (100, (34, 1, 2)), (41, (21, 1, 2)), (1, (1, 6, 2))):
        decoded.clear()
        evaluation.score_images(vae, np.zeros((6, 32, 32, 3), "float32"), num_samples)
        assert decoded == [shape]  # one graph: every chunk has this shape
    assert encoded == [(6, 32, 32, 3)] * 4  # the encoder sees the whole batch once


@pytest.mark.parametrize("kind", ["Mixture", "VampPrior"])
def test_memory_is_bounded_for_a_prior_of_many_components(kind):
    prior = {"Mixture": priors.Mixture(components=900), "VampPrior": priors.VampPrior(pseudo_inputs=900)}
    vae = kvae.VAE(latent_dim=5, image_shape=(8, 8, 1), prior=prior[kind])
    assert graphs.decoding_floats(graphs.decoding_graph(vae, vae.prior.fixed())) == 900 * 5


def test_memory_is_bounded_for_a_conditional_model():
    vae = kvae.VAE(latent_dim=5, image_shape=(8, 8, 1), prior=priors.ConditionalNormal(), condition_dim=3)
    assert graphs.decoding_floats(graphs.decoding_graph(vae, vae.prior.fixed())) >= 64


@pytest.mark.slow
def test_bound_rises_with_k(digits):
    vae = kvae.VAE(latent_dim=4, image_shape=(8, 8, 1))
    vae.compile(keras.optimizers.Adam(3e-3))
    vae.fit(digits[0][:512], epochs=25, verbose=0)
    data = digits[0][512:768]
    one, many = (evaluation.evaluate(vae, data, k) for k in (1, 200))
    assert many["nll"] < one["nll"] - 0.1
    assert many["nll"] < -many["elbo"]
    # K = 1 is −ELBO in expectation; its standard error over 256 images is below 0.2 nats.
    assert one["nll"] == pytest.approx(-one["elbo"], abs=1.0)


def test_empty_data_is_refused(ppca):
    with pytest.raises(ValueError, match="empty validation split"):
        evaluation.evaluate(ppca[0], np.zeros((0, 3, 4, 1), "float32"), split="validation")
    with pytest.raises(ValueError, match="num_samples=0"):
        evaluation.evaluate(ppca[0], ppca[1], 0)


@pytest.mark.slow
def test_posterior_collapse_is_reported(digits):
    vae = kvae.VAE(latent_dim=8, image_shape=(8, 8, 1), objective=kvae.objectives.ELBO(beta=200.0))
    vae.compile("adam")
    vae.fit(digits[0][:512], epochs=8, verbose=0)
    with pytest.warns(evaluation.CollapseWarning, match=r"Posterior collapse: 0 of 8 latents"):
        scores = evaluation.evaluate(vae, digits[0][:256], 4)
    assert scores["active_units"] == 0
    finding, grey = evaluation.diagnose(scores)
    assert (finding.name, grey.name) == ("posterior collapse", "outside the support")
    assert "beta" in finding.message


PARTS = {"mutual_information": 4.0, "log_n": 6.9}
#: changes to the scores of a good model, the finding, and a part of its message
FINDINGS = {
    "good": ({}, None, ""),
    "two of many": ({"active_units": 2, "kl_per_dimension": [1.0] * 50}, None, ""),
    "collapse": ({"active_units": 1}, "posterior collapse", "1 of 8 latents"),
    "NaN": ({"non_finite": {"nll": 3}}, "not finite", "nll of 3 images of 100"),
    "grey": ({"outside_support": 100}, "outside the support", "ContinuousBernoulli"),
    "levels": ({"outside_support": 7, "support": "levels"}, "outside the support", "7 of 100 images"),
    "weights": ({"ess_below_2": 0.2}, "degenerate weights", "20%"),
    "few samples": ({"ess_below_2": 0.9, "num_samples": 16}, None, ""),
    "mismatch": ({**PARTS, "marginal_kl": 12.0}, "prior mismatch", "is 12.0 nats"),
    "match": ({**PARTS, "marginal_kl": 1.5}, None, ""),
    "limit of N": ({**PARTS, "mutual_information": 6.8, "marginal_kl": 12.0, "marginal_kl_normal": 1.0}, None, ""),
    "limit of N, another prior": ({**PARTS, "mutual_information": 6.8, "marginal_kl": 12.0}, None, ""),
    "bound": (
        {**PARTS, "mutual_information": 6.8, "marginal_kl": 12.0, "marginal_kl_normal": 3.0},
        "prior mismatch",
        "at least 3.0 nats",
    ),
    "overfitting": ({"train": {"nll": 97.0, "nll_error": 0.3}}, "overfitting", "3.00 ± 0.50 nats"),
    "a small gap": ({"train": {"nll": 98.5, "nll_error": 0.3}}, None, ""),
    "no gap": ({"train": {"nll": 99.5, "nll_error": 0.3}}, "underfitting", "larger network"),
}


@pytest.mark.parametrize("case", FINDINGS)
def test_diagnosis_names_the_problem_and_a_remedy(case):
    changes, name, word = FINDINGS[case]
    scores = {
        "active_units": 8, "kl_per_dimension": [2.0] * 8, "rate": 16.0, "nll": 100.0, "nll_error": 0.4, "split": "test",
        "num_samples": 5000, "examples": 100, "ess_below_2": 0.05, "ess_median": 60.0, "support": "binary",
    }  # fmt: skip
    found = evaluation.diagnose(scores | changes, changes.get("train"))
    assert [finding.name for finding in found] == ([name] if name else [])
    assert all(word in finding.message for finding in found)


def test_values_that_are_not_finite_are_counted(ppca):
    vae = keras.models.clone_model(ppca[0])
    vae.set_weights(ppca[0].get_weights())
    kernel, bias = vae.encoder.layers[-1].get_weights()
    kernel[0, 0] = 1e38
    vae.encoder.layers[-1].set_weights([kernel, bias])
    x = ppca[1][:6].copy()
    x[:, 0, 0], x[:2, 0, 0] = 0.0, 1.0  # two have a mean of 1e38, whose square is infinite
    with pytest.warns(evaluation.NonFiniteWarning, match="rate of 2 images, nll of 2 images of 6"):
        scores = evaluation.evaluate(vae, x, 4)
    assert not np.isfinite(scores["nll"])
    assert not np.isfinite(scores["rate"])


@pytest.mark.parametrize(
    ("likelihood", "x", "outside", "binarisation"),
    [
        (likelihoods.Bernoulli(), [0.0, 1.0], 0, "binary images as given"),
        (likelihoods.Bernoulli(), [0.0, 0.5], 5, "grey values: not a likelihood of binary data"),
        (likelihoods.DiscretizedLogistic(), [3 / 255, 254 / 255], 0, None),
        (likelihoods.DiscretizedLogistic(), [3 / 255, 0.5], 5, None),
        (likelihoods.Normal(), [0.1, 0.5], 0, None),
    ],
)
def test_images_outside_the_support_are_counted(likelihood, x, outside, binarisation):
    vae = kvae.VAE(
        keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)]), kvae.Decoder((2, 2, 1), networks.MLP((4,))),
        likelihood=likelihood, latent_dim=2, image_shape=(2, 2, 1),
    )  # fmt: skip
    images = np.full((5, 2, 2, 1), x[0], "float32")
    images[:, 1] = x[1]
    with warnings.catch_warnings(action="ignore"):
        scores = evaluation.evaluate(vae, images, 2)
    assert (scores["outside_support"], scores["binarisation"]) == (outside, binarisation)


def test_binarisation_of_the_data_is_reported(digits):
    data = kvae.data.load(digits, binarize="threshold")
    vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
    with warnings.catch_warnings(action="ignore"):
        scores = evaluation.evaluate(vae, data, 2, "validation", limit=9)
    assert (scores["binarisation"], scores["examples"], scores["split"]) == ("thresholded at 0.5", 9, "validation")
    with pytest.raises(ValueError, match="limit=3"):
        evaluation.evaluate(vae, digits[0], 2, limit=3)


def test_a_conditional_model_is_scored_with_its_conditions(digits):
    vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1), condition_dim=10)
    data = kvae.data.load(digits)
    x, y = data.arrays("test", limit=20)
    with warnings.catch_warnings(action="ignore"):
        scores = [evaluation.evaluate(vae, source, 8, limit=limit)["nll"]
                  for source, limit in ((data, 20), ((x, y), None), ((x, (y + 1) % 10), None))]  # fmt: skip
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert abs(scores[0] - scores[2]) > 1e-3


def test_aggregate_posterior_has_the_parts_of_the_rate(ppca):
    """pPCA has q(z) = p(z): the marginal KL is 0, and the rate is all information, ½ Σ log(1 + s²/σ²)."""
    vae, x, _ = ppca
    parts = evaluation.aggregate_posterior(vae, x)
    exact = 0.5 * np.sum(np.log1p(np.array([0.3, 0.2, 0.15]) ** 2 / 0.1**2))  # 2.66 nats of log 500 = 6.2
    # 500 draws of 3 half χ²: 0.055 nats; the bias of N = 500 is about e^2.66 / 1000 = 0.015, and x is clipped.
    assert parts["mutual_information"] == pytest.approx(exact, abs=0.25)
    assert abs(parts["marginal_kl"]) < 0.15
    shifted = keras.models.clone_model(vae)
    shifted.set_weights(vae.get_weights())
    kernel, bias = shifted.encoder.layers[-1].get_weights()
    shifted.encoder.layers[-1].set_weights([kernel, bias + np.array([2.0, 0, 0, 0, 0, 0])])
    moved = evaluation.aggregate_posterior(shifted, x)
    assert moved["marginal_kl"] - parts["marginal_kl"] == pytest.approx(2.0, abs=0.5)  # ½ 2², ± 2 / √500 · 5
    # Mean and variance of 500 draws: 3 · 2 numbers, each worth ½ / 500 or so; and x is clipped.
    assert abs(parts["marginal_kl_normal"]) < 0.05
    assert moved["marginal_kl_normal"] == pytest.approx(2.0, abs=0.5)
    assert moved["mutual_information"] == pytest.approx(parts["mutual_information"], abs=1e-3)


def test_mutual_information_is_at_most_log_n():
    """Every image has its own posterior, far from the others."""
    encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)])
    vae = kvae.VAE(encoder, latent_dim=2, image_shape=(4, 4, 1))
    encoder.layers[-1].set_weights(
        [np.hstack([1e3 * np.eye(16)[:, :2], np.zeros((16, 2))]), np.array([0, 0, -9, -9.0])]
    )
    x = np.random.default_rng(0).random((40, 4, 4, 1)).astype("float32")
    parts = evaluation.aggregate_posterior(vae, x)
    assert parts["mutual_information"] == pytest.approx(np.log(40), abs=1e-4)
    assert parts["log_n"] == pytest.approx(np.log(40))
    assert latents.is_saturated(parts)
    exact = 0.5 * np.sum(np.square(1e3 * x.reshape(40, 16)[:, :2]).mean(axis=0))  # nats, but for logarithms
    assert latents.mismatch(parts) == ("at least", parts["marginal_kl_normal"])
    assert parts["marginal_kl_normal"] == pytest.approx(exact, rel=0.01)


#: changes to PARTS of N = 1,000 images, the bound with its nats, and a part of the printed line
SURGERY = {
    "seen": ({"marginal_kl": 1.5}, ("", 1.5), "mutual information 4.00, KL(q(z) ‖ p) 1.50 nats"),
    "a nat below": ({"mutual_information": 5.89, "marginal_kl": 1.5, "marginal_kl_normal": 0.3}, ("", 1.5), " 5.89, "),
    "saturated": (
        {"mutual_information": 5.91, "marginal_kl": 9.0, "marginal_kl_normal": 0.3},
        ("at least", 0.3),
        "at least 5.91 (N images limit it to log N = 6.90), KL(q(z) ‖ p) at least 0.30 nats",
    ),
    "no mismatch": (
        {"mutual_information": 6.9, "marginal_kl": 9.0, "marginal_kl_normal": -0.02},
        ("at least", 0.0),
        "at least 0.00 nats",
    ),
    "another prior": ({"mutual_information": 6.9, "marginal_kl": 9.0}, ("at most", 9.0), "at most 9.00 nats"),
}


@pytest.mark.parametrize("case", SURGERY)
def test_information_near_log_n_is_a_bound(case):
    changes, bound, words = SURGERY[case]
    assert latents.mismatch({**PARTS, **changes}) == bound
    assert words in latents.parts_of_the_rate({**PARTS, **changes})


def test_errors_over_runs_and_over_images():
    runs = [{"nll": nll, "nll_error": 0.3, "elbo": -nll - 2, "split": "test", "examples": 10} for nll in (88, 89, 93.0)]
    mean = evaluation.over_runs(runs)
    assert (mean["nll"], mean["elbo"], mean["nll_error"]) == (90.0, -92.0, pytest.approx(0.3))
    assert mean["nll_error_runs"] == pytest.approx(np.std([88, 89, 93], ddof=1) / np.sqrt(3))
    for other in ({"examples": 9}, {"images": "0a0b0c0d"}, {"binarisation": "stochastic, seed 1"}):
        with pytest.raises(ValueError, match="same images"):
            evaluation.over_runs([runs[0], runs[1] | other])
    with pytest.raises(ValueError, match="same images"):
        evaluation.over_runs([])


def test_rate_distortion_keeps_beta_and_marks_the_frontier():
    points = ((4.0, 5.0, 120.0), (1.0, 20.0, 80.0), (2.0, 10.0, 95.0), (9.0, 12.0, 95.0))
    rows = evaluation.rate_distortion([{"beta": b, "rate": r, "distortion": d} for b, r, d in points])
    assert [(row["beta"], row["frontier"]) for row in rows] == [(4.0, True), (2.0, True), (9.0, False), (1.0, True)]
    assert rows[0]["elbo"] == -125.0


def test_latent_statistics():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(2000, 3)) * [0.01, 1.0, 0.5]
    variance = np.tile([1.0, 0.05, 0.5], (2000, 1))
    kl, active, order = evaluation.latent_statistics(mean, variance)
    assert order.tolist() == [1, 2, 0]
    assert active.tolist() == [False, True, True]
    expected = 0.5 * ((mean**2).mean(0) + variance[0] - 1 - np.log(variance[0]))
    np.testing.assert_allclose(kl, expected)


def test_linear_probe_measures_the_information_of_features():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 1000)
    information = np.eye(4)[labels] + 0.1 * rng.normal(size=(1000, 4))
    nothing = rng.normal(size=(1000, 4))
    parts = {"information": information, "nothing": nothing}
    rows = evaluation.linear_probe(
        {k: v[:700] for k, v in parts.items()},
        labels[:700],
        {k: v[700:] for k, v in parts.items()},
        labels[700:],
    )
    accuracy = {row.features: row.accuracy for row in rows}
    assert accuracy["information"] == 1.0
    assert abs(accuracy["nothing"] - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 300)
    with pytest.raises(ValueError, match="1 classes"):
        evaluation.linear_probe({"a": nothing[:20]}, np.zeros(20), {"a": nothing[:20]}, np.zeros(20))


#: labels of training and test examples, and the accuracy of features that are the class, or the message
PROBED = {
    "sorted by class": (np.repeat([0, 1, 2], 10), np.arange(3), 1.0),
    "a class with one example": (np.array([0] * 6 + [1] * 6 + [2]), np.arange(2), 1.0),
    "some without a label": (np.tile([0, 1, -1], 8), np.array([0, 1, -1]), 1.0),
    "no labels": (np.full(20, -1), np.arange(3), "0 examples of 0 classes"),
    "too few": (np.arange(9) % 2, np.arange(2), "9 examples of 2 classes"),
    "one example of each class": (np.arange(12), np.arange(2), "12 examples of 12 classes"),
    "a test without a label": (np.arange(20) % 2, np.full(5, -1), "5 examples without a label"),
}


@pytest.mark.parametrize("case", PROBED)
def test_a_probe_uses_labelled_examples(case):
    train, test, expected = PROBED[case]
    given = {"a": 9.0 * np.eye(12)[train]}, train, {"a": 9.0 * np.eye(12)[test]}, test
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            evaluation.linear_probe(*given)
    else:
        assert [row.accuracy for row in evaluation.linear_probe(*given)] == [expected]


@pytest.mark.filterwarnings("error")
def test_controls_of_equal_images_have_the_accuracy_of_the_larger_class():
    images, labels = np.full((30, 4, 4, 1), 0.5), np.arange(30) % 3 % 2
    parts = {"mean": np.zeros((30, 2)), "label": labels}
    rows = evaluation.probe_with_controls(parts, images, parts, images)
    assert [row.accuracy for row in rows] == pytest.approx([2 / 3] * 3)


def test_probe_has_its_controls(digits):
    x, y = digits[0][:400], digits[1][:400]
    vae = kvae.VAE(latent_dim=4, image_shape=(8, 8, 1))
    parts = {**features.extract(vae, x), "label": y}
    rows = evaluation.probe_with_controls(parts, x, parts, x)
    assert [(row.features, row.size) for row in rows] == [
        ("z mean", 4), ("last hidden layer", 256), ("PCA (control)", 4), ("raw pixels (control)", 64),
    ]  # fmt: skip
    assert rows[3].accuracy > rows[2].accuracy


def test_features_equal_the_outputs_of_the_encoder(digits, tmp_path):
    x, y = digits[0][:100], digits[1][:100]
    vae = kvae.VAE(latent_dim=4, image_shape=(8, 8, 1))
    mean, variance = vae.encode(x)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(30)
    arrays = features.extract(vae, data)
    np.testing.assert_allclose(arrays["mean"], mean, atol=1e-6)
    np.testing.assert_allclose(arrays["variance"], variance, atol=1e-6)
    np.testing.assert_allclose(arrays["hidden"], vae.encoder.hidden(x), atol=1e-6)
    np.testing.assert_array_equal(arrays["label"], y)
    for output in ("mean", "hidden"):
        model = features.feature_model(vae, output)
        model.save(tmp_path / "encoder.keras")
        loaded = kvae.load(tmp_path / "encoder.keras")
        np.testing.assert_allclose(loaded.predict(x, verbose=0), arrays[output], atol=1e-6)
    with pytest.raises(ValueError, match="output='logits'"):
        features.feature_model(vae, "logits")


def test_feature_model_shares_the_weights_and_can_be_fine_tuned(digits):
    x, y = digits[0][:500], digits[1][:500]
    vae = kvae.VAE(latent_dim=4, image_shape=(8, 8, 1))
    trunk = features.feature_model(vae, "hidden")
    classifier = keras.Sequential([trunk, keras.layers.Dense(10)])
    classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    before = vae.encoder.get_weights()[0]
    history = classifier.fit(x, y, epochs=5, verbose=0).history
    assert history["accuracy"][-1] > 0.6
    assert np.any(vae.encoder.get_weights()[0] != before)


@pytest.mark.parametrize("kind", ["sequential", "functional", "autoencoder"])
def test_hidden_layer_of_other_encoders(kind, digits):
    x = digits[0][:10]
    if kind == "autoencoder":
        model = kvae.Autoencoder(kvae.Encoder(3, networks.MLP((7,))), latent_dim=3, image_shape=(8, 8, 1))
    else:
        layers = [keras.layers.Flatten(), keras.layers.Dense(7, "relu"), keras.layers.Dense(6)]
        encoder = keras.Sequential(([keras.Input((8, 8, 1))] if kind == "functional" else []) + layers)
        if kind == "functional":
            encoder = keras.Model(encoder.inputs, encoder.outputs[0])
        model = kvae.VAE(encoder, latent_dim=3, image_shape=(8, 8, 1))
    arrays = features.extract(model, x)
    assert arrays["hidden"].shape == (10, 7)
    assert arrays["hidden"].min() >= 0
    assert arrays["mean"].shape == (10, 3)
