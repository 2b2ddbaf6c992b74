"""Single images and arrays of images: checks, channels, transparency, resizing.

Images stay `uint8` (or `float32` in [0, 1], if they have more than 8 bits) until a batch is made. The values of `uint8`
images are 0..255 or 0/1; the *scale* stored with them tells which: `x = image / scale`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kvae.data.depth import extremes
from kvae.data.errors import DataError
from kvae.data.files import in_threads

MIN_SIDE = 8
WHITE = (255, 255, 255)

Color = tuple[int, int, int]


def check_size(size: Any) -> tuple[int, int] | None:
    """Return `size` as `(height, width)`, or None.

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


def check_background(background: Any) -> Color:
    """Return a colour name, a grey level or three levels as (red, green, blue), each 0..255.

    Example:
        >>> check_background("white"), check_background(0), check_background((255, 0, 0))
        ((255, 255, 255), (0, 0, 0), (255, 0, 0))
    """
    from PIL import ImageColor

    try:
        color = ImageColor.getrgb(background) if isinstance(background, str) else background
        levels = (color,) * 3 if np.ndim(color) == 0 else tuple(color)
    except (TypeError, ValueError):
        levels = ()
    is_level = [isinstance(v, (int, np.integer)) and not isinstance(v, bool) and 0 <= v <= 255 for v in levels]
    if len(levels) != 3 or not all(is_level):
        raise DataError(
            "Argument 'background' must be a colour ('white', '#ff8000'), a grey level 0..255, or three levels. "
            f"Received: {background!r}"
        )
    return int(levels[0]), int(levels[1]), int(levels[2])


def check_shape(height: int, width: int, channels: int, what: str, min_side: int = MIN_SIDE) -> tuple[int, int, int]:
    """Return the image shape; raise a DataError if no model accepts it."""
    is_channels_first = height != width and channels >= MIN_SIDE and (height < MIN_SIDE or channels == width)
    if channels < 1 or is_channels_first:
        raise DataError(
            f"{what}: expected the channels in the last axis; use np.moveaxis(images, 1, -1) for channels-first "
            f"arrays. Received: images of shape {(height, width, channels)}"
        )
    if min(height, width) < min_side:
        raise DataError(
            f"{what}: expected images of at least {min_side}x{min_side} in an array (N, H, W[, C]); "
            f"enlarge them with size=. Received: images of shape {(height, width, channels)}"
        )
    return height, width, channels


def check_channels(channels: int, grayscale: bool | None, what: str) -> int:
    """Return the number of channels after conversion; raise a DataError if the images are neither grey nor colour."""
    if grayscale is None:
        return channels
    if channels not in (1, 3):
        raise DataError(
            f"{what}: expected 1 or 3 channels to convert between grey and colour; remove grayscale=. "
            f"Received: {channels} channels, grayscale={grayscale}"
        )
    return 1 if grayscale else 3


def check_images(images: Any, what: str, min_side: int = MIN_SIDE) -> np.ndarray:
    """Return images as an array (N, H, W, C) of finite numbers.

    Args:
        images: (N, H, W) or (N, H, W, C): booleans, integers or floats.
        what: name of the array in errors.
        min_side: smallest height and width; 1 if the images will be resized.

    Raises:
        DataError: for another shape or type, or NaN.

    Example:
        >>> import numpy as np
        >>> check_images(np.ones((5, 8, 8), bool), "array").shape
        (5, 8, 8, 1)
    """
    images = np.asarray(images)
    if images.dtype == object or images.dtype.kind not in "buif":
        raise DataError(
            f"{what}: expected numbers; put images of several sizes into a folder instead of an array. "
            f"Received: dtype {images.dtype}"
        )
    if images.ndim not in (3, 4):
        raise DataError(
            f"{what}: expected an array (N, H, W) or (N, H, W, C) of images; reshape flat images. "
            f"Received: shape {images.shape}"
        )
    if len(images) == 0:
        raise DataError(f"{what}: expected at least one image. Received: shape {images.shape}")
    if images.ndim == 3:
        images = images[..., np.newaxis]
    height, width, channels = images.shape[1:]
    check_shape(height, width, channels, what, min_side)
    if images.dtype.kind == "f" and (bad := extremes(images)[2]):
        raise DataError(f"{what}: expected finite values; repair or drop the images. Received: {bad} NaN or infinite")
    return images


def scale_of(images: np.ndarray) -> float:
    """Return the divisor of the images: 1 for floats and for integers that are all 0 or 1, else 255.

    Images that are all 0 could have either scale; 255 is the scale of nearly all files.
    """
    return 1.0 if images.dtype.kind == "f" or images.max(initial=0) == 1 else 255.0


def convert(image: np.ndarray, size: tuple[int, int] | None, channels: int | None) -> np.ndarray:
    """Convert one image (H, W, C), `uint8` or `float32`, to another size, or between 1 and 3 channels.

    The image is cropped about its centre to the target aspect ratio and resized (bicubic), as in `PIL.ImageOps.fit`.
    Grey is the ITU-R 601 luma.

    Example:
        >>> import numpy as np
        >>> convert(np.zeros((10, 30, 3), np.uint8), (8, 8), 1).shape
        (8, 8, 1)
    """
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
        np.asarray(ImageOps.fit(Image.fromarray(plane), (size[1], size[0])))  # Pillow's order is width, height
        for plane in np.moveaxis(np.ascontiguousarray(image), -1, 0)
    ]
    fitted = np.stack(planes, axis=-1)
    return fitted if fitted.dtype == np.uint8 else np.clip(fitted, 0, 1)  # bicubic overshoots


def composite(colour: np.ndarray, alpha: np.ndarray, background: Color) -> np.ndarray:
    """Composite an image on a background: `alpha · colour + (1 − alpha) · background`.

    Args:
        colour: (H, W, 1 or 3), `uint8`, or `float32` in [0, 1].
        alpha: (H, W, 1) in [0, 1].
        background: in 0..255. A grey image on a background that is not grey becomes an image of three channels.

    Example:
        >>> import numpy as np
        >>> composite(np.full((1, 2, 1), 100, np.uint8), np.array([[[1.0], [0.5]]]), (0, 0, 0)).ravel().tolist()
        [100, 50]
    """
    ground = np.array(background, np.float32)
    if colour.shape[-1] == 1 and is_grey(background):
        ground = ground[:1]
    if colour.dtype == np.uint8:
        return np.rint(colour * alpha + ground * (1 - alpha)).astype(np.uint8)
    return (colour * alpha + ground / 255 * (1 - alpha)).astype(np.float32)


def is_grey(color: Color) -> bool:
    return len(set(color)) == 1


def convert_all(
    images: np.ndarray, scale: float, size: tuple[int, int] | None, grayscale: bool | None
) -> tuple[np.ndarray, float]:
    """Return an array (N, H, W, C) of converted images and its scale; unchanged if no conversion is needed."""
    channels = check_channels(images.shape[-1], grayscale, "array")
    shape = (*(size or images.shape[1:3]), channels)
    if images.shape[1:] == shape:
        return images, scale
    widen = images.dtype == np.uint8 and scale == 1  # 0/1 images have no grey levels for resized edges
    out = np.empty((len(images), *shape), images.dtype)

    def work(i: int) -> None:
        out[i] = convert(images[i] * np.uint8(255) if widen else images[i], size, channels)

    in_threads(work, range(len(images)))
    return out, 255.0 if widen else scale
