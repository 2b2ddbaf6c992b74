"""TFRecord files of `tf.train.Example` with encoded images, as other tools write them.

Opening reads the header of every record: where it begins, and its length. A pass then reads stretches of records, in
another order each time, and checks each record's checksum; one that is damaged is left out and named.

The format: length (uint64), its masked CRC-32C, the data, the data's masked CRC-32C; all little-endian
(https://www.tensorflow.org/tutorials/load_data/tfrecord).
"""

from __future__ import annotations

import io
import itertools
import mmap
import re
import struct
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import tensorflow as tf

from kvae.data.catalogue import Catalogue
from kvae.data.errors import DataError, DataWarning
from kvae.data.files import decode, in_threads, listed, read_header
from kvae.data.folder import SPLIT_FOLDERS
from kvae.data.images import check_shape, scale_of
from kvae.data.service import MEMORY, how_many, of_files
from kvae.data.splits import (
    NAMES,
    Memory,
    MemorySplit,
    Request,
    Share,
    Source,
    Split,
    StreamSplit,
    no_global_seed,
    part_sizes,
)

NAME = re.compile(r"\.tfrecords?($|[-.])")
SPLIT = re.compile(rf"(?:^|[-_./])({'|'.join(SPLIT_FOLDERS)})(?=[-_./])")
IMAGE, LABEL = ("image/encoded", "image"), ("image/class/label", "label")
HEADER, FOOTER = 12, 4  # bytes around the data of a record
STRETCH = 64  # records that are read at once
PROBE = 256  # images looked at to tell 0/1 from 0..255, and grey from colour
SHUFFLE_BUFFER = STRETCH, 2_048  # images among which the next one is drawn: least and most; stretches are shuffled, too


@dataclass(frozen=True)
class Shard:
    """A file, and where its records begin; the last number is where they end."""

    path: Path
    offsets: np.ndarray  # (count + 1,) int64
    checksums: np.ndarray  # (count,) uint32, of the records' data, as the file has them

    @property
    def count(self) -> int:
        return len(self.offsets) - 1

    @property
    def keys(self) -> np.ndarray:
        """What each record is, `(count,)` uint64: its length and its checksum."""
        return np.diff(self.offsets).astype(np.uint64) << np.uint64(32) | self.checksums.astype(np.uint64)


class Stretch(NamedTuple):
    """Records `first … end` of a file, of which the first is record `number` of all."""

    shard: int
    first: int
    end: int
    number: int


class Picture(NamedTuple):
    """What a record holds."""

    pixels: np.ndarray  # (H, W, C) uint8
    label: int  # -1 where there is none


def find_records(path: Path) -> list[Path]:
    """The TFRecord files in a folder and those below it, sorted; or the file itself."""
    files = [path] if path.is_file() else path.rglob("*")
    return sorted(file for file in files if NAME.search(file.name) and file.is_file())


def records(root: Path, request: Request) -> Source:
    """TFRecord files of `tf.train.Example` with `image/encoded` (or `image`) and perhaps `image/class/label` (`label`).

    Files with train, validation (val, valid) or test in their names, or in those of their folders, are the splits; what
    is missing is the end of every training file. Records that are damaged, or hold no image of the shape of the
    first one (where no `size` is given), are left out with a `DataWarning`.

    Raises:
        DataError: if there is no record with an image.
    """
    found = open_records(root, request)
    reader, splits = found.reader, found.splits
    total = sum(shard.count for shard in reader.shards)
    pick: Callable[[np.ndarray], Split]
    if total * int(np.prod(reader.shape)) <= request.cache_bytes:
        memory, rows = reader.in_memory(splits, total)
        pick = partial(MemorySplit, memory)
    else:
        rows = {part: numbers_of(stretches) for part, stretches in splits.items()}
        pick = lambda rows: reader.stream(stretches_of(rows, reader.shards))  # noqa: E731
    made = {part: pick(found) for part, found in rows.items()}
    catalogue = Catalogue(lambda: np.concatenate([shard.keys for shard in reader.shards]), rows, pick)
    return Source(reader.name, made, reader.shape, found.scale, found.has_labels, catalogue=catalogue)


