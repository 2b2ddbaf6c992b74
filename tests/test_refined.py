"""Refined proposals and the audit, compared with closed forms, quadrature and other bounds."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import LIKELIHOODS, POSTERIORS, PRIORS, networks_for
from scipy import stats
from scipy.special import logsumexp

import kvae
from kvae import evaluation, likelihoods, networks
from kvae.evaluation import importance, refined, scoring
from kvae.evaluation.proposals import INFLATION, refined_proposal

SIGMA = 0.1


@pytest.fixture(scope="module")
def ppca():
    """A linear-Gaussian model whose encoder knows nothing of the image, with images, and its weights W and b."""
    rng = np.random.default_rng(0)
    latents, pixels = 3, 12
    w, b = 0.1 * rng.normal(size=(pixels, latents)), np.full(pixels, 0.5)
    encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2 * latents, kernel_initializer="zeros")])
    decoder = keras.Sequential([keras.layers.Dense(pixels), keras.layers.Reshape((3, 4, 1))])
    vae = kvae.VAE(encoder, decoder, likelihood=likelihoods.Normal(SIGMA), latent_dim=latents, image_shape=(3, 4, 1))
    decoder.layers[0].set_weights([w.T, b])
    marginal = stats.multivariate_normal(b, w @ w.T + SIGMA**2 * np.eye(pixels))
    x = np.clip(marginal.rvs(200, random_state=1), 0, 1).astype("float32")
    return vae, x.reshape(-1, 3, 4, 1), -marginal.logpdf(x), w, b


def test_the_proposal_of_a_linear_model_is_its_posterior(ppca):
    vae, x, _, w, b = ppca
    r = refined_proposal(vae, vae.prior, tf.constant(x), vae.encoder_params(x), steps=1)
    precision = w.T @ w / SIGMA**2 + np.eye(3)
    mean = (x.reshape(-1, 12) - b) @ w @ np.linalg.inv(precision) / SIGMA**2
    np.testing.assert_allclose(r.mode, mean, atol=2e-3)  # differences of float32
    np.testing.assert_allclose(
        tf.matmul(r.root, r.root, transpose_b=True), np.tile(INFLATION * np.linalg.inv(precision), (200, 1, 1)),
        rtol=1e-2, atol=1e-3,
    )  # fmt: skip
    np.testing.assert_allclose(tf.matmul(r.root, r.inverse), np.tile(np.eye(3), (200, 1, 1)), atol=1e-5)


@pytest.mark.parametrize("num_samples", [20, None])
def test_the_estimate_of_a_linear_model_equals_its_likelihood(ppca, num_samples):
    vae, x, exact, *_ = ppca
    rows = evaluation.score_images(vae, x, num_samples, proposal="refined")
    errors = rows["nll"] - exact
    # Var log p̂ ≈ (K / ess − 1) / K for an image; of 200 images, at 5 standard errors.
    variance = np.mean((rows["samples"] / rows["ess"] - 1) / rows["samples"])
    assert abs(errors.mean()) < 5 * np.sqrt(variance / 200) + 0.5 * variance
    assert np.all(rows["samples"] <= 40)  # no image requires more
    assert np.all(rows["ess"] > 8)
    posterior = evaluation.score_images(vae, x, 100)["nll"] - exact
    assert posterior.mean() > 10 * abs(errors.mean())


def curved(latents=2, scale=2.5):
    """Return a model with an untrained encoder and a curved posterior of two latents."""
    keras.utils.set_random_seed(0)
    decoder = kvae.Decoder((6, 6, 1), networks.MLP((16,), activation="tanh"))
    vae = kvae.VAE(kvae.Encoder(latents, networks.MLP((8,))), decoder)
    decoder.set_weights([scale * weights for weights in decoder.get_weights()])
    return vae


def quadrature(vae, x):
    """Return −log p(x) of a model of two latents, by a sum over a grid."""
    axis = np.linspace(-6, 6, 301, dtype="float32")
    z = np.array(list(itertools.product(axis, axis)), "float32")
    log_p = vae.prior.log_prob(z).numpy().astype("float64") + 2 * np.log(axis[1] - axis[0])
    params = vae.decoder_params(z)
    return np.array([-logsumexp(vae.likelihood.log_prob(params, image[None]).numpy() + log_p) for image in x])


def test_two_latents_by_quadrature_and_the_sandwich():
    vae = curved()
    x = (np.random.default_rng(0).random((60, 6, 6, 1)) < vae.generate(60, seed=1).numpy()).astype("float32")
    exact = quadrature(vae, x)
    rows = evaluation.score_images(vae, x, None, proposal="refined")
    errors = rows["nll"] - exact
    assert abs(errors.mean()) < 0.05
    annealed = evaluation.score_images(vae, x, 20, proposal="annealed")["nll"] - exact
    assert abs(annealed.mean()) < 0.03
    assert np.sqrt(np.mean(errors**2)) < 0.35  # about 10 effective samples for each image
    # p̂ is unbiased: the mean of p̂ / p is 1, within 4 standard errors.
    ratio = np.exp(-evaluation.score_images(vae, x, 400, proposal="refined")["nll"] + exact)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(60)
    many, few = (evaluation.audit(vae, 300, k, proposal) for k, proposal in ((None, "refined"), (4, "posterior")))
    assert -0.005 < many["gap"] < 0.15 < few["gap"]


@pytest.mark.parametrize(("proposal", "num_samples"), [("posterior", 3), ("posterior", 30), ("refined", 20)])
def test_the_truth_is_between_the_bounds_of_an_audit(proposal, num_samples):
    vae = curved()
    result = evaluation.audit(vae, 200, num_samples, proposal)
    noise = kvae.distributions.IndexedNoise(kvae.distributions.seed_words(0), np.arange(200, dtype="int32"))
    z = vae.prior.sample(200, seed=0)
    exact = quadrature(vae, vae.likelihood.sample(vae.decoder_params(z), 1, noise)[0].numpy()).mean()
    noise = result["gap_error"]  # both bounds hold in expectation
    assert result["nll_lower"] - 2 * noise < exact < result["nll"] + 2 * noise


def agrees(vae, x, labels=None):
    """Check the refined bound against many samples of the posterior, within the error of both."""
    data = x if labels is None else (x, labels)
    rows = evaluation.score_images(vae, data, None, proposal="refined")
    many = evaluation.score_images(vae, data, 3000)
    # For a mean of log p̂: about half its variance in bias, and 5 standard errors.
    variances = [(k / r["ess"] - 1) / k for k, r in ((rows["samples"], rows), (3000, many))]
    error = 0.5 * sum(v.mean() for v in variances) + 5 * np.sqrt(sum(v.mean() for v in variances) / len(x)) + 1e-3
    assert abs((rows["nll"] - many["nll"]).mean()) < error
    assert np.median(rows["ess"]) >= 5


IMAGES = np.round(np.random.default_rng(2).random((12, 8, 8, 1)) * 31).astype("float32") / 31


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if i % 4 else ()) for i, name in enumerate(LIKELIHOODS)]
)
def test_every_likelihood(name):
    likelihood = LIKELIHOODS[name]()
    x = np.round(IMAGES) if likelihood.support == "binary" else IMAGES
    x = np.round(3 * IMAGES) / 3 if getattr(likelihood, "levels", 0) == 4 else x
    keras.utils.set_random_seed(0)
    networks_ = kvae.Encoder(3, networks.MLP((16,))), kvae.Decoder((8, 8, 1), networks.MLP((16,)))
    agrees(kvae.VAE(*networks_, likelihood=likelihood), x)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if i % 2 else ())
        for i, name in enumerate(PRIORS)
        if name != "FlowMatching"  # its density inverts a flow: a minute
    ],
)
def test_every_prior(name):
    is_conditional = name == "ConditionalNormal"
    keras.utils.set_random_seed(0)
    vae = kvae.VAE(
        kvae.Encoder(3, networks.MLP((16,))), kvae.Decoder((8, 8, 1), networks.MLP((16,))), prior=PRIORS[name](),
        condition_dim=4 if is_conditional else None,
    )  # fmt: skip
    agrees(vae, np.round(IMAGES), np.arange(12) % 4 if is_conditional else None)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "TopDownNormal" else ()) for name in POSTERIORS]
)
def test_every_posterior(name):
    keras.utils.set_random_seed(0)
    posterior = POSTERIORS[name]()
    vae = kvae.VAE(*networks_for(posterior), posterior=posterior)
    agrees(vae, np.round(IMAGES))
    assert evaluation.audit(vae, 20)["gap"] < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in POSTERIORS if name != "TopDownNormal"])  # one takes a minute
def test_annealing_agrees(name):
    keras.utils.set_random_seed(0)
    posterior = POSTERIORS[name]()
    vae = kvae.VAE(*networks_for(posterior), posterior=posterior, condition_dim=4)
    data = np.round(IMAGES), np.arange(12) % 4
    annealed, rows = (evaluation.score_images(vae, data, None, proposal=p) for p in ("annealed", "refined"))
    variance = np.mean(1 / annealed["ess"] - 0.1 + (rows["samples"] / rows["ess"] - 1) / rows["samples"])
    assert abs((annealed["nll"] - rows["nll"]).mean()) < variance / 2 + 5 * np.sqrt(variance / 12)
    assert np.median(annealed["ess"]) > 8  # of 10 chains
    assert -0.01 < evaluation.audit(vae, 30, None, "annealed", condition=1)["gap"] < 0.1


@pytest.mark.slow
def test_rows_are_functions_of_seed_and_image(monkeypatch):
    vae = curved()
    x = np.round(np.random.default_rng(0).random((70, 6, 6, 1))).astype("float32")
    monkeypatch.setattr(scoring, "SAVE_SECONDS", -1.0)
    saved = []
    whole = evaluation.evaluate(vae, x, 4, proposal="refined")
    monkeypatch.setattr(refined, "MOST_LATENTS", 60)  # 20 images are refined at once, and 3 blocks are drawn
    monkeypatch.setattr(importance, "MOST_LATENTS", 60)
    batches = tf.data.Dataset.from_tensor_slices(x).batch(33)
    pieces = evaluation.evaluate(vae, batches, 4, proposal="refined", save=saved.append)
    for name in ("nll", "nll_refined", "ess_refined_median", "samples_refined"):
        assert pieces[name] == pytest.approx(whole[name], rel=1e-4)
    halfway = [rows for rows in saved if 0 < len(rows.get("refined_nll", ())) < 70]
    assert halfway
    for done in (saved[0], halfway[0]):
        assert evaluation.evaluate(vae, batches, 4, proposal="refined", done=done) == pieces
    same = refined.RefinedSampler(vae, 20, 0, 70, same_noise=True)
    twice = tf.constant(np.repeat(x[:1], 2, axis=0))
    nll = np.concatenate([rows["nll"] for _, rows in same.groups(twice, None, 0, 0)])
    assert nll[0] == nll[1]


@pytest.mark.slow
def test_a_decoder_in_half_precision():
    keras.utils.set_random_seed(0)
    decoder = kvae.Decoder((8, 8, 1), networks.MLP((16,), dtype="mixed_bfloat16"))
    agrees(kvae.VAE(kvae.Encoder(3, networks.MLP((16,))), decoder), np.round(IMAGES))


def test_values_that_are_not_finite_are_reported():
    vae = curved()
    vae.decoder.set_weights([np.full_like(weights, np.nan) for weights in vae.decoder.get_weights()])
    with pytest.warns(evaluation.EvaluationWarning):
        scores = evaluation.evaluate(vae, np.zeros((5, 6, 6, 1), "float32"), 4, proposal="refined")
    assert scores["non_finite"]["nll_refined"] == 5


def test_auto_refines_where_few_samples_count():
    vae = curved(scale=0.01)  # the posterior is the prior, nearly
    x = np.zeros((10, 6, 6, 1), "float32")
    with pytest.warns(evaluation.CollapseWarning):
        assert "nll_refined" not in evaluation.evaluate(vae, x, 64, proposal="auto")
    for k, is_refined in ((64, True), (9, False)):  # fewer than 10 samples can't have 10 effective ones
        with pytest.warns(evaluation.EvaluationWarning):
            scores = evaluation.evaluate(curved(scale=4.0), x, k, proposal="auto")
        assert ("nll_refined" in scores) == is_refined


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda vae, x: evaluation.evaluate(vae, x, proposal="exact"), "`proposal` must be one of"),
        (lambda vae, x: evaluation.score_images(vae, x, None), "Argument `num_samples`"),
        (lambda vae, x: evaluation.score_images(vae, x, 0, proposal="refined"), "num_samples"),
        (lambda vae, x: evaluation.audit(vae, 0), "num_images"),
        (lambda vae, x: evaluation.audit(vae, 5, 1), "num_samples"),
        (lambda vae, x: evaluation.audit(vae, 5, None, "posterior"), "num_samples"),
        (lambda vae, x: evaluation.audit(vae, 5, 5, "prior"), "proposal"),
    ],
)
def test_arguments_are_checked(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(curved(), np.zeros((2, 6, 6, 1), "float32"))
