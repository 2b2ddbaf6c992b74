"""Images per second that the input pipeline delivers, by source, in comparison with the demand of training.

    python benchmarks/training/pipeline.py
    python benchmarks/training/pipeline.py --images 1000 --rounds 1                    # quick check

A pass over the training images of mnist, shuffled, in batches of 128. The sources are memory, and files that are read
again on every pass: the records of TFDS, PNG files, TFRecord files of PNG, and the same number of images from a million
records (twenty links to each of the TFRecord files). The controls are ordinary `tf.data` code for an array, and the
demand of training: steps on one batch in memory. Requires `TFDS_DATA_DIR` with mnist.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tensorflow as tf
from common import interleaved, rates, store
from PIL import Image

import kvae
from kvae.data.pipeline import without_autotuning

BATCH, STEPS = 128, 20
FILES = 10  # TFRecord files
COPIES = 20


def write_pngs(root: Path, images: np.ndarray) -> Path:
    root.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(root / f"{i:05d}.png")
    return root


def write_records(root: Path, images: np.ndarray) -> Path:
    root.mkdir()
    for number, part in enumerate(np.array_split(images, FILES)):
        with tf.io.TFRecordWriter(str(root / f"train-{number:05d}.tfrecord")) as writer:
            for image in part:
                content = tf.train.BytesList(value=[tf.io.encode_png(image).numpy()])
                features = tf.train.Features(feature={"image/encoded": tf.train.Feature(bytes_list=content)})
                writer.write(tf.train.Example(features=features).SerializeToString())
    return root


def linked(root: Path, files: Path) -> Path:
    root.mkdir()
    for copy in range(COPIES):
        for path in files.iterdir():
            (root / path.name.replace("train-", f"train-{copy:02d}-")).hardlink_to(path)
    return root


def one_pass(dataset: tf.data.Dataset) -> Callable[[], None]:
    def run() -> None:
        for _ in dataset:
            pass

    return run


def training(images: np.ndarray, **parts: Any) -> Callable[[], Any]:
    vae = kvae.VAE(latent_dim=16, image_shape=images.shape[1:], **parts)
    vae.compile(kvae.optimizers.FusedAdam(1e-3, global_clipnorm=200.0), steps_per_execution=STEPS)
    batches = tf.data.Dataset.from_tensors(tf.constant(images[:BATCH] / 255, tf.float32)).repeat(STEPS)
    return lambda: vae.fit(without_autotuning(batches), verbose=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="use only the first images")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    images = np.round(255 * kvae.data.load("mnist").arrays("train", options.images)[0]).astype("uint8")
    count, whole = len(images), {"validation_fraction": 0, "test_fraction": 0, "batch_size": BATCH}
    with tempfile.TemporaryDirectory() as folder:
        streamed = {
            "PNG files": write_pngs(Path(folder) / "png", images),
            "TFRecord files of PNG": write_records(Path(folder) / "records", images),
        }
        million = linked(Path(folder) / "many", streamed["TFRecord files of PNG"])
        ordinary = tf.data.Dataset.from_tensor_slices(images).shuffle(count).batch(BATCH)
        ordinary = ordinary.map(lambda x: tf.cast(x, tf.float32) / 255, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
        tfds = kvae.data.load("mnist", batch_size=BATCH, cache_bytes=0)
        sources = {
            "memory": kvae.data.load(images, **whole).train,
            "memory, `shuffle` and `batch` of tf.data": ordinary,
            "records of TFDS": tfds.split("train", shuffle=True, limit=count),
            **{name: kvae.data.load(path, cache_bytes=0, **whole).train for name, path in streamed.items()},
            f"as many of {COPIES * count:,} records": kvae.data.load(million, cache_bytes=0, **whole).train.take(
                -(-count // BATCH)
            ),
        }
        seconds = interleaved({name: one_pass(dataset) for name, dataset in sources.items()}, options.rounds)
        print(f"A shuffled pass over {count:,} images of 28×28, {options.rounds} rounds")
        delivered = rates(seconds, "memory", count, "ratio_to_memory")
    mlp = {
        "encoder": kvae.Encoder(16, kvae.networks.MLP((200, 200))),
        "decoder": kvae.Decoder((28, 28, 1), kvae.networks.MLP((200, 200))),
    }
    demand = {"the default network": training(images), "an MLP of 200 and 200": training(images, **mlp)}
    seconds = interleaved(demand, options.rounds)
    print("Demand of training")
    taken = rates(seconds, "the default network", BATCH * STEPS, "ratio_to_default")
    if options.images is None and options.rounds >= 3:
        store("training_pipeline", {"images": count, "delivered": delivered, "appetite": taken})
