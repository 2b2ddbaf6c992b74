"""Features on several machines: the same per-batch function in an actor pool of Ray Data (extra `ray`).

The actors receive the locations of the images, and each actor reads its images itself.
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
from kvae.features.extraction import ROWS
from kvae.features.listing import Listing, Reader, group_sizes, list_images, parquet_files
from kvae.features.streaming import PART_ROWS, as_table
from kvae.files import atomic_directory

LOCAL = "local"


class RayMissing(ImportError):
    """An error for a missing Ray installation."""

    def __init__(self) -> None:
        super().__init__("Features on Ray need the extra `ray`: pip install 'keras-vae[ray]'")


class ImageEncoder:
    """The function of an actor: from rows with locations of images to rows of features. It loads the model once.

    Args:
        model: path of a `.keras` file that every machine can read.
        read: reader of the images of some rows.
        hidden: whether to return the last hidden layer, too.
        binarize: "none" or "threshold".
        scale: divisor of the images.

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
        from kvae.features.extraction import BatchEncoder
        from kvae.models import load

        self.encode = BatchEncoder(load(model), hidden)
        self.read = read
        self.binarize, self.scale = binarize, scale

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Yield tables of the readable images: their known columns, then their features."""
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

    Rows and columns are those of `kvae.features.streaming.write_features` with the split "all", in the same order (by
    file name). A Parquet source keeps its other columns. Images are found, decoded, cropped and resized as in
    `kvae.data`. An actor that dies is started again with its batches.

    Args:
        model: a `.keras` file that every machine can read.
        source: images that every machine can read: a folder of image files; one or more TFRecord files as for
            `kvae.data.load`; or one or more Parquet files with a column `image` of encoded images (bytes, or the
            `{bytes, path}` of Hugging Face), also as `s3://…`. If Parquet files have no column `id`, it is the number
            of the row.
        out: the folder to write, or an address such as `s3://…` that Ray can write to and that has no files yet.
        hidden: whether to write the last hidden layer.
        binarize: "none" or "threshold", as in training.
        address: address of a Ray cluster, or "local", which starts Ray on this machine.
        workers: number of actors.
        gpus_per_worker: number of GPUs for each actor; 0 uses CPUs.
        size: crop and resize images to this size; None for images that have the model's size.
        grayscale, value_range, background: as for `kvae.data.load`.

    Returns:
        The number of rows written.

    Raises:
        ImportError: if Ray is missing.
        ValueError: if the source has another kind, no images, or images of a different shape than the model's; if the
            model is conditional; for stochastic binarisation; or if Ray is connected to another cluster.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RayMissing from error
    if binarize not in ("none", "threshold"):
        raise ValueError(
            "Expected binarize='none' or 'threshold': stochastic binarisation depends on the position in the "
            f"collection, which an actor doesn't know. Received: binarize={binarize!r}"
        )
    from kvae.models import load as load_model

    target = str(out)
    if "://" in target and parquet_files(target)[1]:
        raise ValueError(f"Expected an address without Parquet files. Received: {target}")
    model = str(Path(model).resolve())
    loaded = load_model(model)
    if loaded.condition_dim is not None:
        raise ValueError(
            "Expected a model without conditions: conditional models encode images on one machine, without Ray. "
            f"Received: condition_dim={loaded.condition_dim}"
        )
    found = list_images(os.fspath(source), size, grayscale, value_range, background)
    if found.shape != loaded.event_shape:
        raise ValueError(
            f"Expected images of shape {loaded.event_shape}, the model's. "
            f"Received: {source} with images of shape {found.shape}"
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
    """Return the number of rows written, and warn of images that were left out."""
    filesystem, files = parquet_files(target)
    rows = sum(sum(group_sizes(filesystem, file)) for file in files)
    if not rows:
        raise ValueError(
            f"{found.name}: expected images that can be read. Received: {found.images} images, none of them readable"
        )
    if left_out := found.images - rows:
        warnings.warn(
            f"{found.name}: left out {left_out} of {found.images} images that cannot be read, or have a shape other "
            f"than {found.shape}",
            DataWarning, stacklevel=3,
        )  # fmt: skip
    return rows


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Use the existing connection to Ray if it has this address, or connect for the duration of the block."""
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
            f"Expected no connection to Ray, or a connection to {address}. "
            f"Received: a connection to {connected}; leave out the address, or call ray.shutdown() first"
        )
    yield


@contextlib.contextmanager
def _in_order(context: Any) -> Iterator[None]:
    """Make Ray Data keep the order of rows for the duration of the block."""
    options = context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        yield
    finally:
        options.preserve_order = before
