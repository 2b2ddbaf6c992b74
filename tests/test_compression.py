"""Bits of latents against their KL term, sizes of files against files, PSNR against its formula."""

import math

import numpy as np
import pytest
from PIL import Image

import kvae
from kvae import likelihoods
from kvae.evaluation import compression_table, score_images
from kvae.evaluation.compression import psnr


@pytest.fixture(scope="module")
def images(digits) -> np.ndarray:
    return digits[0][:12]


def test_bits_are_those_of_the_bound(images):
    binary = (images > 0.5).astype("float32")
    vae = kvae.VAE(latent_dim=3, image_shape=(8, 8, 1))
    rows = {row.code: row for row in compression_table(vae, binary)}
    scores = score_images(vae, binary, 1)
    assert rows["latents"].bits == pytest.approx(scores["rate"].mean() / math.log(2))
    total = (scores["rate"] + scores["distortion"]).mean() / math.log(2)
    assert rows["latents and pixels"].bits == pytest.approx(total)
    assert {row.kind for row in rows.values()} == {"lossy", "lossless"}


def test_files_are_as_large_as_files_are(images, tmp_path):
    vae = kvae.VAE(latent_dim=3, image_shape=(8, 8, 1), likelihood=likelihoods.DiscretizedLogistic())
    rows = {row.code: row for row in compression_table(vae, images)}
    sizes = []
    for image in [*images, np.zeros((8, 8, 1))]:
        Image.fromarray(np.round(image[..., 0] * 255).astype("uint8")).save(tmp_path / "image.png", optimize=True)
        sizes.append(8 * (tmp_path / "image.png").stat().st_size)
    assert rows["PNG"].bits == pytest.approx(np.mean(sizes[:-1]))
    assert rows["PNG"].payload == pytest.approx(np.mean(sizes[:-1]) - sizes[-1])


def test_a_file_is_the_smallest_that_is_as_good(images, tmp_path):
    vae = kvae.VAE(latent_dim=3, image_shape=(8, 8, 1))  # untrained: every JPEG is as good as grey pixels
    rows = {row.code: row for row in compression_table(vae, images)}
    assert rows["JPEG"].reached == rows["WebP"].reached == 1
    assert rows["JPEG"].psnr >= rows["latents"].psnr
    for quality in (1, 3, 5):
        picture = np.round(images[0, ..., 0] * 255).astype("uint8")
        Image.fromarray(picture).save(tmp_path / "image.jpg", quality=quality, optimize=True)
    assert rows["JPEG"].bits < 8 * 8 * 64 + 8 * 700


def test_colour_and_densities(images):
    colour = np.repeat(images, 3, axis=-1)
    vae = kvae.VAE(latent_dim=3, image_shape=(8, 8, 3), likelihood=likelihoods.Normal(0.1))
    rows = compression_table(vae, colour)
    assert [row.code for row in rows] == ["latents", "JPEG", "WebP"]  # a density of pixels has no bits


@pytest.mark.parametrize("offset", [0.1, 0.01])
def test_psnr(offset):
    images = np.full((3, 4, 4, 1), 0.5)
    np.testing.assert_allclose(psnr(images + offset, images), -20 * np.log10(offset))


def test_conditional_models_are_refused(images):
    vae = kvae.VAE(latent_dim=3, image_shape=(8, 8, 1), condition_dim=2)
    with pytest.raises(ValueError, match="without conditions"):
        compression_table(vae, images)
