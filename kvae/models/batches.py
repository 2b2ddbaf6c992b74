"""The inputs of a model: images, labels or conditions, targets and weights, in the forms that datasets have."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

IMAGE, LABEL = "image", "label"  # keys of TensorFlow Datasets


class Batch(NamedTuple):
    """A batch of B examples."""

    x: Any  # (B, H, W, C) images
    y: Any = None  # (B,) or (B, k): labels, or conditions of a conditional model
    target: Any = None  # (B, H, W, C) images that the likelihood evaluates instead of x: a denoising model
    weight: Any = None  # (B,)


def unpack(data: Any) -> tuple[Any, Any, Any]:
    """Return `(x, y, sample_weight)` of a dataset element; a dictionary of TensorFlow Datasets is `(image, label)`.

    Raises:
        ValueError: for a dictionary without images.

    Example:

        >>> unpack({"image": "x", "label": "y"})
        ('x', 'y', None)
    """
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    if not isinstance(x, Mapping):
        return x, y, weight
    if IMAGE not in x:
        raise ValueError(
            f"Expected batches of images, of pairs, or dictionaries with the key '{IMAGE}' (and '{LABEL}'), as in "
            f"TensorFlow Datasets. Received: a dictionary with the keys {', '.join(map(str, x)) or 'none'}"
        )
    return x[IMAGE], x.get(LABEL) if y is None else y, weight


def batch_of(data: Any, image_shape: tuple[int, ...], conditional: bool) -> Batch:
    """Convert an element of a dataset to a `Batch`.

    A `y` of the images' shape is the target; a conditional model then gets its condition as `((x, condition), target)`.
    A model without conditions ignores labels.

    Raises:
        ValueError: for images of another shape, or a `y` that is neither labels, nor a condition, nor a target.
    """
    x, y, weight = unpack(data)
    condition = None
    if isinstance(x, tuple | list):
        if len(x) != 2:
            raise ValueError(f"Expected images, or a pair (images, condition), as x. Received: {len(x)} entries")
        x, condition = x
        if not conditional:
            raise ValueError(
                "Expected images as x, because this model takes no condition: create it with `condition_dim=...` to "
                "train a conditional model. Received: a pair"
            )
    check_shape(x, image_shape)
    if y is None or _is_target(y, image_shape):
        return Batch(x, condition, y, weight)
    if condition is not None:
        raise ValueError(
            f"Expected y to be target images of shape (batch, {_text(image_shape)}), because x is a pair (images, "
            f"condition). Received: y of shape {tuple(tf.TensorShape(y.shape))}"
        )
    return Batch(x, y if conditional else None, None, weight)


def check_shape(x: Any, image_shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless `x` is a batch of images of this shape."""
    shape = tf.TensorShape(getattr(x, "shape", None))
    if shape.rank is None or tuple(shape[1:]) != image_shape:
        raise ValueError(f"Expected a batch of images of shape (batch, {_text(image_shape)}). Received: shape {shape}")


def _is_target(y: Any, image_shape: tuple[int, ...]) -> bool:
    """Return whether `y` has the images' shape; raise a ValueError if it is neither a target nor labels."""
    shape = tf.TensorShape(getattr(y, "shape", None))
    if shape.rank is None:
        return False
    if tuple(shape[1:]) == image_shape:
        return True
    flat = shape.rank == 2 and shape[1] == math.prod(image_shape) > 1 and tf.as_dtype(y.dtype).is_floating
    if shape.rank > 2 or flat:
        raise ValueError(
            f"Expected y to be labels or conditions of shape (batch,) or (batch, k), or target images of shape "
            f"(batch, {_text(image_shape)}), to reconstruct from x. Received: y of shape {tuple(shape)}"
        )
    return False


def _text(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
