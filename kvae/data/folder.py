"""Folders of image files, with or without class subfolders and split folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import tensorflow as tf

from kvae.data.catalogue import Catalogue, file_keys
from kvae.data.decoding import Decoder, Header, Picture, decoder_for, measure, read_header, tried
from kvae.data.depth import EIGHT_BIT, UNIT, is_outside, training_range
from kvae.data.errors import DataError, warn
from kvae.data.files import in_threads, warn_unreadable
from kvae.data.images import scale_of
from kvae.data.layout import Layout, lay_out
from kvae.data.notices import Notices, count_by_split, count_in_first, warn_dark
from kvae.data.pillow import Unreadable, pillow_settings
from kvae.data.splits import (
    Memory,
    MemorySplit,
    Request,
    Share,
    Source,
    Split,
    StreamSplit,
    complete_splits,
    read_elements,
    stratified_order,
)

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
    files = tuple(path.relative_to(root).as_posix() for path in layout.paths)
    reasons: dict[int, str] = {}  # why a file is left out, by row
    headers = _each(read_header, layout.paths, reasons)
    _warn_left_out(name, files, reasons, early=True)
    decode = _decoder(name, files, headers, request)
    outside = None
    if decode.depth != EIGHT_BIT and decode.value_range is None:
        lows, highs = _extremes(layout, decode, reasons)
        _warn_left_out(name, files, reasons, early=True)
        training = _splits(name, layout, _is_kept(layout, reasons), request)["train"]
        value_range = training_range(name, decode.depth, lows[training].min(), highs[training].max())
        decode, outside = replace(decode, value_range=value_range), is_outside(lows, highs, value_range)
    warn_dark(name, decode.depth, decode.value_range)
    readable = [row for row in range(len(layout.paths)) if row not in reasons]
    stream = len(readable) * decode.bytes > request.cache_bytes
    rows = readable[:PROBE] if stream else list(range(len(layout.paths)))
    pictures, transparent, clipped = _decode_all(layout.paths, rows, decode, reasons)
    _warn_left_out(name, files, reasons)
    splits = _splits(name, layout, _is_kept(layout, reasons), request)
    notices = Notices(name, decode)
    notices.transparent(count_in_first(transparent) if stream else count_by_split(_by_split(transparent, splits)))
    if outside is not None:
        notices.clipped(count_by_split(_by_split(outside, splits)))
    else:
        notices.clipped(count_in_first(clipped) if stream else count_by_split(_by_split(clipped, splits)))
    scale = scale_of(pictures)
    pick: Callable[[np.ndarray], Split]
    if stream:
        pick = FileReader(name, layout, decode, notices).split
    else:
        pick = partial(MemorySplit, Memory(lambda: (pictures, layout.labels)))
    made = {part: pick(rows) for part, rows in splits.items()}
    has_range = request.value_range is not None or decode.value_range != UNIT
    return Source(
        name, made, decode.shape, scale, layout.labels is not None, layout.label_names, layout.unlabelled, files=files,
        catalogue=Catalogue(lambda: file_keys(layout.paths), splits, pick), decode=decode,
        value_range=decode.value_range if has_range else None,
    )  # fmt: skip


def _each(work: Callable[[Path], B], paths: list[Path], reasons: dict[int, str]) -> dict[int, B]:
    """Return `work` of every file that is not left out, by row; unreadable files are left out from then on."""
    rows = [row for row in range(len(paths)) if row not in reasons]
    found = {}
    for row, result in zip(rows, in_threads(tried(work), [paths[row] for row in rows])):
        if isinstance(result, Unreadable):
            reasons[row] = str(result)
        else:
            found[row] = result
    return found


def _by_split(flags: np.ndarray, splits: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return flags (N,) by split."""
    return {split: flags[rows] for split, rows in splits.items()}


def _is_kept(layout: Layout, reasons: dict[int, str]) -> np.ndarray:
    """Return which files are not left out (N,)."""
    return np.array([row not in reasons for row in range(len(layout.paths))], bool)


def _warn_left_out(name: str, files: Sequence[str], reasons: dict[int, str], early: bool = False) -> None:
    """Warn of files left out, unless `early`; if all files are left out, warn in any case and raise a DataError."""
    nothing_left = len(reasons) == len(files)
    if nothing_left or not early:
        warn_unreadable(name, {files[row]: reasons[row] for row in sorted(reasons)}, len(files))
    if nothing_left:
        raise DataError(f"{name}: expected readable images. Received: {len(files)} image files, none readable")


def _decoder(name: str, files: Sequence[str], headers: dict[int, Header], request: Request) -> Decoder:
    """Return the decoder of the files; its value range may still have to be found."""
    (first_row, first), *others = headers.items()
    for row, header in others if request.size is None else ():
        if header[:2] != first[:2]:
            raise DataError(
                f"{name}: expected images of one size; pass size= (--size on the command line). "
                f"Received: {files[first_row]} {first.height}x{first.width} and "
                f"{files[row]} {header.height}x{header.width} (H x W)"
            )
    return decoder_for(name, [(files[row], header) for row, header in headers.items()], request)


def _extremes(layout: Layout, decode: Decoder, reasons: dict[int, str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest value of each file (N,)."""
    lows, highs = np.full(len(layout.paths), np.inf), np.full(len(layout.paths), -np.inf)
    for row, found in _each(lambda path: measure(path, decode.depth), layout.paths, reasons).items():
        lows[row], highs[row] = found
    return lows, highs


def _decode_all(
    paths: list[Path], rows: list[int], decode: Decoder, reasons: dict[int, str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the images of some rows as one array, and which of them have transparent or clipped pixels."""
    images = np.zeros((len(rows), *decode.shape), decode.dtype)
    transparent, clipped = np.zeros((2, len(rows)), bool)

    def work(place: int) -> None:
        row = rows[place]
        picture = tried(decode)(paths[row]) if row not in reasons else None
        if isinstance(picture, Picture):
            images[place], transparent[place], clipped[place] = picture
        elif picture is not None:
            reasons[row] = str(picture)

    in_threads(work, range(len(rows)))
    return images, transparent, clipped


def _splits(name: str, layout: Layout, good: np.ndarray, request: Request) -> dict[str, np.ndarray]:
    """Return the rows of readable files by split."""
    labels = layout.labels
    parts = {str(part): np.flatnonzero(good & (layout.splits == part)) for part in np.unique(layout.splits)}
    if not len(parts["train"]):
        raise DataError(f"{name}: expected readable images in the train folder. Received: none")
    if labels is not None:  # files are sorted by class; the first images of a split should have all classes
        for part in parts.keys() - layout.unlabelled:
            parts[part] = parts[part][stratified_order(labels[parts[part]], len(parts[part]), request.seed)]
    train_labels = None if labels is None else labels[parts["train"]]
    found = complete_splits({part: len(rows) for part, rows in parts.items()}, train_labels, request, name)
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
