"""A prior that is fitted after training: to which latents, for which models, and in a run folder."""

import json
import re

import numpy as np
import pytest

import kvae
from kvae import networks, posteriors, priors
from kvae.run import RunError, RunFolder
from kvae.training import Settings, fitted_prior, train_run, with_fitted_prior
from kvae.training.fitted_prior import fit_prior_of

IMAGES = np.random.default_rng(0).random((300, 8, 8, 1), "float32")


def small(**parts):
    return kvae.VAE(
        networks.Encoder(2, networks.MLP((8,))), networks.Decoder((8, 8, 1), networks.MLP((8,))), **parts
    )  # fmt: skip


def hierarchy():
    levels = [(4, 2, 2, 4), (2, 1, 1, 4)]
    encoder, decoder = networks.BottomUp((8, 8, 1), levels), networks.TopDown((8, 8, 1), levels)
    return kvae.VAE(encoder, decoder, posterior=posteriors.TopDownNormal())


def test_the_latents_are_draws_of_the_posterior():
    vae, seen = small(), []

    def fit(latents):
        seen.append(latents)
        return priors.fit_mixture(latents, components=1)

    with_fitted_prior(vae, IMAGES, fit)
    q = vae.encode(IMAGES)
    noise = (seen[0] - q.mean) / np.sqrt(q.variance)
    assert seen[0].shape == (300, 2)
    assert abs(noise.numpy().mean()) < 0.15
    assert abs(noise.numpy().std() - 1) < 0.15
    with_fitted_prior(vae, kvae.data.load(IMAGES), fit, limit=100)
    with_fitted_prior(vae, kvae.data.load(IMAGES).arrays("train", limit=100), fit)
    np.testing.assert_array_equal(seen[1], seen[2])
    assert seen[1].shape == (100, 2)


def test_the_networks_are_those_of_the_model():
    vae = small()
    fitted = with_fitted_prior(vae, IMAGES)
    assert fitted.decoder is vae.decoder
    assert isinstance(fitted.prior, priors.FixedMixture)
    assert isinstance(vae.prior, priors.StandardNormal)


def test_of_a_hierarchy_the_top_level_is_fitted():
    fitted = with_fitted_prior(hierarchy(), IMAGES, lambda z: priors.fit_mixture(z, components=2), limit=100)
    assert isinstance(fitted.prior, priors.TopLevel)
    assert (fitted.prior.size, fitted.latent_dim) == (2 * 2 * 2 * 2, 2 * 2 * 2 * 2 + 4 * 4)
    assert fitted.generate(3, seed=0).shape == (3, 8, 8, 1)


