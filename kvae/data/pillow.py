"""Image files opened with Pillow, with a size limit of this package and without Pillow's warnings.

Pillow's limit is a module variable, and its warnings are those of the process. Both are changed while files are open
here, in any number of threads, and restored afterwards. Every failure is an `Unreadable` with the reason.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

MAX_BYTES = 1 << 30  # of one image as Pillow decodes it
LARGE = 1 << 25  # pixels: larger images are decoded one at a time
DRAFT = {"JPEG": 64, "MPO": 64}  # by format: largest factor by which decoding may reduce the pixels
LONGEST = 120  # characters of a reason

File = Path | IO[bytes]


class Unreadable(Exception):
    """Raised for an image that is left out; the message is the reason."""


class _PillowSettings:
    """Context manager for Pillow's limit and warnings that many threads may share, unlike `warnings.catch_warnings`.

    `open_image` enters it. Code that opens many files saves time by entering it once for all of them.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0

    def __enter__(self) -> None:
        from PIL import Image

        with self.lock:
            self.inside += 1
            if self.inside == 1:
                # Pillow raises at twice its limit, which is for images in images; `open_image` checks whole images.
                self.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_BYTES // 2
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self.filter = warnings.filters[0]
                logging.getLogger("PIL.TiffImagePlugin").addFilter(_reject)

    def __exit__(self, *_: Any) -> None:
        from PIL import Image

        with self.lock:
            self.inside -= 1
            if not self.inside:
                Image.MAX_IMAGE_PIXELS = self.limit
                if self.filter in warnings.filters:
                    warnings.filters.remove(self.filter)  # type: ignore[attr-defined]
                logging.getLogger("PIL.TiffImagePlugin").removeFilter(_reject)


def _reject(record: logging.LogRecord) -> bool:
    return False


pillow_settings = _PillowSettings()
_one_large = threading.Lock()


@contextmanager
def open_image(file: File, is_decoded: bool = False, side: int | None = None) -> Iterator[Any]:
    """Open an image file without decoding it. Every failure is an `Unreadable`.

    Args:
        file: a path or a binary stream.
        is_decoded: whether the image will be decoded inside the context: large images are decoded one at a time.
        side: sufficient side length in pixels; a large image may be decoded at a smaller size.
    """
    from PIL import Image, UnidentifiedImageError

    with pillow_settings:
        try:
            # Given a path, Pillow would map a TIFF into memory and exchange the sides of a rotated one.
            with _stream(file) as stream, Image.open(stream) as image:
                _convert_transparency(image)
                if side is not None and image.width * image.height > LARGE:
                    image.draft(None, (side, side))
                needed = image.width * image.height * _bytes(image.mode)
                if needed > MAX_BYTES * (1 if is_decoded else DRAFT.get(image.format or "", 1)):
                    taken, limit = f"{needed / 1e9:,.1f} GB", f"{MAX_BYTES / 1e9:.1f} GB"
                    raise Unreadable(f"{image.width}x{image.height} pixels take {taken}; the limit is {limit}")
                is_large = is_decoded and image.width * image.height > LARGE
                with _one_large if is_large else nullcontext():
                    yield image
        except Unreadable:
            raise
        except UnidentifiedImageError as error:
            raise Unreadable(_identify_error(file)) from error
        except Exception as error:  # Pillow raises many types of errors on damaged files
            raise Unreadable(_reason(error)) from error


def _stream(file: File) -> AbstractContextManager[IO[bytes]]:
    return open(file, "rb") if isinstance(file, Path) else nullcontext(file)


def _bytes(mode: str) -> int:
    """Return the bytes of a decoded pixel in Pillow."""
    return 1 if mode in ("1", "L", "P") else 2 if mode.startswith("I;16") else 4


def _reason(error: Exception) -> str:
    """Return the message of an exception, shortened."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _identify_error(file: File) -> str:
    """Return why Pillow cannot identify a file: the error of the format that its first bytes match."""
    from PIL import Image

    with _stream(file) as stream:
        stream.seek(0)
        prefix = stream.read(16)
        for name in Image.ID if prefix else ():
            factory, accept = Image.OPEN[name]
            try:
                accepted = accept is not None and accept(prefix)
            except Exception:  # the file is too short for that format
                continue
            if isinstance(accepted, str):
                return accepted
            if accepted:
                stream.seek(0)
                try:
                    factory(stream, "")
                except Exception as error:
                    return f"{name}: {_reason(error)}"
    return "unknown image format" if prefix else "empty file"


def orientation(image: Any) -> int:
    """Return the EXIF orientation, 1 for upright, without decoding: Pillow would decode a PNG to find a late tag."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return image.getexif().get(0x0112, 1)


def turn_upright(image: Any) -> Any:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image) if orientation(image) != 1 else image


def raw_mode(image: Any) -> str:
    """Return the raw mode of the pixels in the file, before decoding."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _convert_transparency(image: Any) -> None:
    """Convert the transparent colour of a PNG to the units of its pixels as Pillow decodes them."""
    key, raw = image.info.get("transparency"), raw_mode(image)
    if isinstance(key, int) and raw in ("L;2", "L;4"):
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[raw]
    elif isinstance(key, tuple) and raw == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)
