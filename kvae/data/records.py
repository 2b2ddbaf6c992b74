"""TFRecord files of `tf.train.Example` with encoded images, as written by other tools.

Opening a file reads the header of every record: its position and its length. A pass then reads stretches of records, in
another order each time, and checks the checksum of every record. Damaged records are left out with a warning.

The format: length (uint64), its masked CRC-32C, the data, the data's masked CRC-32C; all little-endian
(https://www.tensorflow.org/tutorials/load_data/tfrecord).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import mmap
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import tensorflow as tf

from kvae.data.catalogue import Catalogue
from kvae.data.decoding import Decoder, Header, Picture, decoder_for, measure, read_header, tried
from kvae.data.depth import EIGHT_BIT
from kvae.data.errors import DataError, warn
from kvae.data.files import files_below, in_threads, list_first
from kvae.data.images import scale_of
from kvae.data.layout import splits_of_files
from kvae.data.notices import Notices, warn_dark
from kvae.data.pillow import Unreadable
from kvae.data.splits import NAMES, Memory, MemorySplit, Request, Source, Split, held_out_sizes
from kvae.data.streams import Share, StreamSplit, buffer_size, read_elements, shuffled

NAME = re.compile(r"\.tfrecords?($|[-.])")
IMAGE, LABEL = ("image/encoded", "image"), ("image/class/label", "label")
HEADER, FOOTER = 12, 4  # bytes around the data of a record
STRETCH = 64  # records read at once
PROBE = 256  # images read to distinguish 0/1 from 0..255, and grey from colour
MEMORY = 64 << 20  # least bytes of images in the shuffle buffer
SHUFFLE_BUFFER = STRETCH, 2_048  # images in the shuffle buffer: least and most; stretches are shuffled, too


@dataclass(frozen=True)
class Shard:
    """A file and the positions of its records; the last offset is their end."""

    path: Path
    offsets: np.ndarray  # (count + 1,) int64
    checksums: np.ndarray  # (count,) uint32, of the records' data, as stored in the file

    @property
    def count(self) -> int:
        return len(self.offsets) - 1

    @property
    def keys(self) -> np.ndarray:
        """Keys of the records, `(count,)` uint64: length and checksum."""
        return np.diff(self.offsets).astype(np.uint64) << np.uint64(32) | self.checksums.astype(np.uint64)


class Stretch(NamedTuple):
    """Records `first … end` of a file; `number` is the index of the first one among all records."""

    shard: int
    first: int
    end: int
    number: int

    def number_of(self, record: int) -> int:
        """Return the number of a record of the file among all records."""
        return self.number + record - self.first


class Content(NamedTuple):
    """The content of a record."""

    image: bytes  # encoded
    label: int  # -1 if there is none


def find_records(path: Path) -> list[Path]:
    """Return the TFRecord files in a folder and its subfolders, sorted; or the file itself."""
    if path.is_file():
        return [path] if NAME.search(path.name) else []
    return sorted(path.joinpath(*parts) for parts in files_below(path) if NAME.search(parts[-1]))


def records(root: Path, request: Request) -> Source:
    """Load TFRecord files of `tf.train.Example` with encoded images.

    The features are `image/encoded` (or `image`), and optionally `image/class/label` (or `label`).

    A file belongs to a split if its name, or that of its folder, contains the word train, validation or test (or
    training, val, dev, testing, eval, …; `kvae.data.layout`). A missing split is the end of every training file.
    Damaged records, and records without an image of the shape of the first one (without a `size`), are left out with a
    `DataWarning`.

    Raises:
        DataError: if no record has an image.
    """
    found = open_records(root, request)
    reader, splits = found.reader, found.splits
    pick: Callable[[np.ndarray], Split]
    if reader.total * reader.decode.bytes <= request.cache_bytes:
        images, rows = reader.in_memory(splits)
        pick = partial(MemorySplit, images)
    else:
        rows = {part: numbers_of(stretches) for part, stretches in splits.items()}
        memory = max(request.cache_bytes, MEMORY)
        pick = lambda rows: reader.stream(stretches_of(rows, reader.shards), memory)  # noqa: E731
    made = {part: pick(found) for part, found in rows.items()}
    return Source(
        reader.name, made, reader.decode.shape, found.scale, found.has_labels, unlabelled=found.unlabelled,
        catalogue=Catalogue(lambda: np.concatenate([shard.keys for shard in reader.shards]), rows, pick),
        value_range=reader.decode.value_range,
    )  # fmt: skip


class Records(NamedTuple):
    """Opened TFRecord files, and properties found from their first images."""

    reader: RecordReader
    splits: dict[str, list[Stretch]]
    scale: float
    has_labels: bool
    unlabelled: frozenset[str]  # splits without labels in a source with training labels


def open_records(root: Path, request: Request) -> Records:
    """Find the records of a folder or file and read the first ones."""
    name = root.resolve().name
    shards = in_threads(lambda path: index(path, name), find_records(root))
    splits = _splits(name, root, shards, request)
    contents, headers = _first_images(name, shards, splits["train"])
    notices = Notices(name, decoder_for(name, headers, request))
    if notices.decode.depth != EIGHT_BIT and request.value_range is None:
        rows = {part: numbers_of(stretches) for part, stretches in splits.items()}
        notices.find_range(*_extremes(shards, splits, notices.decode.depth), rows)
    reader = RecordReader(name, shards, notices.decode, notices)
    warn_dark(name, reader.decode.depth, reader.decode.value_range)
    tries = [tried(reader.decode)(io.BytesIO(content.image)) for content in contents]
    pictures = [picture for picture in tries if isinstance(picture, Picture)]
    if not pictures:
        raise DataError(f"{name}: expected readable images. Received: {tries[0]} (first record)")
    if reader.total * reader.decode.bytes > request.cache_bytes:
        notices.first(pictures)
    has_labels = all(content.label >= 0 for content in contents)
    held_out = [part for part in ("validation", "test") if has_labels and splits[part]]
    first = {part: reader.decoded(splits[part][0])[1][:, 0] for part in held_out}
    unlabelled = frozenset(part for part, labels in first.items() if len(labels) and labels.max() < 0)
    return Records(reader, splits, scale_of(reader.decode.stack(pictures)), has_labels, unlabelled)


def _first_images(
    name: str, shards: Sequence[Shard], stretches: Sequence[Stretch]
) -> tuple[list[Content], list[tuple[str, Header]]]:
    """Return the first images, and the headers of the readable ones with the names of their records."""
    contents = [
        (f"record {record} of {shards[stretch.shard].path.name}", content)
        for stretch in stretches[: PROBE // STRETCH]
        for record, content in read_contents(shards, stretch)
        if isinstance(content, Content)
    ]
    if not contents:
        raise DataError(
            f"{name}: expected tf.train.Example records with an encoded image in one of the features "
            f"{', '.join(IMAGE)}. Received: none in the first {min(PROBE, sum(s.end - s.first for s in stretches))}"
        )
    tries = [(record, tried(read_header)(io.BytesIO(content.image))) for record, content in contents]
    headers = [(record, header) for record, header in tries if isinstance(header, Header)]
    if not headers:
        raise DataError(
            f"{name}: expected readable images. Received: none in the first records; {tries[0][0]}: {tries[0][1]}"
        )
    return [content for _, content in contents], headers


def _extremes(shards: Sequence[Shard], splits: dict[str, list[Stretch]], depth: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest value of each image by number, (N,)."""
    total = sum(shard.count for shard in shards)
    lows, highs = np.full(total, np.inf), np.full(total, -np.inf)

    def work(stretch: Stretch) -> None:
        for record, content in read_contents(shards, stretch):
            if isinstance(content, Content):
                number = stretch.number_of(record)
                with contextlib.suppress(Unreadable):  # reported when it is decoded
                    lows[number], highs[number] = measure(io.BytesIO(content.image), depth)

    in_threads(work, [stretch for stretches in splits.values() for stretch in stretches])
    return lows, highs


