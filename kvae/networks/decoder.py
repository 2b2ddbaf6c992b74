"""The decoder: from latents to the raw parameters of p(x|z)."""

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kvae.networks.bodies import MLP, ConvUp, DepthToSpace, build_chain, conv, halvings
from kvae.networks.composite import Composite
from kvae.networks.events import check_event_shape


@keras.saving.register_keras_serializable("kvae")
class Decoder(Composite, keras.Model):
    """Decoder network: latents `(B, D)` to raw likelihood parameters, `(B, H, W, param_size)` for images.

    A convolutional body has the attributes `filters`, `upsampling` and `stem_activation`. With such a body, the latents
    become a small grid, the body enlarges it, and the head doubles it to the image (cropped if
    necessary). After any other body, a dense layer makes the pixels.

    Args:
        event_shape: `(H, W, C)` of an image, `(T, F)` of a series, `(columns,)` of a row, or `(D, H, W, C)`.
        body: `kvae.networks.ConvUp` (default of images and series, with a further level for each doubling of the
            image beyond 32×32), `ResidualUp`, `MLP` (default of rows and volumes), or any other layer.
        param_size: numbers per pixel. By default, `kvae.VAE` takes it from its likelihood; without a VAE it is the last
            entry of event_shape.
        mean_image: mean of binary training images, `(H, W, C)`. The bias of a dense head starts at its logits.
        image_shape: another name of event_shape, for images.

    Raises:
        ValueError: if event_shape is not one to four positive integers.

    Example:

        >>> import numpy as np
        >>> Decoder(image_shape=(29, 31, 3))(np.zeros((2, 16))).shape
        TensorShape([2, 29, 31, 3])
        >>> Decoder((50, 8))(np.zeros((2, 16))).shape
        TensorShape([2, 50, 8])
    """

    def __init__(
        self,
        event_shape: tuple[int, ...] | None = None,
        body: keras.layers.Layer | None = None,
        param_size: int | None = None,
        mean_image: Any = None,
        *,
        image_shape: tuple[int, int, int] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._mean_image = mean_image  # not in the configuration: the bias that it sets is a weight
        self.event_shape, self.param_size = check_event_shape(event_shape, image_shape), param_size
        if body is None:
            is_grid = len(self.event_shape) in (2, 3)
            body = ConvUp(_filters(self.event_shape)) if is_grid else MLP((128, 128))
            body.dtype_policy = self.dtype_policy
        self.body = body

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        *sides, channels = self.event_shape
        self.param_size = self.param_size or channels
        if hasattr(self.body, "upsampling"):
            factor = 2 * self.body.upsampling
            grid = (*(math.ceil(side / factor) for side in sides), self.body.filters[0])
            self.stem = [
                layers.Dense(math.prod(grid), activation=self.body.stem_activation, dtype=self.dtype_policy),
                layers.Reshape(grid, dtype=self.dtype_policy),
            ]
            # float32 under every policy, because densities are computed from this output.
            self.head = [
                conv(len(sides), 2 ** len(sides) * self.param_size, dtype="float32"),
                DepthToSpace(dtype="float32"),
            ]
        else:
            self.stem = []
            self.head = [
                layers.Dense(math.prod(sides) * self.param_size, bias_initializer=self._bias(), dtype="float32"),
                layers.Reshape((*sides, self.param_size), dtype="float32"),
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
        sides = self.event_shape[:-1]
        return z if tuple(z.shape[1:-1]) == sides else z[(slice(None), *map(slice, sides))]


def _filters(event_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the filters of the default body: from a grid of about 8×8, with fewer channels at high resolution.

    Example:

        >>> _filters((28, 28, 1)), _filters((64, 64, 3)), _filters((256, 256, 3))
        ((64, 32), (64, 64, 32), (64, 64, 32, 16, 16))
    """
    levels = max(2, halvings(min(event_shape[:-1]), 8))
    fine = (32,) if levels <= 3 else (32, *[16] * (levels - 3))
    return (*[64] * (levels - len(fine)), *fine)
