"""Image files: finding them, working on many at once, and saying which were left out."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kvae.data.errors import DataWarning
from kvae.data.pillow import ours

HIDDEN = (".", "__MACOSX", "@eaDir", "$RECYCLE.BIN")  # how names begin that are passed over
# Formats that Pillow registers and that are no images to train on: without a decoder of its own (a video, containers
# of data), or drawn by another program.
NO_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# What usually lies beside images and is meant for something else: labels, documents, programs, thumbnails.
COMPANIONS = frozenset(
    ".txt .csv .tsv .json .jsonl .xml .yaml .yml .toml .md .rst .html .htm .css .js .pdf .doc .docx .odt .xls .xlsx "
    ".log .ini .cfg .conf .lst .list .names .cache .data .db .sqlite .mat .pkl .pickle .py .ipynb .m .sh .bat .url "
    ".md5 .sha1 .sha256 .lock".split()
)
SHOWN = 5  # unreadable files that a warning names

A = TypeVar("A")
B = TypeVar("B")


Parts = tuple[str, ...]  # the folders of a path below a root, and the name in them
Reason = tuple[str, str]  # why something is left out, for one and for several

FILE, FOLDER = "file", "folder"
UNKNOWN_KIND: Reason = ("file of a kind that is not read", "files of kinds that are not read")
BROKEN: Reason = ("link to nothing", "links to nothing")
LOOP: Reason = ("link to a folder that it lies in", "links to folders that they lie in")
CLOSED: Reason = ("folder that cannot be opened", "folders that cannot be opened")


class Found(NamedTuple):
    """What lies below a folder, each in sorted order."""

    images: list[Parts]
    folders: list[Parts]  # with and without images; and links to nothing, which may have been folders
    left_out: dict[Reason, list[Parts]]  # what may have been meant as an image
    others: str  # what files there are besides, for an error


def walk(root: Path) -> Iterator[tuple[Parts, str | Reason]]:
    """What lies below a folder: files, folders, and with the reason what is neither or can't be opened.

    Links are followed, but for those to a folder that they lie in. Hidden files and folders are passed over, and those
    that systems make (`__MACOSX`).
    """
    waiting: list[tuple[Parts, frozenset[tuple[int, int]]]] = [((), frozenset())]
    while waiting:
        parts, above = waiting.pop()
        folder = os.path.join(root, *parts)
        try:
            status = os.stat(folder)
            here = status.st_dev, status.st_ino
            if here in above:
                yield parts, LOOP
                continue
            with os.scandir(folder) as found:
                entries = [entry for entry in found if not entry.name.startswith(HIDDEN)]
        except OSError:
            yield parts, CLOSED
            continue
        if parts:
            yield parts, FOLDER
        for entry in entries:
            path = (*parts, entry.name)
            try:
                if entry.is_dir():
                    waiting.append((path, above | {here}))
                elif entry.is_file():
                    yield path, FILE
                elif entry.is_symlink():
                    yield path, BROKEN
            except OSError:  # links to each other
                yield path, BROKEN


def files_below(root: Path) -> Iterator[Parts]:
    """The files in a folder and those below it, in any order."""
    return (parts for parts, what in walk(root) if what == FILE)


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of the images that Pillow can open, in lower case: `.png`, `.jpg`, …"""
    from PIL import Image

    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in _image_formats())


@cache
def _image_formats() -> dict[str, Any]:
    """For each format of images what tells it by a file's first bytes, None where nothing does."""
    from PIL import Image

    Image.init()
    known = {name: accept for name, (_, accept) in Image.OPEN.items() if name not in NO_IMAGES}
    return {**known, "MPO": None}  # a JPEG file of several images, which that format's reader opens


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an image by what it contains."""
    from PIL import Image

    try:
        with open(path, "rb") as file:
            start = file.read(16)
        if not any(accept and accept(start) for accept in _image_formats().values()):
            return False
        with ours, Image.open(path) as image:
            return image.format in _image_formats()
    except Image.DecompressionBombError:
        return True
    except Exception:  # Pillow raises nearly anything on what isn't an image
        return False


def find_images(root: Path) -> Found:
    """The image files under a folder: by their suffixes, and by their contents where they have none.

    Links are followed. Hidden files and folders are passed over. Of other files those are left out without a word that
    usually lie beside images, such as labels and documents (`COMPANIONS`, and files without a suffix); the others may
    have been meant as images (`.heic`, `.dcm`, `.npy`, …).
    """
    images, folders, others = list[Parts](), list[Parts](), list[Parts]()
    left_out: dict[Reason, list[Parts]] = {}
    for parts, what in walk(root):
        if what == FILE:
            suffix = os.path.splitext(parts[-1])[1].lower()
            is_named = suffix[1:2].isalpha()  # that of "frame.0001" says nothing
            taken = suffix in image_suffixes() or (not is_named and is_image(root.joinpath(*parts)))
            (images if taken else others).append(parts)
        elif parts and what != LOOP:
            folders.append(parts)
        if isinstance(what, tuple):
            left_out.setdefault(what, []).append(parts)
    if odd := [parts for parts in others if kind_of(parts) not in COMPANIONS | {""}]:
        left_out[UNKNOWN_KIND] = sorted(odd)
    for parts_left in left_out.values():
        parts_left.sort()
    kinds = f"{len(others)} file{'s' * (len(others) != 1)}: {kinds_of(others)}" if others else ""
    return Found(sorted(images), sorted(folders), left_out, kinds)


def kind_of(parts: Parts) -> str:
    """The suffix of a file in lower case, up to its letters and digits: `.tfrecord` of `a.tfrecord-00000-of-00002`."""
    found = re.search(r"\.[a-z][a-z0-9]*", os.path.splitext(parts[-1])[1].lower())
    return found[0] if found else ""


def kinds_of(files: Sequence[Parts]) -> str:
    """How many files there are of each suffix, the most frequent first.

    Example:
        >>> kinds_of([("a.heic",), ("b.txt",), ("c.TXT",), ("LICENSE",)])
        '2 .txt, 1 .heic, 1 without a suffix'
    """
    counts = Counter(map(kind_of, files)).most_common()
    return listed([f"{count} {kind or 'without a suffix'}" for kind, count in counts])


def told(left_out: Mapping[Reason, Sequence[Parts]]) -> str:
    """What was left out, by reason, with the first of each.

    Example:
        >>> told({BROKEN: [("cats", "1.png")], UNKNOWN_KIND: [("a.heic",), ("b.svg",)]})
        '1 link to nothing (cats/1.png), 2 files of kinds that are not read (1 .heic, 1 .svg: a.heic, b.svg)'
    """
    clauses = []
    for reason, paths in filter(lambda item: item[1], left_out.items()):
        examples = listed(["/".join(parts) or "itself" for parts in paths])
        kinds = f"{kinds_of(paths)}: " if reason is UNKNOWN_KIND else ""
        clauses.append(f"{len(paths)} {reason[len(paths) > 1]} ({kinds}{examples})")
    return ", ".join(clauses)


def holds(root: Path, suffixes: Container[str] | None = None) -> bool:
    """Whether there is an image file, or one of other suffixes, in a folder or below it."""
    wanted = image_suffixes() if suffixes is None else suffixes
    return any(os.path.splitext(parts[-1])[1].lower() in wanted for parts in files_below(root))


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
