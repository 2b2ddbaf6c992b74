"""Image files: finding them, working on many at once, and saying which were left out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from kvae.data.errors import DataWarning
from kvae.data.pillow import ours

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".jfif"}
)
SHOWN = 5  # unreadable files that a warning names

A = TypeVar("A")
B = TypeVar("B")


def find_images(root: Path) -> list[Path]:
    """The image files under a folder, sorted; hidden files and folders (and `__MACOSX`) are passed over."""
    found = [path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    hidden = (".", "__MACOSX")
    return sorted(p for p in found if not any(part.startswith(hidden) for part in p.relative_to(root).parts))


def holds(root: Path, suffixes: Container[str] = SUFFIXES) -> bool:
    """Whether there is an image file, or another of these suffixes, in a folder or below it."""
    return any(path.suffix.lower() in suffixes for path in root.rglob("*"))


def in_threads(work: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """`work` on every item, several at once; Pillow lets other threads run while it decodes."""
    with ours, ThreadPoolExecutor() as pool:
        return list(pool.map(work, items))


def listed(names: Sequence[Any]) -> str:
    """The first of them, as a warning names them."""
    return ", ".join(map(str, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")


def warn_unreadable(name: str, reasons: Mapping[str, str], total: int) -> None:
    """One warning that names the first unreadable files, says why, and counts all of them."""
    if reasons:
        named = listed([f"{file} ({reason})" for file, reason in reasons.items()])
        warnings.warn(
            f"{name}: skipped {len(reasons)} of {total} images that cannot be read: {named}",
            DataWarning,
            stacklevel=2,
        )
