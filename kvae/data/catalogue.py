"""Which images a source has, known by their content: so a run's splits are found again when the source has changed.

An image's key is a number made of what is stored: the row of an array, the bytes of a file (its size and up to 12 KiB
of it), the checksum of a TFRecord. Nothing is decoded, and no name or place is in it. Images of a prepared set of
TensorFlow Datasets don't change within a version: theirs are made of the set's name and version, and the place in it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kvae.data.files import in_threads
from kvae.data.splits import Split

BLOCK = 4096  # bytes of a file that are read at its beginning, in its middle and at its end
CHUNK = 1024  # rows of an array that a thread takes at once

Splits = Mapping[str, np.ndarray]  # by the name of a split, something for each of its images


class Catalogue:
    """The images of a source, whatever split they are in.

    Args:
        keys: makes the keys of all N images, `(N,)` uint64; called when they are first needed.
        rows: of each split, where its images are among them, in the order of the split.
        pick: a split of any of them, by where they are; None where splits can't be chosen.
    """

    def __init__(
        self,
        keys: Callable[[], np.ndarray],
        rows: Splits,
        pick: Callable[[np.ndarray], Split] | None = None,
    ) -> None:
        self._make, self.rows, self.pick = keys, rows, pick

    @cached_property
    def keys(self) -> np.ndarray:
        keys = self._make()
        del self._make  # lets arrays go
        return keys

    def fingerprint(self) -> dict[str, np.ndarray]:
        """The keys of each split, in its order."""
        return {name: self.keys[rows] for name, rows in self.rows.items()}


class Changes(NamedTuple):
    """What has happened to the images of a fingerprint."""

    missing: dict[str, int]  # of each split, images that aren't there any more, or are others now
    new: int  # images that are in none of its splits


class Found(NamedTuple):
    """Where the images of a fingerprint are in a source."""

    rows: dict[str, np.ndarray]  # of each of its splits, those that are there, in its order
    missing: dict[str, int]  # of each of its splits, how many aren't
    new: np.ndarray  # rows of the source's splits whose content isn't in the fingerprint


def find(catalogue: Catalogue, fingerprint: Splits) -> Found:
    """Look for the images of a fingerprint. Of copies of an image, the first is found for the first, and so on.

    Example:

        >>> source = Catalogue(lambda: np.array([5, 6, 6, 7], "uint64"), {"train": np.arange(4)})
        >>> found = find(source, {"train": np.array([6, 5], "uint64"), "test": np.array([6, 8], "uint64")})
        >>> {name: rows.tolist() for name, rows in found.rows.items()}, found.missing, found.new.tolist()
        ({'train': [1, 0], 'test': [2]}, {'train': 0, 'test': 1}, [3])
    """
    here = np.concatenate([np.empty(0, np.int64), *catalogue.rows.values()]).astype(np.int64)
    keys = catalogue.keys[here]
    wanted = np.concatenate([np.empty(0, np.uint64), *fingerprint.values()]).astype(np.uint64)
    row_of = dict(zip(_copies(keys), here.tolist()))
    places = np.array([row_of.get(copy, -1) for copy in _copies(wanted)], np.int64)
    ends = np.cumsum([len(part) for part in fingerprint.values()])
    parts = dict(zip(fingerprint, np.split(places, ends[:-1]))) if len(ends) else {}
    rows = {name: part[part >= 0] for name, part in parts.items()}
    missing = {name: len(part) - len(rows[name]) for name, part in parts.items()}
    return Found(rows, missing, np.sort(here[~np.isin(keys, wanted)]))


def _copies(keys: np.ndarray) -> list[tuple[int, int]]:
    """Each key with how many equal ones are before it."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(keys) else np.empty(0, bool)
    place = np.arange(len(keys))
    number = np.empty(len(keys), np.int64)
    number[order] = place - np.maximum.accumulate(np.where(first, place, 0))
    return list(zip(keys.tolist(), number.tolist()))


def key_of(content: bytes | memoryview) -> int:
    """A number of 64 bits for what these bytes are."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def array_keys(images: np.ndarray) -> np.ndarray:
    """Keys of the rows of an array, `(N,)` uint64.

    Example:

        >>> keys = array_keys(np.array([[1, 2], [3, 4], [1, 2]], np.uint8))
        >>> bool(keys[0] == keys[2]), bool(keys[0] == keys[1])
        (True, False)
    """

    def work(start: int) -> list[int]:
        rows = np.ascontiguousarray(images[start : start + CHUNK])
        return [key_of(row.data) for row in rows.reshape(len(rows), -1).view(np.uint8)]

    chunks = in_threads(work, range(0, len(images), CHUNK))
    return np.array([key for chunk in chunks for key in chunk], np.uint64)


def file_keys(paths: Sequence[Path]) -> np.ndarray:
    """Keys of files, `(N,)` uint64; 0 for one that can't be read."""
    return np.array(in_threads(_file_key, paths), np.uint64)


def _file_key(path: Path) -> int:
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= 3 * BLOCK:
                return key_of(file.read())
            content = size.to_bytes(8, "little")
            for start in (0, (size - BLOCK) // 2, size - BLOCK):
                file.seek(start)
                content += file.read(BLOCK)
            return key_of(content)
    except OSError:
        return 0


def stretch_keys(set_name: str, start: int, count: int) -> np.ndarray:
    """Keys of a stretch of a set that doesn't change under its name, `(count,)` uint64."""
    return np.uint64(key_of(set_name.encode())) + np.arange(start, start + count, dtype=np.uint64)
