"""Image datasets of TensorFlow Datasets, by name."""

from __future__ import annotations

import difflib
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.data.catalogue import Catalogue, stretch_keys
from kvae.data.decoding import Decoder, Picture
from kvae.data.depth import EIGHT_BIT, as_uint8, depth_of, extremes, is_eight_bit, scale_to_unit, training_range
from kvae.data.errors import DataError, message_of
from kvae.data.images import check_channels, check_shape, composite, convert, is_grey
from kvae.data.notices import Notices, warn_dark
from kvae.data.splits import Memory, MemorySplit, Request, Source, Split, held_out_sizes
from kvae.data.streams import Share, StreamSplit, buffer_size, shuffled

PREPARED = "dataset_info.json"  # a file in the folder of a prepared dataset
PROBE = 256  # images read to distinguish 0/1 from 0..255
SHUFFLE_BUFFER = 1_000, 10_000  # images in the shuffle buffer of a streamed dataset: least and most


def tfds_set(name: str, request: Request) -> Source:
    """Load an image dataset of TensorFlow Datasets from the data folder; download it if it is missing.

    Its own validation and test splits are used. A missing split is the end of the training split, which TFDS shuffled
    when it prepared the dataset.

    Raises:
        DataError: for an unknown name (with close matches), a dataset that is missing and cannot be downloaded, a
            dataset without an `image` feature, or images of several sizes without a `size`.
    """
    return _source(name, _builder(name, request), request)