def test_a_conditional_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"without conditions.*Received: a model with 3 conditions"):
        with_fitted_prior(kvae.VAE(latent_dim=2, image_shape=(8, 8, 1), condition_dim=3), IMAGES)
    with pytest.raises(ValueError, match=r"`fit` must be 'mixture' or 'flow', or a function. Received: 'vamp'"):
        with_fitted_prior(small(), IMAGES, "vamp")
    with pytest.raises(RunError, match="--fit-prior requires a model without conditions"):
        train_run(Settings("digits", conditional=True, fit_prior="mixture"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# Runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose rate has no weight, so that its latents are far from N(0, I), and its data."""
    run = tmp_path_factory.mktemp("fitted") / "run"
    settings = Settings("digits", latent_dim=2, beta=0.0, network="mlp", epochs=2, fit_prior="mixture")
    return run, train_run(settings, run)


def config_of(run):
    return json.loads((run / "config.json").read_text())


def test_a_run_has_the_fitted_prior(trained):
    run, data = trained
    config, model = config_of(run), kvae.load(run / "model.keras")
    assert (config["parts"]["prior"], config["fitted_prior"]) == ("FixedMixture", "FixedMixture")
    assert isinstance(model.prior, priors.FixedMixture)
    before = model.with_prior(priors.StandardNormal())
    assert model.compiled
    scores = [kvae.evaluation.evaluate(each, data, num_samples=4)["elbo"] for each in (before, model)]
    assert scores[1] > scores[0]


@pytest.mark.parametrize("killed", ["after the model", "before the model", "never"])
def test_repeating_it_gives_the_same_run(killed, trained, tmp_path, capsys):
    run, data = trained
    config, model = config_of(run), kvae.load(run / "model.keras")
    unfitted = {**config, "parts": {**config["parts"], "prior": "StandardNormal"}}
    del unfitted["fitted_prior"]
    if killed == "before the model":
        model.with_prior(priors.StandardNormal()).save(tmp_path / "model.keras")
    else:
        model.save(tmp_path / "model.keras")
    (tmp_path / "config.json").write_text(json.dumps(config if killed == "never" else unfitted))
    fit_prior_of(tmp_path, RunFolder(run).data() if killed == "before the model" else data)  # as `--resume` does
    assert config_of(tmp_path) == config
    np.testing.assert_array_equal(kvae.load(tmp_path / "model.keras").prior.means, model.prior.means)
    fitted = re.search(r"Fitted: −ELBO ([\d.]+) → ([\d.]+)", capsys.readouterr().out)
    assert (fitted is not None) == (killed == "before the model")
    if fitted:
        assert float(fitted[2]) < float(fitted[1])


def test_a_worse_prior_is_not_kept(trained, tmp_path, capsys, monkeypatch):
    run, data = trained
    model = kvae.load(run / "model.keras")
    model.save(tmp_path / "model.keras")
    before = (tmp_path / "model.keras").read_bytes()
    unfitted = {name: value for name, value in config_of(run).items() if name != "fitted_prior"}
    (tmp_path / "config.json").write_text(json.dumps(unfitted))
    monkeypatch.setitem(fitted_prior.METHODS, "mixture", lambda z: priors.fit_mixture(z + 100, components=1))
    fit_prior_of(tmp_path, data)
    assert (tmp_path / "model.keras").read_bytes() == before
    assert config_of(tmp_path)["fitted_prior"] is None
    assert "The prior of training is kept" in capsys.readouterr().out


def test_a_prior_that_cannot_be_fitted_costs_nothing(tmp_path, capsys):
    images = np.random.default_rng(0).random((11, 8, 8, 1), "float32")
    np.save(tmp_path / "few.npy", images)
    settings = Settings(str(tmp_path / "few.npy"), latent_dim=2, network="mlp", epochs=1, fit_prior="mixture")
    train_run(settings, tmp_path / "run")
    assert "The prior of training is kept: Expected latents (N, D) with N >= 10" in capsys.readouterr().out
    assert config_of(tmp_path / "run")["fitted_prior"] is None
    assert isinstance(kvae.load(tmp_path / "run" / "model.keras").prior, priors.StandardNormal)


def test_a_flow_of_many_latents_is_refused(tmp_path):
    settings = Settings("digits", latent_dim=129, network="mlp", fit_prior="flow")
    with pytest.raises(RunError, match="flow requires at most 128 latents"):
        train_run(settings, tmp_path / "run")


def test_an_autoencoder_has_no_prior():
    with pytest.raises(TypeError, match=r"must be a `kvae.VAE`. Received: Autoencoder"):
        with_fitted_prior(kvae.Autoencoder(latent_dim=2, image_shape=(8, 8, 1)), IMAGES)


def test_a_run_that_starts_from_it_has_its_own_prior(trained, tmp_path, capsys):
    run, _ = trained
    start = Settings("digits", latent_dim=2, network="mlp", epochs=1, learning_rate=1e-6, start=str(run))
    train_run(start, tmp_path / "next")
    assert "without its prior, which was fitted afterwards" in capsys.readouterr().out
    model = kvae.load(tmp_path / "next" / "model.keras")
    assert isinstance(model.prior, priors.StandardNormal)
    for found, expected in zip(model.encoder.get_weights(), kvae.load(run / "model.keras").encoder.get_weights()):
        np.testing.assert_allclose(found, expected, atol=1e-3)
