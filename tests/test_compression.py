"""Bits of latents compared with the KL term, sizes compared with files, PSNR compared with its formula."""

import io
import math

import numpy as np
import pytest
from PIL import Image

import kvae
from kvae import likelihoods
from kvae.evaluation import compression_table, score_images
from kvae.evaluation.compression import QUALITIES, psnr

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(digits) -> np.ndarray:
    return digits[0][:12]


def test_bits_equal_the_bound(images):
    binary = (images > 0.5).astype("float32")
    vae = kvae.VAE(latent_dim=3, image_shape=(8, 8, 1))
    rows = {row.code: row for row in compression_table(vae, binary)}
    scores = score_images(vae, binary, 1)
    assert rows["latents"].bits == pytest.approx(scores["rate"].mean() / math.log(2))
    total = (scores["rate"] + scores["distortion"]).mean() / math.log(2)
    assert rows["latents and pixels"].bits == pytest.approx(total)
    kinds = {name: row.kind for name, row in rows.items()}
    lossy, lossless = ("latents", "JPEG", "WebP"), ("latents and pixels", "PNG", "CCITT group 4")
    assert kinds == dict.fromkeys(lossy, "lossy") | dict.fromkeys(lossless, "lossless")


def test_png_sizes_equal_those_of_files(images, tmp_path):
    vae = kvae.VAE(latent_dim=3, image_shape=(8, 8, 1), likelihood=likelihoods.DiscretizedLogistic())
    rows = {row.code: row for row in compression_table(vae, images)}
    assert "latents and pixels" in rows  # a likelihood of grey levels
    sizes = []
    for image in [*images, np.zeros((8, 8, 1))]:
        Image.fromarray(np.round(image[..., 0] * 255).astype("uint8")).save(tmp_path / "image.png", optimize=True)
        sizes.append(8 * (tmp_path / "image.png").stat().st_size)
    assert rows["PNG"].bits == pytest.approx(np.mean(sizes[:-1]))
    assert rows["PNG"].payload == pytest.approx(np.mean(sizes[:-1]) - sizes[-1])


def test_group_4_sizes_equal_those_of_tiff_files(images, tmp_path):
    binary = (images > 0.5).astype("float32")
    vae = kvae.VAE(latent_dim=3, image_shape=(8, 8, 1))
    rows = {row.code: row for row in compression_table(vae, binary)}
    sizes = []
    for image in [*binary, np.zeros((8, 8, 1))]:
        Image.fromarray(image[..., 0] > 0.5).save(tmp_path / "image.tif", compression="group4")
        with Image.open(tmp_path / "image.tif") as picture:
            np.testing.assert_array_equal(np.asarray(picture), image[..., 0] > 0.5)
        sizes.append(8 * (tmp_path / "image.tif").stat().st_size)
    assert rows["CCITT group 4"].bits == pytest.approx(np.mean(sizes[:-1]))
    assert rows["CCITT group 4"].payload == pytest.approx(np.mean(sizes[:-1]) - sizes[-1])


@pytest.mark.parametrize(("name", "options"), [("JPEG", {"optimize": True}), ("WebP", {"method": 6})])
def test_lossy_files_are_the_smallest_of_sufficient_quality(name, options, images, monkeypatch):
    errors = np.linspace(0.02, 0.2, len(images)).reshape(-1, 1, 1, 1)  # images require files of different qualities
    errors[0] = 0  # no file is good enough for this image
    rebuilt = images + errors * np.where(images > 0.5, -1, 1)
    monkeypatch.setattr("kvae.evaluation.compression._reconstructions", lambda *given: rebuilt)
    row = {row.code: row for row in compression_table(kvae.VAE(latent_dim=3, image_shape=(8, 8, 1)), images)}[name]
    chosen, reached = [], 0
    for image, other in zip(images[..., 0], rebuilt[..., 0], strict=True):
        files = []
        for quality in QUALITIES:
            Image.fromarray(np.round(image * 255).astype("uint8")).save(
                file := io.BytesIO(), name, quality=quality, **options
            )
            decoded = np.asarray(Image.open(file).convert("L")) / 255
            files.append((8 * len(file.getvalue()), -10 * np.log10(np.mean((decoded - image) ** 2))))
        as_good = [entry for entry in files if np.mean((other - image) ** 2) >= 10 ** (-entry[1] / 10)]
        chosen.append(min(as_good) if as_good else max(files, key=lambda entry: entry[1]))
        reached += bool(as_good)
    assert 0 < reached < len(images)
    assert len({bits for bits, _ in chosen}) > 2
    assert row.bits == pytest.approx(np.mean([bits for bits, _ in chosen]))
    assert row.psnr == pytest.approx(np.mean([quality for _, quality in chosen]), rel=1e-5)
    assert row.reached == reached / len(images)


@pytest.mark.parametrize(
    ("likelihood", "channels"),
    [
        (likelihoods.Bernoulli(), 1),  # its cross-entropy of grey values isn't the length of a code
        (likelihoods.Normal(0.1), 3),  # a density has no bits
    ],
)
def test_a_code_of_pixels_requires_a_likelihood_of_levels(likelihood, channels, images):
    x = np.repeat(images, channels, axis=-1)
    vae = kvae.VAE(latent_dim=3, image_shape=(8, 8, channels), likelihood=likelihood)
    assert [row.code for row in compression_table(vae, x)] == ["latents", "JPEG", "WebP", "PNG"]


@pytest.mark.parametrize("offset", [0.1, 0.01])
def test_psnr(offset):
    images = np.full((3, 4, 4, 1), 0.5)
    np.testing.assert_allclose(psnr(images + offset, images), -20 * np.log10(offset))


def test_conditional_models_are_refused(images):
    vae = kvae.VAE(latent_dim=3, image_shape=(8, 8, 1), condition_dim=2)
    with pytest.raises(ValueError, match="without conditions"):
        compression_table(vae, images)
