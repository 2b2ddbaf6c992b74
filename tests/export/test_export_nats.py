"""The likelihood through exported files."""

import numpy as np
import pytest

import kvae
from kvae.export import export, likelihood_through_file


@pytest.mark.parametrize(
    ("likelihood", "allowed"), [(kvae.likelihoods.Bernoulli, 1e-3), (lambda: kvae.likelihoods.Normal(0.3), 1e-3)]
)
def test_a_float32_file_has_the_likelihood_of_keras(make_small, tmp_path, likelihood, allowed):
    vae = make_small(likelihood=likelihood())
    x = np.round(np.random.default_rng(0).random((7, 8, 8, 1))).astype("float32")
    export(vae, tmp_path / "out", precisions=["float32"])
    nats = likelihood_through_file(vae, tmp_path / "out" / "decoder_float32.tflite", x)
    assert abs(nats["nats_lost"]) < allowed
    assert nats["nll_file"] - nats["nll_keras"] == pytest.approx(nats["nats_lost"], abs=1e-6)
    assert (nats["images"], nats["samples"], nats["file"]) == (7, 100, "decoder_float32.tflite")


def test_int8_loses_more_than_float32(exported, vae, images):
    int8, float32 = (
        likelihood_through_file(vae, exported / f"vae_{name}.tflite", images)["nats_lost"]
        for name in ("int8", "float32")
    )
    assert 10 * abs(float32) < abs(int8) < 1


@pytest.mark.slow
def test_hierarchies_are_scored_with_samples_of_their_posterior(hierarchy, tmp_path):
    vae = hierarchy((8, 8, 1))
    export(vae, tmp_path / "out", precisions=["float32"], networks=["decoder"], signatures=["decode"])
    x = np.round(np.random.default_rng(0).random((70, 8, 8, 1))).astype("float32")
    nats = likelihood_through_file(vae, tmp_path / "out" / "decoder_float32.tflite", x, num_samples=16)
    scores = kvae.evaluation.score_images(vae, x, 16)["nll"].mean()
    assert abs(nats["nats_lost"]) < 1e-3
    assert nats["nll_keras"] == pytest.approx(scores, rel=1e-5)


@pytest.mark.slow
def test_conditions_reach_the_file_and_other_parameters_are_refused(conditional, make_small, tmp_path):
    vae, x, y, out = conditional
    with pytest.raises(ValueError, match="Received: DiscretizedLogistic"):
        likelihood_through_file(vae, out / "vae_float32.tflite", x, y)
    vae = make_small(condition_dim=10)
    with pytest.raises(ValueError, match="Expected a file of the model"):
        likelihood_through_file(kvae.VAE(latent_dim=2, image_shape=(8, 9, 1)), out / "vae_float32.tflite", x)
    export(vae, tmp_path / "out", precisions=["float32"])
    nats = likelihood_through_file(vae, tmp_path / "out" / "decoder_float32.tflite", x, y)
    assert abs(nats["nats_lost"]) < 1e-3
