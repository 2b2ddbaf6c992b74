"""The configuration of parts of a model, from which Keras restores them."""

import inspect
from typing import Any

import keras


def arguments_of(instance: Any) -> dict[str, Any]:
    """Return the arguments of an instance's constructors that it has as attributes of the same names.

    The arguments of Keras's own constructors are left out.

    Example:

        >>> from kvae.networks import MLP
        >>> arguments_of(MLP((8,)))
        {'activation': 'relu', 'units': (8,), 'gated': False}
    """
    classes = [cls for cls in type(instance).__mro__ if not cls.__module__.startswith("keras.")]
    constructors = [vars(cls)["__init__"] for cls in reversed(classes) if "__init__" in vars(cls)]
    names = [name for constructor in constructors for name in inspect.signature(constructor).parameters]
    return {name: getattr(instance, name) for name in names if hasattr(instance, name)}


class Saved:
    """Base of parts whose configuration consists of the constructors' arguments (`arguments_of`).

    A subclass keeps each argument as an attribute of the same name, and needs no `get_config`. Layers, schedules and
    other objects among the arguments are serialized.
    """

    def get_config(self) -> dict[str, Any]:
        arguments = {
            name: keras.saving.serialize_keras_object(value) if callable(value) else value
            for name, value in arguments_of(self).items()
        }
        inherited: dict[str, Any] = getattr(super(), "get_config", dict)()  # of a layer: its name and dtype
        return {**arguments, **inherited}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        objects = {
            name: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
            for name, value in config.items()
            if isinstance(value, dict)
        }
        return cls(**{**config, **objects})
