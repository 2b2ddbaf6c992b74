"""Folders of image files, with or without class subfolders and split folders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import tensorflow as tf

from kvae.data.catalogue import Catalogue, file_keys
from kvae.data.decoding import Decoder, Header, Picture, decoder_for, measure, read_header, tried
from kvae.data.depth import EIGHT_BIT
from kvae.data.errors import DataError, warn
from kvae.data.files import in_threads, warn_unreadable
from kvae.data.images import scale_of
from kvae.data.layout import Layout, lay_out
from kvae.data.notices import Notices, warn_dark
from kvae.data.pillow import Unreadable, pillow_settings
from kvae.data.splits import Memory, MemorySplit, Request, Source, Split, complete_splits, stratified_order
from kvae.data.streams import Share, StreamSplit, read_elements

AT_ONCE = 16  # files decoded by one Python call
PROBE = 256  # images of a streamed folder read to distinguish 0/1 from 0..255

B = TypeVar("B")


def folder(root: Path, request: Request) -> Source:
    """Load image files under `root` (recursive, in sorted order).

    The names of the folders determine splits and classes (`kvae.data.layout`). One `DataWarning` counts the files left
    out, another one the unreadable files. Images that fit in `cache_bytes` are decoded once, otherwise on every pass;
    images found unreadable during a pass are skipped with a warning each. Images deeper than 8 bits are decoded once
    more at the beginning to find their range, unless it is given.

    Raises:
        DataError: for a folder without readable images, for images of several depths, or for images of several sizes
            without a `size`.
    """
    name = root.resolve().name
    layout = lay_out(root, name)
    if layout.message:
        warn(f"{name}: {layout.message}")
    files = _Files(name, root, layout.paths)
    headers = files.each(lambda row: read_header(layout.paths[row]))
    notices = Notices(name, _decoder(files, headers, request))
    depth = notices.decode.depth
    if depth != EIGHT_BIT and request.value_range is None:
        lows, highs = np.full(len(layout.paths), np.inf), np.full(len(layout.paths), -np.inf)
        for row, extremes in files.each(lambda row: measure(layout.paths[row], depth)).items():
            lows[row], highs[row] = extremes
        notices.find_range(lows, highs, _splits(files, layout, request))
    decode = notices.decode
    warn_dark(name, depth, decode.value_range)
    pick: Callable[[np.ndarray], Split]
    if len(files.kept) * decode.bytes > request.cache_bytes:
        pictures = list(files.each(lambda row: decode(layout.paths[row]), files.kept[:PROBE]).values())
        notices.first(pictures)
        pixels, pick = decode.stack(pictures), FileReader(name, layout, decode, notices).split
        splits = _splits(files, layout, request)
    else:
        pixels, transparent, clipped = _decode_all(files, decode)
        splits = _splits(files, layout, request)
        notices.by_split(transparent, clipped, splits)
        pick = partial(MemorySplit, Memory(lambda: (pixels, layout.labels)))
    files.warn_left_out()
    made = {part: pick(rows) for part, rows in splits.items()}
    return Source(
        name, made, decode.shape, scale_of(pixels), layout.labels is not None, layout.label_names, layout.unlabelled,
        files=files.names, catalogue=Catalogue(lambda: file_keys(layout.paths), splits, pick), decode=decode,
        value_range=decode.value_range,
    )  # fmt: skip


class _Files:
    """The files of a folder; a file that is found unreadable is left out from then on."""

    def __init__(self, name: str, root: Path, paths: list[Path]) -> None:
        self.name, self.paths = name, paths
        self.names = tuple(path.relative_to(root).as_posix() for path in paths)
        self.reasons: dict[int, str] = {}  # why a file is left out, by row

    @property
    def kept(self) -> np.ndarray:
        """Rows of the files that are not left out."""
        return np.array([row for row in range(len(self.paths)) if row not in self.reasons], np.int64)

    def each(self, work: Callable[[int], B], rows: np.ndarray | None = None) -> dict[int, B]:
        """Return `work(row)` of all files that are not left out, or of some of them, by row.

        Raises:
            DataError: if all files are left out.
        """
        some = (self.kept if rows is None else rows).tolist()
        found = {}
        for row, result in zip(some, in_threads(tried(work), some)):
            if isinstance(result, Unreadable):
                self.reasons[row] = str(result)
            else:
                found[row] = result
        if len(self.reasons) == len(self.paths):
            self.warn_left_out()
            received = f"{len(self.paths)} image files, none readable"
            raise DataError(f"{self.name}: expected readable images. Received: {received}")
        return found

    def warn_left_out(self) -> None:
        reasons = {self.names[row]: reason for row, reason in sorted(self.reasons.items())}
        warn_unreadable(self.name, reasons, len(self.paths))


def _decoder(files: _Files, headers: dict[int, Header], request: Request) -> Decoder:
    """Return the decoder of the files; its value range may still have to be found."""
    (first_row, first), *others = headers.items()
    for row, header in others if request.size is None else ():
        if header[:2] != first[:2]:
            raise DataError(
                f"{files.name}: expected images of one size; pass size= (--size on the command line). "
                f"Received: {files.names[first_row]} {first.height}x{first.width} and "
                f"{files.names[row]} {header.height}x{header.width} (H x W)"
            )
    return decoder_for(files.name, [(files.names[row], header) for row, header in headers.items()], request)


def _decode_all(files: _Files, decode: Decoder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all images as one array, black if they are left out, and which have transparent or clipped pixels (N,)."""
    pixels = np.zeros((len(files.paths), *decode.shape), decode.dtype)
    transparent, clipped = np.zeros((2, len(files.paths)), bool)

    def work(row: int) -> None:
        pixels[row], transparent[row], clipped[row] = decode(files.paths[row])

    files.each(work)
    return pixels, transparent, clipped