def prepared(root: Path, request: Request) -> Source:
    """Load a dataset prepared by TensorFlow Datasets, given the folder of a version."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(root)
    except Exception as error:
        raise DataError(f"{root}: TensorFlow Datasets can't open this dataset. Received: {_one_line(error)}") from error
    return _source(root.parent.name, builder, request)


def _source(name: str, builder: Any, request: Request) -> Source:
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = set(features.keys()) if hasattr(features, "keys") else set()
    if "image" not in keys:
        raise DataError(
            f"{name}: expected a dataset with an 'image' feature. Received: {', '.join(sorted(keys)) or features}"
        )
    feature = features["image"]
    if len(feature.shape) != 3 or np.dtype(feature.np_dtype).kind not in "buif":
        raise DataError(
            f"{name}: expected a feature of single numeric images. "
            f"Received: shape {feature.shape}, {np.dtype(feature.np_dtype).name}"
        )
    height, width, found = feature.shape
    if request.size is not None:
        height, width = request.size
    elif height is None or width is None:
        raise DataError(
            f"{name}: expected images of one size; pass size= (--size on the command line). "
            f"Received: shape {feature.shape}"
        )
    has_alpha = isinstance(feature, tfds.features.Image) and found in (2, 4)
    channels = 1 if found == 2 and is_grey(request.background) else 3 if has_alpha else found or 3
    shape = check_shape(height, width, check_channels(channels, request.grayscale, name), name)
    label = features["label"] if "label" in keys else None
    has_labels = label is not None and label.shape == () and np.issubdtype(label.np_dtype, np.integer)
    decode = Decoder(
        shape, request.size is not None, depth_of(feature.np_dtype), request.value_range, request.background
    )
    reader = _Reader(name, builder, decode, has_alpha, has_labels)
    pieces = _pieces({key: info.num_examples for key, info in builder.info.splits.items()}, request, name)
    if decode.depth != EIGHT_BIT and decode.value_range is None:
        reader.find_range(pieces["train"][0])
    scale = reader.probe(pieces["train"][0])
    splits = {part: reader.split(*piece, request.cache_bytes) for part, piece in pieces.items()}
    names = tuple(getattr(label, "names", None) or ()) if has_labels else ()
    catalogue = Catalogue(lambda: _keys(builder.info.full_name, pieces), _rows(pieces))
    return Source(
        name, splits, shape, scale, has_labels, names, catalogue=catalogue,
        value_range=reader.decode.value_range,
    )  # fmt: skip


def _keys(set_name: str, pieces: dict[str, tuple[str, int]]) -> np.ndarray:
    """Return the keys of all images, piece by piece, from the name and the version of the dataset."""
    found = []
    for instruction, count in pieces.values():
        part, _, bounds = instruction.partition("[")
        found.append(stretch_keys(f"{set_name} {part}", int(bounds.split(":")[0] or 0), count))
    return np.concatenate(found)


def _rows(pieces: dict[str, tuple[str, int]]) -> dict[str, np.ndarray]:
    ends = np.cumsum([count for _, count in pieces.values()])
    return {part: np.arange(end - count, end) for (part, (_, count)), end in zip(pieces.items(), ends)}


class _Reader:
    """Reads pieces of a dataset as images of one shape."""

    def __init__(self, name: str, builder: Any, decode: Decoder, has_alpha: bool, has_labels: bool) -> None:
        self.builder, self.decode, self.has_alpha, self.has_labels = builder, decode, has_alpha, has_labels
        self.notices = Notices(name, decode)
        self.factor = 1

    @property
    def is_converted(self) -> bool:
        """Whether images differ from the stored ones."""
        feature = self.builder.info.features["image"]
        return (
            self.has_alpha
            or self.decode.value_range is not None
            or feature.np_dtype != np.uint8
            or tuple(feature.shape) != self.decode.shape
        )

    def raw(self, instruction: str, share: Share | None = None) -> tf.data.Dataset:
        """Return (image as stored, [label, position]) in stable order; for a share, only those of its own files."""
        import tensorflow_datasets as tfds

        files = len(self.builder.info.splits[instruction].file_instructions)
        if share is not None and files < share.of:
            raise DataError(
                f"{self.builder.name}: expected at least as many files as workers, because each reads its own files. "
                f"Received: {files} files, {share.of} workers"
            )
        wanted = {"image": True, "label": True} if self.has_labels else {"image": True}
        others = self.builder.info.features.keys() - wanted.keys()
        dataset = self.builder.as_dataset(
            split=instruction,
            shuffle_files=False,
            decoders=tfds.decode.PartialDecoding(wanted) if others else None,
            read_config=tfds.ReadConfig(
                try_autocache=False,
                input_context=None if share is None else tf.distribute.InputContext(share.of, share.worker),
            ),
        )
        return dataset.enumerate().map(self._element)

    def _element(self, position: tf.Tensor, example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        label = tf.cast(example["label"], tf.int64) if self.has_labels else np.int64(-1)
        return example["image"], tf.stack([label, position])

    def find_range(self, instruction: str) -> None:
        """Find the value range of these images, which becomes [0, 1]. All of them are read once."""
        low, high = np.inf, -np.inf
        with self._damage_as_data_error():
            for image, _ in self.raw(instruction).as_numpy_iterator():
                colour, alpha = self._parts(image)
                least, most, bad = extremes(colour if alpha is None else colour[alpha[..., 0] > 0])
                if bad:
                    raise DataError(
                        f"{self.notices.name}: expected finite values. Received: {bad} NaN or infinite in an image"
                    )
                low, high = min(low, least), max(high, most)
        if is_eight_bit(image.dtype, low, high):
            return
        value_range = training_range(self.notices.name, self.decode.depth, low, high)
        self.decode = self.notices.decode = replace(self.decode, value_range=value_range)

    def probe(self, instruction: str) -> float:
        """Return the scale, found from the first images; converted 0/1 images are later scaled to 0..255."""
        largest, pictures = 0, []
        with self._damage_as_data_error():
            for image, _ in self.raw(instruction).take(PROBE).as_numpy_iterator():
                picture = self._picture(image)
                largest = max(largest, picture.pixels.max())
                pictures.append(picture._replace(pixels=picture.pixels[:0]))
                if largest > 1 and not self.has_alpha and self.decode.value_range is None:
                    break
        self.notices.first(pictures)
        warn_dark(self.notices.name, self.decode.depth, self.decode.value_range)
        if self.decode.value_range is not None:
            return 1.0
        if largest == 1 and self.is_converted:
            self.factor = 255
        return 1.0 if largest == 1 and not self.is_converted else 255.0

    def elements(self, instruction: str, share: Share | None = None) -> tf.data.Dataset:
        """Return `raw` with images of the target shape."""
        dataset = self.raw(instruction, share)
        if not self.is_converted:
            return dataset
        shape, factor, dtype = self.decode.shape, self.factor, self.decode.dtype

        def work(image: np.ndarray) -> np.ndarray:
            picture = self._picture(image)
            self.notices.check([picture])
            return convert(picture.pixels * np.uint8(factor), shape[:2], shape[2]).astype(dtype)

        def change(image: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.ensure_shape(tf.numpy_function(work, [image], dtype), shape), found

        return dataset.map(change, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _parts(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the colour channels, and alpha in [0, 1] or None."""
        if not self.has_alpha:
            return image, None
        opaque = 1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max
        return image[..., :-1], image[..., -1:] / np.float32(opaque)

    def _picture(self, image: np.ndarray) -> Picture:
        """Return an image of its own size and channels, on the background, as uint8 or scaled by the value range."""
        colour, alpha = self._parts(image)
        value_range, outside = self.decode.value_range, np.zeros(1, bool)
        if value_range is not None:
            colour, outside = scale_to_unit(colour, value_range)
        elif colour.dtype != np.uint8:
            colour, outside = as_uint8(colour)
        is_transparent = alpha is not None and bool(alpha.min() < 1)
        if alpha is not None and is_transparent:
            colour = composite(colour, alpha, self.decode.background)
        return Picture(colour, is_transparent, bool(outside.any()))

    def split(self, instruction: str, count: int, cache_bytes: int) -> Split:
        """Return a split in memory (read on first use) if it fits, else a streamed one."""
        if count * self.decode.bytes <= cache_bytes:
            return MemorySplit(Memory(lambda: self._read(instruction, count)), np.arange(count))
        buffer = buffer_size(self.decode.bytes, cache_bytes, *SHUFFLE_BUFFER)

        def elements(key: tf.Tensor | None, limit: int, share: Share) -> tf.data.Dataset:
            if key is None:
                return self.elements(instruction).take(limit)
            return shuffled(self.elements(instruction, share if share.of > 1 else None).take(limit), buffer, key)

        return StreamSplit(count, elements)

    def _read(self, instruction: str, count: int) -> tuple[np.ndarray, np.ndarray | None]:
        images, labels = np.empty((count, *self.decode.shape), self.decode.dtype), np.empty(count, np.int64)
        filled = 0
        with self._damage_as_data_error():
            for image, found in self.elements(instruction).batch(256).prefetch(2).as_numpy_iterator():
                images[filled : filled + len(image)] = image
                labels[filled : filled + len(image)] = found[:, 0]
                filled += len(image)
        return images, labels if self.has_labels else None

    @contextmanager
    def _damage_as_data_error(self) -> Iterator[None]:
        """Raise errors of TensorFlow about damaged files as a DataError that names the dataset."""
        try:
            yield
        except tf.errors.OpError as error:
            raise DataError(
                f"{self.builder.name}: expected readable files in {self.builder.data_dir}; prepare the dataset again. "
                f"Received: {message_of(error)}"
            ) from error


