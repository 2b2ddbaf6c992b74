"""`.npz` files: which entries are images and labels, by their names and shapes.

Only headers are read to tell, and then the entries that are needed: an archive may hold others that are large, or that
nobody should unpickle.
"""

from __future__ import annotations

import re
import warnings
from typing import Any, NamedTuple

import numpy as np

from kvae.data.errors import DataError, DataWarning

SPLITS = {
    "train": ("train", "training", "tr"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "te"),
}
IMAGES = ("images", "image", "imgs", "img", "x", "data", "samples")
LABELS = ("labels", "label", "y", "targets", "target", "classes")
POSITIONAL = "arr_0", "arr_1"  # what `np.savez` calls arrays without a name

Pair = tuple[Any, Any]  # images and labels; the labels may be None


class Entry(NamedTuple):
    """What a header says."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def is_images(self) -> bool:
        """Whether it can be (N, H, W) or (N, H, W, C)."""
        return len(self.shape) in (3, 4) and self.dtype.kind in "buif" and min(self.shape) > 0


def pairs(archive: Any, name: str, key: str | None = None) -> dict[str, Pair]:
    """Images and labels by split, of an open `.npz` file.

    Args:
        archive: what `np.load` gives.
        name: of the file, for errors.
        key: the entry of the images, where its name doesn't say so; its labels are those that fit in number.

    Raises:
        DataError: if no entry, or more than one, can be meant.
    """
    entries = _entries(archive)
    splits = {} if key is not None else _by_split(entries)
    if "train" not in splits:
        image = _given(entries, key, name) if key is not None else _single(entries, name)
        label = _named(entries, LABELS) or (POSITIONAL[1] if image == POSITIONAL[0] else None)
        is_named = key is None and label not in POSITIONAL
        if label not in entries or not (is_named or entries[label].shape[:1] == entries[image].shape[:1]):
            label = None
        splits = {"train": (image, label)}
    return {split: (archive[image], _labels(archive, entries, label, name)) for split, (image, label) in splits.items()}


def _entries(archive: Any) -> dict[str, Entry]:
    """The headers, without what is behind them."""
    found = {}
    for key in archive.files:
        member = key if key in archive.zip.namelist() else f"{key}.npy"
        with archive.zip.open(member) as file:
            try:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            except ValueError:  # a member that is no array
                continue
            found[key] = Entry(shape, dtype)
    return found


def _by_split(entries: dict[str, Entry]) -> dict[str, tuple[str, str | None]]:
    """Keys of images and labels, where both say of which split they are."""
    found: dict[str, tuple[str, str | None]] = {}
    for split, names in SPLITS.items():
        image = _named(entries, [(split_name, role) for split_name in names for role in (*IMAGES, "")])
        if image is not None and entries[image].is_images:
            label = _named(entries, [(split_name, role) for split_name in names for role in LABELS])
            found[split] = (image, label)
    return found


def _named(entries: dict[str, Entry], wanted: Any) -> str | None:
    """The first key that says one of these, in any order, capitals and separators aside: `x_train`, `TrainX`."""
    letters = {re.sub(r"[^a-z0-9]", "", key.lower()): key for key in reversed(entries)}
    for words in wanted:
        words = (words,) if isinstance(words, str) else words
        for word in ("".join(words), "".join(reversed(words))):
            if word in letters:
                return letters[word]
    return None


def _single(entries: dict[str, Entry], name: str) -> str:
    """The key of the images of a file without splits."""
    named = _named(entries, IMAGES)
    if named is not None and entries[named].is_images:
        return named
    able = [key for key, entry in entries.items() if entry.is_images]
    if len(entries) == 1:
        return next(iter(entries))
    if len(able) == 1:
        return able[0]
    raise DataError(
        f"{name}: expected arrays x_train, y_train, x_test, y_test, or images and labels, or a single one of images; "
        f"key= (--key on the command) names another. Received: {_listed(entries)}"
    )


def _given(entries: dict[str, Entry], key: str, name: str) -> str:
    if key not in entries:
        raise DataError(f"{name}: expected 'key' to be one of its entries. Received: {key!r}, of {_listed(entries)}")
    return key


def _labels(archive: Any, entries: dict[str, Entry], key: str | None, name: str) -> Any:
    """Labels, if they are one for each image; others are left out with a warning."""
    if key is None:
        return None
    shape, dtype = entries[key]
    if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
        if dtype.kind in "buiUS":
            return archive[key]
        labels = archive[key] if dtype.kind == "f" else None
        if labels is not None and np.all(labels == np.rint(labels)):
            return labels
    what = "several for each image" if len(shape) == 2 and shape[1] > 1 else "no classes"
    warnings.warn(f"{name}: taken without labels, for {key} {shape} {dtype} are {what}", DataWarning, stacklevel=5)
    return None


def _listed(entries: dict[str, Entry]) -> str:
    return ", ".join(f"{key} {entry.shape} {entry.dtype}" for key, entry in sorted(entries.items())) or "no arrays"
