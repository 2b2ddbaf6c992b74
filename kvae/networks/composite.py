"""Layers that make other layers."""

from typing import Any

import keras

from kvae.networks.layout import check_layout
from kvae.saving import Saved


class Composite(Saved, keras.layers.Layer):
    """Base of layers and models that make inner layers in `build`.

    The configuration doesn't contain the inner layers, but it contains how they are quantized. Without that, a file
    with 8-bit weights would be read into layers of floats.

    Args:
        quantized: pairs of an inner layer's number and its quantization config.

    Example:

        >>> import warnings
        >>> from kvae.networks import Encoder, MLP
        >>> encoder = Encoder(latent_dim=2, body=MLP((8,)))
        >>> encoder.build((None, 8, 8, 1))
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # Keras names the layers that it doesn't quantize
        ...     encoder.quantize("int8")
        >>> config = keras.saving.serialize_keras_object(encoder)
        >>> keras.saving.deserialize_keras_object(config).head.dtype_policy
        <QuantizedDTypePolicy "int8_from_float32">
    """

    def __init__(self, *args: Any, quantized: Any = None, **kwargs: Any):
        check_layout()
        super().__init__(*args, **kwargs)
        self._quantized = quantized

    def _post_build(self) -> None:
        super()._post_build()
        inside = self._flatten_layers(include_self=False)
        for number, config in self._quantized or ():
            if inside[number].quantization_mode is None:
                inside[number].quantize(config=keras.saving.deserialize_keras_object(config))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        quantized = [
            [number, keras.saving.serialize_keras_object(layer.quantization_config)]
            for number, layer in enumerate(self._flatten_layers(include_self=False))
            if layer.quantization_mode is not None
        ]
        return {**config, "quantized": quantized} if quantized else config
