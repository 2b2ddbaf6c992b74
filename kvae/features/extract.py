"""The encoder without the decoder: as a Keras model, and as arrays."""

from typing import Any

import keras
import numpy as np

from kvae.models import Autoencoder, LatentModel


def feature_model(model: LatentModel, output: str = "mean") -> keras.Model:
    """The encoder as a plain Keras model: images to features, sharing its weights with `model`.

    It can be trained further, put in front of a classifier, saved and loaded like any Keras model. That of a
    conditional model takes images and the condition's vectors.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder`.
        output: "mean", the latent mean `(B, D)`; or "hidden", the encoder's last hidden layer `(B, units)`,
            which often serves a classifier better.

    Raises:
        ValueError: for another output, or when the encoder is a model whose last hidden layer can't be found.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> feature_model(vae, "hidden").output_shape
        (None, 256)
    """
    inputs, x = _inputs(model)
    if output == "mean":
        params = model.encoder(x)
        features = params if isinstance(model, Autoencoder) else model.posterior(params)
    elif output == "hidden":
        features = _hidden(model.encoder, x)
    else:
        raise ValueError(f"Argument `output` must be 'mean' or 'hidden'. Received: output={output!r}")
    return keras.Model(inputs, features, name=f"{output}_features")


def _inputs(model: LatentModel) -> tuple[list[Any], Any]:
    """Inputs of a Keras model, and what the encoder gets of them."""
    inputs = [keras.Input(model.image_shape, name="image")]
    if model.condition_dim is not None:
        inputs.append(keras.Input((model.condition_dim,), name="condition"))
    return inputs, model.encoder_input(*inputs)


def _hidden(encoder: keras.Model, x: Any) -> Any:
    """The last hidden layer of our `Encoder`, or of a Sequential or functional model."""
    if hasattr(encoder, "body"):
        return encoder.body(x)
    if isinstance(encoder, keras.Sequential) and len(encoder.layers) > 1:
        for layer in encoder.layers[:-1]:
            x = layer(x)
        return x
    if isinstance(encoder, keras.models.Model) and getattr(encoder, "inputs", None):
        return keras.Model(encoder.inputs, encoder.layers[-1].input)(x)
    raise ValueError(
        "The encoder's last hidden layer can't be found: expected kvae.Encoder, a keras.Sequential of two layers or "
        f"more, or a functional keras.Model; or ask for output='mean'. Received: encoder={encoder!r}"
    )


def extract(model: LatentModel, data: Any, hidden: bool = True) -> dict[str, np.ndarray]:
    """Features of every image, in order.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder`.
        data: a dataset of batches `x` or `(x, label)`, or arrays: images `(N, H, W, C)`, or these and labels. Labels
            are the conditions of a conditional model.
        hidden: whether to include the last hidden layer.

    Returns:
        Dict of arrays: `mean` `(N, D)`; for a VAE `variance` `(N, D)`; `hidden` `(N, units)`; and `label`
        `(N,)` if the data has labels.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> {name: array.shape for name, array in extract(vae, np.zeros((5, 8, 8, 1), "float32")).items()}
        {'mean': (5, 2), 'variance': (5, 2), 'hidden': (5, 256)}
    """
    inputs, x = _inputs(model)
    params = model.encoder(x)
    outputs = {"mean": params}
    if not isinstance(model, Autoencoder):
        outputs = {"mean": model.posterior.mean(params), "variance": model.posterior.variance(params)}
    if hidden:
        outputs["hidden"] = _hidden(model.encoder, x)
    predict = keras.Model(inputs, outputs).predict_on_batch
    collected: dict[str, list[np.ndarray]] = {}
    for batch in _batches(data):
        images, label, _ = keras.utils.unpack_x_y_sample_weight(batch)
        c = model.condition(label, images.shape[0], labels=True)
        features = predict([images] if c is None else [images, c])
        if label is not None:
            features["label"] = np.asarray(label)
        for name, array in features.items():
            collected.setdefault(name, []).append(array)
    if not collected:
        raise ValueError("Expected images to encode. Received: no batch at all")
    return {name: np.concatenate(arrays) for name, arrays in collected.items()}


def _batches(data: Any, size: int = 256) -> Any:
    if isinstance(data, tuple):
        return zip(*(_batches(array, size) for array in data))
    return data if not hasattr(data, "shape") else (data[i : i + size] for i in range(0, len(data), size))
