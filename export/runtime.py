"""Run an exported `.tflite` file with NumPy and ai-edge-litert alone: no TensorFlow, no Keras.

    from kvae.export.runtime import load
    model = load("vae_int8.tflite", num_threads=1)
    images = model.sample(16, seed=7)                   # (16, H, W, C)
    mean = model.encode(images.clip(0, 1))["mean"]      # (16, D)

On the command line: `python -m kvae.export.runtime vae_int8.tflite --sample 16 --seed 7 --out grid.png`
"""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError as error:
    raise ImportError("kvae.export.runtime needs LiteRT: pip install ai-edge-litert") from error

from kvae.export import metadata

# Larger batches are run in pieces of this size, so that memory stays bounded; results don't depend on it.
BATCH = 64
_NEEDED = {"decode", "encode", "reconstruct"}


class Model:
    """An opened file; make one with `load`. Several threads may share it; they wait for each other.

    Arguments are checked before they reach the interpreter, which would accept some nonsense in silence: each
    method raises a ValueError that says what was expected. An array may have any dtype of real numbers.

    Attributes:
        signatures: for each signature its inputs and outputs, with their shapes (None is any batch size).
        facts: what the file says about its model: kind, likelihood, posterior, prior, ….
        image_shape: `(H, W, C)`.
        latent_dim: D.
    """

    def __init__(self, path: str | os.PathLike[str], num_threads: int = 1):
        self.path = Path(path)
        self._lock = threading.Lock()
        # The interpreter must outlive its runners.
        self._interpreter = _open(self.path, num_threads)
        names = self._interpreter.get_signature_list()
        if not set(names) >= _NEEDED:
            raise ValueError(
                f"Expected a file made by kvae.export, with signatures {sorted(_NEEDED)}. Received: "
                f"'{self.path}' with {sorted(names) or 'none'}"
            )
        self._runners = {name: self._interpreter.get_signature_runner(name) for name in names}
        self.signatures = {
            name: {
                "inputs": _shapes(runner.get_input_details()),
                "outputs": _shapes(runner.get_output_details()),
            }
            for name, runner in self._runners.items()
        }
        self.facts = metadata.read(self.path.read_bytes())
        self.image_shape = tuple(self.signatures["encode"]["inputs"]["image"][1:])
        self.latent_dim = int(self.signatures["decode"]["inputs"]["z"][1] or 0)

    def decode(self, z: Any) -> np.ndarray:
        """Mean images of latents, `(B, D)` to `(B, H, W, C)`."""
        return self.run("decode", z=_check("z", z, self.signatures["decode"]["inputs"]["z"]))["image"]

    def encode(self, image: Any) -> dict[str, np.ndarray]:
        """`mean` and `variance` of q(z|x), `(B, D)` each, for images `(B, H, W, C)` in [0, 1].

        For the file of an autoencoder `mean` is the code, and there is no `variance`.
        """
        return self.run("encode", image=self._check_image(image, "encode"))

    def reconstruct(self, image: Any) -> np.ndarray:
        """Images in [0, 1] encoded and decoded again without noise, `(B, H, W, C)`."""
        return self.run("reconstruct", image=self._check_image(image, "reconstruct"))["reconstruction"]

    def sample(self, n: int, seed: int | None = None) -> np.ndarray:
        """Decode `n` latents from N(0, I), `(n, H, W, C)`; the same seed gives the same images.

        The latents are NumPy's; `VAE.sample` has another generator, and draws other images.

        Raises:
            ValueError: if n < 1, or if the model's prior isn't N(0, I): draw z yourself and call `decode`.
        """
        prior = self.facts.get("prior")
        if prior != "StandardNormal":
            raise ValueError(
                "Expected a model with the prior N(0, I) to sample from: draw z yourself and call decode(z). "
                f"Received: '{self.path}', prior {prior or 'none'}"
            )
        if n < 1:
            raise ValueError(f"Argument `n` must be >= 1. Received: n={n}")
        z = np.random.default_rng(seed).standard_normal((n, self.latent_dim), dtype=np.float32)
        return self.decode(z)

    def run(self, signature: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Run a signature on arrays of the right shape and dtype, unchecked; a dict of its outputs."""
        if signature not in self._runners:
            raise ValueError(f"Expected one of {sorted(self._runners)}. Received: signature '{signature}'")
        runner, rows = self._runners[signature], max(len(value) for value in inputs.values())
        with self._lock:
            pieces = [
                runner(**{name: value[first : first + BATCH] for name, value in inputs.items()})
                for first in range(0, rows, BATCH)
            ]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def _check_image(self, image: Any, signature: str) -> np.ndarray:
        image = _check("image", image, self.signatures[signature]["inputs"]["image"])
        low, high = image.min(), image.max()
        if low < 0 or high > 1:
            raise ValueError(
                "Argument `image` must have values in [0, 1]: scale them, for example image / 255. Received: "
                f"values from {low:.4g} to {high:.4g}"
            )
        return image


def load(path: str | os.PathLike[str], num_threads: int = 1) -> Model:
    """Open a file that `kvae.export` made.

    Args:
        path: of the `.tflite` file.
        num_threads: for the kernels, >= 1.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, cut off, no LiteRT file, or not one of kvae's.
    """
    return Model(path, num_threads)


def _open(path: Path, num_threads: int) -> Any:
    if num_threads < 1:
        raise ValueError(f"Argument `num_threads` must be >= 1. Received: num_threads={num_threads}")
    if not path.exists():
        raise FileNotFoundError(f"Expected a .tflite file. Received: '{path}', which doesn't exist")
    if not path.is_file():
        raise ValueError(f"Expected a .tflite file. Received: '{path}', a folder")
    with path.open("rb") as file:
        start = file.read(8)
    if start[4:] != b"TFL3":
        what = "is empty" if not start else "isn't a LiteRT file"
        raise ValueError(f"Expected a .tflite file. Received: '{path}', which {what}")
    try:
        return Interpreter(model_path=str(path), num_threads=num_threads)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"Expected a whole .tflite file of built-in operators. Received: '{path}', which LiteRT "
            f"can't open (damaged?): {reason}"
        ) from error


def _shapes(details: dict[str, Any]) -> dict[str, tuple[int | None, ...]]:
    return {
        name: tuple(None if size < 0 else int(size) for size in detail["shape_signature"])
        for name, detail in details.items()
    }


def _check(name: str, value: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """`value` as a float32 array of this shape; ValueError if it isn't one, is empty or isn't finite."""
    wanted = f"Argument `{name}` must be an array of shape (batch, {', '.join(map(str, shape[1:]))})"
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{wanted}. Received: rows of different lengths") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{wanted} of real numbers. Received: dtype {array.dtype}")
    if array.ndim != len(shape) or array.shape[1:] != shape[1:]:
        hint = f"; a single one is {name}[None]" if array.shape == shape[1:] else ""
        raise ValueError(f"{wanted}. Received: shape {array.shape}{hint}")
    if len(array) == 0:
        raise ValueError(f"{wanted} with batch >= 1. Received: shape {array.shape}")
    with np.errstate(over="ignore"):  # what float32 can't hold is infinite then, and refused below
        array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{wanted} of finite numbers. Received: NaN or infinity")
    return array


if __name__ == "__main__":
    from kvae.export.sampling import main

    raise SystemExit(main())
