"""Identifies the images of a source by their content, so that the splits of a run are found after the source changed.

The key of an image is a number computed from its stored content: the row of an array, the bytes of a file (its size and
up to 12 KiB of it), the checksum of a TFRecord. Nothing is decoded, and a key contains no name or position. Images of a
prepared dataset of TensorFlow Datasets don't change within a version: their keys are computed from the name and the
version of the dataset and the position in it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kvae.data.files import in_threads
from kvae.data.splits import Split

BLOCK = 4096  # bytes read at the beginning, in the middle and at the end of a file
CHUNK = 1024  # rows of an array per task of a thread

Splits = Mapping[str, np.ndarray]  # by split name: one value for each image


class Catalogue:
    """The images of a source, independent of their splits.

    Args:
        keys: function that returns the keys of all N images, `(N,)` uint64; called on first use.
        rows: for each split, the rows of its images among all images, in the order of the split.
        pick: function that returns a split of any rows; None if splits cannot be chosen.
        later: of a long series: function from rows to the rows after them. A fingerprint may then name rows that are in
            no split, because more rows of data move the boundaries of splits, and only later rows are new.
    """

    def __init__(
        self,
        keys: Callable[[], np.ndarray],
        rows: Splits,
        pick: Callable[[np.ndarray], Split] | None = None,
        later: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self._make, self.rows, self.pick, self.later = keys, rows, pick, later

    @cached_property
    def keys(self) -> np.ndarray:
        keys = self._make()
        del self._make  # frees arrays
        return keys

    def with_rows(self, rows: Splits) -> Catalogue:
        """Return the same images in other splits."""
        return Catalogue(lambda: self.keys, rows, self.pick, self.later)


class Changes(NamedTuple):
    """Changes of a source since a fingerprint."""

    missing: dict[str, int]  # by split: number of images that are missing or have changed
    new: int  # number of images that are in none of its splits


class Found(NamedTuple):
    """Rows of the images of a fingerprint in a source."""

    rows: dict[str, np.ndarray]  # by split: rows of the images found, in the order of the split
    missing: dict[str, int]  # by split: number of missing images
    new: np.ndarray  # rows in the source's splits that are not in the fingerprint


def find(catalogue: Catalogue, fingerprint: Splits) -> Found:
    """Find the images of a fingerprint. Copies of an image are matched in their order.

    Example:

        >>> source = Catalogue(lambda: np.array([5, 6, 6, 7], "uint64"), {"train": np.arange(4)})
        >>> found = find(source, {"train": np.array([6, 5], "uint64"), "test": np.array([6, 8], "uint64")})
        >>> {name: rows.tolist() for name, rows in found.rows.items()}, found.missing, found.new.tolist()
        ({'train': [1, 0], 'test': [2]}, {'train': 0, 'test': 1}, [3])
    """
    if catalogue.later is None:
        here = np.concatenate([np.empty(0, np.int64), *catalogue.rows.values()]).astype(np.int64)
    else:
        here = np.arange(len(catalogue.keys))
    keys = catalogue.keys[here]
    wanted = np.concatenate([np.empty(0, np.uint64), *fingerprint.values()]).astype(np.uint64)
    row_of = dict(zip(_copies(keys), here.tolist()))
    places = np.array([row_of.get(copy, -1) for copy in _copies(wanted)], np.int64)
    ends = np.cumsum([len(part) for part in fingerprint.values()])
    parts = dict(zip(fingerprint, np.split(places, ends[:-1]))) if len(ends) else {}
    rows = {name: part[part >= 0] for name, part in parts.items()}
    missing = {name: len(part) - len(rows[name]) for name, part in parts.items()}
    new = here[~np.isin(keys, wanted)] if catalogue.later is None else catalogue.later(places[places >= 0])
    return Found(rows, missing, np.sort(new))


def _copies(keys: np.ndarray) -> list[tuple[int, int]]:
    """Return each key with the number of equal keys before it."""
    number: defaultdict[int, Iterator[int]] = defaultdict(itertools.count)
    return [(key, next(number[key])) for key in keys.tolist()]


def key_of(content: bytes | memoryview) -> int:
    """Return a 64-bit hash of bytes."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def array_keys(images: Any) -> np.ndarray:
    """Return the keys of the rows of an array, or of another object that has a length and slices, `(N,)` uint64.

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
    """Return the keys of files, `(N,)` uint64; 0 for an unreadable file."""
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
    """Return the keys of consecutive images of a dataset that is fixed by its name, `(count,)` uint64."""
    return np.uint64(key_of(set_name.encode())) + np.arange(start, start + count, dtype=np.uint64)
