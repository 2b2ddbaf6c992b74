"""Loading `.keras` files, including untrusted ones."""

import io
import json
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import h5py
import keras
from keras.src.backend.common import global_state

from kvae.networks.layout import check_layout

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
BYTES_PER_BYTE = 100  # largest ratio of unpacked to stored bytes: Keras doesn't compress
FEW = 10_000  # numbers and list lengths in a configuration up to this are accepted, whatever weights the file has
ACTIVATION = 2**28  # largest number of elements in an activation of one example: 1 GiB
#: entries that may be larger than the model, because they are only compared and computed with, not allocated
LARGE = {
    "boundaries", "dataset_size", "decay_steps", "dynamic_growth_steps", "ema_overwrite_frequency", "first_decay_steps",
    "levels", "sampling_rate", "seed", "shared_object_id", "steps", "warmup_steps",
}  # fmt: skip


def load(path: str | os.PathLike[str]) -> Any:
    """Load a model from a `.keras` file: `keras.models.load_model` in its safe mode, with kvae's classes registered.

    The file may be untrusted: nothing in it is executed, nothing is written, and every number in its configuration is
    compared with the stored weights before memory or time is spent on it. (Use `keras.models.load_model` and its
    options for models with Lambda layers, or with classes that aren't registered with Keras.)

    Args:
        path: path of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file isn't a saved Keras model, is damaged, or isn't safe.

    Example:

        >>> import kvae, tempfile
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vae.save(f"{folder}/vae.keras")
        ...     load(f"{folder}/vae.keras").latent_dim
        2
    """
    check_layout()
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected a .keras file. Received: {path}, which doesn't exist")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, os.path.getsize(path))
            config = json.loads(archive.read(CONFIG))
            sizes = _weight_sizes(archive.read(WEIGHTS))
        _check_sizes(config, sizes)
        return keras.models.load_model(path, safe_mode=True)
    except Exception as error:  # Keras, h5py and TensorFlow raise nearly anything on damaged files
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"Expected an undamaged, safe .keras file. Received: {path} ({type(error).__name__}: {reason})"
        ) from error


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    names = archive.namelist()
    if missing := {CONFIG, WEIGHTS} - set(names):
        raise ValueError(f"no {min(missing)} in it")
    if len(set(names)) < len(names):
        raise ValueError("two of its files have the same name")
    for name in names:
        if name.startswith("/") or "\\" in name or ":" in name or ".." in PurePosixPath(name).parts:
            raise ValueError(f"one of its files points outside of it: {name}")
    if sum(entry.file_size for entry in archive.infolist()) > BYTES_PER_BYTE * size + 2**20:
        raise ValueError("its unpacked size is far larger than the file")
    if damaged := archive.testzip():
        raise ValueError(f"{damaged} is damaged")


def _weight_sizes(content: bytes) -> list[int]:
    """Return the size of each array in a file of weights; raise a ValueError if its data are missing."""
    sizes = []

    def visit(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            if found.is_virtual or found.external:
                raise ValueError(f"weights {name} refer to another file")
            if found.nbytes > BYTES_PER_BYTE * max(1, found.id.get_storage_size()):
                raise ValueError(f"weights {name} of shape {found.shape} aren't in the file")
            sizes.append(math.prod(found.shape))

    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(visit)
    return sizes


def _check_sizes(config: Any, sizes: list[int]) -> None:
    """Raise a ValueError if a model is larger than the arrays of weights in its file, whose `sizes` are given.

    First the numbers in the configuration are checked. Then the model is built without memory for weights; building
    stops when they are too many.
    """
    _check_numbers(config, max(sum(sizes), FEW), [1000 + 50 * len(sizes)])
    config = dict(config)
    compile_config = {**(config.pop("compile_config", None) or {}), "optimizer": None}  # as large as the weights
    with _weights_within(sizes):
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        keras.saving.deserialize_keras_object(compile_config, safe_mode=True)
        declared = sum(math.prod(weight.shape) for weight in model.weights)
    if declared > sum(sizes):
        raise ValueError(f"it declares {declared:,} weights, but has {sum(sizes):,}")
    for layer in model._flatten_layers():
        for output in (output for node in layer._inbound_nodes for output in node.output_tensors):
            if math.prod(size or 1 for size in output.shape[1:]) > ACTIVATION:
                raise ValueError(f"an image becomes an array of shape {output.shape[1:]} in {layer.name}")


def _check_numbers(value: Any, most: int, objects: list[int], key: str = "") -> None:
    """Raise a ValueError for a number above `most`, a longer list, or more Keras objects than `objects` allows."""
    if isinstance(value, dict):
        objects[0] -= "class_name" in value
        if objects[0] < 0:
            raise ValueError("it has far more layers than weights")
        for name, entry in value.items():
            _check_numbers(entry, FEW if name == "compile_config" else most, objects, name)
    elif isinstance(value, list):
        if len(value) > most:
            raise ValueError(f"{key} has {len(value):,} entries")
        for entry in value:  # `levels` of a hierarchy are rows, those of a likelihood a number of grey values
            _check_numbers(entry, most, objects, "" if key == "levels" else key)
    elif isinstance(value, int) and abs(value) > (2**64 if key in LARGE else most):
        raise ValueError(
            f"{key} = {value}, more than its weights allow; open a file you trust with keras.models.load_model"
        )


class _Uninitialized:
    """Keras's list of the variables that are created in a stateless scope, limited to a number of them."""

    def __init__(self, arrays: int, numbers: int):
        self.arrays, self.numbers = arrays, numbers

    def append(self, variable: keras.Variable) -> None:
        self.arrays -= 1
        self.numbers -= math.prod(variable.shape)
        if min(self.arrays, self.numbers) < 0:
            raise ValueError(f"it declares more weights than it has ({variable.path} of shape {variable.shape})")


@contextmanager
def _weights_within(sizes: list[int]) -> Iterator[None]:
    """Create variables without memory inside the block; raise a ValueError if they are far more than these arrays.

    Counters, states of metrics and random numbers, which aren't saved, and float weights that are quantized at once
    exceed the arrays.
    """
    name = "uninitialized_variables"  # private to Keras; variables left there would be initialised later
    before = global_state.get_global_attribute(name)
    global_state.set_global_attribute(name, _Uninitialized(100 + 2 * len(sizes), 2**20 + 3 * sum(sizes)))
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(name, before if before is not None else [])
