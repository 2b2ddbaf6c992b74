"""The whole export: write, verify, report, and only then put in place."""

import contextlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kvae.export import litert, metadata, saved_model
from kvae.export.errors import ExportError
from kvae.export.reference import BATCH_SIZES, Reference
from kvae.export.verify import Artifact, verify_litert, verify_saved_model
from kvae.models import Autoencoder

SAVED_MODEL, REPORT = "saved_model", "report.json"
KINDS = ("vae", "autoencoder")
_PACKAGES = ("keras-vae", "keras", "tensorflow", "ai-edge-litert", "ai-edge-quantizer", "numpy")


def export(
    model: Any,
    directory: str | os.PathLike[str],
    images: Any = None,
    precisions: Iterable[str] = litert.PRECISIONS,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Export a model to a SavedModel and LiteRT files, each compared with Keras before it is kept.

    `directory` gets `saved_model/`, one `vae_<precision>.tflite` (or `autoencoder_…`) for each precision, and
    `report.json`. All have the signatures `decode`, `encode` and `reconstruct` with any batch size, and
    compute in float32 even if the model was trained in mixed precision. It is all or nothing: if any of them
    fails, or the export is interrupted, `directory` is left as it was. Files of an earlier export that aren't
    made again are removed, other files are not touched.

    Args:
        model: a built `kvae.VAE` or `kvae.Autoencoder`.
        directory: where to; made if it doesn't exist.
        images: `(N, H, W, C)` in [0, 1] to compare on, best test images; None takes noise, and the report
            says so.
        precisions: of the LiteRT files, from "float32" and "int8" (int8 weights, float32 in and out).
        on_step: called with a line of text before each step.

    Returns:
        What is in `report.json`: `packages`, `model`, `verification`, `warnings` and `artifacts`.

    Raises:
        ValueError: for unknown precisions or unusable images.
        ExportError: if the model can't be converted, or a file isn't close enough to Keras
            (`kvae.export.budgets`).

    Example:

        >>> import kvae, tempfile
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> with tempfile.TemporaryDirectory() as out:
        ...     report = export(vae, out)
        >>> [artifact["path"] for artifact in report["artifacts"]]
        ['saved_model', 'vae_float32.tflite', 'vae_int8.tflite']
    """
    precisions = tuple(dict.fromkeys(precisions))
    unknown = [precision for precision in precisions if precision not in litert.PRECISIONS]
    if unknown or not precisions:
        raise ValueError(f"Argument `precisions` must be one or more of {litert.PRECISIONS}. Received: {precisions}")
    directory, step = Path(directory), on_step or (lambda text: None)
    if directory.exists() and not directory.is_dir():
        raise ExportError(f"Expected a folder to export to. Received: the file '{directory}'")
    step("computing what Keras says")
    reference = Reference(model, images)
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        # Inside the target, so that moving into place is a rename even if the target is a mounted volume.
        with tempfile.TemporaryDirectory(dir=directory, prefix=".export-") as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            artifacts = _write(model, new, precisions, reference, step)
            report = _report(model, reference, artifacts)
            text = json.dumps(report, indent=2, allow_nan=False) + "\n"
            (new / REPORT).write_text(text, encoding="utf-8")
            _replace(new, directory, Path(temporary) / "old")
    finally:
        if made:
            with contextlib.suppress(OSError):  # not empty: the export is there
                directory.rmdir()
    return report


def kind(model: Any) -> str:
    """What the files are named for: "vae" or "autoencoder"."""
    return "autoencoder" if isinstance(model, Autoencoder) else "vae"


def _write(
    model: Any, new: Path, precisions: tuple[str, ...], reference: Reference, step: Callable[[str], None]
) -> list[Artifact]:
    step("writing and verifying the SavedModel")
    saved_model.write(model, new / SAVED_MODEL)
    artifacts = [verify_saved_model(new / SAVED_MODEL, reference)]
    step("converting to LiteRT")
    float32 = metadata.write(litert.convert(new / SAVED_MODEL), facts(model))
    for precision in precisions:
        path = new / f"{kind(model)}_{precision}.tflite"
        step(f"writing and verifying {path.name}")
        path.write_bytes(float32 if precision == "float32" else litert.quantize(float32))
        artifacts.append(verify_litert(path, precision, reference))
    return artifacts


def facts(model: Any) -> dict[str, Any]:
    """What the report and each LiteRT file say about the model."""
    parts = ("likelihood", "posterior", "prior")
    return {
        "kind": kind(model),
        "image_shape": list(model.image_shape),
        "latent_dim": model.latent_dim,
        "parameters": model.encoder.count_params() + model.decoder.count_params(),
        **{part: type(getattr(model, part)).__name__ if hasattr(model, part) else None for part in parts},
    }


def _report(model: Any, reference: Reference, artifacts: list[Artifact]) -> dict[str, Any]:
    return {
        "packages": {name: _version(name) for name in _PACKAGES},
        "model": facts(model),
        "verification": {
            "images": reference.image_source,
            "latents": reference.latent_source,
            "batch_sizes": list(BATCH_SIZES),
        },
        "warnings": _warnings(artifacts),
        "artifacts": [artifact.as_dict() for artifact in artifacts],
    }


def _warnings(artifacts: list[Artifact]) -> list[str]:
    slow = [artifact.path for artifact in artifacts if "TRANSPOSE_CONV" in (artifact.operators or ())]
    return [
        f"{path} is right but slow: with any batch size LiteRT has only a reference kernel for transposed "
        "convolutions, in int8 hundreds of times slower; use a convolution and kvae.networks.DepthToSpace"
        for path in slow
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _replace(new: Path, directory: Path, old: Path) -> None:
    """Put what is in `new` into `directory` and what it replaces into `old`; undo it if it fails half-way."""
    known = {SAVED_MODEL, REPORT, *(f"{k}_{p}.tflite" for k in KINDS for p in litert.PRECISIONS)}
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
