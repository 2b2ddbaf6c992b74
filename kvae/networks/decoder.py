"""The decoder: from latents to the raw parameters of p(x|z)."""

import math
import operator
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kvae.networks.bodies import ConvUp, DepthToSpace, build_chain, halvings
from kvae.networks.composite import Composite


@keras.saving.register_keras_serializable("kvae")
class Decoder(Composite, keras.Model):
    """Decoder network: latents `(B, D)` to raw likelihood parameters `(B, H, W, param_size)`.

    A convolutional body has the attributes `filters`, `upsampling` and `stem_activation`. With such a body, the latents
    become a small grid, the body enlarges it, and the head doubles it to the image (cropped if
    necessary). After any other body, a dense layer makes the pixels.

    Args:
        image_shape: `(H, W, C)`.
        body: `kvae.networks.ConvUp` (default, with a further level for each doubling of the image beyond 32×32),
            `ResidualUp`, `MLP`, or any other layer.
        param_size: numbers per pixel. By default, `kvae.VAE` takes it from its likelihood; without a VAE it is C.
        mean_image: mean of binary training images, `(H, W, C)`. The bias of a dense head starts at its logits.

    Raises:
        ValueError: if image_shape is not three positive integers.

    Example:

        >>> import numpy as np
        >>> Decoder(image_shape=(29, 31, 3))(np.zeros((2, 16))).shape
        TensorShape([2, 29, 31, 3])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        body: keras.layers.Layer | None = None,
        param_size: int | None = None,
        mean_image: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._mean_image = mean_image  # not in the configuration: the bias that it sets is a weight
        self.image_shape, self.param_size = check_image_shape(image_shape), param_size
        self.body = ConvUp(_filters(self.image_shape), dtype=self.dtype_policy) if body is None else body

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        height, width, channels = self.image_shape
        self.param_size = self.param_size or channels
        if hasattr(self.body, "upsampling"):
            factor = 2 * self.body.upsampling
            grid = (math.ceil(height / factor), math.ceil(width / factor), self.body.filters[0])
            self.stem = [
                layers.Dense(math.prod(grid), activation=self.body.stem_activation, dtype=self.dtype_policy),
                layers.Reshape(grid, dtype=self.dtype_policy),
            ]
            # float32 under every policy, because densities are computed from this output.
            self.head = [
                layers.Conv2D(4 * self.param_size, 3, padding="same", dtype="float32"),
                DepthToSpace(dtype="float32"),
            ]
        else:
            self.stem = []
            self.head = [
                layers.Dense(height * width * self.param_size, bias_initializer=self._bias(), dtype="float32"),
                layers.Reshape((height, width, self.param_size), dtype="float32"),
            ]
        build_chain([*self.stem, self.body, *self.head], input_shape)
        self.built = True

    def _bias(self) -> Any:
        if self._mean_image is None:
            return "zeros"
        mean = np.clip(self._mean_image, 0.001, 0.999).ravel()  # the initialization of Burda et al. 2016
        return lambda shape, dtype=None: ops.convert_to_tensor(np.log(mean / (1 - mean)), dtype)

    def call(self, z: Any) -> Any:
        for layer in (*self.stem, self.body, *self.head):
            z = layer(z)
        height, width, _ = self.image_shape
        return z if z.shape[1:3] == (height, width) else z[:, :height, :width, :]


def _filters(image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Return the filters of the default body: from a grid of about 8×8, with fewer channels at high resolution.

    Example:

        >>> _filters((28, 28, 1)), _filters((64, 64, 3)), _filters((256, 256, 3))
        ((64, 32), (64, 64, 32), (64, 64, 32, 16, 16))
    """
    levels = max(2, halvings(min(image_shape[:2]), 8))
    fine = (32,) if levels <= 3 else (32, *[16] * (levels - 3))
    return (*[64] * (levels - len(fine)), *fine)


def check_image_shape(image_shape: Any) -> tuple[int, int, int]:
    """Return `image_shape` as three integers, or raise ValueError."""
    try:
        height, width, channels = (operator.index(size) for size in image_shape)
    except (TypeError, ValueError):
        height = width = channels = 0
    if min(height, width, channels) < 1:
        raise ValueError(
            "Argument `image_shape` must be (height, width, channels), three positive integers. "
            f"Received: image_shape={image_shape}"
        )
    return height, width, channels
