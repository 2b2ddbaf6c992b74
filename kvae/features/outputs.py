"""What an encoder offers: moments of the posterior, and its hidden layers."""

from typing import Any

import keras
from keras import ops

from kvae.models import LatentModel

#: name: what it is
OUTPUTS = {
    "mean": "the latent mean `(B, D)`, or an autoencoder's code",
    "moments": "mean and variance of q(z|x), one after the other, `(B, 2·D)`",
    "hidden": "the encoder's last hidden layer `(B, units)`, which often serves a classifier better",
    "layers": "all hidden layers side by side; those with a grid are averaged over it",
}


def encoder_inputs(model: LatentModel) -> tuple[list[Any], Any]:
    """Inputs of a Keras model, and what the encoder gets of them."""
    inputs = [keras.Input(model.image_shape, name="image")]
    if model.condition_dim is not None:
        inputs.append(keras.Input((model.condition_dim,), name="condition"))
    return inputs, model.encoder_input(*inputs)


def encoder_output(model: Any, x: Any, output: str) -> Any:
    """One of `OUTPUTS` for what the encoder gets; `model` has an `encoder` and maybe a `posterior`.

    Raises:
        ValueError: for another output, or when the encoder is a model whose hidden layers can't be found.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> x = ops.zeros((3, 8, 8, 1))
        >>> [encoder_output(vae, x, name).shape[1] for name in OUTPUTS]
        [2, 4, 256, 416]
    """
    posterior = getattr(model, "posterior", None)  # a plain autoencoder has none
    if output == "mean":
        params = model.encoder(x)
        return params if posterior is None else posterior.mean(params)
    if output == "moments":
        if posterior is None:
            raise ValueError("An Autoencoder has no variance: take 'mean'. Received: output='moments'")
        params = model.encoder(x)
        return ops.concatenate([posterior.mean(params), posterior.variance(params)], axis=-1)
    if output == "hidden":
        return hidden_layers(model.encoder, x)[-1]
    if output == "layers":
        layers = hidden_layers(model.encoder, x)
        flat = [layer if len(layer.shape) == 2 else ops.mean(layer, axis=(1, 2)) for layer in layers]
        return ops.concatenate([ops.cast(layer, "float32") for layer in flat], axis=-1)
    raise ValueError(f"Argument `output` must be one of {', '.join(map(repr, OUTPUTS))}. Received: output={output!r}")


def hidden_layers(encoder: keras.Model, x: Any) -> list[Any]:
    """The output of each hidden layer with weights of our `Encoder`, or of a Sequential or functional model."""
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
            "The encoder's hidden layers can't be found: expected kvae.Encoder, a keras.Sequential of two layers or "
            f"more, or a functional keras.Model; or ask for output='mean'. Received: encoder={encoder!r}"
        )
    outputs = []
    for i, layer in enumerate(chain):
        x = layer(x)
        last = i == len(chain) - 1
        if last or layer.weights:
            outputs.append(x)
    return outputs
