"""What Keras says: the answers that every exported file is compared with."""

import itertools
from typing import Any

import numpy as np

from kvae.export.endpoints import ENDPOINTS, IMAGE, LATENT, float32_compute
from kvae.export.errors import ExportError

# A single example, two odd sizes and a power of two: a file that can't change its batch fails.
BATCH_SIZES = (1, 3, 32, 65)
ROWS = sum(BATCH_SIZES)


class Reference:
    """Inputs for every endpoint of a model, and its outputs as Keras computes them in float32.

    Args:
        model: a built `kvae.VAE` or `kvae.Autoencoder`.
        images: real images `(N, H, W, C)` in [0, 1], best those that the model hasn't seen; 101 are taken,
            evenly spaced. None makes noise of random brightness and contrast.
        seed: of the latents, and of the noise.

    Attributes:
        inputs: by endpoint and input, `(101, …)` each.
        outputs: by endpoint and output, `(101, …)` each.
        parameters: number of weights in the encoder and the decoder.

    Raises:
        ValueError: for images of another shape or with values outside [0, 1].
        ExportError: if Keras itself gives NaN or infinite values.
    """

    def __init__(self, model: Any, images: Any = None, seed: int = 0):
        self.image_source = "noise of random brightness and contrast" if images is None else "given"
        self.latent_source = "prior" if hasattr(model, "prior") else "codes of the images"
        self.parameters = sum(part.count_params() for part in (model.encoder, model.decoder))
        pixels = _noise(model.image_shape, seed) if images is None else _check(images, model.image_shape)
        data = {IMAGE: pixels}
        with float32_compute(model):
            if hasattr(model, "prior"):
                data[LATENT] = np.asarray(model.prior.sample(ROWS, seed), "float32")
            else:
                data[LATENT] = np.asarray(model.encoder(pixels, training=False), "float32")
            self.inputs: dict[str, dict[str, np.ndarray]] = {}
            self.outputs: dict[str, dict[str, np.ndarray]] = {}
            for endpoint in ENDPOINTS:
                inputs = {name: data[kind] for name, kind in endpoint.inputs.items()}
                outputs = {k: np.asarray(v) for k, v in endpoint.function(model, **inputs).items()}
                for name, value in outputs.items():
                    if not np.isfinite(value).all():
                        raise ExportError(
                            f"Expected finite numbers from the model. Received: NaN or infinity in '{name}' "
                            f"of '{endpoint.name}', in Keras already; load an earlier checkpoint"
                        )
                self.inputs[endpoint.name], self.outputs[endpoint.name] = inputs, outputs

    def batches(self, endpoint: str) -> list[dict[str, np.ndarray]]:
        """The endpoint's inputs, cut into batches of `BATCH_SIZES`."""
        edges = np.cumsum((0, *BATCH_SIZES))
        rows = [slice(first, last) for first, last in itertools.pairwise(edges)]
        return [{name: value[chunk] for name, value in self.inputs[endpoint].items()} for chunk in rows]


def _noise(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.random((2, ROWS, 1, 1, 1)), axis=0)
    return (low + (high - low) * rng.random((ROWS, *shape))).astype("float32")


def _check(images: Any, shape: tuple[int, int, int]) -> np.ndarray:
    images = np.asarray(images)
    if images.shape[1:] != tuple(shape) or len(images) == 0:
        raise ValueError(
            f"Argument `images` must be images of shape (batch, {', '.join(map(str, shape))}), at least one. "
            f"Received: shape {images.shape}"
        )
    picked = images[np.linspace(0, len(images) - 1, ROWS).round().astype(int)].astype("float32")
    if not ((picked >= 0) & (picked <= 1)).all():
        raise ValueError(
            "Argument `images` must have values in [0, 1] and no NaN: scale them, for example x / 255. "
            f"Received: values from {picked.min():.3g} to {picked.max():.3g}"
        )
    return picked