def index(path: Path, name: str) -> Shard:
    """Find the records of a file, up to its end or to the first damaged length."""
    offsets, checksums, size = [0], bytearray(), path.stat().st_size
    if size:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            while offsets[-1] < size:
                at = offsets[-1]
                header = content[at : at + HEADER]
                if len(header) < HEADER or not _is_whole(header[:8], header[8:]):
                    break
                end = at + HEADER + int.from_bytes(header[:8], "little") + FOOTER
                if end > size:
                    break
                offsets.append(end)
                checksums += content[end - FOOTER : end]
    if offsets[-1] < size:
        warn(
            f"{name}: {path.name} is damaged after {len(offsets) - 1} records: left out the last "
            f"{size - offsets[-1]:,} of {size:,} bytes"
        )
    return Shard(path, np.array(offsets, np.int64), np.frombuffer(bytes(checksums), "<u4"))


def _is_whole(data: bytes, checksum: bytes) -> bool:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF) == checksum


def _splits(name: str, root: Path, shards: Sequence[Shard], request: Request) -> dict[str, list[Stretch]]:
    """Return the stretches of each split, in order."""
    folder = root if root.is_dir() else root.parent
    paths = [shard.path.relative_to(folder).as_posix() for shard in shards]
    named = splits_of_files(paths)
    if "train" not in named:
        named = ["train"] * len(shards)
    if left := [path for path, split in zip(paths, named) if not split]:
        warn(f"{name}: left out {len(left)} files outside the splits: {list_first(left)}")
    firsts = np.cumsum([0, *(shard.count for shard in shards)])
    total = sum(shard.count for shard, split in zip(shards, named) if split == "train")
    sizes = held_out_sizes(total, named, request, name)
    splits: dict[str, list[Stretch]] = {split: [] for split in NAMES}
    done = 0  # records of training files
    for i, (shard, split) in enumerate(zip(shards, named)):
        cuts = {split: (0, shard.count)} if split else {}
        if split == "train":  # a part of every file: each file may have a class of its own
            end = shard.count
            for part, size in sizes.items():
                start = end - (size * (done + shard.count) // total - size * done // total)
                cuts[part], end = (start, end), start
            cuts["train"] = (0, end)
            done += shard.count
        for part, (start, end) in cuts.items():
            starts = range(start, end, STRETCH)
            splits[part] += [Stretch(i, s, min(s + STRETCH, end), int(firsts[i]) + s) for s in starts]
    if not splits["train"]:
        raise DataError(f"{name}: expected TFRecord files with training records. Received: no readable records")
    return splits


def numbers_of(stretches: Sequence[Stretch]) -> np.ndarray:
    """Return the numbers of the records of stretches, `(N,)` int64."""
    numbers = [np.arange(stretch.number, stretch.number + stretch.end - stretch.first) for stretch in stretches]
    return np.concatenate([np.empty(0, np.int64), *numbers])


def stretches_of(numbers: np.ndarray, shards: Sequence[Shard]) -> list[Stretch]:
    """Return records, given by number, as stretches in the same order; consecutive records are read at once.

    Example:

        >>> shards = [Shard(Path(name), np.arange(101), np.zeros(100, np.uint32)) for name in "ab"]
        >>> [tuple(stretch) for stretch in stretches_of(np.array([7, 8, 9, 3, 99, 100, 101]), shards)]
        [(0, 7, 10, 7), (0, 3, 4, 3), (0, 99, 100, 99), (1, 0, 2, 100)]
    """
    firsts = np.cumsum([0, *(shard.count for shard in shards)])
    shard = np.searchsorted(firsts, numbers, side="right") - 1
    breaks = np.flatnonzero((np.diff(numbers) != 1) | (np.diff(shard) != 0)) + 1
    stretches = []
    for run in np.split(np.arange(len(numbers)), breaks):
        for start in range(0, len(run), STRETCH):
            part = numbers[run[start : start + STRETCH]]
            i, first = int(shard[run[0]]), int(part[0] - firsts[shard[run[0]]])
            stretches.append(Stretch(i, first, first + len(part), int(part[0])))
    return stretches


class RecordReader:
    """Reads stretches of records. Unreadable records are skipped, with a warning on the first occurrence."""

    def __init__(self, name: str, shards: Sequence[Shard], decode: Decoder, notices: Notices) -> None:
        self.name, self.shards, self.decode, self.notices = name, shards, decode, notices
        self.total = sum(shard.count for shard in shards)
        self.known_bad: set[int] = set()

    def in_memory(self, splits: dict[str, list[Stretch]]) -> tuple[Memory, dict[str, np.ndarray]]:
        """Return all records by number, and the numbers of the readable records of each split."""
        images, labels = np.zeros((self.total, *self.decode.shape), self.decode.dtype), np.full(self.total, -1)
        transparent, clipped = np.zeros((2, self.total), bool)
        rows: dict[str, np.ndarray] = {}
        for part, stretches in splits.items():
            read = in_threads(self.decoded, stretches)
            found = np.concatenate([np.empty((0, 2), np.int64), *(found for _, found in read)])
            rows[part] = found[:, 1]
            labels[rows[part]] = found[:, 0]
            for pictures, numbers in read:
                for picture, number in zip(pictures, numbers[:, 1]):
                    images[number], transparent[number], clipped[number] = picture
        self.notices.by_split(transparent, clipped, rows)
        return Memory(lambda: (images, labels)), rows

    def stream(self, stretches: list[Stretch], memory: int) -> StreamSplit:
        """Return a split that is read again on every pass, with a shuffle buffer of `memory` bytes."""
        count = sum(stretch.end - stretch.first for stretch in stretches)
        table = np.array(stretches, np.int64).reshape(-1, 4)
        buffer = buffer_size(self.decode.bytes, memory, *SHUFFLE_BUFFER)

        def elements(key: tf.Tensor | None, limit: int, share: Share) -> tf.data.Dataset:
            mine = slice(share.worker, None, share.of)
            read = read_elements(table, key, mine, lambda rows: self.read(Stretch(*rows[0].tolist())), self.decode)
            return (read if key is None else shuffled(read, buffer, key)).take(limit)

        return StreamSplit(count, elements, exact=False)

    def read(self, stretch: Stretch) -> tuple[np.ndarray, np.ndarray]:
        """Return the readable images (n, H, W, C) of a stretch, and their [label, number] (n, 2)."""
        pictures, found = self.decoded(stretch)
        self.notices.check(pictures)
        return self.decode.stack(pictures), found

    def decoded(self, stretch: Stretch) -> tuple[list[Picture], np.ndarray]:
        """Return the readable images of a stretch as `Picture`, and their [label, number] (n, 2)."""
        pictures, found, bad = [], [], {}
        for record, content in read_contents(self.shards, stretch):
            try:
                if isinstance(content, str):
                    raise Unreadable(content)
                pictures.append(self.decode(io.BytesIO(content.image)))
                found.append((content.label, stretch.number_of(record)))
            except Unreadable as reason:
                bad[record] = str(reason)
        self._warn(stretch, bad)
        return pictures, np.array(found, np.int64).reshape(-1, 2)

    def _warn(self, stretch: Stretch, bad: dict[int, str]) -> None:
        numbers = {record: stretch.number_of(record) for record in bad}
        new = [record for record, number in numbers.items() if number not in self.known_bad]
        if new:
            self.known_bad.update(numbers.values())
            height, width, channels = self.decode.shape
            reasons = list_first(list(dict.fromkeys(bad[record] for record in new)))
            warn(
                f"{self.name}: left out {len(new)} records that are damaged or have no image of "
                f"{height}x{width}x{channels} ({self.shards[stretch.shard].path.name}: {list_first(new)}); "
                f"{len(self.known_bad)} so far: {reasons}"
            )


def read_contents(shards: Sequence[Shard], stretch: Stretch) -> list[tuple[int, Content | str]]:
    """Return for each record its index in the file, and its content or the reason why it is left out."""
    shard = shards[stretch.shard]
    offsets = shard.offsets[stretch.first : stretch.end + 1]
    with open(shard.path, "rb") as file:
        file.seek(int(offsets[0]))
        block = file.read(int(offsets[-1] - offsets[0]))
    places = (offsets - offsets[0]).tolist()
    records = [block[start + HEADER : end] for start, end in itertools.pairwise(places)]
    return [(stretch.first + i, _content(data[:-FOOTER], data[-FOOTER:])) for i, data in enumerate(records)]


def _content(data: bytes, checksum: bytes) -> Content | str:
    """Return the encoded image of an example and its label or -1; or the reason why it is unusable."""
    if not _is_whole(data, checksum):
        return "damaged"
    try:
        features: Any = tf.train.Example.FromString(data).features.feature
    except Exception:  # the module of protobuf's DecodeError depends on the version
        return "not a tf.train.Example"
    image: Any = next((features[key].bytes_list.value for key in IMAGE if key in features), ())
    label: Any = next((features[key].int64_list.value for key in LABEL if key in features), ())
    if len(image) != 1:
        return "no image" if not image else f"{len(image)} images"
    return Content(image[0], int(label[0]) if len(label) == 1 else -1)
