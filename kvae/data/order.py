"""The order of a source's images, and its state."""

import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kvae.data.decoding import read_header, tried
from kvae.data.files import in_threads
from kvae.data.folder import FileReader
from kvae.data.layout import Layout, lay_out
from kvae.data.pillow import Unreadable
from kvae.data.records import find_records
from kvae.data.splits import NAMES, MemorySplit, Split
from kvae.files import checksum

if TYPE_CHECKING:
    from kvae.data.dataset import Data


def in_order(data: "Data") -> "Data":
    """Implement `Data.in_order`."""
    splits: dict[str, Split] = {
        name: replace(split, rows=np.sort(split.rows)) if isinstance(split, MemorySplit) else split
        for name, split in data.source.splits.items()
    }
    if data.files and not all(isinstance(split, MemorySplit) for split in splits.values()):
        layout, rows = folder_rows(data)
        assert data.source.decode is not None
        reader = FileReader(data.name, layout, data.source.decode)
        splits = {name: reader.split(rows[name]) for name in splits}
    return replace(data, source=replace(data.source, splits=splits))


def folder_rows(data: "Data") -> tuple[Layout, dict[str, np.ndarray]]:
    """Return the layout of a folder, and the numbers of its images by split, without images with unreadable headers."""
    assert data.path is not None
    layout = lay_out(data.path, data.name)
    counts = data.counts
    if any(counts[name] and name not in layout.splits for name in NAMES):
        raise ValueError(
            f"{data.name}: expected a folder loaded with validation_fraction=0 and test_fraction=0 for split='all'. "
            f"Received: splits {counts}"
        )
    good = np.ones(len(layout.paths), bool)
    if sum(counts.values()) < len(layout.paths):
        headers = in_threads(tried(read_header), layout.paths)
        good = np.array([not isinstance(header, Unreadable) for header in headers], bool)
    return layout, {name: np.flatnonzero(good & (layout.splits == name)) for name in NAMES}


def state(data: "Data", splits: list[str]) -> str:
    """Implement `Data.state`."""
    digest = hashlib.sha256(data.name.encode())
    in_memory = [split for name in splits if isinstance(split := data.source.splits[name], MemorySplit)]
    if data.path is None:
        for memory in {id(split.memory): split.memory for split in in_memory}.values():
            for array in memory.content:
                digest.update(b"" if array is None else np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    elif data.path.is_file() and not find_records(data.path):
        digest.update(checksum(data.path).encode())
    else:
        files = [data.path / file for file in data.files] or find_records(data.path) or sorted(data.path.rglob("*"))
        for file in files:
            found = file.stat()
            digest.update(os.fsencode(file) + f"\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    for split in in_memory:
        digest.update(np.ascontiguousarray(split.rows).data)
    return digest.hexdigest()
