"""Latents as a compact code: their cost by the KL term, compared with image files."""

import io
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from kvae.evaluation.scoring import score_images
from kvae.models import VAE

QUALITIES = (1, 3, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95)
LOSSY, LOSSLESS = "lossy", "lossless"


class CodeRow(NamedTuple):
    """One code of images.

    Attributes:
        code: name of the code.
        kind: "lossy" or "lossless".
        bits: mean number of bits of an image.
        payload: bits minus the header, the size of a file of a constant image; equal to `bits` for latents.
        psnr: mean over images of −10 log₁₀ of the mean squared error, in dB; None for lossless codes.
        reached: share of the images for which the code can be as good as the reconstruction.
    """

    code: str
    kind: str
    bits: float
    payload: float
    psnr: float | None
    reached: float


def compression_table(vae: VAE, images: np.ndarray, seed: int = 0) -> list[CodeRow]:
    """Compare the cost of a VAE's latents with JPEG, WebP, PNG and CCITT group 4 files of the same images.

    The latents' rate is KL(q(z|x) ‖ p(z)) / ln 2 bits, which bits-back coding (Hinton & van Camp 1993; Townsend et al.
    2019, https://arxiv.org/abs/1901.04866) or relative entropy coding requires on average for a sample of q(z|x). It is
    a theoretical number; no coder is run. It excludes the decoder, which both sides must have. The reconstruction is
    the decoded mean of a posterior sample, which the receiver has. For each image, the JPEG or WebP file is the
    smallest of `QUALITIES` with at least the PSNR of this image's reconstruction, or the best one if none reaches it.

    A PNG file is lossless, with 8-bit values (1 bit per pixel for binary images). CCITT group 4 is the code of fax
    machines for binary images of one channel, here in a TIFF file (if Pillow was built with libtiff). Latents and
    pixels together are lossless by bits-back coding, too. They cost −ELBO / ln 2 bits if the likelihood is one of grey
    levels, or if it is Bernoulli and the images are binary. (Bernoulli's cross-entropy of grey values is not the length
    of a code, and a density has none.)

    Args:
        vae: a built `kvae.VAE` without conditions.
        images: `(N, H, W, C)` in [0, 1] with 1 or 3 channels, each side of 8 pixels or more.
        seed: seed of the posterior samples.

    Raises:
        ValueError: if the model is conditional, or the images have other channels.

    Example:

        >>> vae = VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> rows = compression_table(vae, np.random.default_rng(0).integers(0, 2, (5, 8, 8, 1)).astype("float32"))
        >>> [row.code for row in rows]
        ['latents', 'JPEG', 'WebP', 'latents and pixels', 'PNG', 'CCITT group 4']
    """
    from PIL import features

    if vae.condition_dim is not None or images.shape[-1] not in (1, 3):
        raise ValueError(
            "Expected a model without conditions and images of 1 or 3 channels. "
            f"Received: condition_dim={vae.condition_dim}, images {images.shape}"
        )
    scores = score_images(vae, images, num_samples=1, seed=seed)
    levels = _levels(images)
    quality = psnr(_reconstructions(vae, images, seed), images)
    rate = float(np.mean(scores["rate"]) / math.log(2))
    rows = [CodeRow("latents", LOSSY, rate, rate, float(np.mean(quality)), 1.0)]
    options: dict[str, Any]
    for name, options in (("JPEG", {"optimize": True}), ("WebP", {"method": 6})):
        rows.append(_lossy(name, levels, images, quality, options))
    binary = bool(np.all((images == 0) | (images == 1)))
    if vae.likelihood.support == "levels" or (vae.likelihood.support == "binary" and binary):
        total = float(np.mean(scores["distortion"] + scores["rate"]) / math.log(2))
        rows.append(CodeRow("latents and pixels", LOSSLESS, total, total, None, 1.0))
    rows.append(_lossless("PNG", levels, binary, {"format": "png", "optimize": True}))
    if binary and images.shape[-1] == 1 and features.check("libtiff"):
        rows.append(_lossless("CCITT group 4", levels, binary, {"format": "tiff", "compression": "group4"}))
    return rows


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio of images in [0, 1], `(N,)` dB: −10 log₁₀ of the mean squared error.

    Example:

        >>> [round(float(value), 6) for value in psnr(np.full((1, 2, 2, 1), 0.1), np.zeros((1, 2, 2, 1)))]
        [20.0]
    """
    error = np.square(np.asarray(a, np.float64) - b).reshape(len(a), -1).mean(axis=1)
    return -10 * np.log10(np.maximum(error, 1e-20))


def _reconstructions(vae: VAE, images: np.ndarray, seed: int, batch: int = 256) -> np.ndarray:
    pieces = []
    for i in range(0, len(images), batch):
        q = vae.encoder_params(vae.check_images(images[i : i + batch]))
        pieces.append(np.asarray(vae.decode(vae.posterior.sample(q, 1, vae.noise(seed + i))[0])))
    return np.clip(np.concatenate(pieces), 0, 1)


def _lossy(name: str, levels: np.ndarray, images: np.ndarray, wanted: np.ndarray, options: dict[str, Any]) -> CodeRow:
    header = min(size for size, _ in _encodings(np.zeros_like(levels[0]), name, options))
    found = []
    for image, exact, least in zip(levels, images, wanted, strict=True):
        tries = [
            (size, float(psnr(decoded[None], exact[None])[0])) for size, decoded in _encodings(image, name, options)
        ]
        good = [entry for entry in tries if entry[1] >= least]
        found.append((*(min(good) if good else max(tries, key=lambda entry: entry[1])), bool(good)))
    sizes, qualities, reached = np.array(found, float).T
    return CodeRow(name, LOSSY, sizes.mean(), sizes.mean() - header, qualities.mean(), reached.mean())


def _encodings(image: np.ndarray, name: str, options: dict[str, Any]) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the bits and the decoded image, `(H, W, C)` in [0, 1], for every quality."""
    from PIL import Image

    for quality in QUALITIES:
        file = io.BytesIO()
        _as_pil(image).save(file, name, quality=quality, **options)
        mode = "RGB" if image.shape[-1] == 3 else "L"
        decoded = np.asarray(Image.open(file).convert(mode), np.float64).reshape(image.shape) / 255
        yield 8 * file.tell(), decoded


def _lossless(name: str, levels: np.ndarray, binary: bool, options: dict[str, Any]) -> CodeRow:
    sizes = [file_bits(image, binary, options) for image in levels]
    bits = float(np.mean(sizes))
    return CodeRow(name, LOSSLESS, bits, bits - file_bits(np.zeros_like(levels[0]), binary, options), None, 1.0)


def file_bits(image: np.ndarray, binary: bool, options: dict[str, Any]) -> float:
    """Return the number of bits of an image file of uint8 `(H, W, C)`, with options for Pillow's `save`."""
    file = io.BytesIO()
    pil = _as_pil(image)
    (pil.convert("1") if binary and image.shape[-1] == 1 else pil).save(file, **options)
    return 8 * len(file.getbuffer())


def _as_pil(image: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])


def _levels(images: np.ndarray) -> np.ndarray:
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
