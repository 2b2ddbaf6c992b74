"""The encoder: from an image to the raw parameters of q(z|x)."""

from typing import Any

import keras
from keras import layers

from kvae.arguments import integer
from kvae.networks.bodies import MLP, ConvDown, build_chain
from kvae.networks.composite import Composite


@keras.saving.register_keras_serializable("kvae")
class Encoder(Composite, keras.Model):
    """Encoder network: images `(B, H, W, C)`, series, rows or volumes to raw posterior parameters `(B, param_size)`.

    Args:
        latent_dim: number of latents, D.
        body: layer from images to hidden features: `kvae.networks.ConvDown` (default), `ResidualDown`, `MLP` (default
            of rows), or any other layer.
        param_size: numbers per image. By default, `kvae.VAE` takes it from its posterior; without a VAE it is 2·D, a
            mean and a log-scale for each latent.

    Raises:
        ValueError: if latent_dim < 1.

    Example:

        >>> import numpy as np
        >>> encoder = Encoder(latent_dim=16)
        >>> encoder(np.zeros((2, 28, 28, 1))).shape, encoder.hidden(np.zeros((2, 28, 28, 1))).shape
        (TensorShape([2, 32]), TensorShape([2, 256]))
    """

    def __init__(
        self,
        latent_dim: int,
        body: keras.layers.Layer | None = None,
        param_size: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.latent_dim, self.param_size = integer("latent_dim", latent_dim, least=1), param_size
        self.body = ConvDown(dtype=self.dtype_policy) if body is None else body
        self._has_default_body = body is None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if self._has_default_body and len(input_shape) == 2:  # a row
            self.body = MLP((128, 128), dtype=self.dtype_policy)
        self.param_size = self.param_size or 2 * self.latent_dim
        # float32 under every policy, because densities are computed from this output.
        self.head = layers.Dense(self.param_size, dtype="float32", name="head")
        build_chain([self.body, self.head], input_shape)
        self.built = True

    def hidden(self, x: Any) -> Any:
        """Return the last hidden layer, `(B, units)`: richer features for a classifier than the latents."""
        return self.body(x)

    def call(self, x: Any) -> Any:
        return self.head(self.hidden(x))
