"""Loading `.keras` files, also those of strangers."""

import importlib
import io
import json
import math
import os
import zipfile
from pathlib import PurePosixPath
from typing import Any

import h5py
import keras

#: modules with classes that a model may be saved with, and that nothing has imported so far
REGISTERING = ("kvae.callbacks", "kvae.features.classifier", "kvae.optimizers", "kvae.schedules")
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
BYTES_PER_BYTE = 100  # of an archive, that it may unpack to: Keras doesn't compress
FEW = 10_000  # layers, latents, …: more than the file has weights are too many, but for these
COUNTS = {"num_layers", "num_steps", "num_blocks", "components", "pseudo_inputs", "units", "filters", "latent_dim"}


def load(path: str | os.PathLike[str]) -> Any:
    """Load a model from a `.keras` file: `keras.models.load_model` in its safe mode, with kvae's classes registered.

    The file may come from anywhere: nothing in it is executed, nothing is written, and sizes that it declares are
    compared with the weights that it has before memory is taken for them. (Models with Lambda layers, or of classes
    that aren't registered with Keras, are for `keras.models.load_model` and its options.)

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it isn't a model that Keras saved, is damaged, or isn't safe.

    Example:

        >>> import kvae, tempfile
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vae.save(f"{folder}/vae.keras")
        ...     load(f"{folder}/vae.keras").latent_dim
        2
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected a .keras file. Received: {path}, which is not there")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, os.path.getsize(path))
            text = archive.read(CONFIG).decode()
            config = json.loads(text)
            number = _count_weights(archive.read(WEIGHTS))
        for module in REGISTERING:
            if f'"{module}"' in text:
                importlib.import_module(module)
        _check_sizes(config, number)
        return keras.models.load_model(path, safe_mode=True)
    except Exception as error:  # whatever Keras, h5py or TensorFlow make of a damaged file
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"Expected a model in a .keras file, whole and safe. Received: {path} ({type(error).__name__}: {reason})"
        ) from error


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    names = archive.namelist()
    if missing := {CONFIG, WEIGHTS} - set(names):
        raise ValueError(f"no {min(missing)} in it")
    if len(set(names)) < len(names):
        raise ValueError("it has two files of one name")
    for name in names:
        if name.startswith("/") or "\\" in name or ":" in name or ".." in PurePosixPath(name).parts:
            raise ValueError(f"it has a file that points elsewhere: {name}")
    if sum(entry.file_size for entry in archive.infolist()) > BYTES_PER_BYTE * size + 2**20:
        raise ValueError("it would unpack to far more than its size")
    if damaged := archive.testzip():
        raise ValueError(f"{damaged} is damaged")


def _count_weights(content: bytes) -> int:
    """Numbers in a file of weights; each of its arrays has to be there."""
    total = 0

    def visit(name: str, found: Any) -> None:
        nonlocal total
        if isinstance(found, h5py.Dataset):
            if found.is_virtual or found.external:
                raise ValueError(f"weights {name} are said to be in another file")
            if found.nbytes > BYTES_PER_BYTE * max(1, found.id.get_storage_size()):
                raise ValueError(f"weights {name} of shape {found.shape} aren't in the file")
            total += math.prod(found.shape)

    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(visit)
    return total


def _check_sizes(config: dict[str, Any], number: int) -> None:
    """ValueError if the model of `config` has more weights than `number`; it is built without taking memory."""

    def visit(value: Any, key: str = "") -> None:
        if isinstance(value, dict):
            for name, entry in value.items():
                visit(entry, name)
        elif isinstance(value, list):
            for entry in value:
                visit(entry, key)
        elif key in COUNTS and isinstance(value, int | float) and value > max(number, FEW):
            raise ValueError(f"{key} = {value}, and it has {number} weights")

    visit(config)
    model_config = {name: entry for name, entry in config.items() if name != "compile_config"}
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(model_config, safe_mode=True)
        declared = sum(math.prod(weight.shape) for weight in model.weights)
    if declared > number:
        raise ValueError(f"it declares {declared:,} weights, and has {number:,}")
