"""Features beyond one machine: the same per-batch function in an actor pool of Ray Data (extra `ray`)."""

import io
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from kvae.data.files import SUFFIXES, decode, holds
from kvae.features.extract import ROWS
from kvae.files import atomic_directory

LOCAL = "local"
TFRECORDS = (".tfrecord", ".tfrecords")
NO_RAY = "Features on Ray need the extra `ray`: pip install 'keras-vae[ray]'"


class ImageEncoder:
    """What an actor does: encoded image files of a batch to features, with a model that it loads once.

    Args:
        model: path of a `.keras` file that every machine can read.
        hidden: whether to give the last hidden layer, too.
        binarize: "none" or "threshold".

    Example:

        >>> import kvae, tempfile
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, "png")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kvae.VAE(latent_dim=2, image_shape=(8, 8, 1)).save(f"{folder}/model.keras")
        ...     encode = ImageEncoder(f"{folder}/model.keras", hidden=False)
        >>> rows = encode({"id": np.array(["a.png"]), "bytes": np.array([file.getvalue()], object)})
        >>> sorted(rows), rows["mean"].shape
        (['id', 'mean', 'variance'], (1, 2))
    """

    def __init__(self, model: str, hidden: bool = True, binarize: str = "none"):
        from kvae.features.extract import BatchEncoder
        from kvae.models import load

        self.encode = BatchEncoder(load(model), hidden)
        self.shape = self.encode.model.image_shape
        self.binarize = binarize

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns `bytes` and others to `mean`, `variance`, `hidden` and the others; unreadable images are left out."""
        height, width, channels = self.shape
        decoded = [decode(io.BytesIO(content), (height, width), channels) for content in batch["bytes"]]
        good = np.array([image is not None for image in decoded], bool)
        rows = {name: values[good] for name, values in batch.items() if name != "bytes"}
        images = np.array([image for image in decoded if image is not None], np.float32).reshape(-1, *self.shape)
        x = images / np.float32(255)
        if self.binarize == "threshold":
            x = (x >= 0.5).astype(np.float32)
        if len(x):
            return rows | self.encode(x)
        empty = self.encode(np.zeros((1, *self.shape), np.float32))
        return rows | {name: values[:0] for name, values in empty.items()}


def write_features_on_ray(
    model: str | os.PathLike[str],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    hidden: bool = True,
    binarize: str = "none",
    address: str = LOCAL,
    workers: int = 2,
    gpus_per_worker: float = 0,
) -> int:
    """Encode a collection of images into a folder of Parquet files.

    Each row has `id`, `mean`, for a VAE `variance`, `hidden`, and what columns the source has beside the image. Rows
    are those of `kvae.features.streaming.write_features`, number for number, in any order: sort by `id`. Images are
    decoded, cropped and resized as `kvae.data` does. An actor that dies is started again, and its batches with it.

    Args:
        model: a `.keras` file that every machine can read.
        source: a folder of image files (`id` is the path in it); a Parquet file or a folder of them with a column
            `image` of encoded images (bytes, or the `{bytes, path}` of Hugging Face); or TFRecord files of
            `tf.train.Example` with `image/encoded`. These two may have `id`; else it is the number of the row.
        out: the folder to write; on a cluster any place that Ray can write to.
        hidden: whether to write the last hidden layer.
        binarize: "none" or "threshold", as the model was trained.
        address: of a Ray cluster, or "local", which starts Ray on this machine.
        workers: actors.
        gpus_per_worker: 0 for CPUs.

    Returns:
        The number of rows written.

    Raises:
        ImportError: without Ray.
        ValueError: for a source of another kind, or without images; for stochastic binarisation, whose draws
            depend on the order.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(NO_RAY) from error
    if binarize not in ("none", "threshold"):
        raise ValueError(
            f"Expected images as they are, or thresholded: random binary draws depend on the order, which Ray doesn't "
            f"keep. Received: binarize={binarize!r}"
        )
    model = str(Path(model).resolve())
    if not ray.is_initialized():
        ray.init(address=None if address == LOCAL else address, log_to_driver=False, logging_level=logging.ERROR)
    dataset = _read(ray.data, str(source))
    resources: dict[str, Any] = {"num_gpus": gpus_per_worker} if gpus_per_worker else {"num_cpus": 1}
    encoded = dataset.map_batches(
        ImageEncoder,
        fn_constructor_kwargs={"model": model, "hidden": hidden, "binarize": binarize},
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=ROWS,
        batch_format="numpy",
        **resources,
    )
    target = str(out)
    if "://" in target:
        encoded.write_parquet(target)
        return ray.data.read_parquet(target).count()
    with atomic_directory(target) as folder:
        encoded.write_parquet(str(folder))
        rows = ray.data.read_parquet(str(folder)).count()
    return rows


def _read(data: Any, source: str) -> Any:
    """Rows of `bytes`, `id` and more."""
    path = Path(source)
    if source.rstrip("/").endswith(".parquet") or (path.is_dir() and any(path.glob("*.parquet"))):
        return _numbered(data, data.read_parquet(source).map(_from_parquet))
    if source.endswith(TFRECORDS) or (path.is_dir() and holds(path, TFRECORDS)):
        return _numbered(data, data.read_tfrecords(source).map(_from_example))
    if "://" in source or (path.is_dir() and holds(path)):
        root = source.rstrip("/") if "://" in source else str(path.resolve())
        extensions = [suffix[1:] for suffix in sorted(SUFFIXES)]
        files = data.read_binary_files(root, include_paths=True, file_extensions=extensions)

        def relative(row: dict[str, Any]) -> dict[str, Any]:
            return {"id": os.path.relpath(row["path"], root), "bytes": row["bytes"]}

        return files.map(relative)
    raise ValueError(
        "Expected a folder of images, Parquet (.parquet) or TFRecord (.tfrecord) files to read on Ray. "
        f"Received: {source}"
    )


def _numbered(data: Any, dataset: Any) -> Any:
    """With the numbers of the rows for `id`, where there is none."""
    if "id" in dataset.schema().names:
        return dataset
    data.DataContext.get_current().execution_options.preserve_order = True
    whole = dataset.materialize()
    return whole.zip(data.range(whole.count()))


def _from_parquet(row: dict[str, Any]) -> dict[str, Any]:
    if "image" not in row:
        raise ValueError(f"Expected a column `image` of encoded images. Received: columns {sorted(row)}")
    image = row.pop("image")
    return {**row, "bytes": image["bytes"] if isinstance(image, dict) else image}


def _from_example(row: dict[str, Any]) -> dict[str, Any]:
    if "image/encoded" not in row:
        raise ValueError(f"Expected a feature `image/encoded`. Received: features {sorted(row)}")
    kept = {"id": row.get("id"), "label": row.get("image/class/label")}
    return {"bytes": row["image/encoded"], **{name: value for name, value in kept.items() if value is not None}}