class Records(NamedTuple):
    """TFRecord files whose records are found, and whose first images are read."""

    reader: RecordReader
    splits: dict[str, list[Stretch]]
    scale: float
    has_labels: bool


def open_records(root: Path, request: Request) -> Records:
    """Finds the records of a folder or file, and reads the first ones."""
    name = root.resolve().name
    shards = in_threads(lambda path: index(path, name), find_records(root))
    splits = _splits(name, root, shards, request)
    reader = RecordReader(name, shards, request)
    pictures = reader.probe(splits["train"])
    scale = scale_of(np.stack([picture.pixels for picture in pictures]))
    return Records(reader, splits, scale, has_labels=all(picture.label >= 0 for picture in pictures))


def index(path: Path, name: str) -> Shard:
    """Where the records of a file are; a file that ends early, or whose chain of lengths breaks, ends there."""
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
        warnings.warn(
            f"{name}: {path.name} is damaged behind its record {len(offsets) - 1}: left out the last "
            f"{size - offsets[-1]:,} of {size:,} bytes",
            DataWarning, stacklevel=2,
        )  # fmt: skip
    return Shard(path, np.array(offsets, np.int64), np.frombuffer(bytes(checksums), "<u4"))


def _is_whole(data: bytes, checksum: bytes) -> bool:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF) == checksum


