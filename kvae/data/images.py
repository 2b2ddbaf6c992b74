"""Single images and arrays of them: checks, channels, resizing.

Images stay `uint8` (or `float32`, where they came as floats) until a batch is made. `uint8` images are either
0..255 or 0/1; which of the two is a number beside them, the *scale*: `x = image / scale`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from kvae.data.errors import DataError

MIN_SIDE = 8
CHUNK = 1024  # images looked at together, so that a check needs little memory beside the array


def check_size(size: Any) -> tuple[int, int] | None:
    """`size` as `(height, width)`, or None.

    Example:
        >>> check_size(16)
        (16, 16)
    """
    if size is None:
        return None
    sides = (size, size) if np.ndim(size) == 0 else tuple(size)
    if len(sides) != 2 or not all(isinstance(s, (int, np.integer)) and s >= MIN_SIDE for s in sides):
        raise DataError(f"Argument 'size' must be an integer or (H, W), each >= {MIN_SIDE}. Received: {size!r}")
    return int(sides[0]), int(sides[1])


def check_shape(height: int, width: int, channels: int, what: str, min_side: int = MIN_SIDE) -> tuple[int, int, int]:
    """The image shape if a model can take it; DataError otherwise."""
    if channels not in (1, 3):
        raise DataError(
            f"{what}: expected 1 or 3 channels in the last axis; channels-first arrays need "
            f"np.moveaxis(images, 1, -1). Received: images of shape {(height, width, channels)}"
        )
    if min(height, width) < min_side:
        raise DataError(
            f"{what}: expected images of at least {min_side}x{min_side} in an array (N, H, W[, C]); "
            f"enlarge them with size=. Received: images of shape {(height, width, channels)}"
        )
    return height, width, channels


def check_images(images: Any, what: str, min_side: int = MIN_SIDE) -> np.ndarray:
    """An array of images as `uint8` or `float32` of shape (N, H, W, C).

    Args:
        images: (N, H, W) or (N, H, W, C) with C 1 or 3; booleans, integers in 0..255 or floats in [0, 1].
        what: how an error names the array.
        min_side: smallest height and width; 1 where the images will be resized.

    Raises:
        DataError: for another shape, type or range.

    Example:
        >>> import numpy as np
        >>> check_images(np.ones((5, 8, 8), bool), "array").shape
        (5, 8, 8, 1)
    """
    images = np.asarray(images)
    if images.dtype == object or images.dtype.kind not in "buif":
        raise DataError(
            f"{what}: expected numbers; images of several sizes do not make an array, put them in a folder. "
            f"Received: dtype {images.dtype}"
        )
    if images.ndim not in (3, 4):
        raise DataError(
            f"{what}: expected an array (N, H, W) or (N, H, W, C) of images; reshape flat ones. "
            f"Received: shape {images.shape}"
        )
    if len(images) == 0:
        raise DataError(f"{what}: expected at least one image. Received: shape {images.shape}")
    if images.ndim == 3:
        images = images[..., np.newaxis]
    height, width, channels = images.shape[1:]
    check_shape(height, width, channels, what, min_side)
    return _as_float32(images, what) if images.dtype.kind == "f" else _as_uint8(images, what)


def _as_uint8(images: np.ndarray, what: str) -> np.ndarray:
    if images.dtype != np.uint8 and images.dtype != bool:
        low, high = images.min(), images.max()
        if low < 0 or high > 255:
            raise DataError(
                f"{what}: expected integers in 0..255; scale floats to [0, 1] for more levels. "
                f"Received: values from {low} to {high}"
            )
    return images.astype(np.uint8, copy=False)


def _as_float32(images: np.ndarray, what: str) -> np.ndarray:
    bad = 0
    low, high = np.inf, -np.inf
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        finite = np.isfinite(chunk)
        bad += chunk.size - int(np.count_nonzero(finite))
        low = min(low, float(np.min(chunk, where=finite, initial=np.inf)))
        high = max(high, float(np.max(chunk, where=finite, initial=-np.inf)))
    if bad:
        raise DataError(f"{what}: expected finite values; repair or drop them. Received: {bad} NaN or infinite")
    if low < 0 or high > 1:
        hint = "divide by 255" if low >= 0 and high <= 255 else "rescale them, (x - min) / (max - min)"
        raise DataError(f"{what}: expected floats in [0, 1]; {hint}. Received: values from {low:g} to {high:g}")
    return images.astype(np.float32, copy=False)


def scale_of(images: np.ndarray) -> float:
    """What the images are divided by: 1 for floats and for integers that are all 0 or 1, else 255.

    Images that are all 0 say nothing, and 255 is what nearly every file means.
    """
    return 1.0 if images.dtype.kind == "f" or images.max() == 1 else 255.0


def convert(image: np.ndarray, size: tuple[int, int] | None, channels: int | None) -> np.ndarray:
    """One image (H, W, C), `uint8` or `float32`, at another size and with 1 or 3 channels.

    The image is cropped about its centre to the wanted aspect and resized (bicubic), as `PIL.ImageOps.fit`
    does; grey is the ITU-R 601 luma; an alpha channel is dropped.

    Example:
        >>> import numpy as np
        >>> convert(np.zeros((10, 30, 3), np.uint8), (8, 8), 1).shape
        (8, 8, 1)
    """
    if image.shape[-1] in (2, 4):
        image = image[..., :-1]
    if channels == 1 and image.shape[-1] == 3:
        grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
        image = (np.rint(grey) if image.dtype == np.uint8 else np.clip(grey, 0, 1)).astype(image.dtype)[..., None]
    elif channels == 3 and image.shape[-1] == 1:
        image = np.repeat(image, 3, axis=-1)
    if size is not None and image.shape[:2] != size:
        image = _fit(image, size)
    return image


def _fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image, ImageOps

    planes = [
        np.asarray(ImageOps.fit(Image.fromarray(plane), (size[1], size[0])))  # Pillow says width first
        for plane in np.moveaxis(np.ascontiguousarray(image), -1, 0)
    ]
    fitted = np.stack(planes, axis=-1)
    return fitted if fitted.dtype == np.uint8 else np.clip(fitted, 0, 1)  # bicubic overshoots


def convert_all(
    images: np.ndarray, scale: float, size: tuple[int, int] | None, grayscale: bool | None
) -> tuple[np.ndarray, float]:
    """An array (N, H, W, C) of images through `convert`, and its scale; unchanged where nothing is asked."""
    channels = images.shape[-1] if grayscale is None else 1 if grayscale else 3
    shape = (*(size or images.shape[1:3]), channels)
    if images.shape[1:] == shape:
        return images, scale
    widen = images.dtype == np.uint8 and scale == 1  # 0/1 images have no levels for a resized edge
    out = np.empty((len(images), *shape), images.dtype)

    def work(i: int) -> None:
        out[i] = convert(images[i] * np.uint8(255) if widen else images[i], size, channels)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(work, range(len(images))):
            pass
    return out, 255.0 if widen else scale
