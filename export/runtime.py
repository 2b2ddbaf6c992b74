"""Run an exported `.tflite` file with NumPy and ai-edge-litert, without TensorFlow and Keras.

    from kvae.export.runtime import load
    model = load("vae_int8.tflite", num_threads=1)
    images = model.generate(16, seed=7)                  # (16, H, W, C), as vae.generate(16, seed=7)
    mean = model.encode(images).mean                     # (16, D)
    nats = model.score(images)["negative_elbo"]          # (16,)
    alarm = model.p_value(nats) <= 0.01                  # at most 1 % of ordinary images; percentile(nats) ranks them
    smiling = model.decode(model.move(mean, "smile", 0.5))  # of a file with the direction "smile"
    probabilities = load("classifier_int8.tflite").classify(images)  # (16, C)

On the command line: `python -m kvae.export.runtime vae_int8.tflite --generate 16 --seed 7 --out grid.png`
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import math
import os
import re
import secrets
import threading
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kvae.arguments import ROUNDING, integer, numbers, real, shown

__all__ = ["Model", "Posterior", "Reading", "Watch", "load", "seed_words"]

try:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
except ImportError:
    try:  # the older package, for older Python versions
        from tflite_runtime.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise ImportError("kvae.export.runtime requires LiteRT: pip install ai-edge-litert") from error

REPORT = "report.json"
FORMAT, FORMAT_VERSION = "kvae", 1  # of the JSON of `info`
DYNAMIC_BATCH = 64  # rows per call of a signature for any batch size
MAX_BYTES = 2**31  # size limit of the result of one call
MAX_THREADS = 1024  # tens of thousands of threads end the process
#: A zip archive follows the flatbuffer, where LiteRT doesn't read: the facts about the model, and lists of names.
#: Its comment is this line and the sha256 of all preceding bytes.
SEAL = b"\nkvae sha256\n"
INFO = "info.json"
SERVING_DEFAULT = "serving_default"  # name of the only signature of a file


class Posterior(NamedTuple):
    """Result of `Model.encode`: `mean` and `variance`, `(B, D)` each; `variance` is None for an autoencoder."""

    mean: np.ndarray
    variance: np.ndarray | None


class Model:
    """An opened file; create one with `load`. Several threads may share it; one call runs at a time.

    A file has signatures for fixed batch sizes. Any number of rows is split into the largest batches that fit, and
    the remaining rows are padded. Arguments are checked before they reach the interpreter, because it accepts some
    invalid inputs without an error (an int8 file draws a plausible image from NaN). Each method raises a ValueError
    that states the expected argument. An array may have any dtype of real numbers.

    Attributes:
        info: facts about the model: kind, likelihood, posterior, prior, signatures, ….
        event_shape: shape of x: `(H, W, C)` of images, `(T, F)` of series, `(columns,)` of rows.
        latent_dim: D; None for a classifier.
        batch_sizes: batch sizes of the signatures, largest first.
        condition_dim: size of the condition of a conditional model, or None. The methods of a conditional model
            require `condition`: an integer, a name from `info["condition"]["names"]` or a vector for all rows, or
            integers `(B,)` or vectors `(B, condition_dim)`.
        class_names: names of the classes of a classifier, in the order of the probabilities; None if the file has none.
        directions: directions in latent space by name, such as "smile": dicts as in `info["directions"]`, with the unit
            vector as an array `(D,)`. See `move` and `position`.
    """

    def __init__(
        self, path: str | os.PathLike[str], num_threads: int = 1, sha256: str | None = None, xnnpack: bool = True
    ):
        self.path = _path("path", path)
        self._lock = threading.Lock()
        num_threads = integer("num_threads", num_threads, least=1, most=MAX_THREADS)
        data = _read(self.path, sha256)
        # The interpreter must outlive its runners, and the data the interpreter.
        self._data = data
        self._interpreter = _open(self.path, data, num_threads, xnnpack)
        self.info = self._read_info(self._interpreter.get_signature_list())
        self.event_shape = tuple(self.info["event_shape"])
        self.latent_dim = None if self.info["latent_dim"] is None else int(self.info["latent_dim"])
        self.batch_sizes = tuple(sorted(self.info["batch_sizes"], reverse=True))
        self.condition_dim = int(self.info["condition"]["size"]) if "condition" in self.info else None
        names_of_classes = self.info.get("classes", {}).get("names")
        self.class_names = None if names_of_classes is None else tuple(map(str, names_of_classes))
        self.directions = {
            str(entry["name"]): {**entry, "vector": np.array(entry["vector"], np.float32)}
            for entry in self.info.get("directions", [])
        }
        self._runners: dict[str, Any] = {}

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Another name of `event_shape`."""
        return self.event_shape

    def decode(self, z: Any, condition: Any = None) -> np.ndarray:
        """Return the mean images of latents, `(B, D)` to `(B, H, W, C)`."""
        self._require("decode")
        z = _check("z", z, (None, self.latent_dim))
        return self._answer("decode", z=z, **self._condition(condition, len(z)))["image"]

    def encode(self, image: Any, condition: Any = None) -> Posterior:
        """Return `mean` and `variance` of q(z|x), `(B, D)` each, for images `(B, H, W, C)` in [0, 1].

        For an autoencoder, `mean` is the code and `variance` is None.
        """
        self._require("encode")
        image = self._check_image(image)
        found = self._answer("encode", image=image, **self._condition(condition, len(image)))
        return Posterior(found["mean"], found.get("variance"))

    def reconstruct(self, image: Any, condition: Any = None) -> np.ndarray:
        """Encode images in [0, 1] and decode them without noise, `(B, H, W, C)`."""
        self._require("reconstruct")
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
        """Draw images `start` to `start + n` of a seed from the prior: `(n, H, W, C)`.

        Image i depends only on the seed and i. Its latents equal those of `VAE.generate` bit for bit on every
        platform. The images of float32 files are within one 8-bit level of Keras. `run("generate", …)` also returns
        the latents.

        Args:
            n: number of images.
            seed: integer of up to 64 bits; None draws new images each time.
            start: number of the first image.
            temperature: scale of the prior's noise, >= 0. Below 1, images are more typical and less diverse.
            condition: one condition for all images, or one per image (conditional models only).

        Raises:
            ValueError: if an argument is outside these ranges, or the model has no prior.
        """
        self._require(
            "generate",
            "Expected a variational autoencoder, because an autoencoder has no prior to draw from; decode points "
            "near the codes of real images instead",
        )
        n, start = integer("n", n, least=1), integer("start", start, least=0)
        most = MAX_BYTES // (4 * math.prod(self.event_shape))
        if n > most:
            raise ValueError(
                f"Argument `n` must be 1 to {most} (2 GiB per call): draw more in several calls, with `start`. "
                f"Received: n={n}"
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
        """Return images on the straight line between two latents `(D,)`, including both: `(steps, H, W, C)`."""
        self._require("interpolate")
        steps = integer("steps", steps, least=2)
        ends = {name: _check(name, z, (self.latent_dim,))[None] for name, z in (("start", start), ("end", end))}
        position = np.linspace(0, 1, steps, dtype=np.float32)
        return self._answer("interpolate", **ends, position=position, **self._condition(condition, steps))["image"]

    def interpolate_images(self, first: Any, second: Any, steps: int = 8, condition: Any = None) -> np.ndarray:
        """Return images on the line between the latents of two images `(H, W, C)`: `(steps, H, W, C)`."""
        ends = (_check(name, image, self.event_shape) for name, image in (("first", first), ("second", second)))
        start, end = (self.encode(image[None], condition).mean[0] for image in ends)
        return self.interpolate(start, end, steps, condition)

    def move(self, z: Any, direction: str, steps: Any = 1.0) -> np.ndarray:
        """Return latents moved along a direction of the file, `(B, D)`.

        A step of 1 is the distance between the mean of the images without the attribute and that of those with it.
        `position` tells where latents are; the direction holds from `low` to `high`.

        Args:
            z: latents, `(B, D)`.
            direction: name, one of `directions`.
            steps: number of steps, for all rows or `(B,)`; negative numbers move away from the attribute.

        Raises:
            ValueError: if the name is unknown, or an argument isn't finite or has another shape.
        """
        found = self._direction(direction)
        z = _check("z", z, (None, self.latent_dim))
        steps = np.asarray(numbers("Argument `steps` must be a number, or one per row", steps), np.float64)
        if steps.shape not in ((), (len(z),)) or not np.isfinite(steps).all():
            raise ValueError(
                f"Argument `steps` must be a finite number, or {len(z)}, one per row. Received: {shown(steps)}"
            )
        moved = z + (steps * found["distance"])[..., None] * found["vector"].astype(np.float64)
        return moved.astype(np.float32)

    def position(self, z: Any, direction: str) -> np.ndarray:
        """Return where latents `(B, D)` are along a direction of the file, `(B,)`: `move` by one step adds 1.

        It is −½ at the mean of the images without the attribute and ½ at the mean of those with it.

        Raises:
            ValueError: as `move`.
        """
        found = self._direction(direction)
        z = _check("z", z, (None, self.latent_dim)).astype(np.float64)
        return (z @ found["vector"] - found["middle"]) / found["distance"]

    def _direction(self, name: str) -> dict[str, Any]:
        if not isinstance(name, str) or name not in self.directions:
            raise ValueError(
                f"Argument `direction` must be one of the directions of '{self.path}': "
                f"{', '.join(self.directions) or 'it has none; export with `directions`'}. Received: {shown(name)}"
            )
        return self.directions[name]

    def score(self, image: Any, seed: int = 0, num_samples: int = 1, condition: Any = None) -> dict[str, np.ndarray]:
        """Return anomaly scores of images: `negative_elbo` = `distortion` + `rate`, nats, `(B,)` each.

        The score is an unbiased estimate of the −ELBO with `num_samples` posterior samples. The same image always
        has the same score, because the noise depends on the seed and the number of the sample.

        Raises:
            ValueError: if the images are not `(B, H, W, C)` in [0, 1], or the model has no prior.
        """
        self._require(
            "score", "Expected a variational autoencoder, because an autoencoder has no likelihood to score images"
        )
        num_samples = integer("num_samples", num_samples, least=1)
        image, words = self._check_image(image), seed_words(seed)
        given = self._condition(condition, len(image))
        samples = [
            self._answer("score", image=image, seed=words, index=np.full(len(image), k, np.int32), **given)
            for k in range(num_samples)
        ]
        return {name: np.mean([sample[name] for sample in samples], axis=0) for name in samples[0]}

    def explain(self, image: Any, seed: int = 0, condition: Any = None) -> np.ndarray:
        """Return what each entry of x contributes to the score of `score(image, seed)`: `(B, *event)` in nats.

        The contributions of a row sum to its score, and tell which moment and which sensor is unusual, which column, or
        which pixel. An entry contributes its part of the distortion, −log p(x_i|z), in units of its scale. The rate and
        the logarithms of the units are shared equally. If the channels of a pixel depend on each other, they have one
        contribution, `(B, H, W, 1)`.

        Raises:
            ValueError: as `score`, or if the file has no signature `explain`. Files of images have it only if the
                export asks for it by name.
        """
        self._require("explain")
        image, words = self._check_image(image), seed_words(seed)
        given = {"image": image, "seed": words, "index": np.zeros(len(image), np.int32)}
        return self._answer("explain", **given, **self._condition(condition, len(image)))["contribution"]

    def rows(self, records: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return records of a table as the model's rows, `(B, columns)`: input of `encode`, `score` and `explain`.

        A record has a value for each column by name: a number, the name of a category, True or False, a date as an ISO
        text. A missing value is None, NaN, or left out.

        Raises:
            ValueError: if the model isn't one of a table, or a value doesn't fit its column.
        """
        columns = self._columns()
        return np.array([[_encoded(column, record) for column in columns] for record in records], np.float32)

    def records(self, rows: Any) -> list[dict[str, Any]]:
        """Return rows of the model, such as those of `generate`, as records: the values of columns by name.

        Numbers are limited to the range of the training rows; the nearest category and truth value is taken.

        Raises:
            ValueError: if the model isn't one of a table, or the rows have another shape.
        """
        columns = self._columns()
        rows = _check("rows", rows, (None, len(columns)), missing=True)
        return [{column["name"]: _decoded(column, float(x)) for column, x in zip(columns, row)} for row in rows]

    def _columns(self) -> list[dict[str, Any]]:
        schema = self.info.get("schema") or {}
        if schema.get("kind") != "table":
            raise ValueError(f"Expected a file of a model of a table. Received: '{self.path}', {self.info['kind']}")
        return schema["columns"]

    def percentile(self, negative_elbo: Any) -> np.ndarray:
        """Return the percentage of ordinary images with a lower score, 0 to 100. 99 and more is unusual.

        It is interpolated between the quantiles in the file, which the export computed on validation images.

        Args:
            negative_elbo: a score, or an array of scores.

        Raises:
            ValueError: if the file has no quantiles, or the argument has values that are not numbers.
        """
        probability, value = np.array(self._ordinary("quantiles")).T
        return 100 * np.interp(_nats(negative_elbo), value, probability, left=0.0, right=1.0)

    def p_value(self, negative_elbo: Any) -> np.ndarray:
        """Return conformal p-values of scores, the smaller, the more unusual: p <= alpha is an alarm.

        An ordinary image, one like the validation images of the export, gives a false alarm with probability at most
        alpha, for every alpha. The file has the scores of n validation images, computed by the file itself, and the
        p-value of a score s is (1 + #{scores >= s}) / (n + 1). (Bates et al. 2023, https://arxiv.org/abs/2104.08279.)
        The smallest p-value is 1/(n + 1); an alpha below it never gives an alarm.

        Args:
            negative_elbo: a score of `score(image)`, with its default seed and number of samples, or an array of
                scores.

        Raises:
            ValueError: if the file has no scores for p-values, or the argument has values that are not numbers.
        """
        known = np.array(self._ordinary("calibration"))
        above = len(known) - np.searchsorted(known, _nats(negative_elbo), side="left")
        return (1 + above) / (len(known) + 1)

    def _ordinary(self, name: str) -> Any:
        """Return what the file tells about the scores of ordinary images: "quantiles" or "calibration"."""
        found = (self.info.get("score") or {}).get(name)
        if not found:
            what = {"quantiles": "score quantiles", "calibration": "calibration scores"}[name]
            raise ValueError(
                f"Expected a file with {what}. Received: '{self.path}' without {what}; export "
                "the signature 'score' with validation images"
            )
        return found

    def watch(self, every: int = 1, alpha: float | None = None, per_day: float | None = None) -> Watch:
        """Return a `Watch`: push the samples of a sensor one by one, and it scores the newest window.

        Args:
            every: number of samples from one score to the next.
            alpha: a window with a p-value of at most alpha raises an alarm; None for no alarms.
            per_day: expected number of false alarms in a day of ordinary data, instead of alpha. The file must have
                the time between two samples.

        Raises:
            ValueError: if the model isn't one of series, if an argument is out of range, or if the calibration scores
                of the file are too few for alpha: the smallest p-value of n scores is 1 / (n + 1).
        """
        return Watch(self, every, alpha, per_day)

    @property
    def calibration_size(self) -> int:
        """Number of the file's calibration scores; 0 if it has none."""
        return len((self.info.get("score") or {}).get("calibration") or ())

    def classify(self, image: Any) -> np.ndarray:
        """Return the probabilities of the classes of images `(B, H, W, C)`: `(B, classes)`.

        Raises:
            ValueError: if the images have another shape or range, or the file has no signature `classify`.
        """
        self._require("classify")
        return self._answer("classify", image=self._check_image(image))["probability"]

    def labels(self, image: Any) -> list[str]:
        """Return the name of the most probable class of each image.

        Raises:
            ValueError: as `classify`, or if the file has no names (use `classify(image).argmax(axis=-1)`).
        """
        probability = self.classify(image)
        if self.class_names is None:
            raise ValueError(
                f"Expected a file with names of the classes. Received: '{self.path}' without names; export with "
                "`class_names`, or use the numbers, classify(image).argmax(axis=-1)"
            )
        return [self.class_names[number] for number in probability.argmax(axis=-1)]

    def self_test(self, golden: str | os.PathLike[str] | None = None) -> dict[str, float]:
        """Replay the golden pairs of the file and return the largest difference by signature.

        Args:
            golden: path; None uses the `.golden.json` next to the file.

        Raises:
            ValueError: if an output differs by more than its tolerance, or the golden file is missing or invalid.
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
                        f"Received: a difference of {off:.3g}; this runtime gives wrong results"
                    )
            worst[name] = max(errors.values())
        return worst

    def run(self, endpoint: str, batch: int | None = None, **inputs: Any) -> dict[str, np.ndarray]:
        """Run an endpoint on arrays and return a dict of its outputs. Only shapes and dtypes are checked.

        Args:
            endpoint: name without a batch size, one of `info["signatures"]`.
            batch: batch size of the signature to run, padded as needed; None chooses one.
            inputs: arrays by name. Inputs with a batch "B" in `info` must have the same number of rows.
        """
        known = self.info["signatures"]
        if not isinstance(endpoint, str) or endpoint not in known:
            raise ValueError(
                f"Expected one of {sorted(known)}. Received: signature {shown(endpoint)} "
                "(use names without a batch size)"
            )
        specs = known[endpoint]["inputs"]
        if set(inputs) != set(specs):
            raise ValueError(f"Expected the inputs {sorted(specs)} of '{endpoint}'. Received: {sorted(inputs)}")
        sizes = sorted(known[endpoint]["batch_sizes"])
        if batch is not None and integer("batch", batch) not in sizes:
            raise ValueError(f"Argument `batch` must be one of {sizes}. Received: batch={batch}")
        inputs = {name: _as_specified(name, value, specs[name]) for name, value in inputs.items()}
        batched = {name for name, spec in specs.items() if spec["shape"][0] == "B"}
        rows = len(inputs[next(iter(batched))])
        if rows == 0 or any(len(inputs[name]) != rows for name in batched):
            received = ", ".join(f"{len(inputs[name])} of `{name}`" for name in sorted(batched))
            raise ValueError(
                f"Expected the same number of rows in each input of '{endpoint}', at least one. Received: {received}"
            )
        pieces, first = [], 0
        with self._lock:
            while first < rows:
                name, size = self._choose(endpoint, rows - first, batch)
                count = min(size, rows - first)
                piece = {key: inputs[key][first : first + count] if key in batched else inputs[key] for key in inputs}
                if count < size:  # repeat the last row
                    padding = np.minimum(np.arange(size), count - 1)
                    piece = {key: value[padding] if key in batched else value for key, value in piece.items()}
                if "io" in self.info:
                    outputs = self._as_floats(name, self.call(name, self.as_integers(name, piece)))
                else:
                    outputs = self.call(name, piece)
                pieces.append({key: value[:count] for key, value in outputs.items()})
                first += count
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def signature(self, endpoint: str, batch: int) -> str:
        """Return the name of the file's signature for an endpoint and a batch size."""
        return SERVING_DEFAULT if "serving_default" in self.info else f"{endpoint}_{batch}"

    def _require(self, endpoint: str, expected: str | None = None) -> None:
        """Raise a ValueError unless the file has this endpoint."""
        if endpoint not in self.info["signatures"]:
            if expected is None or self.info["kind"] != "autoencoder":
                expected = f"Expected a file with the signature '{endpoint}'"
            has = ", ".join(self.info["signatures"])
            raise ValueError(f"{expected}. Received: '{self.path}', {self.info['kind']} with {has}")

    def floats(self, endpoint: str, **inputs: Any) -> dict[str, np.ndarray]:
        """Run an endpoint like `run`, with images in [0, 1] even if the file takes and returns bytes."""
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
                f"Expected inputs that '{endpoint}' can process. Received: numbers so large that the result overflows"
            )
        return outputs

    def _choose(self, endpoint: str, rows: int, batch: int | None) -> tuple[str, int]:
        """Return signature and size of the next batch: the largest that fits, or the smallest."""
        signature = self.info["signatures"][endpoint]
        if batch is None and signature["dynamic_batch"]:
            return endpoint, min(rows, DYNAMIC_BATCH)
        sizes = signature["batch_sizes"]  # ascending
        size = batch or next((size for size in reversed(sizes) if size <= rows), sizes[0])
        return self.signature(endpoint, size), size

    def call(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a signature of the file by its full name."""
        try:
            return self._runner(name)(**inputs)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"LiteRT can't run '{name}' of '{self.path}': the file is damaged, or the shape or dtype of an array "
                f"differs from `info`. LiteRT's message: {_first_line(error)}"
            ) from error

    def _runner(self, name: str) -> Any:
        if name not in self._runners:
            self._runners[name] = self._interpreter.get_signature_runner(name)
        return self._runners[name]

    def as_integers(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the integers nearest to these floats: scale · (integer − zero point)."""
        integers, details = {}, self._runner(name).get_input_details()
        for key, value in inputs.items():
            (scale, zero), limits = details[key]["quantization"], np.iinfo(details[key]["dtype"])
            integers[key] = np.clip(np.round(value / scale) + zero, limits.min, limits.max).astype(limits.dtype)
        return integers

    def _as_floats(self, name: str, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        floats, details = {}, self._runner(name).get_output_details()
        for key, value in outputs.items():
            scale, zero = details[key]["quantization"]
            floats[key] = (scale * (value.astype(np.float32) - zero)).astype(np.float32)
        return floats

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
                for side in ("inputs", "outputs"):
                    zeros(signature[side], 0)  # valid shapes and dtypes
            return info
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile) as error:
            raise ValueError(
                "Expected a file made by kvae.export, with metadata in format 1. Received: "
                f"'{self.path}' with signatures {sorted(names) or 'none'}"
            ) from error

    def _condition(self, condition: Any, rows: int) -> dict[str, np.ndarray]:
        """Return the input `condition`, `(rows, condition_dim)`; an empty dict for an unconditional model."""
        size = self.condition_dim
        if size is None:
            if condition is not None:
                raise ValueError(
                    f"Expected no `condition`: '{self.path}' has no conditions. Received: condition={condition!r}"
                )
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
        image = _check("image", image, (None, *self.event_shape), self.info.get("accepts_missing", False))
        low, high = self.info["value_range"]
        if np.any(image < low - ROUNDING) or np.any(image > high + ROUNDING):  # False for a missing value
            raise ValueError(
                f"Argument `image` must have values in [{low:g}, {high:g}]: scale them, for example image / 255. "
                f"Received: values from {image.min():.9g} to {image.max():.9g}"
            )
        return np.clip(image, low, high)


class Reading(NamedTuple):
    """The newest window of a `Watch`.

    Attributes:
        score: −ELBO of the window, nats.
        p_value: conformal p-value of the score; None if the file has no calibration scores.
        alarm: whether an alarm begins: p ≤ alpha here, and not in the reading before.
    """

    score: float
    p_value: float | None
    alarm: bool


class Watch:
    """The newest T samples of a series, scored as they arrive; made by `Model.watch`.

    **False alarms.** On ordinary data like that of the calibration, each window has a p-value of at most alpha with a
    probability of at most alpha. The expected number of such windows in a day is therefore at most alpha times their
    number, however strongly overlapping windows depend on each other (expectations add up). Consecutive ones are one
    alarm, so that there are at most as many alarms. `per_day` sets alpha accordingly.

        watch = model.watch(per_day=1)
        for sample in sensor:  # (F,) numbers each, in the units of the training data
            reading = watch.push(sample)
            if reading and reading.alarm:
                ...

    Attributes:
        alpha: limit of the p-value, or None.
        window: T.
        per_day: expected number of false alarms in a day at most, or None if it is unknown.
    """

    def __init__(self, model: Model, every: int, alpha: float | None, per_day: float | None):
        if len(model.event_shape) != 2:
            shape = "×".join(map(str, model.event_shape))
            raise ValueError(f"Expected a file of a model of series (T, F). Received: '{model.path}', for {shape}")
        self.model = model
        self.every = integer("every", every, least=1)
        self.window, self.features = model.event_shape
        step = model.info.get("schema", {}).get("step")  # seconds
        self._scores_per_day = None if not step else 86400 / (step * self.every)
        if per_day is not None:
            if alpha is not None or self._scores_per_day is None:
                raise ValueError(
                    "Argument `per_day` replaces `alpha`, and requires a file with the time between two samples. "
                    f"Received: alpha={alpha}, per_day={per_day}, step={step}"
                )
            alpha = real("per_day", per_day, least=0) / self._scores_per_day
        if alpha is not None:
            least = 1 / (model.calibration_size + 1)
            if not least <= real("alpha", alpha) < 1:
                raise ValueError(
                    f"Expected `alpha` from {least:.3g}, the smallest p-value of {model.calibration_size} calibration "
                    f"scores, to 1. Received: {alpha:.3g}; allow more false alarms, score less often (`every`), or "
                    "export with more validation series"
                )
        self.alpha = alpha
        self.per_day = None if alpha is None or self._scores_per_day is None else alpha * self._scores_per_day
        # Each sample is written twice, so that the newest window is always contiguous.
        self._buffer = np.zeros((2 * self.window, self.features), np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget all samples, such as after a gap: the next reading requires a whole window."""
        self._count, self._in_alarm = 0, False

    def push(self, sample: Any) -> Reading | None:
        """Add a sample `(F,)`; return a `Reading`, or None while the window isn't full or no score is due.

        Raises:
            ValueError: if the sample has another shape, or isn't finite. (It isn't added.)
        """
        sample = _check("sample", sample, (self.features,))
        place = self._count % self.window
        self._buffer[[place, place + self.window]] = sample
        self._count += 1
        beyond = self._count - self.window
        if beyond < 0 or beyond % self.every:
            return None
        first = self._count % self.window
        score = float(self.model.score(self._buffer[None, first : first + self.window])["negative_elbo"][0])
        p_value = float(self.model.p_value(score)) if self.model.calibration_size else None
        is_low = self.alpha is not None and p_value is not None and p_value <= self.alpha
        alarm, self._in_alarm = is_low and not self._in_alarm, is_low
        return Reading(score, p_value, alarm)


def load(path: str | os.PathLike[str], num_threads: int = 1, sha256: str | None = None, xnnpack: bool = True) -> Model:
    """Open a file that `kvae.export` made.

    Args:
        path: path of the `.tflite` file.
        num_threads: number of threads of the kernels, 1 to 1024.
        sha256: expected checksum; None takes it from the report.json next to the file, if there is one.
        xnnpack: whether to use XNNPACK's kernels (the default on all platforms); False uses LiteRT's own, slow kernels,
            for comparison.

    Raises:
        FileNotFoundError: if the file doesn't exist.
        ValueError: if the file is empty, truncated, changed (by a single bit is enough), not a LiteRT file, not made by
            kvae, or has another checksum.
    """
    return Model(path, num_threads, sha256, xnnpack)


def seed_words(seed: int) -> np.ndarray:
    """Return the high and the low int32 word of a seed, `(2,)`; raise a ValueError if it exceeds 64 bits."""
    seed = integer("seed", seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"Argument `seed` must fit into 64 bits. Received: seed={seed}")
    high, low = divmod(seed % 2**64, 2**32)
    return np.array([high, low], np.uint32).view(np.int32)


def zeros(specs: Mapping[str, Any], rows: int) -> dict[str, np.ndarray]:
    """Return zeros for the inputs or outputs of a signature, with shapes and dtypes as in `info`."""
    return {
        name: np.zeros([rows if size == "B" else size for size in spec["shape"]], spec["dtype"])
        for name, spec in specs.items()
    }


def sealed(data: bytes, attached: Mapping[str, bytes]) -> bytes:
    """Return a flatbuffer followed by a zip archive of texts and the checksum that `load` requires.

    LiteRT checks only parts of a file: a damaged file may give wrong results, or crash the process.

    Args:
        data: the flatbuffer.
        attached: texts by name, including `INFO`.
    """
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive:
        for name, text in attached.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # without a time stamp: the same facts give the same bytes
        archive.comment = bytes(_SEALED)
    contents = file.getvalue()[:-_SEALED]
    return contents + SEAL + hashlib.sha256(contents).digest()


_SEALED = len(SEAL) + hashlib.sha256().digest_size


def to_bytes(images: np.ndarray) -> np.ndarray:
    """Convert images in [0, 1] to uint8."""
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
            f"Expected sha256 {wanted[:16]}… of '{path}'. Received: {found[:16]}…; the file was changed or damaged "
            "after the export: copy it again"
        )
    end = len(data) - _SEALED
    if not data.startswith(SEAL, end):
        raise ValueError(
            "Expected a file of kvae.export, with its checksum at the end. Received: "
            f"'{path}', which is truncated, damaged, or not made by kvae"
        )
    if hashlib.sha256(memoryview(data)[:end]).digest() != data[end + len(SEAL) :]:
        raise ValueError(
            f"Expected the exported bytes of '{path}'. Received: another checksum; the file was changed or damaged "
            "after the export: copy it again"
        )
    return data


def _reported_sha256(path: Path) -> str | None:
    """Return the checksum in the report next to the file; None if there is none."""
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
        raise ValueError(f"LiteRT can't open '{path}'. LiteRT's message: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _arrays(entries: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(entry["data"], entry["dtype"]).reshape(entry["shape"]) for name, entry in entries.items()}


def _encoded(column: Mapping[str, Any], record: Mapping[str, Any]) -> float:
    """Return the value of a column in a record as a number, NaN if it is missing."""
    name, kind = column["name"], column["type"]
    value = record.get(name)
    if value is None or value != value:
        return math.nan
    try:
        if kind == "category":
            return float(column["categories"].index(str(value)))
        if kind == "date":
            since = datetime.datetime.fromisoformat(str(value)) - datetime.datetime.fromisoformat(column["origin"])
            return since / datetime.timedelta(**{column["unit"]: 1})
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (kind == "boolean" and number not in (0, 1)) or (kind == "count" and number < 0):
        wanted = {
            "category": f"one of {', '.join(map(str, column.get('categories', ())))}",
            "date": "a date such as 2024-12-31",
            "boolean": "True or False",
            "count": "a number >= 0",
        }.get(kind, "a number")
        raise ValueError(f"Expected {wanted} for the column '{name}'. Received: {shown(value)}")
    return number


def _decoded(column: Mapping[str, Any], x: float) -> Any:
    """Return the number of a column as a value."""
    if x != x:
        return None
    kind = column["type"]
    if kind == "category":
        names = column["categories"]
        return names[min(max(round(x), 0), len(names) - 1)]
    if kind == "boolean":
        return x >= 0.5
    if "high" in column:
        x = min(max(x, column.get("low", 0.0)), column["high"])
    if kind == "date":
        unit = datetime.timedelta(**{column["unit"]: round(x)})
        return (datetime.datetime.fromisoformat(column["origin"]) + unit).isoformat(" ")
    decimals = column.get("decimals")
    return round(x) if kind == "count" else x if decimals is None else round(x, decimals)


def _nats(value: Any) -> np.ndarray:
    """Return scores as an array; raise a ValueError if one isn't a number."""
    try:
        scores = np.asarray(value)
    except ValueError:  # rows of different lengths
        scores = np.array(None)
    if scores.dtype.kind not in "iuf" or np.isnan(scores).any():
        raise ValueError(
            "Argument `negative_elbo` must be a number or an array of numbers, such as "
            f"score(image)['negative_elbo']. Received: {shown(value)}"
        )
    return scores


def _check(name: str, value: Any, shape: tuple[int | None, ...], missing: bool = False) -> np.ndarray:
    """Return `value` as a float32 array of this shape; raise a ValueError if it has another, is empty or not finite.

    NaN is allowed if values may be `missing`.
    """
    sizes = ["batch" if size is None else str(size) for size in shape]
    wanted = f"Argument `{name}` must be an array of shape ({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
    array = numbers(wanted, value)
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape)):
        hint = f"; for a single one, use {name}[None]" if shape[0] is None and array.shape == shape[1:] else ""
        raise ValueError(f"{wanted}. Received: shape {array.shape}{hint}")
    if len(array) == 0:
        raise ValueError(f"{wanted} with batch >= 1. Received: shape {array.shape}")
    with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused below
        array = np.ascontiguousarray(array, dtype=np.float32)
    if not (np.isfinite(array) | (missing & np.isnan(array))).all():
        raise ValueError(f"{wanted} of finite numbers. Received: NaN or infinity")
    return array


def _as_specified(name: str, value: Any, spec: dict[str, Any]) -> np.ndarray:
    """Return `value` with the shape and dtype of `info`; raise a ValueError if the shape or a value would change."""
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
