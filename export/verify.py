"""Opening each exported file as its user will, and comparing every signature with Keras."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.export import flatbuffer
from kvae.export.budgets import Budget, budget
from kvae.export.console import quiet
from kvae.export.endpoints import ENDPOINTS, Endpoint
from kvae.export.errors import ExportError, one_line
from kvae.export.reference import Reference

Run = Callable[[str, dict[str, np.ndarray]], dict[str, Any]]


@dataclass(frozen=True)
class OutputCheck:
    """One output of one signature against Keras, over all batches. Errors are absolute."""

    max_abs_error: float
    mean_abs_error: float
    budget: Budget

    @property
    def passed(self) -> bool:
        """NaN compares as false, so that it never passes."""
        return self.max_abs_error <= self.budget.max and self.mean_abs_error <= self.budget.mean


@dataclass(frozen=True)
class SignatureCheck:
    """One signature of one file: shapes (None is any batch) and dtypes, and how far it is from Keras."""

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
        outputs = {
            name: {
                **self.outputs[name],
                "max_abs_error": check.max_abs_error,
                "mean_abs_error": check.mean_abs_error,
                "budget": {"max": check.budget.max, "mean": check.budget.mean},
            }
            for name, check in self.checks.items()
        }
        errors = {"max_abs_error": self.max_abs_error, "mean_abs_error": self.mean_abs_error}
        return {"inputs": self.inputs, "outputs": outputs, **errors}


@dataclass(frozen=True)
class Artifact:
    """A file, or a SavedModel's folder, that passed; `operators` are LiteRT's, None for a SavedModel."""

    path: str
    format: str
    precision: str
    bytes: int
    sha256: str
    signatures: tuple[SignatureCheck, ...]
    operators: tuple[str, ...] | None = None
    builtin_only: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "format": self.format,
            "precision": self.precision,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "signatures": {signature.name: signature.as_dict() for signature in self.signatures},
            "operators": None if self.operators is None else list(self.operators),
            "builtin_only": self.builtin_only,
        }


def verify_litert(path: Path, precision: str, reference: Reference) -> Artifact:
    """Open a `.tflite` file with ai-edge-litert, run every signature and compare.

    Raises:
        ExportError: if it needs operators that aren't built in, has no weights, can't be run, has other
            signatures than expected, or is further from Keras than `kvae.export.budgets` allows.
    """
    from ai_edge_litert.interpreter import Interpreter

    path = Path(path)
    contents = flatbuffer.read(path)
    if contents.not_builtin:
        raise ExportError(
            f"Expected built-in operators only in '{path.name}'. Received: "
            f"{', '.join(contents.not_builtin)}; replace the layer they come from"
        )
    # Half a byte for each weight is half of int8; a file without weights has far less.
    if contents.variables or contents.constant_bytes < reference.parameters / 2:
        raise ExportError(
            f"Expected the {reference.parameters} weights of the model in '{path.name}'. Received: "
            f"{contents.constant_bytes} bytes of constants; the converter didn't see the model's variables"
        )
    with quiet():
        try:
            interpreter = Interpreter(model_path=str(path))
            runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
        except (RuntimeError, ValueError) as error:
            raise ExportError(f"LiteRT can't open '{path.name}': {one_line(error)}") from error
        signatures = compare(path.name, lambda name, x: runners[name](**x), set(runners), precision, reference)
    return Artifact(
        path=path.name,
        format="litert",
        precision=precision,
        bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        signatures=signatures,
        operators=contents.operators,
        builtin_only=not contents.not_builtin,
    )


def verify_saved_model(path: Path, reference: Reference) -> Artifact:
    """Load a SavedModel with TensorFlow, run every signature and compare.

    Raises:
        ExportError: as `verify_litert`.
    """
    path = Path(path)
    with quiet():
        try:
            loaded = tf.saved_model.load(str(path)).signatures
        except (OSError, ValueError) as error:
            raise ExportError(f"TensorFlow can't load '{path.name}': {one_line(error)}") from error

        def run(name: str, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
            return loaded[name](**{k: tf.constant(v) for k, v in inputs.items()})

        signatures = compare(path.name, run, set(loaded), "float32", reference)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(path).as_posix().encode() + b"\0" + file.read_bytes())
    return Artifact(
        path=path.name,
        format="saved_model",
        precision="float32",
        bytes=sum(file.stat().st_size for file in files),
        sha256=digest.hexdigest(),
        signatures=signatures,
    )


def compare(file: str, run: Run, found: set[str], precision: str, reference: Reference) -> tuple[SignatureCheck, ...]:
    """Run every endpoint on the reference's batches; ExportError at the first that is over its budget."""
    expected = {endpoint.name for endpoint in ENDPOINTS}
    if found != expected:
        raise ExportError(f"Expected signatures {sorted(expected)} in '{file}'. Received: {sorted(found)}")
    return tuple(_compare_one(file, run, endpoint, precision, reference) for endpoint in ENDPOINTS)


def _compare_one(file: str, run: Run, endpoint: Endpoint, precision: str, reference: Reference) -> SignatureCheck:
    where = f"'{endpoint.name}' of '{file}'"
    try:
        results = [run(endpoint.name, batch) for batch in reference.batches(endpoint.name)]
    except Exception as error:
        raise ExportError(f"{where} can't run on all batch sizes: {one_line(error)}") from error
    expected = reference.outputs[endpoint.name]
    if set(results[0]) != set(expected):
        raise ExportError(f"Expected outputs {sorted(expected)} of {where}. Received: {sorted(results[0])}")
    checks = {}
    for name, right in expected.items():
        got = np.concatenate([np.asarray(result[name]) for result in results])
        if got.shape != right.shape:
            raise ExportError(f"Expected {right.shape} for '{name}' from {where}. Received: shape {got.shape}")
        error_ = np.abs(got.astype("float64") - right)
        allowed = budget(precision, endpoint.outputs[name], name, expected)
        check = checks[name] = OutputCheck(float(error_.max()), float(error_.mean()), allowed)
        if not check.passed:
            raise ExportError(
                f"Expected '{name}' from {where} within {allowed.max:.2g} (mean {allowed.mean:.2g}) of "
                f"Keras. Received: off by {check.max_abs_error:.2g} (mean {check.mean_abs_error:.2g})"
                + ("; export precisions=('float32',) instead" if precision != "float32" else "")
            )
    return SignatureCheck(
        name=endpoint.name,
        inputs={k: _spec(v) for k, v in reference.inputs[endpoint.name].items()},
        outputs={k: _spec(np.asarray(v)) for k, v in results[0].items()},
        checks=checks,
    )


def _spec(value: np.ndarray) -> dict[str, Any]:
    return {"shape": [None, *value.shape[1:]], "dtype": value.dtype.name}
