"""The whole export: write, verify, report, and only then put in place."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kvae.export import accuracy, behaviour, endpoints, golden, info, litert, onnx, page, pictures, runtime, saved_model
from kvae.export.console import quiet
from kvae.export.errors import ExportError
from kvae.export.reference import Reference, Run, check_conditions, check_images, conditions_in_turn, run_keras
from kvae.export.verify import Artifact, open_saved_model, verify_litert, verify_saved_model

SAVED_MODEL, ONNX, REPORT, PAGE = "saved_model", "onnx", runtime.REPORT, "export.html"
KINDS = ("vae", "autoencoder", "classifier")
DEFAULT_PRECISIONS = ("float32", "int8")
BATCH_SIZES = (1, 16)
CALIBRATED = 128  # images, and latents, that show full_int8 the ranges of its activations
SHOWN = 16  # images in the page's pictures
_PACKAGES = ("keras-vae", "keras", "tensorflow", "ai-edge-litert", "ai-edge-quantizer", "numpy")


def export(
    model: Any,
    directory: str | os.PathLike[str],
    images: Any = None,
    labels: Any = None,
    validation: Any = None,
    precisions: str | Iterable[str] = DEFAULT_PRECISIONS,
    budget_nats: float = 0.5,
    batch_sizes: Sequence[int | None] = BATCH_SIZES,
    with_onnx: bool = False,
    data: str | None = None,
    license: str | None = None,
    on_step: Callable[[str], None] | None = None,
    conditions: Any = None,
    condition_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    budget_accuracy: float = 0.005,
) -> dict[str, Any]:
    """Export a model to a SavedModel and LiteRT files, each compared with Keras before it is kept.

    `directory` gets `saved_model/`, one `vae_<precision>.tflite` (or `autoencoder_…`, `classifier_…`) for each
    precision with its `.golden.json` to replay on a device, `report.json`, and the same as a page, `export.html`. A
    LiteRT file holds the whole model: signatures `decode_B`, `encode_B`, `reconstruct_B`, `generate_B`, `interpolate_B`
    and `score_B` for each batch size B, and `info`; that of a classifier `classify_B` alone, that of a
    `kvae.SemiSupervisedVAE` `classify_B` as well. The SavedModel has them without `_B`, for any batch size. All compute
    in float32 even if the model was trained in mixed precision. It is all or nothing: if any of them fails, or the
    export is interrupted, `directory` is left as it was. Files of an earlier export that aren't made again are removed,
    other files are not touched.

    Args:
        model: a built `kvae.VAE`, `kvae.Autoencoder` or `kvae.features.Classifier`.
        directory: where to; made if it doesn't exist.
        images: `(N, H, W, C)` in [0, 1], best test images, to compare on and to measure what each file does to
            them and costs; None compares on noise, measures nothing, and the report says so.
        labels: `(N,)` integers, for the accuracy of a linear probe on the exported encoder. (Not that of a
            conditional model, which is told what the probe would look for.) Of a model that classifies, the classes
            by number or name: each file's accuracy is measured on them, and must be near that of Keras
            (`kvae.export.accuracy`).
        validation: `(N, H, W, C)`, for the ranges of full_int8 and for the statistics in `info`; None takes
            `images`. Of a conditional model, the pair of images and conditions.
        precisions: of the LiteRT files, from `kvae.export.litert.PRECISIONS`: "float32", "float16", "int8" (weights
            in 8 bits, activations quantised on the fly), "full_int8" (both, with calibrated ranges); or "auto", the
            smallest that loses no more than `budget_nats` and `budget_accuracy`, whichever can be measured.
        budget_nats: for "auto": largest loss of test ELBO.
        batch_sizes: of the LiteRT signatures. With None among them, there is also one for any batch size, named
            `decode`, …; LiteRT.js can't use it.
        with_onnx: whether to write `onnx/` as well, one file per endpoint (needs the extra `onnx`).
        data: name of the training data, for `info`.
        license: text, for `info`.
        on_step: called with a line of text before each step.
        conditions: of `images`, for a conditional model: what `fit` takes; None takes `labels`.
        condition_names: of the classes that a condition may be, for `info`; `condition_dim` of them.
        class_names: of the classes that a model tells apart, for `info`; None takes those that it has itself. A
            `kvae.SemiSupervisedVAE` has one list for both: give either.
        budget_accuracy: for "auto": largest loss of test accuracy.

    Returns:
        What is in `report.json`: `packages`, `model`, `verification`, `warnings` and `artifacts`.

    Raises:
        ValueError: for another model, unknown precisions, or unusable images, labels, conditions, names or batch
            sizes.
        ExportError: if the model can't be converted, or a file isn't close enough to Keras
            (`kvae.export.budgets`), or is right less often (`kvae.export.accuracy`).

    Example:

        >>> import kvae, tempfile
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> with tempfile.TemporaryDirectory() as out:
        ...     report = export(vae, out)
        >>> [artifact["path"] for artifact in report["artifacts"]]
        ['saved_model', 'vae_float32.tflite', 'vae_int8.tflite']
    """
    if isinstance(precisions, str) and precisions != "auto":
        precisions = (precisions,)
    wanted = litert.PRECISIONS if precisions == "auto" else tuple(dict.fromkeys(precisions))
    unknown = [precision for precision in wanted if precision not in litert.PRECISIONS]
    if unknown or not wanted:
        raise ValueError(
            f"Argument `precisions` must be one or more of {litert.PRECISIONS}, or 'auto'. Received: {precisions}"
        )
    batch_sizes = _check_batch_sizes(batch_sizes)
    if not endpoints.endpoints_of(model):
        raise ValueError(
            "Argument `model` must be a `kvae.VAE`, `kvae.Autoencoder` or `kvae.features.Classifier`. "
            f"Received: {type(model).__name__}"
        )
    classifies = hasattr(model, "num_classes")
    budgets = {"nats_lost": budget_nats} if images is not None and hasattr(model, "prior") else {}
    budgets |= {"accuracy_lost": budget_accuracy} if labels is not None and classifies else {}
    if precisions == "auto" and not budgets:
        raise ValueError(
            "precisions='auto' compares ELBOs or accuracies: it needs a `kvae.VAE`, and `images` to compute them on; "
            "or a model that classifies, `images` and `labels`."
        )
    if images is None and validation is None and "full_int8" in wanted:
        raise ValueError("full_int8 needs images to see the ranges of activations: give `images` or `validation`.")
    class_names = _class_names(model, class_names, condition_names)
    if classifies and condition_names is None and model.condition_dim is not None:
        condition_names = class_names
    if classifies and labels is not None:
        labels = accuracy.class_numbers(labels, model.num_classes, class_names)
    if condition_names is not None and len(condition_names) != model.condition_dim:
        raise ValueError(
            f"Argument `condition_names` must name the {model.condition_dim or 0} conditions of the model. "
            f"Received: {len(condition_names)} names"
        )
    directory, step = Path(directory), on_step or (lambda text: None)
    if directory.exists() and not directory.is_dir():
        raise ExportError(f"Expected a folder to export to. Received: the file '{directory}'")
    step("computing what Keras says")
    work = _Work(
        model, images, labels, validation, batch_sizes, step,
        labels if conditions is None else conditions,
        {"data": data, "license": license, "condition_names": condition_names, "class_names": class_names},
    )  # fmt: skip
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        # Inside the target, so that moving into place is a rename even if the target is a mounted volume.
        with tempfile.TemporaryDirectory(dir=directory, prefix=".export-") as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            artifacts = work.write(new, wanted, budgets if precisions == "auto" else None, with_onnx)
            report = work.report(artifacts)
            text = json.dumps(report, indent=2, allow_nan=False) + "\n"
            (new / REPORT).write_text(text, encoding="utf-8")
            (new / PAGE).write_text(page.render(report, work.pictures), encoding="utf-8")
            _replace(new, directory, Path(temporary) / "old")
    finally:
        if made:
            with contextlib.suppress(OSError):  # not empty: the export is there
                directory.rmdir()
    return report


class _Work:
    """One export: the model, what Keras says about it, and the pictures collected on the way."""

    def __init__(
        self,
        model: Any,
        images: Any,
        labels: Any,
        validation: Any,
        batch_sizes: tuple[int | None, ...],
        step: Callable[[str], None],
        conditions: Any,
        facts: dict[str, Any],
    ):
        self.model, self.batch_sizes, self.step = endpoints.with_fixed_prior(model), batch_sizes, step
        self.reference = Reference(self.model, images, conditions=conditions)
        self.images = None if images is None else _inputs(model, images, conditions)
        if isinstance(validation, tuple):
            self.validation: dict[str, np.ndarray] | None = _inputs(model, *validation)
        else:
            self.validation = self.images if validation is None else _inputs(model, validation, None)
        if labels is not None and (images is None or len(labels) != len(images)):
            raise ValueError(
                f"Argument `labels` must have one entry for each of `images`. Received: {len(labels)} labels, "
                f"{0 if images is None else len(images)} images"
            )
        images, condition = _split(self.validation)
        self.info = info.describe(model, self.reference, batch_sizes, images, condition=condition, **facts)
        self.keras = run_keras(self.model)
        self.behaviour = None
        if self.images is not None:
            names = {endpoint.name for endpoint in self.reference.endpoints}
            known = None if labels is None else np.asarray(labels)
            self.behaviour = behaviour.Behaviour(self.keras, names, self.images, known)
        self.pictures: list[pictures.Pictures] = [self._pictures("Keras", self.keras)]

    def write(
        self, new: Path, precisions: tuple[str, ...], budgets: dict[str, float] | None, with_onnx: bool
    ) -> list[Artifact]:
        step, text = self.step, info.to_bytes(self.info)
        step("writing and verifying the SavedModel")
        any_batch = info.to_bytes({**self.info, "batch_sizes": [], "dynamic_batch": True})
        saved_model.write(self.model, new / SAVED_MODEL, any_batch)
        artifact = verify_saved_model(new / SAVED_MODEL, self.reference)
        artifacts = [self._with_behaviour(artifact, lambda: open_saved_model(new / SAVED_MODEL)[0])]
        if with_onnx:
            step("writing and verifying ONNX files")
            artifact = onnx.export(self.model, new / ONNX, self.reference, any_batch)
            artifacts.append(self._with_behaviour(artifact, lambda: onnx.open_onnx(new / ONNX)))
        step("converting to LiteRT")
        with tempfile.TemporaryDirectory() as temporary:
            saved_model.write(self.model, Path(temporary), text, self.batch_sizes)
            names = [e.signature(size) for e in self.reference.endpoints for size in self.batch_sizes]
            float32 = litert.convert(Path(temporary), [*names, endpoints.INFO])
        files: list[Artifact] = []
        for precision in precisions:
            path = new / f"{info.kind(self.model)}_{precision}.tflite"
            step(f"writing and verifying {path.name}")
            try:
                files.append(self._write_litert(path, precision, float32))
            except ExportError:
                if budgets is None:
                    raise
                for made in (path, path.with_suffix(".golden.json")):
                    made.unlink(missing_ok=True)
        return [*artifacts, *(files if budgets is None else self._smallest(new, files, budgets))]

    def _write_litert(self, path: Path, precision: str, float32: bytes) -> Artifact:
        calibration = self._calibration() if precision == "full_int8" else None
        path.write_bytes(runtime.sealed(litert.quantize(float32, precision, calibration)))
        artifact = verify_litert(path, precision, self.reference, self.batch_sizes)
        with quiet():
            model = runtime.load(path)
        pair = golden.golden(model, precision, self.reference)
        path.with_suffix(".golden.json").write_text(json.dumps(pair), encoding="utf-8")

        def run(name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return model.run(name, **inputs)

        self.pictures.append(self._pictures(path.name, run))
        return self._with_behaviour(artifact, lambda: run, path)

    def _with_behaviour(self, artifact: Artifact, opened: Callable[[], Run], path: Path | None = None) -> Artifact:
        """What the opened file does to the test images, if there are any, and what a LiteRT file at `path` costs."""
        if self.behaviour is None:
            return artifact
        does = self.behaviour.of(opened())
        accuracy.check(artifact.path, artifact.precision, does)
        return dataclasses.replace(artifact, behaviour=does | (behaviour.cost(path) if path else {}))

    def _smallest(self, new: Path, files: list[Artifact], budgets: dict[str, float]) -> list[Artifact]:
        """The smallest file that loses no more than the budgets; the others are removed."""
        lost = {file.path: {name: (file.behaviour or {})[name] for name in budgets} for file in files}
        good = [file for file in files if all(lost[file.path][name] <= budgets[name] for name in budgets)]
        if not good:
            raise ExportError(
                f"Expected a file that loses at most {_losses(budgets)}. Received: "
                + (", ".join(f"{path} loses {_losses(losses)}" for path, losses in lost.items()) or "none at all")
            )
        best = min(good, key=lambda file: file.bytes)
        for file in files:
            if file is not best:
                for path in (new / file.path, (new / file.path).with_suffix(".golden.json")):
                    path.unlink()
        self.pictures = [shown for shown in self.pictures if shown.title in ("Keras", best.path)]
        return [best]

    def _calibration(self) -> litert.Calibration:
        """Single calls of every signature on real images, on latents of the prior and on lines between them."""
        assert self.validation is not None
        images, condition = _split(self.validation)
        reference = Reference(
            self.model, images, seed=1, rows=CALIBRATED, temperature=1.0, conditions=condition.get("condition")
        )
        latents = reference.inputs["decode"]["z"] if "decode" in reference.inputs else np.zeros((0, 0))
        calls: litert.Calibration = {}
        for endpoint in reference.endpoints:
            inputs = reference.inputs[endpoint.name]
            for size in self.batch_sizes:
                rows = size or 1
                calls[endpoint.signature(size)] = [
                    {
                        name: np.resize(values[i : i + rows], (rows, *values.shape[1:]))
                        if name in endpoint.batched
                        else {"start": latents[i : i + 1], "end": latents[-1 - i :][:1]}.get(name, values)
                        for name, values in inputs.items()
                    }
                    for i in range(0, CALIBRATED, rows)
                ]
        return calls

    def _pictures(self, title: str, run: Any) -> pictures.Pictures:
        if not hasattr(self.model, "decoder"):
            return pictures.Pictures(title, None, None, None)
        generative = hasattr(self.model, "prior")
        shown = None if self.images is None else {name: values[:SHOWN] for name, values in self.images.items()}
        seed_7 = _seed_7() | conditions_in_turn(self.model, SHOWN)
        return pictures.Pictures(
            title=title,
            images=None if shown is None else shown["image"],
            reconstructions=None if shown is None else run("reconstruct", shown)["reconstruction"],
            samples=run("generate", seed_7)["image"] if generative else None,
        )

    def report(self, artifacts: list[Artifact]) -> dict[str, Any]:
        return {
            "packages": {name: _version(name) for name in _PACKAGES},
            "model": self.info,
            "verification": {
                "images": self.reference.image_source,
                "latents": self.reference.latent_source,
                "tested_on": 0 if self.images is None else len(self.images["image"]),
                "batch_sizes": list(self.batch_sizes),
            },
            "warnings": _warnings(artifacts, self.batch_sizes),
            "artifacts": [artifact.as_dict() for artifact in artifacts],
        }


def _inputs(model: Any, images: Any, conditions: Any) -> dict[str, np.ndarray]:
    """Checked images by the name "image", and their conditions, where the model takes them."""
    images = check_images(images, model)
    return {"image": images, **check_conditions(model, conditions, len(images))}


def _split(inputs: dict[str, np.ndarray] | None) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    """The images, and the rest."""
    rest = dict(inputs or {})
    return rest.pop("image", None), rest


def _seed_7() -> dict[str, np.ndarray]:
    return {
        "seed": runtime.seed_words(7),
        "index": np.arange(SHOWN, dtype="int32"),
        "temperature": np.ones(1, "float32"),
    }


def _class_names(model: Any, given: Sequence[str] | None, conditions: Sequence[str] | None) -> Sequence[str] | None:
    """The given names of a model's classes, its own, or those of its conditions, which are the same thing."""
    count = getattr(model, "num_classes", 0)
    if not count and given is None:
        return None
    names = next(
        (names for names in (given, getattr(model, "class_names", None), conditions) if names is not None), None
    )
    if names is not None and not len({str(name) for name in names}) == len(names) == count:
        raise ValueError(
            f"Argument `class_names` must be different names, one for each of the model's {count} classes. "
            f"Received: {', '.join(map(str, names)) or 'none'}"
        )
    return None if names is None else [str(name) for name in names]