def _splits(files: _Files, layout: Layout, request: Request) -> dict[str, np.ndarray]:
    """Return the rows of readable files by split."""
    labels, kept = layout.labels, files.kept
    parts = {str(part): kept[layout.splits[kept] == part] for part in np.unique(layout.splits)}
    if not len(parts["train"]):
        raise DataError(f"{files.name}: expected readable images in the train folder. Received: none")
    if labels is not None:  # files are sorted by class; the first images of a split should have all classes
        for part in parts.keys() - layout.unlabelled:
            parts[part] = parts[part][stratified_order(labels[parts[part]], len(parts[part]), request.seed)]
    train_labels = None if labels is None else labels[parts["train"]]
    found = complete_splits({part: len(rows) for part, rows in parts.items()}, train_labels, request, files.name)
    return {split: parts[part][positions] for split, (part, positions) in found.items()}


class FileReader:
    """Decodes files on every pass. Unreadable files are skipped, with a warning on the first occurrence."""

    def __init__(self, name: str, layout: Layout, decode: Decoder, notices: Notices | None = None) -> None:
        self.name, self.layout, self.decode, self.notices = name, layout, decode, notices
        self.known_bad: set[int] = set()

    def split(self, rows: np.ndarray) -> StreamSplit:
        def elements(key: tf.Tensor | None, limit: int, share: Share) -> tf.data.Dataset:
            kept = rows[:limit].astype(np.int64)
            return read_elements(kept, key, share.rows(len(kept)), self.read, self.decode, AT_ONCE)

        return StreamSplit(len(rows), elements, exact=False)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the readable images of some files, and their [label, row] (n, 2)."""
        with pillow_settings:
            results = [tried(self.decode)(self.layout.paths[row]) for row in rows]
        pictures, read = [], []
        for row, result in zip(rows.tolist(), results):
            if isinstance(result, Picture):
                pictures.append(result)
                read.append((-1 if self.layout.labels is None else self.layout.labels[row], row))
            elif row not in self.known_bad:
                self.known_bad.add(row)
                warn_unreadable(self.name, {self.layout.paths[row].name: str(result)}, len(self.layout.paths))
        if self.notices:
            self.notices.check(pictures)
        return self.decode.stack(pictures), np.array(read, np.int64).reshape(-1, 2)
