"""The levels of a hierarchy of latents, from coarse to fine."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from keras import ops

Shape = tuple[int, int, int]
MOST_LAYERS = 1000  # of a level
COARSEST, FINEST = 4, 32  # sides of the grids of `pyramid`


class Level(NamedTuple):
    """A grid of latents, with one or several stochastic layers.

    Attributes:
        stride: side of an image divided by the side of the grid, rounded up; a power of 2.
        layers: number of stochastic layers.
        channels: channels of the latents of each layer.
        width: channels of the deterministic state, on which the layers are conditioned.
    """

    stride: int
    layers: int
    channels: int
    width: int

    def grid(self, image_shape: Shape) -> tuple[int, int]:
        """Return height and width of the grid for images of this shape.

        Example:

            >>> Level(stride=4, layers=2, channels=8, width=48).grid((29, 28, 1))
            (8, 7)
        """
        return grid_of(self.stride, image_shape)


def grid_of(stride: int, image_shape: Shape) -> tuple[int, int]:
    """Return height and width of the grid with a stride, for images of this shape."""
    height, width, _ = image_shape
    return -(-height // stride), -(-width // stride)


def split_grids(flat: Any, shapes: Iterable[Shape]) -> list[Any]:
    """Return flattened grids, one after the other in `(n, D)`, as grids of these shapes, `(n, h, w, channels)` each.

    Example:

        >>> [grid.shape for grid in split_grids(ops.zeros((5, 24)), [(2, 2, 2), (4, 4, 1)])]
        [TensorShape([5, 2, 2, 2]), TensorShape([5, 4, 4, 1])]
    """
    grids, start = [], 0
    for shape in shapes:
        end = start + math.prod(shape)
        grids.append(ops.reshape(flat[:, start:end], (-1, *shape)))
        start = end
    return grids


def check_levels(levels: Iterable[Any]) -> tuple[Level, ...]:
    """Return levels as `Level`s; raise a ValueError unless they run from coarse to fine."""
    message = (
        "Argument `levels` must be rows (stride, layers, channels, width) of positive integers, from coarse to fine, "
        f"with at most {MOST_LAYERS} layers each, and with strides that are falling powers of 2, such as "
        f"((4, 4, 8, 48), (2, 3, 4, 48)). Received: levels={levels}"
    )
    try:
        found = tuple(Level(*level) for level in levels)
    except TypeError as error:
        raise ValueError(message) from error
    strides = [level.stride for level in found]
    positive = all(isinstance(number, int) and number > 0 for level in found for number in level)
    positive = positive and all(level.layers <= MOST_LAYERS for level in found)
    if not found or not positive or any(s & (s - 1) for s in strides) or strides != sorted(set(strides), reverse=True):
        raise ValueError(message)
    return found


def pyramid(image_shape: Shape, rows: Iterable[tuple[int, int, int]]) -> tuple[Level, ...]:
    """Return levels that suit an image: from a grid of at most 4×4 to one of about 16×16 to 32×32.

    Args:
        image_shape: `(H, W, C)`.
        rows: (layers, channels, width), coarse to fine. The last row is for the finest grid. A large image gets further
            coarse levels like the first row; a small image leaves out the first rows.

    Example:

        >>> [tuple(level) for level in pyramid((28, 28, 1), [(2, 8, 32), (1, 4, 24)])]
        [(8, 2, 8, 32), (4, 2, 8, 32), (2, 1, 4, 24)]
        >>> [level.grid((256, 256, 3)) for level in pyramid((256, 256, 3), [(2, 8, 32), (1, 4, 24)])]
        [(4, 4), (8, 8), (16, 16), (32, 32)]
    """
    rows, side = list(rows), max(image_shape[:2])
    levels: list[Level] = []
    stride = 2
    while -(-side // stride) > FINEST:
        stride *= 2
    while not levels or -(-side // stride) >= COARSEST:
        levels.insert(0, Level(stride, *rows[max(-len(rows), -1 - len(levels))]))
        stride *= 2
    return check_levels(levels)


def layer_shapes(levels: tuple[Level, ...], image_shape: Shape) -> list[Shape]:
    """Return the shape of the latents of each stochastic layer, top to bottom.

    Example:

        >>> layer_shapes(check_levels([(4, 2, 8, 48), (2, 1, 4, 48)]), (28, 28, 1))
        [(7, 7, 8), (7, 7, 8), (14, 14, 4)]
    """
    return [(*level.grid(image_shape), level.channels) for level in levels for _ in range(level.layers)]
