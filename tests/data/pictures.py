"""Images that are identified by their pixels, and folders of them."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw


def numbered(count: int, height: int = 9, width: int = 10, channels: int = 1) -> np.ndarray:
    """Return (N, H, W, C) uint8 images: image i has i in its first two pixels and a fixed pattern elsewhere."""
    images = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.divmod(np.arange(count), 256)
    return images


def numbers(x: np.ndarray) -> list[int]:
    """Return the numbers of images made by `numbered`, as returned by a pipeline."""
    pixels = np.rint(np.asarray(x)[:, 0, :2, 0] * 255).astype(int)
    return list(pixels[:, 0] * 256 + pixels[:, 1])


def write_images(root: Path, images: np.ndarray, suffix: str = ".png") -> list[Path]:
    """Write image files 0000.png, 0001.png, ... into a folder."""
    root.mkdir(parents=True, exist_ok=True)
    paths = [root / f"{i:04d}{suffix}" for i in range(len(images))]
    for path, image in zip(paths, images):
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)
    return paths


def write_examples(path: Path, contents: list[bytes], labels: list[int] | None = None) -> None:
    """Write a TFRecord file of encoded images."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i, content in enumerate(contents):
            features = {"image/encoded": _bytes(content)}
            if labels is not None:
                features["image/class/label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[labels[i]]))
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def write_records(
    root: Path, images: np.ndarray, files: int = 1, labels: bool = True, name: str = "part", encode=tf.io.encode_png
) -> list[Path]:
    """Write TFRecord files of PNG images; image i has label i % 4, and file k has the k-th part of the images."""
    root.mkdir(parents=True, exist_ok=True)
    paths = [root / f"{name}-{k}.tfrecord" for k in range(files)]
    for path, rows in zip(paths, np.array_split(np.arange(len(images)), files)):
        write_examples(path, [encode(images[i]).numpy() for i in rows], [int(i) % 4 for i in rows] if labels else None)
    return paths


def _bytes(content: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))


def write_defects(root: Path, side: int = 16, train: int = 24, test: int = 6) -> None:
    """Write discs of several positions and shades in the layout of MVTec AD: some have a hole or a scratch."""
    rng = np.random.default_rng(0)

    def disc() -> Image.Image:
        image = Image.new("L", (side, side), 200)
        x, y = rng.integers(0, 3, 2)
        ImageDraw.Draw(image).ellipse((x + 1, y + 1, x + side - 4, y + side - 4), fill=int(rng.integers(70, 90)))
        return image

    def hole(image: Image.Image, fill: int) -> None:
        ImageDraw.Draw(image).rectangle((side // 2 - 2, side // 2 - 2, side // 2 + 2, side // 2 + 2), fill=fill)

    def scratch(image: Image.Image, fill: int) -> None:
        ImageDraw.Draw(image).line((4, int(rng.integers(4, side - 4)), side - 5, side // 2), fill=fill, width=2)

    def write(image: Image.Image, path: str) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / path)

    for i in range(train):
        write(disc(), f"train/good/{i:03d}.png")
    for i in range(test):
        write(disc(), f"test/good/{i:03d}.png")
        for defect in (hole, scratch):
            image, mask = disc(), Image.new("L", (side, side))
            defect(image, 200), defect(mask, 255)
            write(image, f"test/{defect.__name__}/{i:03d}.png")
            write(mask, f"ground_truth/{defect.__name__}/{i:03d}_mask.png")


def truncate(path: Path) -> None:
    """Truncate a file within its pixels; the header stays readable."""
    path.write_bytes(path.read_bytes()[:-60])
