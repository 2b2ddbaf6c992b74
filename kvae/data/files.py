"""Image files: finding them, processing them in threads, and reporting the files left out."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kvae.data.errors import warn
from kvae.data.pillow import pillow_settings

HIDDEN = (".", "__MACOSX", "@eaDir", "$RECYCLE.BIN")  # prefixes of the names to ignore
# Formats that Pillow registers but that are no training images: it has no decoder for them (video, data containers) or
# calls another program.
NO_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Suffixes of files that usually lie beside images: labels, documents, programs, thumbnails.
COMPANIONS = frozenset(
    ".txt .csv .tsv .json .jsonl .xml .yaml .yml .toml .md .rst .html .htm .css .js .pdf .doc .docx .odt .xls .xlsx "
    ".log .ini .cfg .conf .lst .list .names .cache .data .db .sqlite .mat .pkl .pickle .py .ipynb .m .sh .bat .url "
    ".md5 .sha1 .sha256 .lock".split()
)
SHOWN = 5  # number of files named in a warning

A = TypeVar("A")
B = TypeVar("B")


Parts = tuple[str, ...]  # components of a path below a root
Reason = tuple[str, str]  # why files are left out, singular and plural

FILE, FOLDER = "file", "folder"
UNSUPPORTED: Reason = ("file of an unsupported type", "files of unsupported types")
BROKEN: Reason = ("broken link", "broken links")
LOOP: Reason = ("link to a parent folder", "links to parent folders")
INACCESSIBLE: Reason = ("folder that cannot be opened", "folders that cannot be opened")


class Found(NamedTuple):
    """The contents of a folder, each list in sorted order."""

    images: list[Parts]
    folders: list[Parts]  # with and without images; also broken links, which may have been folders
    left_out: dict[Reason, list[Parts]]  # files that may have been meant as images
    other_files: str  # summary of the other files, for an error


def walk(root: Path) -> Iterator[tuple[Parts, str | Reason]]:
    """Iterate over the paths below a folder, each with `FILE`, `FOLDER` or the reason why it cannot be used.

    Links are followed, except links to a parent folder. Hidden files and folders, and those made by operating systems
    (`__MACOSX`), are ignored.
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
            yield parts, INACCESSIBLE
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
    """Iterate over the files in a folder and its subfolders, in any order."""
    return (parts for parts, what in walk(root) if what == FILE)


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the images that Pillow can open, in lower case: `.png`, `.jpg`, …"""
    from PIL import Image

    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in _image_formats())


@cache
def _image_formats() -> dict[str, Any]:
    """Return for each image format the function that recognises the first bytes of a file, or None."""
    from PIL import Image

    Image.init()
    known = {name: accept for name, (_, accept) in Image.OPEN.items() if name not in NO_IMAGES}
    return {**known, "MPO": None}  # a JPEG file of several images, opened by the JPEG reader


def is_image(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is an image, judged by its contents."""
    from PIL import Image

    try:
        with open(path, "rb") as file:
            start = file.read(16)
        if not any(accept and accept(start) for accept in _image_formats().values()):
            return False
        with pillow_settings, Image.open(path) as image:
            return image.format in _image_formats()
    except Image.DecompressionBombError:
        return True
    except Exception:  # Pillow raises many types of errors for other files
        return False


def find_images(root: Path) -> Found:
    """Find the image files under a folder, by their suffixes, or by their contents if they have no suffix.

    Links are followed. Hidden files and folders are ignored. Files that usually lie beside images, such as labels and
    documents (`COMPANIONS`, and files without a suffix), are left out silently. All remaining files may have been meant
    as images (`.heic`, `.dcm`, `.npy`, …) and are reported.
    """
    images, folders, others = list[Parts](), list[Parts](), list[Parts]()
    left_out: dict[Reason, list[Parts]] = {}
    for parts, what in walk(root):
        if what == FILE:
            suffix = os.path.splitext(parts[-1])[1].lower()
            is_named = suffix[1:2].isalpha()  # ".0001" of "frame.0001" is not a file type
            taken = suffix in image_suffixes() or (not is_named and is_image(root.joinpath(*parts)))
            (images if taken else others).append(parts)
        elif parts and what != LOOP:
            folders.append(parts)
        if isinstance(what, tuple):
            left_out.setdefault(what, []).append(parts)
    if odd := [parts for parts in others if suffix_of(parts) not in COMPANIONS | {""}]:
        left_out[UNSUPPORTED] = sorted(odd)
    for parts_left in left_out.values():
        parts_left.sort()
    kinds = f"{len(others)} file{'s' * (len(others) != 1)}: {count_suffixes(others)}" if others else ""
    return Found(sorted(images), sorted(folders), left_out, kinds)


def suffix_of(parts: Parts) -> str:
    """Return the suffix of a file, lower case, letters and digits: `.tfrecord` of `a.tfrecord-00000-of-00002`."""
    found = re.search(r"\.[a-z][a-z0-9]*", os.path.splitext(parts[-1])[1].lower())
    return found[0] if found else ""


def count_suffixes(files: Sequence[Parts]) -> str:
    """Return the number of files of each suffix as text, the most frequent first.

    Example:
        >>> count_suffixes([("a.heic",), ("b.txt",), ("c.TXT",), ("LICENSE",)])
        '2 .txt, 1 .heic, 1 without a suffix'
    """
    counts = Counter(map(suffix_of, files)).most_common()
    return list_first([f"{count} {kind or 'without a suffix'}" for kind, count in counts])


def describe_left_out(left_out: Mapping[Reason, Sequence[Parts]]) -> str:
    """Return what was left out as text, by reason, with the first names of each.

    Example:
        >>> describe_left_out({BROKEN: [("cats", "1.png")], UNSUPPORTED: [("a.heic",), ("b.svg",)]})
        '1 broken link (cats/1.png), 2 files of unsupported types (1 .heic, 1 .svg: a.heic, b.svg)'
    """
    clauses = []
    for reason, paths in filter(lambda item: item[1], left_out.items()):
        examples = list_first(["/".join(parts) or "the folder itself" for parts in paths])
        kinds = f"{count_suffixes(paths)}: " if reason is UNSUPPORTED else ""
        clauses.append(f"{len(paths)} {reason[len(paths) > 1]} ({kinds}{examples})")
    return ", ".join(clauses)


def holds(root: Path, suffixes: Container[str] | None = None) -> bool:
    """Return whether a folder or its subfolders contain an image file, or a file with one of `suffixes`."""
    wanted = image_suffixes() if suffixes is None else suffixes
    return any(os.path.splitext(parts[-1])[1].lower() in wanted for parts in files_below(root))


def in_threads(work: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """Apply `work` to every item in threads; Pillow releases the interpreter lock while it decodes."""
    with pillow_settings, ThreadPoolExecutor() as pool:
        return list(pool.map(work, items))


def list_first(names: Sequence[Any]) -> str:
    """Return the first names as text for a warning."""
    return ", ".join(map(str, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")


def warn_unreadable(name: str, reasons: Mapping[str, str], total: int) -> None:
    """Warn of unreadable files: their number, and the names of the first ones with the reasons."""
    if reasons:
        named = list_first([f"{file} ({reason})" for file, reason in reasons.items()])
        warn(f"{name}: skipped {len(reasons)} of {total} images (unreadable): {named}")
