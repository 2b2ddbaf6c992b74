"""`explain` of images: contributions of pixels, in files that were asked for it."""

import json

import numpy as np
import pytest

import kvae
from kvae import likelihoods, networks
from kvae.distributions import IndexedNoise
from kvae.export import export
from kvae.export.endpoints import endpoints_of, signatures_of
from kvae.export.runtime import load, seed_words

LIKELIHOODS = {
    "Normal": likelihoods.Normal(learned=True),
    "channels of a pixel depend on each other": likelihoods.DiscretizedLogisticMixture(components=2),
}


@pytest.fixture(scope="module", params=LIKELIHOODS.values(), ids=LIKELIHOODS)
def made(request, tmp_path_factory):
    """A VAE, its test images, and the folder of its files with `score` and `explain`."""
    channels = 1 if request.param is LIKELIHOODS["Normal"] else 3
    encoder = kvae.Encoder(2, networks.MLP((16,)))
    vae = kvae.VAE(encoder, kvae.Decoder((8, 8, channels), networks.MLP((16,))), likelihood=request.param)
    images = np.random.default_rng(1).integers(0, 256, (20, 8, 8, channels)).astype("float32") / 255
    folder = tmp_path_factory.mktemp("explain")
    report = export(vae, folder, images, signatures=["score", "explain"], batch_sizes=(4,), networks=())
    assert not report["refused"]
    return vae, images, folder


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_contributions_sum_to_the_score_and_name_the_pixel(made, precision):
    vae, images, folder = made
    file, x = load(folder / f"vae_{precision}.tflite"), images[:5].copy()
    x[2, 3:6, 4] = 1.0 - np.round(x[2, 3:6, 4])  # three pixels far from the reconstruction, which is near one half
    found = file.explain(x)
    assert found.shape == (5, 8, 8, 1)
    np.testing.assert_allclose(found.sum(axis=(1, 2, 3)), file.score(x)["negative_elbo"], rtol=1e-4)
    terms = vae.terms(x, IndexedNoise(seed_words(0), np.zeros(5, "int32")))
    expected = np.asarray(vae.likelihood.entry_distortion(terms.params[0], x))
    expected = expected + np.asarray(terms.rate)[:, None, None, None] / 64
    tolerance = 1e-4 if precision == "float32" else 0.1 * expected.std()
    assert np.abs(found - expected).mean() < tolerance


def test_verification_bounds_the_error_of_a_pixel_by_their_spread(made):
    """The score of an image is a hundred times larger than the differences between its pixels."""
    _, images, folder = made
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    artifacts = {artifact["path"]: artifact["signatures"] for artifact in report["artifacts"]}
    score = load(folder / "vae_float32.tflite").score(images)["negative_elbo"]
    assert "explain" in artifacts["saved_model"]
    check = artifacts["vae_int8.tflite"]["explain"]["outputs"]["contribution"]
    assert check["budget"]["mean"] < 0.01 * np.abs(score).mean()
    assert check["mean_abs_error"] < check["budget"]["mean"]


def test_files_of_images_have_it_only_if_asked(small, exported):
    assert "explain" not in {endpoint.name for endpoint in endpoints_of(small)}
    assert "explain" not in {signature.endpoint.name for signature in signatures_of(small)}
    assert [signature.name for signature in signatures_of(small, "explain", (1, 4))] == ["explain_1", "explain_4"]
    with pytest.raises(ValueError, match="Expected a file with the signature 'explain'"):
        load(exported / "vae_int8.tflite").explain(np.zeros((1, 8, 8, 1)))


def test_a_likelihood_without_entries_has_none():
    vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1), likelihood=likelihoods.LowRankNormal(rank=2))
    with pytest.raises(ValueError, match=r"must be some of decode, .*Received: 'explain'"):
        signatures_of(vae, ["explain"])
