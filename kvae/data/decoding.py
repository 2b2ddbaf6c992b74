"""Image files to pixels: headers, and one decoder for all images of a source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from kvae.data.depth import EIGHT_BIT, FLOAT, Range, extremes, scale_to_unit
from kvae.data.errors import DataError
from kvae.data.images import WHITE, Color, check_shape, composite, convert, is_grey
from kvae.data.pillow import LARGE, File, Unreadable, open_image, orientation, raw_mode, turn_upright

if TYPE_CHECKING:
    from kvae.data.splits import Request

SHRUNK = 4  # factor of the target size to which a large image is reduced before it is resized

A = TypeVar("A")
B = TypeVar("B")


class Header(NamedTuple):
    """Properties of an image file, read without decoding; height and width are those after the EXIF rotation."""

    height: int
    width: int
    is_grey: bool
    depth: str = EIGHT_BIT  # or "16-bit", "integer" (of up to 32 bits), "float"
    has_alpha: bool = False


class Picture(NamedTuple):
    """A decoded image."""

    pixels: np.ndarray  # (H, W, C) uint8, or float32 in [0, 1]
    is_transparent: bool = False  # for any pixel
    is_clipped: bool = False  # for any pixel


def read_header(file: File) -> Header:
    """Return the header of an image file.

    Raises:
        Unreadable: if the header cannot be read.
    """
    with open_image(file) as image:
        return _header(image)


def measure(file: File, depth: str) -> Range:
    """Return the lowest and the highest value of an image of that depth, without transparent pixels.

    Raises:
        Unreadable: if the image cannot be decoded or has another depth.
    """
    with open_image(file, is_decoded=True) as image:
        _check_depth(_header(image), depth)
        values, alpha = _deep_values(image)
        return extremes(values if alpha is None else values[alpha > 0])[:2]


@dataclass(frozen=True)
class Decoder:
    """Decodes the image files of one source: the first frame of an animation, upright, on a background.

    Args:
        shape: (H, W, C) of the pixels, C 1 or 3.
        resize: whether images of another size are cropped and resized to this shape.
        depth: depth of all files, as in `Header`.
        value_range: the values that become 0 and 1; None for 8-bit images, which stay uint8.
        background: colour behind transparent pixels.
    """

    shape: tuple[int, int, int]
    resize: bool = False
    depth: str = EIGHT_BIT
    value_range: Range | None = None
    background: Color = WHITE

    @property
    def dtype(self) -> Any:
        """Data type of the pixels."""
        return np.uint8 if self.value_range is None else np.float32

    @property
    def bytes(self) -> int:
        """Number of bytes of one image."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def stack(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Return the pixels of pictures as one array (n, H, W, C)."""
        return np.array([picture.pixels for picture in pictures], self.dtype).reshape(-1, *self.shape)

    def __call__(self, file: File) -> Picture:
        """Return the pixels of a file, given as a path or a binary stream.

        Raises:
            Unreadable: if the image cannot be decoded or has another shape or depth.
        """
        size = self.shape[:2] if self.resize else None
        with open_image(file, is_decoded=True, side=SHRUNK * max(size) if size else None) as image:
            header = _header(image)
            _check_depth(header, self.depth)
            if size is None and (header.height, header.width) != self.shape[:2]:
                raise Unreadable(f"{header.height}x{header.width}, not {self.shape[0]}x{self.shape[1]}")
            picture = self._eight_bit(image, header) if self.depth == EIGHT_BIT else self._deep(image)
            return picture._replace(pixels=convert(picture.pixels, size, self.shape[2]))

    def _eight_bit(self, image: Any, header: Header) -> Picture:
        is_one_channel = image.mode in ("1", "L", "LA", "La")
        mode = ("LA" if is_one_channel else "RGBA") if header.has_alpha else "L" if is_one_channel else "RGB"
        image = turn_upright(image)
        image = self._shrink(image if image.mode == mode else image.convert(mode))
        pixels = np.asarray(image)
        pixels = pixels if pixels.ndim == 3 else pixels[..., np.newaxis]
        is_transparent = header.has_alpha and int(pixels[..., -1].min()) < 255
        if header.has_alpha:
            colour, alpha = pixels[..., :-1], pixels[..., -1:]
            pixels = composite(colour, alpha / np.float32(255), self.background) if is_transparent else colour
        if self.value_range is None:
            return Picture(pixels, is_transparent)
        pixels, outside = scale_to_unit(pixels, self.value_range)
        return Picture(pixels, is_transparent, bool(outside.any()))

    def _deep(self, image: Any) -> Picture:
        from PIL import Image

        assert self.value_range is not None
        values, alpha = _deep_values(image)
        unit, outside = scale_to_unit(values, self.value_range)
        is_transparent = not (alpha is None or alpha.all())
        pixels = unit[..., np.newaxis]
        if alpha is not None and is_transparent:
            pixels = composite(pixels, alpha[..., np.newaxis], self.background)
        planes = [np.asarray(self._shrink(Image.fromarray(plane))) for plane in np.moveaxis(pixels, -1, 0)]
        return Picture(np.stack(planes, axis=-1), is_transparent, bool(outside.any()))

    def _shrink(self, image: Any) -> Any:
        """Reduce a large image to `SHRUNK` times the target size, if it will be resized to a much smaller one."""
        from PIL import Image

        if not self.resize or image.width * image.height <= LARGE:
            return image
        factor = min(image.width // self.shape[1], image.height // self.shape[0]) // SHRUNK
        if factor < 2:
            return image
        size = image.width // factor, image.height // factor
        return image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def tried(work: Callable[[A], B]) -> Callable[[A], B | Unreadable]:
    """Wrap `work` to return an `Unreadable` instead of raising it."""

    def attempt(item: A) -> B | Unreadable:
        try:
            return work(item)
        except Unreadable as error:
            return error

    return attempt


def decoder_for(name: str, headers: Sequence[tuple[str, Header]], request: Request) -> Decoder:
    """Return a decoder for images with these headers, given as (file name, header).

    The value range of images deeper than 8 bits may still have to be found.

    Raises:
        DataError: if the images have several depths (the message names two of them) or are too small.
    """
    (first_name, first), *others = headers
    for other_name, other in others:
        if _group(other.depth) != _group(first.depth):
            raise DataError(
                f"{name}: expected images of one depth; convert them or put them into separate folders. "
                f"Received: {first_name} ({first.depth}) and {other_name} ({other.depth})"
            )
    grey, background = request.grayscale, request.background
    if grey is None:
        grey = all(header.is_grey and (is_grey(background) or not header.has_alpha) for _, header in headers)
    shape = (*(request.size or first[:2]), 1 if grey else 3)
    if request.size is None:
        check_shape(*shape, name)
    return Decoder(shape, request.size is not None, first.depth, request.value_range, background)


def _group(depth: str) -> str:
    """Return the group of a depth: 16-bit and 32-bit integers may be mixed (Pillow reads 16-bit PGM as 32-bit)."""
    return depth if depth in (EIGHT_BIT, FLOAT) else "integer"


def _check_depth(header: Header, depth: str) -> None:
    if _group(header.depth) != _group(depth):
        raise Unreadable(f"{header.depth}, not {depth}")


def _header(image: Any) -> Header:
    width, height = image.size
    if image.format == "TIFF":  # newer versions of Pillow return the rotated size
        width, height = image.tag_v2[256], image.tag_v2[257]
    if orientation(image) in (5, 6, 7, 8):  # rotated by 90 degrees
        width, height = height, width
    sixteen = "16-bit" if image.mode.startswith("I;16") else EIGHT_BIT
    depth = {"F": FLOAT, "I": "integer"}.get(image.mode, sixteen)
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return Header(height, width, depth != EIGHT_BIT or image.mode in ("1", "L", "LA", "La"), depth, has_alpha)


def _deep_values(image: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (H, W) values of more than 8 bits, and a mask (H, W) of opaque pixels, or None without transparency."""
    is_unsigned = image.mode == "I" and raw_mode(image) == "I;32N"  # TIFF: Pillow treats it as signed
    key = image.info.get("transparency")
    values = np.asarray(turn_upright(image))
    values = values.view(np.uint32) if is_unsigned else values
    if bad := np.count_nonzero(~np.isfinite(values)):
        raise Unreadable(f"{bad} NaN or infinite pixels")
    return values, values != key if isinstance(key, int) else None
