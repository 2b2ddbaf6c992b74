"""Faces in colour, rendered at any size from known factors."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvae.data.errors import DataError
from kvae.data.images import MIN_SIDE
from kvae.data.portrait import draw
from kvae.data.shapes import FactorData

EXPRESSIONS = ("frown", "smile")  # classes of the source `faces`
FACTORS = (
    "smile", "mouth_open", "turn", "tilt", "brow_height", "brow_slant", "eye_open", "gaze", "face_width", "skin",
    "hair_color", "hair_length", "fringe", "light", "background",
)  # fmt: skip
NUM_FACES = 12_000  # images of the source `faces`
BLOCK = 32 * 64 * 64  # pixels drawn at once: few calls of NumPy, arrays of the size of a cache


def faces(n: int = 10_000, size: int = 64, seed: int = 0) -> FactorData:
    """Render faces with random factors.

    A face has 15 independent factors, each uniform in [−1, 1]:

    | factor | −1 | 1 |
    |---|---|---|
    | `smile` | frown | smile |
    | `mouth_open` | closed | open |
    | `turn`, `tilt` | the head turns, or leans, to the left of the image | to the right |
    | `brow_height` | low | high |
    | `brow_slant` | worried | angry |
    | `eye_open` | nearly closed | wide open |
    | `gaze` | to the left of the image | to the right |
    | `face_width` | narrow | wide |
    | `skin` | light | dark |
    | `hair_color` | black, brown, red | blond, grey |
    | `hair_length` | short | to the shoulders |
    | `fringe` | swept down to the right | to the left |
    | `light` | from the left | from the right |
    | `background` | rose, yellow, green | blue, violet |

    The colour of the eyes goes with that of the hair, the colour of the clothes with the background. Image i depends
    on the seed and i only, and shows the same face at every size. One core renders about 2,000 images of 64×64 a
    second. `kvae.data.load("faces")` returns the first 12,000 images of seed 0, labelled by whether `smile` is above 0.

    Args:
        n: number of images.
        size: height and width in pixels, >= 8.
        seed: seed of the factors, >= 0.

    Returns:
        Images `(n, size, size, 3)` and factors `(n, 15)`, both float32. `sizes` and `categorical` are empty: no factor
        has classes. `kvae.evaluation.disentanglement` divides such factors into bins.

    Raises:
        DataError: if an argument is out of range.

    Example:
        >>> data = faces(4, size=32, seed=1)
        >>> data.images.shape, data.factors.shape, data.names[:3]
        ((4, 32, 32, 3), (4, 15), ('smile', 'mouth_open', 'turn'))
    """
    factors = draw_factors(n, seed)
    return FactorData(_unit(rasterize(factors, _check_side(size))), factors, FACTORS, (), ())


def render_faces(factors: Any = None, size: int = 64, **changes: Any) -> np.ndarray:
    """Render faces with given factors.

    Args:
        factors: `(N, 15)` or `(15,)`, in the order of `faces().names`; None for the face whose factors are all 0.
        size: height and width in pixels, >= 8.
        **changes: factors by name, each a number or `(N,)`; they replace those in `factors`.

    Returns:
        Images `(N, size, size, 3)`, float32 in [0, 1].

    Raises:
        DataError: for an unknown factor, a value outside [−1, 1], or lengths that differ.

    Example:
        >>> import numpy as np
        >>> render_faces(turn=0.5, smile=np.linspace(-1, 1, 9)).shape  # from a frown to a smile
        (9, 64, 64, 3)
        >>> data = faces(20, seed=1)
        >>> np.array_equal(render_faces(data.factors[3])[0], data.images[3])
        True
    """
    side, names = _check_side(size), FACTORS
    table = np.zeros((1, len(names))) if factors is None else np.atleast_2d(np.asarray(factors, np.float64))
    if table.ndim != 2 or table.shape[1] != len(names) or len(table) == 0:
        raise DataError(f"Argument 'factors' must have the shape (N, {len(names)}). Received: {np.shape(factors)}")
    if unknown := [name for name in changes if name not in FACTORS]:
        raise DataError(f"Expected factors among {', '.join(names)}. Received: {', '.join(unknown)}")
    columns = dict(zip(names, table.T)) | {name: np.asarray(value, np.float64) for name, value in changes.items()}
    try:
        table = np.stack(np.broadcast_arrays(*columns.values(), np.zeros(1)), axis=-1)[..., :-1]
    except ValueError as error:
        found = ", ".join(f"{name} {np.shape(value)}" for name, value in changes.items())
        raise DataError(
            f"Expected numbers, or one value for each of {len(table)} faces (or for any number of faces if 'factors' "
            f"is a single one). Received: {found}"
        ) from error
    if table.ndim != 2:
        raise DataError(f"Expected numbers or arrays (N,). Received: factors of shape {table.shape[:-1]}")
    if not np.all(np.abs(table) <= 1):
        i, k = np.argwhere(~(np.abs(table) <= 1))[0]
        raise DataError(f"Expected factors in [-1, 1]. Received: {names[k]}={table[i, k]:g}")
    return _unit(rasterize(table.astype(np.float32), side))


def draw_factors(n: int, seed: int) -> np.ndarray:
    """Draw factors (n, 15), float32 in [−1, 1]; row i doesn't depend on n."""
    if not isinstance(n, (int, np.integer)) or n < 1:
        raise DataError(f"Argument 'n' must be an integer >= 1. Received: {n!r}")
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise DataError(f"Argument 'seed' must be an integer >= 0. Received: {seed!r}")
    return np.random.default_rng(seed).random((n, len(FACTORS)), np.float32) * 2 - 1


def rasterize(factors: np.ndarray, side: int) -> np.ndarray:
    """Render factors (N, 15), float32, as images (N, side, side, 3) uint8.

    Similar faces are drawn together, because the time for a feature grows with the rectangle that contains it in all
    faces of a block.
    """
    column = dict(zip(FACTORS, factors.T))
    order = np.lexsort((column["turn"], np.rint(column["hair_length"] * 2.5), np.rint(column["tilt"] * 5)))
    images = np.empty((len(factors), side, side, 3), np.uint8)
    step = max(BLOCK // side**2, 1)
    for start in range(0, len(order), step):
        rows = order[start : start + step]
        images[rows] = draw({name: values[rows] for name, values in column.items()}, side)
    return images


def _unit(images: np.ndarray) -> np.ndarray:
    return images / np.float32(255)


def _check_side(size: Any) -> int:
    if not isinstance(size, (int, np.integer)) or size < MIN_SIDE:
        raise DataError(f"Argument 'size' must be an integer >= {MIN_SIDE}. Received: {size!r}")
    return int(size)
