"""Image files opened with Pillow, under a limit of our own, and without its warnings.

Pillow's limit is a variable of its module, and its warnings go where the program's do. Both are ours for as long as a
file is open here, in any number of threads; what goes wrong with a file is an `Unreadable` with the reason.
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
DRAFT = {"JPEG": 64, "MPO": 64}  # of a format, how many times fewer pixels it may be decoded to
LONGEST = 120  # letters of a reason

File = Path | IO[bytes]


class Unreadable(Exception):
    """An image that is left out; the message is the reason."""


class _Ours:
    """Pillow's limit and its warnings, while any thread is inside: `warnings.catch_warnings` is for one thread.

    `opened` is inside; who opens many files saves time by being inside all along.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0

    def __enter__(self) -> None:
        from PIL import Image

        with self.lock:
            self.inside += 1
            if self.inside == 1:
                # Errors are raised at twice the limit. It is for images in images; `opened` looks at whole ones.
                self.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_BYTES // 2
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self.filter = warnings.filters[0]
                logging.getLogger("PIL.TiffImagePlugin").addFilter(_silent)

    def __exit__(self, *_: Any) -> None:
        from PIL import Image

        with self.lock:
            self.inside -= 1
            if not self.inside:
                Image.MAX_IMAGE_PIXELS = self.limit
                if self.filter in warnings.filters:
                    warnings.filters.remove(self.filter)  # type: ignore[attr-defined]
                logging.getLogger("PIL.TiffImagePlugin").removeFilter(_silent)


def _silent(record: logging.LogRecord) -> bool:
    return False


ours = _Ours()
_one_large = threading.Lock()


@contextmanager
def opened(file: File, is_decoded: bool = False, side: int | None = None) -> Iterator[Any]:
    """An image file, before it is decoded; what goes wrong with it is an `Unreadable`.

    Args:
        file: a path, or what it contains.
        is_decoded: whether it will be decoded here: large images are, one at a time.
        side: pixels that are enough for either side, where a large image may be decoded smaller.
    """
    from PIL import Image, UnidentifiedImageError

    with ours:
        try:
            # By its path, Pillow would map a TIFF into memory, with the sides of a turned one exchanged.
            with _stream(file) as stream, Image.open(stream) as image:
                _mend_key(image)
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
            raise Unreadable(_complaint(file)) from error
        except Exception as error:  # Pillow raises nearly anything on broken files
            raise Unreadable(_reason(error)) from error


def _stream(file: File) -> AbstractContextManager[IO[bytes]]:
    return open(file, "rb") if isinstance(file, Path) else nullcontext(file)


def _bytes(mode: str) -> int:
    """Of a pixel as Pillow has it."""
    return 1 if mode in ("1", "L", "P") else 2 if mode.startswith("I;16") else 4


def _reason(error: Exception) -> str:
    """What an exception says, in a few words."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _complaint(file: File) -> str:
    """Why no format takes a file: what the one says that it begins like."""
    from PIL import Image

    with _stream(file) as stream:
        stream.seek(0)
        prefix = stream.read(16)
        for name in Image.ID if prefix else ():
            factory, accept = Image.OPEN[name]
            try:
                accepted = accept is not None and accept(prefix)
            except Exception:  # too short for that format
                continue
            if isinstance(accepted, str):
                return accepted
            if accepted:
                stream.seek(0)
                try:
                    factory(stream, "")
                except Exception as error:
                    return f"{name}: {_reason(error)}"
    return "no image of a known format" if prefix else "an empty file"


def orientation(image: Any) -> int:
    """The EXIF orientation, 1 for upright, without decoding: Pillow decodes a PNG to look for a late tag."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return image.getexif().get(0x0112, 1)


def upright(image: Any) -> Any:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image) if orientation(image) != 1 else image


def raw_mode(image: Any) -> str:
    """How pixels lie in the file, before it is decoded."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _mend_key(image: Any) -> None:
    """The transparent colour of a PNG in the units of its pixels, as Pillow decodes them."""
    key, raw = image.info.get("transparency"), raw_mode(image)
    if isinstance(key, int) and raw in ("L;2", "L;4"):
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[raw]
    elif isinstance(key, tuple) and raw == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)
