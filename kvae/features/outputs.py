"""Outputs of an encoder: moments of the posterior, and hidden layers."""

from typing import Any

import keras
from keras import ops

from kvae.distributions import Distribution
from kvae.models import LatentModel
from kvae.saving import Saved

#: descriptions of the outputs by name
OUTPUTS = {
    "mean": "the latent mean `(B, D)`, or an autoencoder's code; of a hierarchy, the means of its top level",
    "moments": "mean and variance of q(z|x), concatenated, `(B, 2·D)`",
    "hidden": "the encoder's last hidden layer `(B, units)`, which is often better for a classifier",
    "layers": "all hidden layers, concatenated; layers with a grid are averaged over it",
}


@keras.saving.register_keras_serializable("kvae")
class HierarchyLatents(Saved, keras.layers.Layer):
    """Input of a hierarchy's encoder to mean and variance of the latents of the top level, `(B, D₁)`, or of all levels.

    It holds the decoder, too, because the posterior depends on its state.

    Args:
        encoder, decoder, posterior, condition_dim: parts of the `kvae.VAE`.
        all_levels: whether to return the latents of all levels, `(B, D)`.
    """

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        posterior: Distribution,
        condition_dim: int | None = None,
        all_levels: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.encoder, self.decoder, self.condition_dim = encoder, decoder, condition_dim
        self.posterior, self.all_levels = posterior, all_levels
        posterior.connect(self)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        for network, shape in (
            (self.encoder, input_shape),
            (self.decoder, (None, self.decoder.latent_dim + (self.condition_dim or 0))),
        ):
            if not network.built:
                network.build(shape)
        self.built = True

    def call(self, x: Any) -> tuple[Any, Any]:
        params = self.encoder(x)
        if self.condition_dim:  # the last channels of the encoder's input
            params = ops.concatenate([params, x[:, 0, 0, -self.condition_dim :]], axis=-1)
        moments = self.posterior.moments if self.all_levels else self.posterior.top_moments
        mean, variance = moments(params)
        return mean, variance


def latent_moments(model: Any, x: Any, all_levels: bool = False) -> tuple[Any, Any]:
    """Return mean and variance of q(z|x) for the encoder's input; of a hierarchy, its top level or `all_levels`.

    Raises:
        ValueError: for the classifier of a hierarchy, which has no decoder.
    """
    if not model.posterior.is_joint:
        params = model.encoder(x)
        return model.posterior(params), model.posterior.variance(params)  # a layer: its weights are part of the model
    if getattr(model, "decoder", None) is None:
        raise ValueError(
            "Expected output='hidden' or 'layers' for a classifier: the latents of a hierarchy require its decoder. "
            "Received: output='mean' or 'moments'"
        )
    layer = HierarchyLatents(model.encoder, model.decoder, model.posterior, model.condition_dim, all_levels)
    mean, variance = layer(x)
    return mean, variance


def encoder_inputs(model: LatentModel) -> tuple[list[Any], Any]:
    """Return the inputs of a Keras model, and the input of the encoder."""
    inputs = [keras.Input(model.event_shape, name="image")]
    if model.condition_dim is not None:
        inputs.append(keras.Input((model.condition_dim,), name="condition"))
    return inputs, model.encoder_input(*inputs)


def encoder_output(model: Any, x: Any, output: str) -> Any:
    """Return one of `OUTPUTS` for the encoder's input `x`; `model` has an `encoder`, and may have a `posterior`.

    Raises:
        ValueError: if the output is unknown, or the hidden layers of the encoder can't be found.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> x = ops.zeros((3, 8, 8, 1))
        >>> [encoder_output(vae, x, name).shape[1] for name in OUTPUTS]
        [2, 4, 256, 416]
    """
    posterior = getattr(model, "posterior", None)  # a plain autoencoder has none
    if output == "mean":
        return model.encoder(x) if posterior is None else latent_moments(model, x)[0]
    if output == "moments":
        if posterior is None:
            raise ValueError("Expected output='mean' for an Autoencoder without a variance. Received: output='moments'")
        return ops.concatenate(latent_moments(model, x), axis=-1)
    if output == "hidden":
        return hidden_layers(model.encoder, x)[-1]
    if output == "layers":
        layers = hidden_layers(model.encoder, x)
        flat = [layer if len(layer.shape) == 2 else ops.mean(layer, axis=(1, 2)) for layer in layers]
        return ops.concatenate([ops.cast(layer, "float32") for layer in flat], axis=-1)
    raise ValueError(f"Argument `output` must be one of {', '.join(map(repr, OUTPUTS))}. Received: output={output!r}")


def hidden_layers(encoder: keras.Model, x: Any) -> list[Any]:
    """Return the output of each hidden layer with weights of an `Encoder`, or of a Sequential or functional model."""
    if hasattr(encoder, "body"):
        chain = getattr(encoder.body, "chain", [encoder.body])
    elif isinstance(encoder, keras.Sequential) and len(encoder.layers) > 1:
        chain = encoder.layers[:-1]
    elif isinstance(encoder, keras.models.Model) and getattr(encoder, "inputs", None):
        hidden = [layer.output for layer in encoder.layers[:-1] if layer.weights]
        hidden = [output for output in hidden if output is not encoder.layers[-1].input]
        return keras.Model(encoder.inputs, [*hidden, encoder.layers[-1].input])(x)
    else:
        raise ValueError(
            "Expected a kvae.Encoder, a keras.Sequential of two or more layers, or a functional keras.Model, whose "
            f"hidden layers can be found. Received: encoder={encoder!r}; output='mean' requires no hidden layers"
        )
    outputs = []
    for i, layer in enumerate(chain):
        x = layer(x)
        last = i == len(chain) - 1
        if last or layer.weights:
            outputs.append(x)
    return outputs
