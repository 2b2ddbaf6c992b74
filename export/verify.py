"""Verification: open each exported file with its runtime, and compare every signature with Keras."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.export import flatbuffer, operators, runtime
from kvae.export.behaviour import Behaviour
from kvae.export.budgets import Budget, budget
from kvae.export.console import quiet
from kvae.export.endpoints import INFO, PIXELS, Endpoint, Signature
from kvae.export.errors import ExportError, one_line
from kvae.export.info import describe_tensors
from kvae.export.reference import Reference, Run, in_pieces
from kvae.export.versions import oldest_runtime


@dataclass(frozen=True)
class OutputCheck:
    """Errors of one output of one signature against Keras, over all batches.

    Errors are absolute; those of decoded values in their own units are relative to the scale of the likelihood.
    """

    max_abs_error: float
    mean_abs_error: float
    budget: Budget

    @property
    def passed(self) -> bool:
        """Whether the errors are within the budget; NaN never passes."""
        return self.max_abs_error <= self.budget.max and self.mean_abs_error <= self.budget.mean


@dataclass(frozen=True)
class SignatureCheck:
    """One endpoint of one file: shapes ("B" is the batch), dtypes, and differences from Keras.

    If it has signatures for several batch sizes, errors are the largest of them.
    """

    name: str
    inputs: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Any]]
    checks: dict[str, OutputCheck]

    @property
    def max_abs_error(self) -> float:
        return max(check.max_abs_error for check in self.checks.values())

    @property
    def mean_abs_error(self) -> float:
        return max(check.mean_abs_error for check in self.checks.values())

    def as_dict(self) -> dict[str, Any]:
        outputs = {name: {**self.outputs[name], **asdict(check)} for name, check in self.checks.items()}
        errors = {"max_abs_error": self.max_abs_error, "mean_abs_error": self.mean_abs_error}
        return {"inputs": self.inputs, "outputs": outputs, **errors}


@dataclass(frozen=True)
class Artifact:
    """A verified file or folder.

    `operators` are LiteRT's operators and `oldest_runtime` is the oldest release of TensorFlow Lite with all of them;
    both are None for other formats. `network` is the name of the only network in the file, or None.

    `behaviour` has the losses on test images, latency and memory: see `kvae.export.behaviour`.
    """

    path: str
    format: str
    precision: str
    bytes: int
    sha256: str
    signatures: tuple[SignatureCheck, ...]
    operators: tuple[str, ...] | None = None
    builtin_only: bool | None = None
    oldest_runtime: str | None = None
    network: str | None = None
    behaviour: Behaviour | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            **vars(self),
            "signatures": {signature.name: signature.as_dict() for signature in self.signatures},
            "operators": None if self.operators is None else list(self.operators),
            "behaviour": None if self.behaviour is None else self.behaviour.as_dict(),
        }


def verify_litert(
    path: Path,
    precision: str,
    reference: Reference,
    signatures: Sequence[Signature] | None = None,
    accept_losses: bool = False,
) -> Artifact:
    """Open a `.tflite` file without TensorFlow, run every signature and compare it with Keras.

    Args:
        path: path of the file.
        precision: one of `kvae.export.litert.PRECISIONS`.
        reference: inputs, and outputs of Keras.
        signatures: expected signatures besides `info`; None takes all endpoints for the batch sizes 1 and 16. A file
            with a single signature has only `serving_default`.
        accept_losses: whether outputs may be further from Keras than the budgets allow. Drawn latents must be equal in
            any case.

    Raises:
        ExportError: if the file requires operators that aren't built in, has no weights, can't be run, has other
            signatures than expected, or is further from Keras than `kvae.export.budgets` allows.
    """
    path = Path(path)
    if signatures is None:
        signatures = [Signature(endpoint, size) for endpoint in reference.endpoints for size in (1, 16)]
    contents = flatbuffer.read(path)
    if contents.not_builtin:
        raise ExportError(
            f"Expected built-in operators only in '{path.name}'. Received: "
            f"{', '.join(contents.not_builtin)}; replace the layer with these operators"
        )
    # Half a byte per weight is half of int8; a file without weights has far less.
    weights = reference.weights([signature.endpoint for signature in signatures])
    if contents.variables or contents.constant_bytes < weights / 2:
        raise ExportError(
            f"Expected the {weights} weights of the model in '{path.name}'. Received: "
            f"{contents.constant_bytes} bytes of constants; the converter didn't find the model's variables"
        )
    alone = contents.signatures == (flatbuffer.SERVING_DEFAULT,) and len(signatures) == 1
    if not alone:
        _check_signatures(path.name, contents.signatures, [*(signature.name for signature in signatures), INFO])
    with quiet():
        try:
            model = runtime.load(path)
        except ValueError as error:
            raise ExportError(f"LiteRT can't open '{path.name}': {one_line(error)}") from error

        def run_in(size: int | None) -> Run:
            return lambda name, inputs: model.run(name, batch=size, **inputs)

        runs: dict[Endpoint, list[Run]] = {}
        for endpoint, batch in signatures:
            runs.setdefault(endpoint, []).append(run_in(batch))
        checked = tuple(
            _compare_one(path.name, ways, end, precision, reference, accept_losses) for end, ways in runs.items()
        )
    return Artifact(
        path=path.name,
        format="litert",
        precision=precision,
        bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        signatures=checked,
        operators=tuple(contents.operators),
        oldest_runtime=oldest_runtime(contents.operators),
        builtin_only=not contents.not_builtin,
    )


def verify_saved_model(path: Path, reference: Reference) -> Artifact:
    """Load a SavedModel with TensorFlow, run every signature and compare it with Keras.

    Raises:
        ExportError: as `verify_litert`.
    """
    path = Path(path)
    with quiet():
        run, names = open_saved_model(path)
        _check_signatures(path.name, names, [*(endpoint.name for endpoint in reference.endpoints), INFO])
        signatures = compare(path.name, run, "float32", reference)
    return folder_artifact(path, "saved_model", signatures)


def open_saved_model(path: Path) -> tuple[Run, list[str]]:
    """Return a function that runs an endpoint, and the names of the signatures."""
    try:
        loaded = tf.saved_model.load(str(path))
    except (OSError, ValueError) as error:
        raise ExportError(f"TensorFlow can't load '{path.name}': {one_line(error)}") from error

    def call(name: str, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        # (This keeps `loaded` alive, and with it the variables.)
        return loaded.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})

    return in_pieces(call, first=1), list(loaded.signatures)


def folder_artifact(path: Path, format: str, signatures: tuple[SignatureCheck, ...]) -> Artifact:
    """Return the artifact of a folder of float32 files; its checksum covers all names and contents."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(path).as_posix().encode() + b"\0" + file.read_bytes())
    return Artifact(
        path=path.name,
        format=format,
        precision="float32",
        bytes=sum(file.stat().st_size for file in files),
        sha256=digest.hexdigest(),
        signatures=signatures,
    )


