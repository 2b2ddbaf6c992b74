"""Image files: finding, looking into the header, decoding."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np

from kvae.data.errors import DataWarning
from kvae.data.images import convert

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".jfif"}
)
SHOWN = 5  # unreadable files that a warning names

A = TypeVar("A")
B = TypeVar("B")


class Header(NamedTuple):
    """What a file says of itself before it is decoded; the sides are as shown, after the EXIF rotation."""

    height: int
    width: int
    is_grey: bool


def find_images(root: Path) -> list[Path]:
    """The image files under a folder, sorted; hidden files and folders (and `__MACOSX`) are passed over."""
    found = [path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    hidden = (".", "__MACOSX")
    return sorted(p for p in found if not any(part.startswith(hidden) for part in p.relative_to(root).parts))


def holds(root: Path, suffixes: Container[str] = SUFFIXES) -> bool:
    """Whether there is an image file, or another of these suffixes, in a folder or below it."""
    return any(path.suffix.lower() in suffixes for path in root.rglob("*"))


def read_header(path: Path | IO[bytes]) -> Header | None:
    """The header of an image file, None if it has no readable one."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            if _orientation(image) in (5, 6, 7, 8):  # turned by 90 degrees
                width, height = height, width
            return Header(height, width, image.mode in ("1", "L", "LA") or image.mode.startswith("I"))
    except Exception:  # Pillow raises nearly anything on broken files
        return None


def _orientation(image: Any) -> int:
    """The EXIF orientation, 1 for upright, without decoding: Pillow decodes a PNG to look for a late tag."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return image.getexif().get(0x0112, 1)


def decode(path: Path | IO[bytes], size: tuple[int, int] | None, channels: int) -> np.ndarray | None:
    """An image file, a path or what it contains, as uint8 (H, W, channels), None if it cannot be decoded.

    The first frame of an animation, upright by its EXIF tag, without its alpha channel; 16-bit grey is scaled
    to 0..255.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened) if _orientation(opened) != 1 else opened
            if image.mode.startswith("I"):
                grey = np.clip(np.asarray(image, np.float64), 0, 65535)
                pixels = np.rint(grey / 257).astype(np.uint8)[..., np.newaxis]
            else:
                is_grey = image.mode in ("1", "L", "LA")
                pixels = np.asarray(image.convert("L" if is_grey else "RGB"))
        pixels = pixels if pixels.ndim == 3 else pixels[..., np.newaxis]
        return convert(pixels, size, channels)
    except Exception:  # Pillow raises nearly anything on broken files
        return None


def in_threads(work: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """`work` on every item, several at once; Pillow lets other threads run while it decodes."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(work, items))


def listed(names: Sequence[Any]) -> str:
    """The first of them, as a warning names them."""
    return ", ".join(map(str, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")


def warn_unreadable(name: str, bad: Sequence[Path], total: int) -> None:
    """One warning that names the first unreadable files and counts all of them."""
    if bad:
        warnings.warn(
            f"{name}: skipped {len(bad)} of {total} images that cannot be read: {listed([p.name for p in bad])}",
            DataWarning,
            stacklevel=2,
        )
