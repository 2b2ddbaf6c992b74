"""Evaluation against closed forms; features and the probe on data with a known answer."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import kvae
from kvae import evaluation, features, likelihoods, networks

KEYS = {
    "elbo",
    "rate",
    "distortion",
    "bits_per_dim",
    "active_units",
    "nll",
    "num_samples",
    "split",
    "examples",
}


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
    return vae, x.reshape(-1, 3, 4, 1), marginal.logpdf(x).mean()


@pytest.mark.parametrize("num_samples", [1, 7, 300])
def test_evidence_is_exact_where_the_posterior_is(ppca, num_samples):
    """With the exact posterior every importance weight is p(x): no variance, whatever K, and ELBO = log p(x)."""
    vae, x, log_evidence = ppca
    scores = evaluation.evaluate(vae, x, num_samples)
    assert set(scores) == KEYS
    assert scores["nll"] == pytest.approx(-log_evidence, abs=2e-4)  # float32 terms of about 20 nats
    # The distortion is sampled: 500 · K draws of a half χ² with 3 degrees of freedom scaled below one.
    assert scores["elbo"] == pytest.approx(log_evidence, abs=5 * np.sqrt(3 / 2 / (500 * num_samples)))
    assert scores["active_units"] == 3
    assert scores["examples"] == 500
    assert scores["bits_per_dim"] == pytest.approx(-scores["elbo"] / np.log(2) / 12)


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


def test_evaluation_does_not_depend_on_the_batch_size_or_labels(ppca):
    vae, x, _ = ppca
    labelled = tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x)))).batch(33)
    whole, batches = (evaluation.evaluate(vae, data, 16)["nll"] for data in (x, labelled))
    assert whole == pytest.approx(batches, abs=1e-4)


def test_evaluation_of_nothing_is_an_error(ppca):
    with pytest.raises(ValueError, match="empty validation split"):
        evaluation.evaluate(ppca[0], np.zeros((0, 3, 4, 1), "float32"), split="validation")
    with pytest.raises(ValueError, match="num_samples=0"):
        evaluation.evaluate(ppca[0], ppca[1], 0)


def test_posterior_collapse_is_named(digits):
    vae = kvae.VAE(latent_dim=8, image_shape=(8, 8, 1), objective=kvae.objectives.ELBO(beta=200.0))
    vae.compile("adam")
    vae.fit(digits[0][:512], epochs=8, verbose=0)
    with pytest.warns(evaluation.CollapseWarning, match=r"Posterior collapse: 0 of 8 latents"):
        assert evaluation.evaluate(vae, digits[0][:256], 4)["active_units"] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluation.diagnose(8, 8, 20.0) is None


def test_latent_statistics():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(2000, 3)) * [0.01, 1.0, 0.5]
    variance = np.tile([1.0, 0.05, 0.5], (2000, 1))
    kl, active, order = evaluation.latent_statistics(mean, variance)
    assert order.tolist() == [1, 2, 0]
    assert active.tolist() == [False, True, True]
    expected = 0.5 * ((mean**2).mean(0) + variance[0] - 1 - np.log(variance[0]))
    np.testing.assert_allclose(kl, expected)


def test_linear_probe_reads_what_is_there_and_no_more():
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


def test_probe_has_its_controls(digits):
    x, y = digits[0][:400], digits[1][:400]
    vae = kvae.VAE(latent_dim=4, image_shape=(8, 8, 1))
    parts = {**features.extract(vae, x), "label": y}
    rows = evaluation.probe_with_controls(parts, x, parts, x)
    assert [(row.features, row.size) for row in rows] == [
        ("z mean", 4), ("last hidden layer", 256), ("PCA (control)", 4), ("raw pixels (control)", 64),
    ]  # fmt: skip
    assert rows[3].accuracy > rows[2].accuracy


def test_features_equal_the_encoder_in_every_form(digits, tmp_path):
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
