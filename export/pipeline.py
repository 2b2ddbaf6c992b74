"""The whole export: write, verify and report, then move everything into place."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kvae.arguments import shown
from kvae.data import Data
from kvae.export import (
    accuracy,
    behaviour,
    budgets,
    checks,
    endpoints,
    flatbuffer,
    golden,
    info,
    integer,
    litert,
    metadata,
    onnx,
    place,
    runtime,
    saved_model,
    vendored,
)
from kvae.export.choice import Budgets, Choice
from kvae.export.console import quiet
from kvae.export.endpoints import Signature, signatures_of
from kvae.export.errors import ExportError
from kvae.export.networks import in_networks
from kvae.export.reference import WIDEST, Reference, Run, conditions_in_turn, run_keras
from kvae.export.report import page, pictures
from kvae.export.verify import Artifact, open_saved_model, verify_litert, verify_saved_model
from kvae.export.versions import oldest_runtime

SAVED_MODEL, ONNX, REPORT, PAGE = "saved_model", "onnx", runtime.REPORT, "export.html"
KINDS = ("vae", "autoencoder", "classifier")
DEFAULT_PRECISIONS = ("float32", "int8")
BATCH_SIZES = (1, 16)
CALIBRATED = 128  # images and latents for the ranges of activations in full_int8
SHOWN = 16  # images per row of the page
TESTED, VALIDATED = 1000, 2000  # largest numbers of test and validation images of a `Data`
#: Networks that can have a separate file, and the endpoint of this file.
NETWORKS = {"decoder": "decode", "encoder": "encode", "classifier": "classify"}
_FILES = [f"{kind}_{precision}" for kind in (*KINDS, *NETWORKS) for precision in litert.ALL_PRECISIONS]
_PATHS = [file + end for file in _FILES for end in (".tflite", ".golden.json")]
#: names of all files that an export may write
_NAMES = {SAVED_MODEL, ONNX, REPORT, PAGE, vendored.FILE, *_PATHS}
_INFO = flatbuffer.Named(endpoints.INFO, (), ("json",))
_PACKAGES = ("keras-vae", "keras", "tensorflow", "ai-edge-litert", "litert-quantizer", "numpy")


def export(
    model: Any,
    directory: str | os.PathLike[str],
    data: Any = None,
    *,
    validation: Any = None,
    conditions: Any = None,
    precisions: str | Iterable[str] = DEFAULT_PRECISIONS,
    signatures: str | Iterable[str] | None = None,
    networks: str | Iterable[str] = ("decoder",),
    batch_sizes: Sequence[int | None] = BATCH_SIZES,
    io: str = "float32",
    with_onnx: bool = False,
    budgets: Budgets | None = None,
    accept_losses: bool = False,
    dataset_name: str | None = None,
    condition_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    directions: Sequence[Any] = (),
    license: str | None = None,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Export a model to a SavedModel and LiteRT files, each compared with Keras before it is kept.

    `directory` gets `saved_model/`, `report.json`, the same report as a page, `export.html`, and `kvae_runtime.py`,
    which runs the files with NumPy and LiteRT (or the older tflite-runtime) and without kvae. For each precision it
    gets `vae_<precision>.tflite` (or `autoencoder_…`, `classifier_…`) and `decoder_<precision>.tflite`, each with a
    `.golden.json` to replay on a device.

    * `decoder_<precision>.tflite` is for apps: one subgraph and one signature `serving_default` for the smallest batch
      size, with the input `z` (and `condition`, for a conditional model) and the output `image`. It runs on TensorFlow
      Lite 2.7, on GPUs, and with wrappers without support for signatures.
    * `vae_<precision>.tflite` contains the whole model: signatures `decode_B`, `encode_B`, `reconstruct_B`,
      `generate_B`, `latents_B`, `interpolate_B`, `score_B` and, for series and rows, `explain_B` for each batch size B,
      and `info`, in this order.
      Subgraph 0 is `decode_1` by default. The file of a classifier has only `classify_B`; the file of a
      `kvae.SemiSupervisedVAE` has it in addition.
    * The SavedModel has all signatures without `_B`, for any batch size.

    All files compute in float32, even if the model was trained in mixed precision. A LiteRT file that isn't close
    enough to Keras is left out, and the report has the reason. If no file is good enough, or the export is interrupted,
    `directory` doesn't change. Files of an earlier export that aren't written again are removed; other files are not
    touched.

    Args:
        model: a built `kvae.VAE`, `kvae.Autoencoder` or `kvae.features.Classifier`.
        directory: target folder; created if it doesn't exist.
        data: test images for the comparison with Keras and for measurements: a `kvae.data.Data` (its test and
            validation splits and its names are used), an array `(N, H, W, C)` in [0, 1], or a pair of images and labels
            `(N,)`. For a conditional model, labels are the conditions. For a classifier, they are classes by number or
            name, and each file must keep the accuracy (`kvae.export.accuracy`). For other models, they are for a linear
            probe of the exported encoder, fitted in Keras. Without data, the comparison uses noise, and nothing is
            measured; the report states this.
        validation: images, or a pair as in `data`, for the choice of the precision ("auto"), the ranges of full_int8,
            the statistics in `info` and the scores for p-values (`kvae.export.runtime.Model.p_value`; each LiteRT file
            has its own, of at most 2,000 images). The model must not have been trained on them. None takes the
            validation split of a `Data`, otherwise the test images; the report states this.
        conditions: conditions of the test images, in the form for `fit` (conditional models only); None takes the
            labels.
        precisions: precisions of the LiteRT files, from `kvae.export.litert.PRECISIONS`: "float32", "float16", "int8"
            (weights in 8 bits, activations quantised on the fly), "full_int8" (both in 8 bits, with calibrated ranges),
            "integer" (no floats, even as inputs and outputs, for NPUs; only files of `networks` or of a classifier); or
            "auto": the smallest file whose measurable losses on the validation images are within `budgets`, and which
            takes at most 1.5 times as long as the fastest such file.
        signatures: signatures of the files with the whole model, in this order: names such as "decode", for all batch
            sizes, or "decode_16", for one; None takes all, except `explain` of images, which must be asked for. Other
            signatures take no space. With `[]`, only the files of `networks` are written.
        networks: networks with a separate file: "decoder", "encoder", both or none.
        batch_sizes: batch sizes of the LiteRT signatures. A None among them adds signatures for any batch size, named
            `decode`, …; LiteRT.js can't use them.
        io: dtype of images in LiteRT files: "float32", in [0, 1]; or "uint8", 0 to 255, for `decode`, `encode`,
            `reconstruct` and `classify`; the other signatures keep floats. Inputs and outputs of "integer" files are
            int8, or uint8 with "uint8".
        with_onnx: whether to also write `onnx/`, one file per endpoint (requires the extra `onnx`).
        budgets: budgets for "auto" (default: half a nat, and half a point of accuracy).
        accept_losses: whether to keep files that are further from Keras than `kvae.export.budgets` and
            `kvae.export.accuracy` allow; the report has their losses. Drawn latents equal those of Keras in any case.
        dataset_name: name of the training data, for `info` (default: name of a `Data`). Only the last part of an
            absolute path is used.
        condition_names: names of the `condition_dim` classes of a condition, for `info`.
        class_names: names of the classes of a classifier, for `info`; None takes the model's own names. A
            `kvae.SemiSupervisedVAE` has one list for both: give either.
        directions: directions in latent space, for `info`: results of `kvae.features.attribute_direction`, with
            different names. The runtime's `move` and the sliders of the browser page use them.
        license: text of the licence, for `info`.
        on_step: called with a line of text before each step.

    Returns:
        Contents of `report.json`: `packages`, `model`, `verification`, `warnings`, `refused` (files that aren't close
        enough to Keras, with reasons) and `artifacts`. With "auto", `choice` has its images, the budgets, and for each
        file the losses and the time, or the reason of the refusal.

    Raises:
        ValueError: if the model has another type, a precision is unknown, or data, conditions, names, directions,
            budgets or batch sizes are invalid.
        ExportError: if `directory` can't be written to, the model can't be converted, or no LiteRT file is close
            enough to Keras (`kvae.export.budgets`, `kvae.export.accuracy`).

    Example:

        >>> import kvae, tempfile
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> with tempfile.TemporaryDirectory() as out:
        ...     report = export(vae, out)
        >>> [artifact["path"] for artifact in report["artifacts"]]
        ['saved_model', 'vae_float32.tflite', 'decoder_float32.tflite', 'vae_int8.tflite', 'decoder_int8.tflite']
    """
    checks.check_model(model)
    schema = None
    if isinstance(data, Data):
        condition_names, class_names = _names_of(data, model, condition_names, class_names)
        dataset_name = data.name if dataset_name is None else dataset_name
        schema = data.schema and data.schema.to_json()
        if validation is None and data.num_validation:
            validation = data.arrays("validation", limit=VALIDATED)
        data = data.arrays("test", limit=TESTED)
    wanted = checks.precisions_of(precisions)
    chosen = signatures_of(model, signatures, checks.batch_sizes_of(batch_sizes), io)
    wanted_networks = tuple(
        name for name in checks.networks_of(networks) if hasattr(model, name) and hasattr(model, "decoder")
    )
    if not chosen and not wanted_networks:
        raise ValueError("Expected one or more of `signatures`, or of `networks`, for LiteRT files. Received: neither")
    if conditions is not None and model.condition_dim is None:
        raise ValueError("Argument `conditions` is for a conditional model. Received: a model without conditions")
    facts = checks.facts(model, dataset_name, license, condition_names, class_names, directions)
    facts["schema"] = schema
    test = checks.Images.checked("data", model, *checks.pair("data", data), conditions, facts["class_names"])
    apart = checks.validation_images(model, validation, facts["class_names"])
    choice = Choice.by(budgets or Budgets(), apart, test) if precisions == "auto" else None
    if not test and not apart and (seen := {"full_int8", litert.INTEGER} & set(wanted)):
        raise ValueError(
            f"Expected `data` or `validation` images: {seen.pop()} requires images to set the ranges of activations. "
            "Received: neither"
        )
    if io not in endpoints.IO:
        raise ValueError(f"Argument `io` must be one of {endpoints.IO}. Received: io={shown(io)}")
    if io == "uint8" and not model.bounded:
        raise ValueError(
            "Argument `io='uint8'` requires a model of images in [0, 1]. Received: a model with bounded=False"
        )
    step = on_step or (lambda text: None)
    with place.inside(directory) as folder:
        new = folder / "new"
        step("computing the reference outputs in Keras")
        sizes = checks.batch_sizes_of(batch_sizes)
        work = _Export(model, test, apart or test, chosen, wanted_networks, io, accept_losses, sizes, step, facts)
        artifacts = work.write(new, folder / "scratch", wanted, choice, with_onnx)
        report = work.report(artifacts, choice)
        text = json.dumps(report, indent=2, allow_nan=False) + "\n"
        (new / REPORT).write_text(text, encoding="utf-8")
        (new / vendored.FILE).write_text(vendored.source(), encoding="utf-8")
        (new / PAGE).write_text(page.render(report, work.pictures), encoding="utf-8")
        place.replace(new, Path(directory), folder / "old", _NAMES)
    return report


