"""Images whose identity can be read back from their pixels, and folders of them."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image


def numbered(count: int, height: int = 9, width: int = 10, channels: int = 1) -> np.ndarray:
    """(N, H, W, C) uint8 images; image i holds i in its first two pixels and a fixed pattern elsewhere."""
    images = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.divmod(np.arange(count), 256)
    return images


def numbers(x: np.ndarray) -> list[int]:
    """The numbers of images made by `numbered`, as they come out of a pipeline."""
    pixels = np.rint(np.asarray(x)[:, 0, :2, 0] * 255).astype(int)
    return list(pixels[:, 0] * 256 + pixels[:, 1])


def write_images(root: Path, images: np.ndarray, suffix: str = ".png") -> list[Path]:
    """Image files 0000.png, 0001.png, ... in a folder."""
    root.mkdir(parents=True, exist_ok=True)
    paths = [root / f"{i:04d}{suffix}" for i in range(len(images))]
    for path, image in zip(paths, images):
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)
    return paths


def write_examples(path: Path, contents: list[bytes], labels: list[int] | None = None) -> None:
    """A TFRecord file of encoded images."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i, content in enumerate(contents):
            features = {"image/encoded": _bytes(content)}
            if labels is not None:
                features["image/class/label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[labels[i]]))
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def write_records(
    root: Path, images: np.ndarray, files: int = 1, labels: bool = True, name: str = "part", encode=tf.io.encode_png
) -> list[Path]:
    """TFRecord files of images, as PNG; image i has label i % 4, and file k the k-th stretch of them."""
    root.mkdir(parents=True, exist_ok=True)
    paths = [root / f"{name}-{k}.tfrecord" for k in range(files)]
    for path, rows in zip(paths, np.array_split(np.arange(len(images)), files)):
        write_examples(path, [encode(images[i]).numpy() for i in rows], [int(i) % 4 for i in rows] if labels else None)
    return paths


def _bytes(content: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))


def truncate(path: Path) -> None:
    """Cut a file in its pixels: the header stays readable."""
    path.write_bytes(path.read_bytes()[:-60])
