"""Accuracy of a classifier's file, compared with Keras on the same images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kvae.evaluation.likelihood import standard_error
from kvae.export.errors import ExportError

if TYPE_CHECKING:
    from kvae.export.behaviour import Behaviour

# No precision should lose more than two points of accuracy. A loss must also exceed three standard errors of the paired
# difference, because a few images on a border between classes may change sides by chance.
LARGEST_LOSS, STANDARD_ERRORS = 0.02, 3.0


def compare(probability: np.ndarray, keras: np.ndarray, labels: np.ndarray | None) -> dict[str, float | None]:
    """Return the attributes of `Behaviour` about agreement and accuracy.

    Args:
        probability: probabilities from a file, `(N, classes)`.
        keras: probabilities from Keras for the same images.
        labels: numbers of the classes `(N,)`, or None.
    """
    found, expected = probability.argmax(axis=-1), keras.argmax(axis=-1)
    result: dict[str, float | None] = {"agreement": float(np.mean(found == expected))}
    if labels is not None:
        right = found == labels
        lost = (expected == labels).astype("float64") - right
        result["accuracy"], result["accuracy_lost"] = float(np.mean(right)), float(np.mean(lost))
        result["accuracy_lost_error"] = standard_error(lost)
    return result


def check(file: str, precision: str, behaviour: "Behaviour") -> None:
    """Raise an ExportError if a file's accuracy is significantly below that of Keras.

    Args:
        file: name of the file.
        precision: one of `kvae.export.litert.PRECISIONS`.
        behaviour: its results on test images.

    Example:

        >>> from kvae.export.behaviour import Behaviour
        >>> check("classifier_int8.tflite", "int8", Behaviour(accuracy_lost=0.03, accuracy_lost_error=0.02))
    """
    lost, error = behaviour.accuracy_lost, behaviour.accuracy_lost_error
    if lost is None or error is None or lost <= LARGEST_LOSS or lost <= STANDARD_ERRORS * error:
        return
    remedy = "export precisions=('float16',) instead"
    if precision == "full_int8":
        remedy = "export precisions=('int8',) instead, or calibrate with more similar `validation` images"
    raise ExportError(
        f"Expected '{file}' to lose at most {100 * LARGEST_LOSS:g} points of accuracy. Received: "
        f"accuracy {behaviour.accuracy:.4f}, {100 * lost:.1f} ± {100 * error:.1f} points below Keras; "
        f"{remedy}"
    )


def class_numbers(labels: Any, num_classes: int, names: Sequence[str] | None) -> np.ndarray:
    """Return labels as the numbers of classes, `(N,)`; names are converted to numbers.

    Raises:
        ValueError: if the labels are neither integers below `num_classes` nor known names.

    Example:

        >>> class_numbers(["cat", "dog", "cat"], 2, ["cat", "dog"])
        array([0, 1, 0])
    """
    known = list(names or ())
    array = np.asarray(labels)
    if array.dtype.kind in "UO" and array.ndim == 1 and set(array.tolist()) <= set(known):
        return np.array([known.index(label) for label in array.tolist()], dtype=int)
    if array.dtype.kind not in "iu" or array.ndim != 1 or ((array < 0) | (array >= num_classes)).any():
        shown = ", ".join(dict.fromkeys(map(str, array.ravel()[:1000].tolist())))
        raise ValueError(
            f"Argument `labels` must be integers from 0 to {num_classes - 1}, the order of the model's outputs"
            + (f", or names: {_shortened(', '.join(known))}" if known else "")
            + f". Received: shape {array.shape}, {_shortened(shown)}"
        )
    return array.astype(int)


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"
