"""Features beyond one machine: the same per-batch function in an actor pool of Ray Data (extra `ray`).

What travels to the actors is where the images are, not what they hold: each reads for itself.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kvae.data import DataWarning
from kvae.features.extract import ROWS
from kvae.features.listing import Listing, Reader, group_sizes, list_images, parquet_files
from kvae.features.streaming import PART_ROWS, as_table
from kvae.files import atomic_directory

LOCAL = "local"


class RayMissing(ImportError):
    """Ray isn't installed."""

    def __init__(self) -> None:
        super().__init__("Features on Ray need the extra `ray`: pip install 'keras-vae[ray]'")


class ImageEncoder:
    """What an actor does: rows that name images to rows of features, with a model that it loads once.

    Args:
        model: path of a `.keras` file that every machine can read.
        read: reads the images that rows name.
        hidden: whether to give the last hidden layer, too.
        binarize: "none" or "threshold".
        scale: what the images are divided by.

    Example:

        >>> import kvae, tempfile
        >>> from PIL import Image
        >>> from kvae.data.decoding import Decoder
        >>> from kvae.features.listing import FolderReader
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kvae.VAE(latent_dim=2, image_shape=(8, 8, 1)).save(f"{folder}/model.keras")
        ...     Image.fromarray(np.zeros((8, 8), np.uint8)).save(f"{folder}/a.png")
        ...     read = FolderReader(folder, Decoder((8, 8, 1)))
        ...     encode = ImageEncoder(f"{folder}/model.keras", read, hidden=False)
        ...     (rows,) = encode(pa.table({"id": [0], "path": ["a.png"]}))
        >>> rows.column_names, len(rows)
        (['id', 'path', 'mean', 'variance'], 1)
    """

    def __init__(
        self, model: str, read: Reader, hidden: bool = True, binarize: str = "none", scale: float = 255.0
    ) -> None:
        from kvae.features.extract import BatchEncoder
        from kvae.models import load

        self.encode = BatchEncoder(load(model), hidden)
        self.read = read
        self.binarize, self.scale = binarize, scale

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Tables of the readable images, with their features behind what was known of them."""
        for images, known in self.read(rows):
            x = images.astype(np.float32) / np.float32(self.scale)
            if self.binarize == "threshold":
                x = (x >= 0.5).astype(np.float32)
            features = self.encode(x if len(x) else np.zeros((1, *x.shape[1:]), np.float32))
            table = as_table({name: values[: len(x)] for name, values in features.items()})
            columns = {name: known[name] for name in known.column_names if name not in features}
            yield pa.table({**columns, **{name: table[name] for name in table.column_names}})


def write_features_on_ray(
    model: str | os.PathLike[str],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    hidden: bool = True,
    binarize: str = "none",
    address: str = LOCAL,
    workers: int = 2,
    gpus_per_worker: float = 0,
    size: int | tuple[int, int] | None = None,
    grayscale: bool | None = None,
    value_range: tuple[float, float] | None = None,
    background: Any = "white",
) -> int:
    """Encode a whole collection of images into a folder of Parquet files.

    The rows are those of `kvae.features.streaming.write_features` with the split "all", in the same order (that of the
    files' names), with the same columns; those of a Parquet source have its other columns as well. Images are found,
    decoded, cropped and resized as `kvae.data` does. An actor that dies is started again, and its batches with it.

    Args:
        model: a `.keras` file that every machine can read.
        source: what every machine can read: a folder of image files; TFRecord files as `kvae.data.load` takes them, or
            one; or Parquet files with a column `image` of encoded images (bytes, or the `{bytes, path}` of Hugging
            Face), or one, also as `s3://…`. Where Parquet has no column `id`, it is the number of the row.
        out: the folder to write, or as `s3://…` any place that Ray can write to where nothing is yet.
        hidden: whether to write the last hidden layer.
        binarize: "none" or "threshold", as the model was trained.
        address: of a Ray cluster, or "local", which starts Ray on this machine.
        workers: actors.
        gpus_per_worker: 0 for CPUs.
        size: crop and resize images to that; None for images that have the size of the model's.
        grayscale, value_range, background: as `kvae.data.load`.

    Returns:
        The number of rows written.

    Raises:
        ImportError: without Ray.
        ValueError: for a source of another kind, or without images, or whose images have another shape than the
            model's; for a conditional model; for stochastic binarisation; where Ray is connected elsewhere.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RayMissing from error
    if binarize not in ("none", "threshold"):
        raise ValueError(
            "Expected images as they are, or thresholded: random binary draws depend on the place in a collection, "
            f"which an actor doesn't know. Received: binarize={binarize!r}"
        )
    from kvae.models import load as load_model

    target = str(out)
    if "://" in target and parquet_files(target)[1]:
        raise ValueError(f"Expected a place where no Parquet file is yet. Received: {target}")
    model = str(Path(model).resolve())
    loaded = load_model(model)
    if loaded.condition_dim is not None:
        raise ValueError(
            "Expected a model without conditions: conditional ones are encoded on one machine, without Ray. "
            f"Received: condition_dim={loaded.condition_dim}"
        )
    found = list_images(os.fspath(source), size, grayscale, value_range, background)
    if found.shape != loaded.image_shape:
        raise ValueError(
            f"Expected images of shape {loaded.image_shape}, as the model was trained on. "
            f"Received: {source} with {found.shape}"
        )
    batches = max(1, min(PART_ROWS // ROWS, len(found.rows) // (4 * workers * found.at_once)))
    per_block = batches * found.at_once
    blocks = [found.rows.slice(start, per_block) for start in range(0, len(found.rows), per_block)]
    resources: dict[str, Any] = {"num_gpus": gpus_per_worker} if gpus_per_worker else {"num_cpus": 1}
    with _connected(ray, address), _in_order(ray.data.DataContext.get_current()):
        encoded = ray.data.from_arrow(blocks).map_batches(
            ImageEncoder,
            fn_constructor_kwargs={
                "model": model, "read": found.read, "hidden": hidden, "binarize": binarize, "scale": found.scale,
            },
            compute=ray.data.ActorPoolStrategy(size=workers),
            batch_size=found.at_once,
            batch_format="pyarrow",
            **resources,
        )  # fmt: skip
        if "://" in target:
            encoded.write_parquet(target)
            return _count(target, found)
        with atomic_directory(target) as folder:
            encoded.write_parquet(str(folder))
            return _count(str(folder), found)


def _count(target: str, found: Listing) -> int:
    """The rows that were written."""
    filesystem, files = parquet_files(target)
    rows = sum(sum(group_sizes(filesystem, file)) for file in files)
    if not rows:
        raise ValueError(f"{found.name}: expected images that can be read. Received: {found.images}, none readable")
    if left_out := found.images - rows:
        warnings.warn(
            f"{found.name}: left out {left_out} of {found.images} images that cannot be read, or have another shape "
            f"than {found.shape}",
            DataWarning, stacklevel=3,
        )  # fmt: skip
    return rows


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """A connection to Ray: the one that there is, if it is that one, or one for as long as the block lasts."""
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()
        return
    connected = ray.get_runtime_context().gcs_address
    here = connected.rpartition(":")[0] in (ray.util.get_node_ip_address(), "127.0.0.1")
    if address not in (connected, "auto") and not (address == LOCAL and here):
        raise ValueError(
            f"Expected Ray not to be connected, or to {address}: leave that out, or call ray.shutdown() first. "
            f"Received: a connection to {connected}"
        )
    yield


@contextlib.contextmanager
def _in_order(context: Any) -> Iterator[None]:
    """Ray Data keeps the order of rows, as long as the block lasts."""
    options = context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        yield
    finally:
        options.preserve_order = before
