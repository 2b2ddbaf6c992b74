"""Checks of the arguments of `kvae.export.export`, before any computation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvae.arguments import integer, shown
from kvae.export import accuracy, info, litert
from kvae.export.endpoints import endpoints_of
from kvae.export.reference import check_conditions, check_images
from kvae.files import public_name


@dataclass(frozen=True)
class Images:
    """Checked images `(N, H, W, C)` with their conditions and labels.

    Attributes:
        inputs: `image`, and `condition` for a conditional model.
        labels: `(N,)` or None; for a classifier, the numbers of the classes.
        measures: names of the losses that can be measured on these images.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None
    measures: frozenset[str]

    @classmethod
    def checked(
        cls, name: str, model: Any, images: Any, labels: Any, conditions: Any, class_names: Sequence[str] | None
    ) -> "Images | None":
        """Check the images of the argument `name`; None without images. Conditions default to the labels."""
        classifies = hasattr(model, "num_classes")
        if classifies and labels is not None:
            labels = accuracy.class_numbers(labels, model.num_classes, class_names)
        if labels is not None:
            count, wanted = (len(values) if hasattr(values, "__len__") else 0 for values in (labels, images))
            if count != wanted:
                raise ValueError(
                    f"Argument `{name}` must have one label per image. Received: {count} labels, {wanted} images"
                )
        if images is None:
            return None
        images = check_images(images, model, name)
        inputs = {"image": images, **check_conditions(model, labels if conditions is None else conditions, len(images))}
        measures = {"nats_lost"} if hasattr(model, "prior") else set()
        measures |= {"accuracy_lost"} if classifies and labels is not None else set()
        return cls(inputs, None if labels is None else np.asarray(labels), frozenset(measures))

    @property
    def images(self) -> np.ndarray:
        return self.inputs["image"]

    @property
    def conditions(self) -> np.ndarray | None:
        return self.inputs.get("condition")


def pair(name: str, value: Any) -> tuple[Any, Any]:
    """Split an argument into images, and labels or conditions (None if missing)."""
    images, *rest = value if isinstance(value, tuple) else (value,)
    if len(rest) > 1:
        raise ValueError(
            f"Argument `{name}` must be images, or a pair of images and labels (or conditions). "
            f"Received: a tuple of {len(rest) + 1}"
        )
    return images, rest[0] if rest else None


def validation_images(model: Any, validation: Any, class_names: Sequence[str] | None) -> Images | None:
    """Check the argument `validation`: images, or a pair of images and conditions or labels (or both in one)."""
    images, given = pair("validation", validation)
    labels = given if hasattr(model, "num_classes") and np.ndim(given) == 1 else None
    return Images.checked("validation", model, images, labels, given, class_names)


def precisions_of(precisions: Any) -> tuple[str, ...]:
    given = (precisions,) if isinstance(precisions, str) else precisions
    try:
        wanted = litert.PRECISIONS if precisions == "auto" else tuple(dict.fromkeys(given))
    except TypeError:
        wanted = ()
    known = litert.ALL_PRECISIONS
    if not wanted or any(precision not in known for precision in wanted):
        raise ValueError(f"Argument `precisions` must be one or more of {known}, or 'auto'. Received: {precisions}")
    return tuple(wanted)


def batch_sizes_of(batch_sizes: Any) -> tuple[int | None, ...]:
    try:
        given = [None if size is None else integer("batch_sizes", size, least=1) for size in batch_sizes]
    except (TypeError, ValueError):
        given = []
    if not any(given):
        raise ValueError(
            "Argument `batch_sizes` must be positive integers, at least one, and optionally None for any size. "
            f"Received: {batch_sizes}"
        )
    return tuple(dict.fromkeys(given))


def networks_of(networks: Any) -> tuple[str, ...]:
    given = (networks,) if isinstance(networks, str) else networks
    if not np.iterable(given) or any(name not in ("decoder", "encoder") for name in given):
        raise ValueError(f"Argument `networks` must be some of decoder and encoder. Received: {shown(networks)}")
    return tuple(dict.fromkeys(given))


