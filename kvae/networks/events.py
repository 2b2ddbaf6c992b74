"""The shape of an event: an image, a series, a row of a table, or a volume."""

import operator
from typing import Any

#: names of the axes of events by their number
AXES = {
    1: "(columns,)",
    2: "(steps, features)",
    3: "(height, width, channels)",
    4: "(depth, height, width, channels)",
}
#: names of events by their number of axes
KINDS = {1: ("row", "rows"), 2: ("series", "series"), 3: ("image", "images"), 4: ("volume", "volumes")}


def kind_of(event_shape: tuple[int, ...], count: int = 2) -> str:
    """Return the name of events of a shape: "row", "series", "image" or "volume", in the plural unless `count` is 1.

    Example:

        >>> kind_of((28, 28, 1)), kind_of((64, 8), count=1)
        ('images', 'series')
    """
    return KINDS[len(event_shape)][count != 1]


def check_event_shape(event_shape: Any, image_shape: Any = None) -> tuple[int, ...]:
    """Return the shape of an event as integers; `image_shape` is its other name.

    Raises:
        ValueError: unless one of them is one to four positive integers, or if they differ.

    Example:

        >>> check_event_shape((64, 8)), check_event_shape(None, [28, 28, 1])
        ((64, 8), (28, 28, 1))
    """
    name, value = ("event_shape", event_shape) if event_shape is not None else ("image_shape", image_shape)
    try:
        shape = tuple(operator.index(size) for size in value)
    except TypeError:
        shape = ()
    if len(shape) not in (AXES if name == "event_shape" else (3,)) or min(shape) < 1:
        wanted = " or ".join(AXES.values()) if name == "event_shape" else f"{AXES[3]}, three positive integers"
        raise ValueError(f"Argument `{name}` must be {wanted}. Received: {name}={value}")
    if event_shape is not None and image_shape is not None and shape != tuple(image_shape):
        raise ValueError(
            "Arguments `event_shape` and `image_shape` are two names for one shape: pass one of them. "
            f"Received: event_shape={shape}, image_shape={tuple(image_shape)}"
        )
    return shape


def check_image_shape(image_shape: Any) -> tuple[int, int, int]:
    """Return the shape of an image as three integers; raise a ValueError for another one."""
    height, width, channels = check_event_shape(None, image_shape)
    return height, width, channels
