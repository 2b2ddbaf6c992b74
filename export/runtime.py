"""Run an exported `.tflite` file with NumPy and ai-edge-litert alone: no TensorFlow, no Keras.

    from kvae.export.runtime import load
    model = load("vae_int8.tflite", num_threads=1)
    images = model.generate(16, seed=7)                  # (16, H, W, C), those of vae.generate(16, seed=7)
    mean = model.encode(images).mean                     # (16, D)
    nats = model.score(images)["negative_elbo"]          # (16,); model.percentile(nats) says how unusual
    probabilities = load("classifier_int8.tflite").classify(images)  # (16, C)

On the command line: `python -m kvae.export.runtime vae_int8.tflite --generate 16 --seed 7 --out grid.png`
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import secrets
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kvae.arguments import ROUNDING, integer, numbers, real, shown

__all__ = ["Model", "Posterior", "load", "seed_words"]

try:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
except ImportError:
    try:  # what there was before, for older Pythons
        from tflite_runtime.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise ImportError("kvae.export.runtime needs LiteRT: pip install ai-edge-litert") from error

REPORT = "report.json"
FORMAT, FORMAT_VERSION = "kvae", 1  # of the JSON that `info` gives
DYNAMIC_BATCH = 64  # with a signature for any batch size, rows are run in pieces of this size
MAX_BYTES = 2**31  # of one answer; more is better drawn in parts
MAX_THREADS = 1024  # tens of thousands end the process
#: Behind the flatbuffer, where LiteRT doesn't look, is a zip archive: what the file says about its model, and lists of
#: names. Its comment is this, and the sha256 of all that comes before.
SEAL = b"\nkvae sha256\n"
INFO = "info.json"
SERVING_DEFAULT = "serving_default"  # the signature of a file that has one


class Posterior(NamedTuple):
    """What `Model.encode` returns: `mean` and `variance`, `(B, D)` each; of an autoencoder there is no variance."""

    mean: np.ndarray
    variance: np.ndarray | None


class Model:
    """An opened file; make one with `load`. Several threads may share it; they wait for each other.

    A file has signatures for fixed batch sizes: any number of rows is cut into the largest that fit, and what is
    left over is padded. Arguments are checked before they reach the interpreter, which would accept some nonsense
    in silence (an int8 file draws a plausible image from NaN): each method raises a ValueError that says what was
    expected. An array may have any dtype of real numbers.

    Attributes:
        info: what the file says about its model: kind, likelihood, posterior, prior, signatures, ….
        image_shape: `(H, W, C)`.
        latent_dim: D; None for a classifier.
        batch_sizes: of the signatures, largest first.
        condition_dim: size of the condition of a conditional model, or None. Its methods need `condition`: an
            integer, a name from `info["condition"]["names"]` or a vector for all rows, or integers `(B,)` or vectors
            `(B, condition_dim)`.
        class_names: of a model that classifies, in the order of the probabilities; None if the file has none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        num_threads: int = 1,
        sha256: str | None = None,
        xnnpack: bool = True,
    ):
        self.path = _path("path", path)
        self._lock = threading.Lock()
        num_threads = integer("num_threads", num_threads, least=1, most=MAX_THREADS)
        data = _read(self.path, sha256)
        # The interpreter must outlive its runners, and the data the interpreter.
        self._data = data
        self._interpreter = _open(self.path, data, num_threads, xnnpack)
        self.info = self._read_info(self._interpreter.get_signature_list())
        self.image_shape = tuple(self.info["image_shape"])
        self.latent_dim = None if self.info["latent_dim"] is None else int(self.info["latent_dim"])
        self.batch_sizes = tuple(sorted(self.info["batch_sizes"], reverse=True))
        self.condition_dim = int(self.info["condition"]["size"]) if "condition" in self.info else None
        names_of_classes = self.info.get("classes", {}).get("names")
        self.class_names = None if names_of_classes is None else tuple(map(str, names_of_classes))
        self._runners: dict[str, Any] = {}

    def decode(self, z: Any, condition: Any = None) -> np.ndarray:
        """Mean images of latents, `(B, D)` to `(B, H, W, C)`."""
        self._need("decode")
        z = _check("z", z, (None, self.latent_dim))
        return self._answer("decode", z=z, **self._condition(condition, len(z)))["image"]

    def encode(self, image: Any, condition: Any = None) -> Posterior:
        """`mean` and `variance` of q(z|x), `(B, D)` each, for images `(B, H, W, C)` in [0, 1].

        For the file of an autoencoder `mean` is the code, and `variance` is None.
        """
        self._need("encode")
        image = self._check_image(image)
        found = self._answer("encode", image=image, **self._condition(condition, len(image)))
        return Posterior(found["mean"], found.get("variance"))

    def reconstruct(self, image: Any, condition: Any = None) -> np.ndarray:
        """Images in [0, 1] encoded and decoded again without noise, `(B, H, W, C)`."""
        self._need("reconstruct")
        image = self._check_image(image)
        return self._answer("reconstruct", image=image, **self._condition(condition, len(image)))["reconstruction"]

    def generate(
        self,
        n: int = 1,
        seed: int | None = None,
        start: int = 0,
        temperature: float = 1.0,
        condition: Any = None,
    ) -> np.ndarray:
        """Images from the prior, number `start` to `start + n` of a seed: `(n, H, W, C)`.

        Image i depends on the seed and i alone. Its latents are those of `VAE.generate` bit for bit, on every
        platform; as 8-bit images, float32 files are within one level of Keras. `run("generate", …)` has the
        latents, too.

        Args:
            n: how many.
            seed: up to 64 bits; None draws new images each time.
            start: number of the first one.
            temperature: scale of the prior's noise, >= 0; below 1 images are more typical and less diverse.
            condition: of a conditional model, one for all or one for each.

        Raises:
            ValueError: for arguments outside these ranges, or if the model has no prior.
        """
        self._need(
            "generate",
            "Expected a variational autoencoder to generate from: an autoencoder has no prior; decode points "
            "near the codes of real images instead",
        )
        n, start = integer("n", n, least=1), integer("start", start, least=0)
        most = MAX_BYTES // (4 * math.prod(self.image_shape))
        if n > most:
            raise ValueError(
                f"Argument `n` must be 1 to {most} (2 GiB at once): draw more in parts, with `start`. Received: n={n}"
            )
        if start > 2**31 - n:
            raise ValueError(f"Argument `start` must be 0 to 2^31 − n. Received: start={start}, n={n}")
        temperature = min(real("temperature", temperature, least=0), float(np.finfo(np.float32).max))
        return self._answer(
            "generate",
            seed=seed_words(secrets.randbits(63) if seed is None else seed),
            index=np.arange(start, start + n, dtype=np.int32),
            temperature=np.array([temperature], np.float32),
            **self._condition(condition, n),
        )["image"]

    def interpolate(self, start: Any, end: Any, steps: int = 8, condition: Any = None) -> np.ndarray:
        """Images on the straight line between two latents `(D,)`, both ends included: `(steps, H, W, C)`."""
        self._need("interpolate")
        steps = integer("steps", steps, least=2)
        ends = {name: _check(name, z, (self.latent_dim,))[None] for name, z in (("start", start), ("end", end))}
        position = np.linspace(0, 1, steps, dtype=np.float32)
        return self._answer("interpolate", **ends, position=position, **self._condition(condition, steps))["image"]

    def interpolate_images(self, first: Any, second: Any, steps: int = 8, condition: Any = None) -> np.ndarray:
        """`interpolate` between the latents of two images `(H, W, C)`: `(steps, H, W, C)`."""
        ends = (_check(name, image, self.image_shape) for name, image in (("first", first), ("second", second)))
        start, end = (self.encode(image[None], condition).mean[0] for image in ends)
        return self.interpolate(start, end, steps, condition)

    def score(self, image: Any, seed: int = 0, num_samples: int = 1, condition: Any = None) -> dict[str, np.ndarray]:
        """How unusual images are: `negative_elbo` = `distortion` + `rate`, nats, `(B,)` each.

        An unbiased estimate of the −ELBO with `num_samples` posterior samples. The same image always gets the
        same score: the noise depends on the seed and the number of the sample.

        Raises:
            ValueError: for other images than `(B, H, W, C)` in [0, 1], or if the model has no prior.
        """
        self._need("score", "Expected a variational autoencoder: only one has a likelihood of images to score them by")
        num_samples = integer("num_samples", num_samples, least=1)
        image, words = self._check_image(image), seed_words(seed)
        given = self._condition(condition, len(image))
        samples = [
            self._answer("score", image=image, seed=words, index=np.full(len(image), k, np.int32), **given)
            for k in range(num_samples)
        ]
        return {name: np.mean([sample[name] for sample in samples], axis=0) for name in samples[0]}

    def percentile(self, negative_elbo: Any) -> np.ndarray:
        """Which share of ordinary images scores lower, 0 to 100: 99 and more is unusual.

        It is read off the quantiles that the file holds, which were taken on validation images at the export.

        Args:
            negative_elbo: a score, or an array of them.

        Raises:
            ValueError: if the file has none, or for anything but numbers.
        """
        if not self.info.get("score"):
            raise ValueError(
                f"Expected a file with score quantiles: export with validation images. Received: '{self.path}' without"
            )
        probability, value = np.array(self.info["score"]["quantiles"]).T
        try:
            scores = np.asarray(negative_elbo)
        except ValueError:  # rows of different lengths
            scores = np.array(None)
        if scores.dtype.kind not in "iuf" or np.isnan(scores).any():
            raise ValueError(
                "Argument `negative_elbo` must be a number or an array of numbers, such as "
                f"score(image)['negative_elbo']. Received: {shown(negative_elbo)}"
            )
        return 100 * np.interp(scores, value, probability, left=0.0, right=1.0)

    def classify(self, image: Any) -> np.ndarray:
        """Probabilities of the classes of images `(B, H, W, C)`: `(B, classes)`, of a classifier.

        Raises:
            ValueError: for other images, or if the model doesn't classify.
        """
        self._need("classify")
        return self._answer("classify", image=self._check_image(image))["probability"]

    def labels(self, image: Any) -> list[str]:
        """Name of the most probable class of each image.

        Raises:
            ValueError: as `classify`, or if the file has no names: take `classify(image).argmax(axis=-1)`.
        """
        probability = self.classify(image)
        if self.class_names is None:
            raise ValueError(
                f"Expected a file with names of the classes: export with `class_names`, or take the numbers, "
                f"classify(image).argmax(axis=-1). Received: '{self.path}' without"
            )
        return [self.class_names[number] for number in probability.argmax(axis=-1)]

    def self_test(self, golden: str | os.PathLike[str] | None = None) -> dict[str, float]:
        """Replay the golden pairs of the file, as a device would: the largest difference by signature.

        Args:
            golden: path; left out, the `.golden.json` beside the file.

        Raises:
            ValueError: if an output is further off than its tolerance, or there is no such file.
        """
        path = self.path.with_suffix(".golden.json") if golden is None else _path("golden", golden)
        try:
            signatures = json.loads(path.read_text(encoding="utf-8"))["signatures"].items()
            calls = [(name, *(_arrays(call[side]) for side in ("inputs", "outputs"))) for name, call in signatures]
            tolerances = {name: {k: v["tolerance"] for k, v in call["outputs"].items()} for name, call in signatures}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"Expected the golden pairs that kvae.export wrote. Received: '{path}' ({error})"
            ) from error
        worst = {}
        for name, inputs, outputs in calls:
            with self._lock:
                got = self.call(name, inputs)
            errors = {key: float(np.max(np.abs(got[key] - right.astype(np.float64)))) for key, right in outputs.items()}
            for key, off in errors.items():
                if not off <= tolerances[name][key]:
                    raise ValueError(
                        f"Expected '{key}' of '{name}' within {tolerances[name][key]:.3g} of the golden pair. "
                        f"Received: off by {off:.3g}; this runtime computes something else"
                    )
            worst[name] = max(errors.values())
        return worst

    def run(self, endpoint: str, batch: int | None = None, **inputs: Any) -> dict[str, np.ndarray]:
        """Run an endpoint on arrays of the right shape and dtype, whatever is in them; a dict of its outputs.

        Args:
            endpoint: name without a batch size, one of `info["signatures"]`.
            batch: run the signature of this size, padded as needed; None chooses.
            inputs: by name; those that `info` gives a batch "B" for have the same number of rows, any.
        """
        known = self.info["signatures"]
        if not isinstance(endpoint, str) or endpoint not in known:
            raise ValueError(
                f"Expected one of {sorted(known)}. Received: signature {shown(endpoint)} "
                f"(they have no batch size in their name here)"
            )
        specs = known[endpoint]["inputs"]
        if set(inputs) != set(specs):
            raise ValueError(f"'{endpoint}' takes {sorted(specs)}. Received: {sorted(inputs)}")
        sizes = sorted(known[endpoint]["batch_sizes"])
        if batch is not None and integer("batch", batch) not in sizes:
            raise ValueError(f"Argument `batch` must be one of {sizes}. Received: batch={batch}")
        inputs = {name: _as_specified(name, value, specs[name]) for name, value in inputs.items()}
        batched = {name for name, spec in specs.items() if spec["shape"][0] == "B"}
        rows = len(inputs[next(iter(batched))])
        if rows == 0 or any(len(inputs[name]) != rows for name in batched):
            received = ", ".join(f"{len(inputs[name])} of `{name}`" for name in sorted(batched))
            raise ValueError(f"'{endpoint}' takes equally many rows of each input, at least one. Received: {received}")
        pieces, first = [], 0
        with self._lock:
            while first < rows:
                name, size = self._choose(endpoint, rows - first, batch)
                count = min(size, rows - first)
                piece = {key: inputs[key][first : first + count] if key in batched else inputs[key] for key in inputs}
                if count < size:  # the last row again and again
                    padding = np.minimum(np.arange(size), count - 1)
                    piece = {key: value[padding] if key in batched else value for key, value in piece.items()}
                if "io" in self.info:
                    outputs = self._floats_of(name, self.call(name, self.as_integers(name, piece)))
                else:
                    outputs = self.call(name, piece)
                pieces.append({key: value[:count] for key, value in outputs.items()})
                first += count
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def signature(self, endpoint: str, batch: int) -> str:
        """Name in the file of an endpoint for a batch of this size."""
        return SERVING_DEFAULT if "serving_default" in self.info else f"{endpoint}_{batch}"

    def _need(self, endpoint: str, expected: str | None = None) -> None:
        """ValueError unless the file has this endpoint."""
        if endpoint not in self.info["signatures"]:
            if expected is None or self.info["kind"] != "autoencoder":
                expected = f"Expected a file with the signature '{endpoint}'"
            has = ", ".join(self.info["signatures"])
            raise ValueError(f"{expected}. Received: '{self.path}', {self.info['kind']} with {has}")

    def floats(self, endpoint: str, **inputs: Any) -> dict[str, np.ndarray]:
        """As `run`, with images in [0, 1], of a file, too, that takes and gives bytes."""
        signature = self.info["signatures"].get(endpoint, {"inputs": {}, "outputs": {}})
        sides = [
            {name for name, spec in signature[side].items() if spec["dtype"] == "uint8"}
            for side in ("inputs", "outputs")
        ]
        given: dict[str, Any] = {name: to_bytes(value) if name in sides[0] else value for name, value in inputs.items()}
        outputs = self.run(endpoint, **given)
        return {name: value / np.float32(255) if name in sides[1] else value for name, value in outputs.items()}

    def _answer(self, endpoint: str, **inputs: Any) -> dict[str, np.ndarray]:
        outputs = self.floats(endpoint, **inputs)
        if not all(np.isfinite(value).all() for value in outputs.values()):
            raise ValueError(
                f"Expected inputs that '{endpoint}' can compute with. Received: numbers so large that it overflows"
            )
        return outputs

    def _choose(self, endpoint: str, rows: int, batch: int | None) -> tuple[str, int]:
        """Signature and size of the next piece: the largest that fits, or the smallest."""
        signature = self.info["signatures"][endpoint]
        if batch is None and signature["dynamic_batch"]:
            return endpoint, min(rows, DYNAMIC_BATCH)
        sizes = signature["batch_sizes"]  # rising
        size = batch or next((size for size in reversed(sizes) if size <= rows), sizes[0])
        return self.signature(endpoint, size), size

    def call(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A signature as it is in the file."""
        try:
            return self._runner(name)(**inputs)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"LiteRT can't run '{name}' of '{self.path}': the file is damaged, or an array has another shape or "
                f"dtype than `info` says. LiteRT says: {_first_line(error)}"
            ) from error

    def _runner(self, name: str) -> Any:
        if name not in self._runners:
            self._runners[name] = self._interpreter.get_signature_runner(name)
        return self._runners[name]

    def as_integers(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What a file of integers takes for these floats: scale · (integer − zero point) is nearest to each."""
        told = self._runner(name).get_input_details()
        return {key: _to_integers(value, told[key]) for key, value in inputs.items()}

    def _floats_of(self, name: str, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        told = self._runner(name).get_output_details()
        return {key: _to_floats(value, told[key]) for key, value in outputs.items()}

    def _read_info(self, names: dict[str, Any]) -> dict[str, Any]:
        try:
            with zipfile.ZipFile(io.BytesIO(self._data)) as archive:
                info = json.loads(archive.read(INFO))
            wanted = {SERVING_DEFAULT} if "serving_default" in info else set()
            for name, signature in {} if wanted else info["signatures"].items():
                wanted |= {f"{name}_{size}" for size in signature["batch_sizes"]}
                wanted |= {name} if signature["dynamic_batch"] else set()
            if (
                (info["format"], info["format_version"]) != (FORMAT, FORMAT_VERSION)
                or not wanted <= set(names)
                or not wanted
            ):
                raise ValueError(f"format {info['format']} {info['format_version']}")
            for signature in info["signatures"].values():
                for spec in (*signature["inputs"].values(), *signature["outputs"].values()):
                    np.zeros([0 if size == "B" else size for size in spec["shape"]], spec["dtype"])  # can be
            return info
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile) as error:
            raise ValueError(
                "Expected a file made by kvae.export, which says in format 1 what is in it. Received: "
                f"'{self.path}' with signatures {sorted(names) or 'none'}"
            ) from error

    def _condition(self, condition: Any, rows: int) -> dict[str, np.ndarray]:
        """The input `condition`, `(rows, condition_dim)`; nothing for a model that takes none."""
        size = self.condition_dim
        if size is None:
            if condition is not None:
                raise ValueError(f"'{self.path}' holds a model without conditions. Received: condition={condition!r}")
            return {}
        names = [str(name) for name in self.info["condition"]["names"] or []]
        wanted = (
            f"Argument `condition` must be integers below {size} or vectors of {size} numbers, one for all or {rows}"
            + (f", or one of {', '.join(names)}" if names else "")
        )
        try:
            given = np.asarray(condition)
        except ValueError as error:
            raise ValueError(f"{wanted}. Received: rows of different lengths") from error
        texts = given.ravel().tolist() if given.dtype.kind == "U" and given.ndim < 2 else [""]
        if all(text in names or text.isdecimal() for text in texts):
            numbers = [names.index(text) if text in names else int(text) for text in texts]
            given = np.array(numbers).reshape(given.shape)
        array = given
        if given.dtype.kind in "iu" and given.ndim < 2 and ((given >= 0) & (given < size)).all():
            array = np.eye(size, dtype=np.float32)[given]
        if array.dtype.kind not in "biuf" or array.shape not in ((size,), (rows, size)):
            what = f"shape {given.shape}, " if given.dtype.kind == "f" or given.ndim else ""
            raise ValueError(f"{wanted}. Received: {what}{shown(condition)}")
        return {"condition": _check("condition", np.broadcast_to(array, (rows, size)), (None, size))}

    def _check_image(self, image: Any) -> np.ndarray:
        image = _check("image", image, (None, *self.image_shape))
        low, high = self.info["value_range"]
        if image.min() < low - ROUNDING or image.max() > high + ROUNDING:
            raise ValueError(
                f"Argument `image` must have values in [{low:g}, {high:g}]: scale them, for example image / 255. "
                f"Received: values from {image.min():.9g} to {image.max():.9g}"
            )
        return np.clip(image, low, high)


def load(path: str | os.PathLike[str], num_threads: int = 1, sha256: str | None = None, xnnpack: bool = True) -> Model:
    """Open a file that `kvae.export` made.

    Args:
        path: of the `.tflite` file.
        num_threads: for the kernels, 1 to 1024.
        sha256: what the file must have; left out, the report.json beside it is asked, if there is one.
        xnnpack: whether XNNPACK's kernels compute, the default everywhere; or LiteRT's own, which are slow, to compare.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, cut off, changed by a single bit, no LiteRT file, not one of kvae's, or has another
            checksum.
    """
    return Model(path, num_threads, sha256, xnnpack)


def seed_words(seed: int) -> np.ndarray:
    """The two int32 words of an integer seed, high and low, `(2,)`; ValueError if it doesn't fit into 64 bits."""
    seed = integer("seed", seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"Argument `seed` must fit into 64 bits. Received: seed={seed}")
    high, low = divmod(seed % 2**64, 2**32)
    return np.array([high, low], np.uint32).view(np.int32)


def sealed(data: bytes, attached: Mapping[str, bytes]) -> bytes:
    """A flatbuffer with texts behind it, in an archive that any zip tool opens, and their checksum, as `load` wants it.

    LiteRT checks the structure of a file in part only: a damaged one may compute nonsense, or crash the process.

    Args:
        data: the flatbuffer.
        attached: texts by name, `INFO` among them.
    """
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive:
        for name, text in attached.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # with no time: the same facts give the same bytes
        archive.comment = bytes(_SEALED)
    contents = file.getvalue()[:-_SEALED]
    return contents + SEAL + hashlib.sha256(contents).digest()


_SEALED = len(SEAL) + hashlib.sha256().digest_size


def to_bytes(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1] as uint8."""
    return np.clip(np.round(255.0 * np.asarray(images, np.float64)), 0, 255).astype(np.uint8)


def _path(name: str, value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"Argument `{name}` must be a path. Received: {name}={shown(value)}")
    return Path(value)


def _read(path: Path, sha256: str | None) -> bytes:
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch("[0-9a-fA-F]{64}", sha256)):
        raise ValueError(f"Argument `sha256` must be 64 hexadecimal digits. Received: sha256={shown(sha256)}")
    if not path.exists():
        raise FileNotFoundError(f"Expected a .tflite file. Received: '{path}', which doesn't exist")
    if not path.is_file():
        raise ValueError(f"Expected a .tflite file. Received: '{path}', a folder")
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        what = "isn't a LiteRT file" if data else "is empty"
        raise ValueError(f"Expected a .tflite file. Received: '{path}', which {what}")
    wanted = sha256 or _reported_sha256(path)
    found = hashlib.sha256(data).hexdigest()
    if wanted and found != wanted.lower():
        raise ValueError(
            f"'{path}' was changed or damaged since it was exported: copy it again. Expected sha256 "
            f"{wanted[:16]}…. Received: {found[:16]}…"
        )
    end = len(data) - _SEALED
    if not data.startswith(SEAL, end):
        raise ValueError(
            "Expected a file as kvae.export wrote it, with its checksum at the end. Received: "
            f"'{path}', which was cut off or damaged, or was made by something else"
        )
    if hashlib.sha256(memoryview(data)[:end]).digest() != data[end + len(SEAL) :]:
        raise ValueError(f"'{path}' was changed or damaged since it was exported: copy it again")
    return data


def _reported_sha256(path: Path) -> str | None:
    """What the report beside the file says; None if there is no report of it."""
    try:
        artifacts = json.loads((path.parent / REPORT).read_text(encoding="utf-8"))["artifacts"]
        return next((str(entry["sha256"]) for entry in artifacts if entry["path"] == path.name), None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _open(path: Path, data: bytes, num_threads: int, xnnpack: bool) -> Any:
    kernels = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        return Interpreter(model_content=data, num_threads=num_threads, experimental_op_resolver_type=kernels)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"LiteRT can't open '{path}'. It says: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _arrays(entries: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(entry["data"], entry["dtype"]).reshape(entry["shape"]) for name, entry in entries.items()}


def _check(name: str, value: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """`value` as a float32 array of this shape; ValueError if it isn't one, is empty or isn't finite."""
    sizes = ["batch" if size is None else str(size) for size in shape]
    wanted = f"Argument `{name}` must be an array of shape ({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
    array = numbers(wanted, value)
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape)):
        hint = f"; a single one is {name}[None]" if shape[0] is None and array.shape == shape[1:] else ""
        raise ValueError(f"{wanted}. Received: shape {array.shape}{hint}")
    if len(array) == 0:
        raise ValueError(f"{wanted} with batch >= 1. Received: shape {array.shape}")
    with np.errstate(over="ignore"):  # what float32 can't hold is infinite then, and refused below
        array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{wanted} of finite numbers. Received: NaN or infinity")
    return array


def _to_integers(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    scale, zero = tensor["quantization"]
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(tensor["dtype"])


def _to_floats(integers: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    scale, zero = tensor["quantization"]
    return (scale * (integers.astype(np.float32) - zero)).astype(np.float32)


def _as_specified(name: str, value: Any, spec: dict[str, Any]) -> np.ndarray:
    """`value` in the shape and dtype that `info` says; ValueError if it has another shape, or would be changed."""
    array, dtype, shape = np.asarray(value), np.dtype(spec["dtype"]), spec["shape"]
    right = array.ndim == len(shape) and all(want in ("B", got) for want, got in zip(shape, array.shape))
    if right and array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        if right and array.dtype.kind in "iu" and dtype.kind == "i" and (array == array.astype(dtype)).all():
            return array.astype(dtype)
        if right and array.dtype.kind in "biuf" and dtype.kind == "f":
            return array.astype(dtype)
    raise ValueError(
        f"Argument `{name}` must be {dtype} of shape ({', '.join(map(str, shape))}). "
        f"Received: {array.dtype} of shape {array.shape}"
    )


if __name__ == "__main__":
    from kvae.export.command import main

    raise SystemExit(main())