def _check_signatures(file: str, found: Iterable[str], expected: Iterable[str]) -> None:
    if set(found) != set(expected):
        raise ExportError(f"Expected signatures {sorted(expected)} in '{file}'. Received: {sorted(found)}")


def compare(file: str, run: Run, precision: str, reference: Reference) -> tuple[SignatureCheck, ...]:
    """Run every endpoint on the reference's inputs; raise an ExportError at the first error beyond its budget."""
    return tuple(_compare_one(file, [run], endpoint, precision, reference) for endpoint in reference.endpoints)


def _compare_one(
    file: str,
    runs: Sequence[Run],
    endpoint: Endpoint,
    precision: str,
    reference: Reference,
    accept_losses: bool = False,
) -> SignatureCheck:
    where, inputs = f"'{endpoint.name}' of '{file}'", reference.inputs[endpoint.name]
    try:
        results = [run(endpoint.name, inputs) for run in runs]
    except Exception as error:
        reason = one_line(error.__cause__ or error)  # the cause of the runtime's own error
        raise ExportError(f"{where} can't run on all batch sizes: {reason}; {operators.remedy(reason)}") from error
    expected = reference.outputs[endpoint.name]
    if set(results[0]) != set(expected):
        raise ExportError(f"Expected outputs {sorted(expected)} of {where}. Received: {sorted(results[0])}")
    checks = {}
    for name, right in expected.items():
        unit = reference.units if endpoint.outputs[name] == PIXELS else 1.0
        if any(result[name].shape != right.shape for result in results):
            raise ExportError(
                f"Expected {right.shape} for '{name}' from {where}. Received: shape {results[0][name].shape}"
            )
        errors = [np.abs(result[name].astype("float64") - right) / unit for result in results]
        in_units = expected if np.all(unit == 1.0) else {**expected, name: right / unit}
        allowed = budget(precision, endpoint.outputs[name], name, in_units, reference.rounding)
        check = checks[name] = OutputCheck(
            # NumPy's maximum, because Python's may ignore NaN.
            float(np.max([error.max() for error in errors])),
            float(np.max([error.mean() for error in errors])),
            allowed,
        )
        finite = bool(np.isfinite([check.max_abs_error, check.mean_abs_error]).all())
        if not check.passed and not (accept_losses and finite and allowed.max > 0):
            raise ExportError(
                f"Expected '{name}' from {where} within {allowed.max:.2g} (mean {allowed.mean:.2g}) of "
                f"Keras. Received: a difference of {check.max_abs_error:.2g} (mean {check.mean_abs_error:.2g})"
                + ("; export precisions=('float32',) instead" if precision != "float32" else "")
            )
    return SignatureCheck(endpoint.name, **describe_tensors(endpoint, inputs, results[0]), checks=checks)