def check_model(model: Any) -> None:
    """Raise a ValueError unless `model` is a kvae model with float weights."""
    if not endpoints_of(model):
        raise ValueError(
            "Argument `model` must be a `kvae.VAE`, `kvae.Autoencoder` or `kvae.features.Classifier`. "
            f"Received: {type(model).__name__}"
        )
    quantized = [layer.name for layer in model._flatten_layers() if getattr(layer, "quantization_mode", None)]
    if quantized:
        raise ValueError(
            "Argument `model` must have float weights, from which the files are made: pass the model as it was before "
            f"`model.quantize`. Received: a model with the quantised layer '{quantized[0]}'"
        )


def names(name: str, value: Any) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, str) or not np.iterable(value):
        raise ValueError(f"Argument `{name}` must be a list of names. Received: {name}={shown(value)}")
    return [str(item) for item in value]


def text(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"Argument `{name}` must be text. Received: {name}={shown(value)}")
    return value


def class_names(model: Any, given: list[str] | None, conditions: list[str] | None) -> list[str] | None:
    """Return the names of a model's classes: the given names, the model's own, or the names of its conditions."""
    count = getattr(model, "num_classes", 0)
    if not count and given is None:
        return None
    own = names("class_names", getattr(model, "class_names", None))
    found = next((names for names in (given, own, conditions) if names is not None), None)
    if found is not None and not len(set(found)) == len(found) == count:
        raise ValueError(
            f"Argument `class_names` must be different names, one for each of the model's {count} classes. "
            f"Received: {', '.join(found) or 'none'}"
        )
    return found


def directions(model: Any, value: Any) -> list[dict[str, Any]]:
    """Check the argument `directions`, and return it as it is written into `info`."""
    given = [] if value is None else list(value) if np.iterable(value) and not hasattr(value, "vector") else [value]
    wanted = "Argument `directions` must be a list of results of kvae.features.attribute_direction"
    if given and not hasattr(model, "decoder"):
        raise ValueError("Argument `directions` requires a model with latents. Received: a classifier")
    if given and model.condition_dim is not None:
        raise ValueError(
            "Argument `directions` requires a model without conditions: use `condition` to draw a class. "
            f"Received: a model with {model.condition_dim} conditions"
        )
    for direction in given:
        fields = ("name", "vector", *info.DIRECTION_NUMBERS)
        if not all(hasattr(direction, field) for field in fields):
            raise ValueError(f"{wanted}. Received: {shown(type(direction).__name__)}")
        if not isinstance(direction.name, str) or not direction.name:
            raise ValueError(f"{wanted}, each with a name. Received: name={shown(direction.name)}")
        if np.shape(direction.vector) != (model.latent_dim,):
            raise ValueError(
                f"{wanted}, with {model.latent_dim} latents. "
                f"Received: '{direction.name}' with a vector of shape {np.shape(direction.vector)}"
            )
        numbers = [*direction.vector, *(getattr(direction, field) for field in info.DIRECTION_NUMBERS)]
        if not np.isfinite(numbers).all() or not direction.distance > 0 or not direction.low < direction.high:
            raise ValueError(
                f"{wanted}: finite numbers, distance > 0 and low < high. Received: '{direction.name}' with "
                f"distance={direction.distance}, low={direction.low}, high={direction.high}"
            )
    found = [direction.name for direction in given]
    if len(set(found)) < len(found):
        raise ValueError(f"{wanted} with different names. Received: {', '.join(found)}")
    return [info.direction_facts(direction) for direction in given]


def facts(
    model: Any, dataset_name: Any, license: Any, condition_names: Any, class_names_: Any, directions_: Any = None
) -> dict[str, Any]:
    """Check the facts for `info` that the user gives."""
    name, terms = text("dataset_name", dataset_name), text("license", license)
    data = None if name is None else public_name(name)
    conditions = names("condition_names", condition_names)
    classes = class_names(model, names("class_names", class_names_), conditions)
    if hasattr(model, "num_classes") and conditions is None and model.condition_dim is not None:
        conditions = classes
    if conditions is not None and len(conditions) != model.condition_dim:
        raise ValueError(
            f"Argument `condition_names` must name the {model.condition_dim or 0} conditions of the model. "
            f"Received: {len(conditions)} names"
        )
    return {
        "data": data,
        "license": terms,
        "condition_names": conditions,
        "class_names": classes,
        "directions": directions(model, directions_),
    }
