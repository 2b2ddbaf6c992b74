"""`.npz` files: the entries of images and labels, found by their names and shapes.

Only headers are read to find them, and then only these entries: an archive may hold other entries that are large or
unsafe to unpickle.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from kvae.data.errors import DataError, warn

SPLITS = {
    "train": ("train", "training", "tr"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "te"),
}
IMAGES = ("images", "image", "imgs", "img", "x", "data", "samples")
LABELS = ("labels", "label", "y", "targets", "target", "classes")
POSITIONAL = "arr_0", "arr_1"  # names that `np.savez` gives to unnamed arrays

Pair = tuple[Any, Any]  # images and labels; the labels may be None


class Entry(NamedTuple):
    """The header of an entry."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def is_images(self) -> bool:
        """Whether the entry can be images (N, H, W) or (N, H, W, C), or windows of series (N, T, F)."""
        return len(self.shape) in (3, 4) and self.dtype.kind in "buif" and min(self.shape) > 0


def pairs(archive: Any, name: str, key: str | None = None) -> dict[str, Pair]:
    """Return the images and labels of an open `.npz` file by split.

    Args:
        archive: result of `np.load`.
        name: name of the file in errors.
        key: entry of the images, if it cannot be found by its name; its labels must have as many rows.

    Raises:
        DataError: if no entry, or more than one, may be the images.
    """
    entries = _entries(archive)
    splits = {} if key is not None else _by_split(entries)
    if "train" not in splits:
        image = _checked_key(entries, key, name) if key is not None else _image_key(entries, name)
        label = _find_key(entries, LABELS) or (POSITIONAL[1] if image == POSITIONAL[0] else None)
        is_named = key is None and label not in POSITIONAL
        if label not in entries or not (is_named or entries[label].shape[:1] == entries[image].shape[:1]):
            label = None
        splits = {"train": (image, label)}
    return {split: (archive[image], _labels(archive, entries, label, name)) for split, (image, label) in splits.items()}


def _entries(archive: Any) -> dict[str, Entry]:
    """Return the headers of the entries without reading their data."""
    found = {}
    for key in archive.files:
        member = key if key in archive.zip.namelist() else f"{key}.npy"
        with archive.zip.open(member) as file:
            try:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            except ValueError:  # not an array
                continue
            found[key] = Entry(shape, dtype)
    return found


def _by_split(entries: dict[str, Entry]) -> dict[str, tuple[str, str | None]]:
    """Return the keys of images and labels by split, for keys that name a split."""
    found: dict[str, tuple[str, str | None]] = {}
    for split, names in SPLITS.items():
        image = _find_key(entries, [(split_name, role) for split_name in names for role in (*IMAGES, "")])
        if image is not None and entries[image].is_images:
            label = _find_key(entries, [(split_name, role) for split_name in names for role in LABELS])
            found[split] = (image, label)
    return found


def _find_key(entries: dict[str, Entry], wanted: Any) -> str | None:
    """Return the first key made of these words in any order, ignoring case and separators: `x_train`, `TrainX`."""
    letters = {re.sub(r"[^a-z0-9]", "", key.lower()): key for key in reversed(entries)}
    for words in wanted:
        words = (words,) if isinstance(words, str) else words
        for word in ("".join(words), "".join(reversed(words))):
            if word in letters:
                return letters[word]
    return None


def _image_key(entries: dict[str, Entry], name: str) -> str:
    """Return the key of the images of a file without splits."""
    named = _find_key(entries, IMAGES)
    if named is not None and entries[named].is_images:
        return named
    candidates = [key for key, entry in entries.items() if entry.is_images]
    if len(entries) == 1:
        return next(iter(entries))
    if len(candidates) == 1:
        return candidates[0]
    raise DataError(
        f"{name}: expected arrays x_train, y_train, x_test, y_test, or images and labels, or a single array of images; "
        f"select another one with key= (--key on the command line). Received: {_list_entries(entries)}"
    )


def _checked_key(entries: dict[str, Entry], key: str, name: str) -> str:
    if key not in entries:
        found = _list_entries(entries)
        raise DataError(f"{name}: expected 'key' to be an entry of the file ({found}). Received: {key!r}")
    return key


def _labels(archive: Any, entries: dict[str, Entry], key: str | None, name: str) -> Any:
    """Return labels, if there is one class for each image; other labels are left out with a warning."""
    if key is None:
        return None
    shape, dtype = entries[key]
    if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
        if dtype.kind in "buiUS":
            return archive[key]
        labels = archive[key] if dtype.kind == "f" else None
        if labels is not None and np.all(labels == np.rint(labels)):
            return labels
    problem = "has several labels per image" if len(shape) == 2 and shape[1] > 1 else "is not one class per image"
    warn(f"{name}: labels left out, because {key} {shape} {dtype} {problem}")
    return None


def _list_entries(entries: dict[str, Entry]) -> str:
    return ", ".join(f"{key} {entry.shape} {entry.dtype}" for key, entry in sorted(entries.items())) or "no arrays"