def _pieces(counts: dict[str, int], request: Request, name: str) -> dict[str, tuple[str, int]]:
    """Return for each split a slice of the dataset, in the slicing syntax of TFDS, and its number of images."""
    own_splits = [key for key in ("validation", "test") if counts.get(key)]
    main = next((key for key in ("train", *counts) if counts.get(key) and key not in own_splits), None)
    if main is None:
        main = own_splits.pop()  # the dataset has only held-out splits
    pieces = {key: (key, counts[key]) for key in own_splits}
    end = counts[main]
    for key, size in reversed(held_out_sizes(end, own_splits, request, name).items()):
        pieces[key] = (f"{main}[{end - size}:{end}]", size)
        end -= size
    pieces["train"] = (f"{main}[:{end}]", end)
    return pieces


def is_known_name(name: str, request: Request) -> bool:
    """Return whether TFDS or the data folder has a dataset of this name."""
    return name.split("/")[0].split(":")[0] in _known_names(request)


def data_folder(request: Request) -> Path:
    """Return the data folder of TFDS."""
    import tensorflow_datasets as tfds

    return Path(request.data_dir or tfds.core.constants.DATA_DIR).expanduser()


def _known_names(request: Request) -> set[str]:
    import tensorflow_datasets as tfds

    known = {"digits", "shapes", "faces", "machine", *tfds.list_builders(with_community_datasets=False)}
    folder = data_folder(request)
    if folder.is_dir():
        known.update(info.parent.parent.name for info in folder.glob("*/*/dataset_info.json"))
        known.update(info.parent.parent.parent.name for info in folder.glob("*/*/*/dataset_info.json"))
    return known


def _builder(name: str, request: Request) -> Any:
    """Return the builder of a prepared dataset."""
    import tensorflow_datasets as tfds

    if not is_known_name(name, request):
        near = difflib.get_close_matches(name, sorted(_known_names(request)), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see the TensorFlow Datasets catalogue."
        raise DataError(
            "Expected 'digits', 'shapes', 'faces', a TensorFlow Datasets name, a folder, or a .npy or .npz file; "
            f"{hint} Received: {name!r}"
        )
    try:
        builder = tfds.builder(name, data_dir=request.data_dir)
        is_prepared = builder.is_prepared()
    except Exception as error:
        raise DataError(f"{name}: TensorFlow Datasets can't open this dataset. Received: {_one_line(error)}") from error
    if is_prepared:
        return builder
    folder = builder.data_dir
    remedy = "put a prepared copy into data_dir (or the folder named by TFDS_DATA_DIR)"
    if Path(name).is_dir():
        remedy += f", or write ./{name} for the folder of this name"
    if not request.download:
        raise DataError(
            f"{name}: expected a prepared dataset with download=False; {remedy}. Received: no dataset in {folder}"
        )
    try:
        _check_network(builder)
        builder.download_and_prepare()
    except Exception as error:
        raise DataError(
            f"{name}: the dataset is not prepared and could not be downloaded; {remedy}. Received: {_one_line(error)}"
        ) from error
    return builder


def _check_network(builder: Any) -> None:
    """Raise at once if no host of the dataset can be found: TFDS would retry for minutes."""
    if urllib.request.getproxies():
        return
    hosts = {urllib.parse.urlsplit(url).hostname for url in builder.url_infos or {}}
    failure: OSError | None = None
    for host in sorted(filter(None, hosts)):
        try:
            socket.getaddrinfo(host, 443)
            return
        except OSError as error:
            failure = OSError(f"no connection to {host} ({error.strerror})")
    if failure is not None:
        raise failure


def _one_line(error: BaseException, longest: int = 160) -> str:
    """Return the type and the message of an exception as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:longest]}{'…' if len(text) > longest else ''}"