def _losses(losses: dict[str, float]) -> str:
    units = {"nats_lost": "nats", "accuracy_lost": "of accuracy"}
    return " and ".join(f"{loss:.3g} {units[name]}" for name, loss in losses.items())


def _check_batch_sizes(batch_sizes: Sequence[int | None]) -> tuple[int | None, ...]:
    sizes = tuple(dict.fromkeys(batch_sizes))
    if not any(sizes) or any(size is not None and not (isinstance(size, int) and size >= 1) for size in sizes):
        raise ValueError(
            "Argument `batch_sizes` must be positive integers, at least one, and None for any size. "
            f"Received: {batch_sizes}"
        )
    return sizes


def _warnings(artifacts: list[Artifact], batch_sizes: Sequence[int | None]) -> list[str]:
    return [
        f"{artifact.path} is right but slow for any batch size: LiteRT has only a reference kernel for transposed "
        "convolutions there, in int8 hundreds of times slower; use fixed batch sizes, or a convolution and "
        "kvae.networks.DepthToSpace"
        for artifact in artifacts
        if None in batch_sizes and "TRANSPOSE_CONV" in (artifact.operators or ())
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _replace(new: Path, directory: Path, old: Path) -> None:
    """Put what is in `new` into `directory` and what it replaces into `old`; undo it if it fails half-way."""
    files = [f"{kind}_{precision}" for kind in KINDS for precision in litert.PRECISIONS]
    known = {
        SAVED_MODEL,
        ONNX,
        REPORT,
        PAGE,
        *(f"{name}{end}" for name in files for end in (".tflite", ".golden.json")),
    }
    old.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for name in sorted(known):
            for source, target in ((directory, old), (new, directory)):
                if (source / name).exists():
                    moved.append((source / name, target / name))
                    os.rename(source / name, target / name)
    except BaseException:
        for source, target in reversed(moved):
            if target.exists() and not source.exists():
                os.rename(target, source)
        raise
