"""Features from the encoder: as a Keras model, and as arrays."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kvae.features.outputs import encoder_inputs, encoder_output, latent_moments
from kvae.models import Autoencoder, LatentModel, SemiSupervisedVAE
from kvae.models.batches import unpack
from kvae.models.semi_supervised import UNLABELLED

ROWS = 256  # rows encoded at once, always the same number, so that a row's features don't depend on the others


def feature_model(model: LatentModel, output: str = "mean") -> keras.Model:
    """Return the encoder as a plain Keras model, images to features, which shares its weights with `model`.

    It can be trained further, used as the trunk of a classifier, saved and loaded like any Keras model. For a
    conditional model, its inputs are images and the condition's vectors.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder`.
        output: "mean", the latent mean `(B, D)`, of a hierarchy that of its top level; "moments", mean and variance,
            `(B, 2·D)`; "hidden", the encoder's last hidden layer `(B, units)`, which is often better for a classifier;
            or "layers", all hidden layers concatenated, where layers with a grid are averaged over it.

    Raises:
        ValueError: if the output is unknown, or the hidden layers of the encoder can't be found.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> feature_model(vae, "hidden").output_shape
        (None, 256)
    """
    inputs, x = encoder_inputs(model)
    return keras.Model(inputs, encoder_output(model, x, output), name=f"{output}_features")


class BatchEncoder:
    """A function from NumPy batches to features, `ROWS` images at a time; all features are computed by it.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder`.
        hidden: whether to return the last hidden layer, too.
        all_levels: whether the moments of a hierarchy are those of all levels, instead of the top level.

    Example:

        >>> import kvae
        >>> encode = BatchEncoder(kvae.VAE(latent_dim=2, image_shape=(8, 8, 1)), hidden=False)
        >>> x = np.random.default_rng(0).random((5, 8, 8, 1), "float32")
        >>> bool(np.all(encode(x)["mean"][3] == encode(x[3:4])["mean"][0]))
        True
    """

    def __init__(self, model: LatentModel, hidden: bool = True, all_levels: bool = False):
        inputs, x = encoder_inputs(model)
        if isinstance(model, Autoencoder):
            outputs = {"mean": model.encoder(x)}
        else:
            outputs = dict(zip(("mean", "variance"), latent_moments(model, x, all_levels)))
        if hidden:
            outputs["hidden"] = ops.cast(encoder_output(model, x, "hidden"), "float32")
        self.model = model
        encoder = keras.Model(inputs, outputs)
        # benchmarks/features/throughput.py compares this with `predict` and a SavedModel.
        self.predict = tf.function(lambda batch: encoder(batch, training=False))
        self.guess: Callable[[list[np.ndarray]], Any] | None = None
        if isinstance(model, SemiSupervisedVAE):
            self.guess = tf.function(lambda batch: {"label": model.probable_labels(batch[0])})

    def __call__(self, images: Any, labels: Any = None) -> dict[str, np.ndarray]:
        """Return `mean` and `variance` `(B, D)` and `hidden` `(B, units)`.

        Labels are the conditions of a conditional model. A `kvae.SemiSupervisedVAE` infers missing labels: see
        `extract`.
        """
        images = self.model.check_images(images).numpy()
        c = self.model.condition(self._with_inferred_labels(images, labels), len(images), labels=True)
        return _in_rows(self.predict, [images] if c is None else [images, np.asarray(c)])

    def _with_inferred_labels(self, images: np.ndarray, labels: Any) -> Any:
        """Replace missing labels with the most probable ones, if the model can infer them."""
        if self.guess is None:
            return labels
        labels = np.full(len(images), UNLABELLED) if labels is None else np.asarray(labels)
        fits = labels.shape == (len(images),) and np.issubdtype(labels.dtype, np.signedinteger)
        if not fits or np.all(labels != UNLABELLED):
            return labels
        return np.where(labels == UNLABELLED, _in_rows(self.guess, [images])["label"], labels)


def batch_encoder(model: LatentModel, hidden: bool = True, all_levels: bool = False) -> BatchEncoder:
    """Return the model's `BatchEncoder`, which is made once because tracing takes longer than most calls."""
    made = model.__dict__.setdefault("_batch_encoders", {})  # Keras doesn't track this as a part of the model
    key = hidden, all_levels, id(model.encoder)
    if key not in made:
        made[key] = BatchEncoder(model, hidden, all_levels)
    return made[key]


def _in_rows(function: Callable[[list[np.ndarray]], Any], inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Apply a function to `ROWS` rows at a time, with the last batch padded."""
    count, pieces = len(inputs[0]), []
    for start in range(0, count, ROWS):
        outputs = function([padded(part[start : start + ROWS], ROWS) for part in inputs])
        pieces.append({name: array.numpy() for name, array in outputs.items()})
    return {name: np.concatenate([piece[name] for piece in pieces])[:count] for name in pieces[0]}


def padded(rows: np.ndarray, size: int) -> np.ndarray:
    """Repeat the last row until the number of rows is a multiple of `size`."""
    missing = -len(rows) % size
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows


def extract(model: LatentModel, data: Any, hidden: bool = True, all_levels: bool = False) -> dict[str, np.ndarray]:
    """Return the features of every image, in order.

    A `kvae.SemiSupervisedVAE` accepts images without labels, and −1 for a missing label. It encodes such an image with
    its most probable label, the largest of q(y|x), as the condition.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder`.
        data: a dataset of batches `x` or `(x, label)`, or arrays: images `(N, H, W, C)`, or images and labels. Labels
            are the conditions of a conditional model.
        hidden: whether to include the last hidden layer.
        all_levels: whether to return the latents of all levels of a hierarchy, which `model.decode` takes, instead of
            those of the top level. Other models have no levels.

    Returns:
        Dict of arrays: `mean` `(N, D)`; for a VAE `variance` `(N, D)`; `hidden` `(N, units)`; and the labels of the
        data, unchanged, as `label` `(N,)` if the data has labels.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> {name: array.shape for name, array in extract(vae, np.zeros((5, 8, 8, 1), "float32")).items()}
        {'mean': (5, 2), 'variance': (5, 2), 'hidden': (5, 256)}
    """
    encode = batch_encoder(model, hidden, all_levels)
    collected: dict[str, list[np.ndarray]] = {}
    for batch in _batches(data):
        images, label, _ = unpack(batch)
        label = None if np.ndim(label) > 2 else label  # the target of a denoising model
        features = encode(images, label)
        if label is not None:
            features["label"] = np.asarray(label)
        for name, array in features.items():
            collected.setdefault(name, []).append(array)
    if not collected:
        raise ValueError("Expected images to encode. Received: no batch")
    return {name: np.concatenate(arrays) for name, arrays in collected.items()}


def _batches(data: Any) -> Any:
    if isinstance(data, tuple):
        return zip(*(_batches(array) for array in data))
    return data if not hasattr(data, "shape") else (data[i : i + ROWS] for i in range(0, len(data), ROWS))