def _names_of(
    data: Data, model: Any, condition_names: Sequence[str] | None, class_names: Sequence[str] | None
) -> tuple[Sequence[str] | None, Sequence[str] | None]:
    """Return the names of conditions and classes; missing names are taken from the data if their number fits."""
    known = data.label_names or None
    if condition_names is None and known and len(known) == model.condition_dim:
        condition_names = known
    has_own = getattr(model, "class_names", None) is not None or condition_names is not None
    if class_names is None and not has_own and known and len(known) == getattr(model, "num_classes", 0):
        class_names = known
    return condition_names, class_names


class _File(NamedTuple):
    """A LiteRT file to write: with several signatures, or with the signature of one network."""

    name: str
    precision: str
    network: str | None
    signatures: tuple[Signature, ...]

    @property
    def integer(self) -> bool:
        """Whether the file computes only with integers."""
        return self.precision == litert.INTEGER


class _Export:
    """One export: the model, its reference outputs in Keras, and images for the page."""

    def __init__(
        self,
        model: Any,
        test: checks.Images | None,
        validation: checks.Images | None,
        signatures: tuple[Signature, ...],
        networks: tuple[str, ...],
        io: str,
        accept_losses: bool,
        batch_sizes: tuple[int | None, ...],
        step: Callable[[str], None],
        facts: dict[str, Any],
    ):
        self.model, self.batch_sizes, self.step = endpoints.with_fixed_prior(model), batch_sizes, step
        self.signatures, self.networks, self.io, self.accept_losses = signatures, networks, io, accept_losses
        self.test, self.validation = test, validation
        self.kind = info.kind(self.model)
        #: dtype of inputs and outputs in integer files
        self.integers = "uint8" if io == "uint8" else "int8"
        self.refused: dict[str, str] = {}
        self.requested = {signature.endpoint.name for signature in signatures}
        #: endpoints of the SavedModel and of the ONNX files
        self.any_batch = tuple(Signature(each, None) for each in endpoints.endpoints_of(self.model, self.requested))
        self.traced = saved_model.trace(self.model, self.any_batch)
        given = {"images": test and test.images, "conditions": test and test.conditions, "requested": self.requested}
        self.reference = self.litert_reference = Reference(self.model, **given)
        if io != "float32":
            self.litert_reference = Reference(self.model, **given, io=io)
        self.info = info.describe(model, self.litert_reference, signatures, validation and validation.inputs, **facts)
        self.keras = run_keras(self.model)
        self.names = {endpoint.name for endpoint in self.reference.endpoints}
        self.comparison = test and behaviour.Comparison(
            self.keras, self.names, test.inputs, test.labels, self.reference.units
        )
        self.pictures: list[pictures.Pictures] = [self._pictures("Keras", self.keras, self.names)]

    def write(
        self, new: Path, scratch: Path, precisions: tuple[str, ...], choice: Choice | None, with_onnx: bool
    ) -> list[Artifact]:
        step = self.step
        step("writing and verifying the SavedModel")
        any_batch = info.to_bytes(info.of(self.info, self.any_batch, self.reference))
        saved_model.write(self.model, new / SAVED_MODEL, any_batch, traced=self.traced)
        artifact = verify_saved_model(new / SAVED_MODEL, self.reference)
        artifacts = [self._with_behaviour(artifact, open_saved_model(new / SAVED_MODEL)[0])]
        if with_onnx:
            step("writing and verifying ONNX files")
            artifact = onnx.export(self.model, new / ONNX, self.reference, any_batch)
            artifacts.append(self._with_behaviour(artifact, onnx.open_onnx(new / ONNX)))
        step("converting to LiteRT")
        floats = [precision for precision in precisions if precision != litert.INTEGER]
        needed = self._signatures_to_convert(floats, choice)
        if needed:
            saved_model.write(self.model, scratch, info.to_bytes(self.info), saved_model.trace(self.model, needed))
            float32 = litert.convert(scratch, [*(signature.name for signature in needed), endpoints.INFO])
            shutil.rmtree(scratch)
        integer_files = self._integer_files(scratch) if litert.INTEGER in precisions else {}
        converted = {}
        for precision in floats:
            step(f"making the {precision} files")
            with self._recording_refusal(
                f"{self.kind}_{precision}.tflite", self.refused if choice is None else choice.refused
            ):
                calibration = self._calibration(needed, self.io) if precision == "full_int8" else None
                converted[precision] = litert.quantize(float32, precision, calibration, in_networks(self.model))
        if choice is not None:
            converted = self._choose(converted, choice, needed, scratch)
        files = {file: data for precision, data in converted.items() for file in self._files(precision)}
        for file, data in (files | integer_files).items():
            step(f"writing and verifying {file.name}")
            with self._recording_refusal(file.name, self.refused):
                artifacts.append(self._write_and_verify(new / file.name, file, data))
        if not any(artifact.format == "litert" for artifact in artifacts):
            first, *others = self.refused.values()
            raise ExportError(first + (f". {len(others)} more files were refused" if others else ""))
        return artifacts

    def _reference_of(self, file: _File) -> Reference:
        """Return the reference in the dtypes of the file; for integer files, floats (the runtime converts them)."""
        return self.reference if file.integer else self.litert_reference

    def _files(self, precision: str) -> Iterator[_File]:
        """Yield the files of a precision. Integer files have one network each, also for a classifier."""
        integers = precision == litert.INTEGER
        if self.signatures and not integers:
            yield _File(f"{self.kind}_{precision}.tflite", precision, None, self.signatures)
        size = min(size for size in self.batch_sizes if size is not None)
        for network in (*self.networks, *(["classifier"] if integers and "classify" in self.names else [])):
            signatures = signatures_of(self.model, NETWORKS[network], (size,), "float32" if integers else self.io)
            yield _File(f"{network}_{precision}.tflite", precision, network, signatures)

    def _signatures_to_convert(self, precisions: Sequence[str], choice: Choice | None) -> tuple[Signature, ...]:
        """Return all signatures to convert; their order is not important."""
        files = [file for precision in precisions for file in self._files(precision)]
        found = [signature for file in files for signature in file.signatures]
        if choice is not None:
            found += signatures_of(self.model, choice.endpoints, self.batch_sizes[:1])
        return tuple(dict.fromkeys(found))

    def _integer_files(self, scratch: Path) -> dict[_File, bytes]:
        """Convert the files that compute only with integers."""
        made, files = {}, list(self._files(litert.INTEGER))
        signatures = [signature for file in files for signature in file.signatures]
        calls = self._calibration(signatures, "float32")
        saved_model.write(self.model, scratch, b"{}", saved_model.trace(self.model, signatures))
        for file, signature in zip(files, signatures, strict=True):
            self.step(f"making {file.name}")
            with self._recording_refusal(file.name, self.refused):
                made[file] = integer.integer(scratch, signature.named(), calls[signature.name], self.integers)
        shutil.rmtree(scratch)
        return made

    @contextlib.contextmanager
    def _recording_refusal(self, name: str, reasons: dict[str, str]) -> Iterator[None]:
        """Record the reason if a file is refused inside the context."""
        try:
            yield
        except ExportError as error:
            reasons[name] = str(error)

    def _verified(self, path: Path, file: _File, data: bytes, accept_losses: bool) -> tuple[Artifact, Run]:
        """Write, verify and open a file."""
        path.write_bytes(self._file_bytes(file, data))
        artifact = verify_litert(path, file.precision, self._reference_of(file), file.signatures, accept_losses)
        with quiet():
            model = runtime.load(path)
        return artifact, lambda name, inputs: model.floats(name, **inputs)

    def _write_and_verify(self, path: Path, file: _File, data: bytes) -> Artifact:
        """Write, verify, calibrate and measure a file, and write its golden pairs."""
        try:
            artifact, run = self._verified(path, file, data, self.accept_losses)
            artifact = self._calibrated(artifact, run, path, file, data)
            artifact = self._with_behaviour(artifact, run, path, file.signatures)
        except ExportError:
            path.unlink(missing_ok=True)
            raise
        with quiet():
            pair = golden.golden(path, self._reference_of(file))
        path.with_suffix(".golden.json").write_text(json.dumps(pair), encoding="utf-8")
        if file.network is None:
            self.pictures.append(self._pictures(path.name, run, {each.endpoint.name for each in file.signatures}))
        return dataclasses.replace(artifact, network=file.network)

    def _calibrated(self, artifact: Artifact, run: Run, path: Path, file: _File, data: bytes) -> Artifact:
        """Write the file again with its own scores of the validation images, if it scores images."""
        if self.validation is None or not any(each.endpoint.name == "score" for each in file.signatures):
            return artifact
        with quiet():
            scores = info.calibration(path.name, run, self.validation.inputs)
        contents = self._file_bytes(file, data, scores)
        path.write_bytes(contents)
        return dataclasses.replace(artifact, bytes=len(contents), sha256=hashlib.sha256(contents).hexdigest())

    def _file_bytes(self, file: _File, data: bytes, calibration: Sequence[float] | None = None) -> bytes:
        """Return the bytes of a file: its own signatures of the flatbuffer, its facts, and the attached archive."""
        io = self.integers if file.integer else None
        reference = self._reference_of(file)
        facts = info.of(self.info, file.signatures, reference, file.network is not None, io, calibration)
        named = [signature.named() for signature in file.signatures]
        content = flatbuffer.Editable(data)
        if not file.integer:  # an integer file is made separately
            content.arrange(named if file.network else [*named, _INFO])
            if file.network:
                content.isolate(named[0].name)
            else:
                content.set_bytes(endpoints.INFO, info.to_bytes(facts))
        entries = {metadata.MIN_RUNTIME: f"{oldest_runtime(content.operators)}.0".encode().ljust(16, b"\0")}
        if file.network:
            described = facts["signatures"][facts["serving_default"]]
            entries[metadata.TFLITE_METADATA] = metadata.tflite_metadata(facts, described)
        content.describe(metadata.description(facts), entries)
        return runtime.sealed(bytes(content), {runtime.INFO: info.to_bytes(facts), **metadata.attached(facts)})

    def _with_behaviour(
        self, artifact: Artifact, run: Run, path: Path | None = None, signatures: Sequence[Signature] | None = None
    ) -> Artifact:
        """Add the measurements on test images, and latency and memory of the LiteRT file at `path`."""
        if self.comparison is None:
            return artifact
        names = None if signatures is None else {signature.endpoint.name for signature in signatures}
        measured = self.comparison.of(run, names)
        if not self.accept_losses:
            accuracy.check(artifact.path, artifact.precision, measured)
            budgets.check_nats(artifact.path, artifact.precision, measured)
        measured = dataclasses.replace(measured, **behaviour.cost(path)) if path else measured
        return dataclasses.replace(artifact, behaviour=measured)

    def _choose(
        self, converted: dict[str, bytes], choice: Choice, needed: tuple[Signature, ...], scratch: Path
    ) -> dict[str, bytes]:
        """Choose a precision by the losses of a file with all requested signatures."""
        images = choice.images
        chosen_on = behaviour.Comparison(
            self.keras, set(choice.endpoints), images.inputs, images.labels, self.reference.units
        )
        scratch.mkdir()
        for precision, data in converted.items():
            file = _File(f"{self.kind}_{precision}.tflite", precision, None, needed)
            path = scratch / file.name
            with self._recording_refusal(path.name, choice.refused):
                artifact, run = self._verified(path, file, data, accept_losses=False)
                measured = chosen_on.of(run).as_dict()
                choice.bytes[precision] = artifact.bytes
                choice.lost[precision] = {name: measured[name] for name in choice.budgets}
                choice.latency_us[precision] = behaviour.first_latency(path)
        shutil.rmtree(scratch)
        best = choice.best()
        return {best: converted[best]}

    def _calibration(self, signatures: Sequence[Signature], io: str) -> litert.Calibration:
        """Return single calls of each signature on real images, on latents near and far, and on lines between them."""
        assert self.validation is not None
        reference = Reference(
            self.model, self.validation.images, seed=1, rows=CALIBRATED, temperature=WIDEST,
            conditions=self.validation.conditions, io=io, requested=self.requested,
        )  # fmt: skip
        latents = reference.inputs["decode"]["z"] if "decode" in reference.inputs else np.zeros((0, 0))
        if "generate" in reference.outputs:
            latents = np.concatenate([latents[::2], reference.outputs["generate"]["z"][::2]])
            reference.inputs["decode"]["z"] = latents
        calls: litert.Calibration = {}
        for signature in signatures:
            endpoint, rows = signature.endpoint, signature.batch or 1
            calls[signature.name] = [
                {
                    name: np.resize(values[i : i + rows], (rows, *values.shape[1:]))
                    if name in endpoint.batched
                    else {"start": latents[i : i + 1], "end": latents[-1 - i :][:1]}.get(name, values)
                    for name, values in reference.inputs[endpoint.name].items()
                }
                for i in range(0, CALIBRATED, rows)
            ]
        return calls

    def _pictures(self, title: str, run: Run, endpoints: Collection[str]) -> pictures.Pictures:
        first = self.test and {name: values[:SHOWN] for name, values in self.test.inputs.items()}
        shown = first if "reconstruct" in endpoints else None
        seed_7 = {
            "seed": runtime.seed_words(7),
            "index": np.arange(SHOWN, dtype="int32"),
            "temperature": np.ones(1, "float32"),
            **conditions_in_turn(self.model, SHOWN),
        }
        return pictures.Pictures(
            title=title,
            images=shown and shown["image"],
            reconstructions=shown and run("reconstruct", shown)["reconstruction"],
            samples=run("generate", seed_7)["image"] if "generate" in endpoints else None,
            units=self.reference.units,
        )

    def report(self, artifacts: list[Artifact], choice: Choice | None) -> dict[str, Any]:
        return {
            "packages": {name: _version(name) for name in _PACKAGES},
            "model": self.info,
            "verification": {
                "images": self.reference.image_source,
                "latents": self.reference.latent_source,
                "tested_on": 0 if self.test is None else len(self.test.images),
                "batch_sizes": list(self.batch_sizes),
            },
            "warnings": [*(choice.warnings() if choice else ()), *_warnings(artifacts, self.batch_sizes)],
            "refused": self.refused,
            **({"choice": choice.as_dict()} if choice else {}),
            "artifacts": [artifact.as_dict() for artifact in artifacts],
        }


def _warnings(artifacts: list[Artifact], batch_sizes: Sequence[int | None]) -> list[str]:
    return [
        f"{artifact.path} is correct but slow for any batch size: LiteRT then has only a reference kernel for "
        "transposed convolutions (in int8 hundreds of times slower); use fixed batch sizes, or a convolution and "
        "kvae.networks.DepthToSpace"
        for artifact in artifacts
        if None in batch_sizes and "TRANSPOSE_CONV" in (artifact.operators or ())
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