def _splits(name: str, root: Path, shards: Sequence[Shard], request: Request) -> dict[str, list[Stretch]]:
    """The stretches of each split, in order."""
    folder = root if root.is_dir() else root.parent
    found = [SPLIT.search("/" + shard.path.relative_to(folder).as_posix()) for shard in shards]
    named = [SPLIT_FOLDERS[match[1]] if match else "" for match in found]
    if "train" not in named:
        named = ["train"] * len(shards)
    if left := named.count(""):
        warnings.warn(f"{name}: left out {left} files of no split", DataWarning, stacklevel=3)
    firsts = np.cumsum([0, *(shard.count for shard in shards)])
    missing = [split for split in ("validation", "test") if split not in named]
    fractions = tuple(getattr(request, f"{split}_fraction") for split in missing)
    total = sum(shard.count for shard, split in zip(shards, named) if split == "train")
    sizes = part_sizes(total, fractions, name)
    splits: dict[str, list[Stretch]] = {split: [] for split in NAMES}
    done = 0  # of the training files' records
    for i, (shard, split) in enumerate(zip(shards, named)):
        cuts = {split: (0, shard.count)} if split else {}
        if split == "train":  # of every file its part, so that a file of one class leaves no split without it
            end = shard.count
            for part, size in zip(missing, sizes):
                start = end - (size * (done + shard.count) // total - size * done // total)
                cuts[part], end = (start, end), start
            cuts["train"] = (0, end)
            done += shard.count
        for part, (start, end) in cuts.items():
            starts = range(start, end, STRETCH)
            splits[part] += [Stretch(i, s, min(s + STRETCH, end), int(firsts[i]) + s) for s in starts]
    if not splits["train"]:
        raise DataError(f"{name}: expected TFRecord files with records to train on. Received: none that can be read")
    return splits


def numbers_of(stretches: Sequence[Stretch]) -> np.ndarray:
    """The numbers of their records, `(N,)` int64."""
    numbers = [np.arange(stretch.number, stretch.number + stretch.end - stretch.first) for stretch in stretches]
    return np.concatenate([np.empty(0, np.int64), *numbers])


def stretches_of(numbers: np.ndarray, shards: Sequence[Shard]) -> list[Stretch]:
    """Records by their numbers, in this order, as stretches: those that follow one another in a file are read at once.

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
    """Reads stretches of records; what can't be read is named by a warning when it is first met."""

    def __init__(self, name: str, shards: Sequence[Shard], request: Request) -> None:
        self.name, self.shards = name, shards
        self.size, self.grayscale = request.size, request.grayscale
        self.memory = max(request.cache_bytes, MEMORY)
        self.shape: tuple[int, int, int] = (0, 0, 0)  # known after `probe`
        self.known_bad: set[int] = set()

    def probe(self, stretches: Sequence[Stretch]) -> list[Picture]:
        """The first images, which settle shape and channels."""
        contents = [found for stretch in stretches[: PROBE // STRETCH] for _, found in self._contents(stretch) if found]
        if not contents:
            raise DataError(
                f"{self.name}: expected records of tf.train.Example with an encoded image in one of the features "
                f"{', '.join(IMAGE)}. Received: none in the first {min(PROBE, sum(s.end - s.first for s in stretches))}"
            )
        headers = [header for content, _ in contents if (header := read_header(io.BytesIO(content)))]
        is_grey = all(header.is_grey for header in headers) if self.grayscale is None else self.grayscale
        if not headers:
            raise DataError(f"{self.name}: expected images that can be read. Received: none among the first records")
        sides = self.size or (headers[0].height, headers[0].width)
        self.shape = (*sides, 1 if is_grey else 3) if self.size else check_shape(*sides, 1 if is_grey else 3, self.name)
        pictures = [self._picture(*content) for content in contents]
        return [picture for picture in pictures if picture is not None]

    def in_memory(self, splits: dict[str, list[Stretch]], total: int) -> tuple[Memory, dict[str, np.ndarray]]:
        """All records, by their numbers, and the numbers of each split: of those that can be read."""
        images, labels = np.zeros((total, *self.shape), np.uint8), np.full(total, -1)
        rows: dict[str, np.ndarray] = {}
        for part, stretches in splits.items():
            read = in_threads(self.read, stretches)
            found = np.concatenate([np.empty((0, 2), np.int64), *(found for _, found in read)])
            rows[part] = found[:, 1]
            labels[rows[part]] = found[:, 0]
            for pixels, numbers in read:
                images[numbers[:, 1]] = pixels
        return Memory(lambda: (images, labels)), rows

    def stream(self, stretches: list[Stretch]) -> StreamSplit:
        """Read on every pass."""
        count = sum(stretch.end - stretch.first for stretch in stretches)
        table = np.array(stretches, np.int64).reshape(-1, 4)
        buffer = how_many(self.shape, self.memory, *SHUFFLE_BUFFER)

        def numbered(key: tf.Tensor | None, limit: int, share: Share) -> tf.data.Dataset:
            order = tf.constant(table)
            if key is not None:
                draw = lambda k: np.random.default_rng(int(k)).permutation(table)[share.worker :: share.of]  # noqa: E731
                order = tf.ensure_shape(tf.numpy_function(draw, [key], tf.int64), [None, 4])
            dataset = tf.data.Dataset.from_tensor_slices(order)
            read = dataset.map(self._in_graph, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()
            if key is not None:
                with no_global_seed():
                    read = read.shuffle(buffer, seed=key, reshuffle_each_iteration=False)
            return read.take(limit)

        def labelled(key: tf.Tensor | None, limit: int, share: Share) -> tf.data.Dataset:
            return numbered(key, limit, share).map(lambda image, found: (image, found[0]))

        return StreamSplit(
            count,
            labelled,
            exact=False,
            numbered=lambda limit: numbered(None, limit, Share(1)),
            native=None if self.size or self.grayscale is not None else lambda: self._native(stretches),
        )

    def _native(self, stretches: list[Stretch]) -> tf.data.Dataset:
        """All of them by TensorFlow's own operations. What is damaged ends the pass.

        Pixels are those of `_picture`, but for 16-bit images and colour ones where the set is grey: by one level, or,
        for a JPEG of the latter kind, by some. Formats are PNG, JPEG, GIF and BMP; an EXIF rotation isn't applied.
        """
        parts: dict[int, tuple[int, int]] = {}  # of each file: first record, and behind the last
        for stretch in stretches:
            parts[stretch.shard] = (parts.get(stretch.shard, (stretch.first, 0))[0], stretch.end)
        files = [str(self.shards[shard].path.resolve()) for shard in parts]
        firsts, ends = np.array(list(parts.values()), np.int64).T
        image, label = tf.io.VarLenFeature(tf.string), tf.io.VarLenFeature(tf.int64)
        features = {**dict.fromkeys(IMAGE, image), **dict.fromkeys(LABEL, label)}

        def parsed(example: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            found = tf.io.parse_single_example(example, features)
            images, labels = (tf.concat([found[key].values for key in keys], 0) for keys in (IMAGE, LABEL))
            content, channels = images[0], self.shape[2]
            pixels = tf.cond(
                tf.io.is_jpeg(content),
                lambda: tf.io.decode_jpeg(content, channels, dct_method="INTEGER_ACCURATE"),  # as Pillow does
                lambda: tf.io.decode_image(content, channels, expand_animations=False),
            )
            return pixels, tf.concat([labels, [-1]], 0)[0]

        return of_files(files, firsts, ends, parsed, self.shape)

    def _in_graph(self, stretch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, found = tf.numpy_function(
            lambda row: self.read(Stretch(*map(int, row))), [stretch], (tf.uint8, tf.int64)
        )
        return tf.ensure_shape(images, [None, *self.shape]), tf.ensure_shape(found, [None, 2])

    def read(self, stretch: Stretch) -> tuple[np.ndarray, np.ndarray]:
        """Its images (n, H, W, C), and their [label, number] (n, 2), without those that can't be read."""
        images, found, bad = [], [], []
        for record, content in self._contents(stretch):
            picture = self._picture(*content) if content else None
            number = stretch.number + record - stretch.first
            if picture is None:
                bad.append((record, number))
            else:
                images.append(picture.pixels)
                found.append((picture.label, number))
        self._warn(stretch, bad)
        pixels = np.stack(images) if images else np.empty((0, *self.shape), np.uint8)
        return pixels, np.array(found, np.int64).reshape(-1, 2)

    def _contents(self, stretch: Stretch) -> list[tuple[int, tuple[bytes, int] | None]]:
        """For each record its number in the file, the encoded image and the label; None for one that is damaged."""
        shard = self.shards[stretch.shard]
        offsets = shard.offsets[stretch.first : stretch.end + 1]
        with open(shard.path, "rb") as file:
            file.seek(int(offsets[0]))
            block = file.read(int(offsets[-1] - offsets[0]))
        places = (offsets - offsets[0]).tolist()
        records = [block[start + HEADER : end] for start, end in itertools.pairwise(places)]
        return [(stretch.first + i, _content(data[:-FOOTER], data[-FOOTER:])) for i, data in enumerate(records)]

    def _picture(self, content: bytes, label: int) -> Picture | None:
        pixels = decode(io.BytesIO(content), self.shape[:2] if self.size else None, self.shape[2])
        return Picture(pixels, label) if pixels is not None and pixels.shape == self.shape else None

    def _warn(self, stretch: Stretch, bad: list[tuple[int, int]]) -> None:
        new = [record for record, number in bad if number not in self.known_bad]
        if new:
            self.known_bad.update(number for _, number in bad)
            height, width, channels = self.shape
            warnings.warn(
                f"{self.name}: left out {len(new)} records that are damaged, or hold no image of "
                f"{height}x{width}x{channels} ({self.shards[stretch.shard].path.name}: {listed(new)}); "
                f"{len(self.known_bad)} so far",
                DataWarning, stacklevel=2,
            )  # fmt: skip


def _content(data: bytes, checksum: bytes) -> tuple[bytes, int] | None:
    """The encoded image of an example, and its label or -1; None if it is damaged or has none."""
    if not _is_whole(data, checksum):
        return None
    try:
        features: Any = tf.train.Example.FromString(data).features.feature
    except Exception:  # protobuf's DecodeError has moved between packages
        return None
    image: Any = next((features[key].bytes_list.value for key in IMAGE if key in features), ())
    label: Any = next((features[key].int64_list.value for key in LABEL if key in features), ())
    return (image[0], int(label[0]) if len(label) == 1 else -1) if len(image) == 1 else None
