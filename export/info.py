"""Facts about a model: the JSON in its files, which the signature `info` returns."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvae.distributions import Columns, Scaled
from kvae.export.endpoints import Endpoint, Signature, signatures_of
from kvae.export.errors import ExportError
from kvae.export.reference import Reference, Run, run_keras
from kvae.export.runtime import FORMAT, FORMAT_VERSION, seed_words
from kvae.models.metrics import ACTIVE_VARIANCE
from kvae.networks import kind_of

DIRECTION_NUMBERS = ("distance", "middle", "low", "high", "accuracy", "majority", "auroc", "flips")
CALIBRATION = 2000  # largest number of scores in a file, for p-values down to 1/2001
PROBABILITIES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


def kind(model: Any) -> str:
    """Return the kind of the model, which starts the file names: "vae", "autoencoder" or "classifier"."""
    if not hasattr(model, "decoder"):
        return "classifier"
    return "vae" if hasattr(model, "prior") else "autoencoder"


def describe(
    model: Any,
    reference: Reference,
    signatures: Sequence[Signature] | None = None,
    inputs: dict[str, np.ndarray] | None = None,
    data: str | None = None,
    license: str | None = None,
    condition_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    directions: Sequence[Mapping[str, Any]] = (),
    schema: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the facts of an exported file.

    Args:
        model: a built `kvae.VAE`, `kvae.Autoencoder` or `kvae.features.Classifier`.
        reference: reference of the model, for the shapes of outputs.
        signatures: signatures of the file; None takes all endpoints, for any batch size.
        inputs: `image`, `(N, H, W, C)`, and `condition` for a conditional model; preferably validation images, for the
            statistics.
        data: name of the training data.
        license: text of the licence.
        condition_names: names of the classes of a condition.
        class_names: names of the classes of a classifier.
        directions: directions in latent space, as `direction_facts` returns them.
        schema: what the numbers of a series or of a row mean (`kvae.data.schema.Schema.to_json`).

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> info = describe(vae, Reference(vae), signatures_of(vae, ["decode"], batch_sizes=(1, 16)))
        >>> info["prior"], info["signatures"]["decode"]["inputs"]
        ('StandardNormal', {'z': {'shape': ['B', 2], 'dtype': 'float32'}})
    """
    signatures = signatures_of(model) if signatures is None else signatures
    has_latents = hasattr(model, "decoder")
    parts = {part: getattr(model, part, None) if has_latents else None for part in ("likelihood", "posterior", "prior")}
    inputs = inputs if has_latents else None
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind(model),
        "event": kind_of(model.event_shape, count=1),
        "event_shape": list(model.event_shape),
        **({"image_shape": list(model.event_shape)} if len(model.event_shape) == 3 else {}),
        **_features(model),
        "latent_dim": model.latent_dim if has_latents else None,
        **_levels(model),
        "parameters": reference.parameters,
        "value_range": value_range(model),
        **{name: None if part is None else type(part).__name__ for name, part in parts.items()},
        **_signatures(signatures, reference),
        "data": data,
        "latents": None if inputs is None else _latents(model, inputs),
        "score": None if inputs is None or not hasattr(model, "prior") else _score(model, inputs),
        "license": license,
        **_classes("condition", model.condition_dim, condition_names),
        **_classes("classes", getattr(model, "num_classes", None), class_names),
        **({"directions": list(directions)} if directions else {}),
        **_schema(model, schema),
    }


def _schema(model: Any, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the schema of the data or of the likelihood, and whether x may have missing values."""
    likelihood = getattr(model, "likelihood", None)
    own = likelihood.describe() if isinstance(likelihood, Columns) else None
    schema = own or given
    return {
        **({"schema": dict(schema)} if schema else {}),
        **({"accepts_missing": True} if getattr(likelihood, "accepts_missing", False) else {}),
    }


def _features(model: Any) -> dict[str, Any]:
    """Return what the entries of the last axis of x are, if the likelihood has their names and scales."""
    likelihood = getattr(model, "likelihood", None)
    if not isinstance(likelihood, Scaled):
        return {}
    names = likelihood.names or [f"feature {number}" for number in range(len(likelihood.scale))]
    moments = zip(names, likelihood.location, likelihood.scale)
    return {"features": [{"name": name, "location": mean, "scale": scale} for name, mean, scale in moments]}


def _levels(model: Any) -> dict[str, Any]:
    """Return grid and number of latents of each level of a hierarchy, from the top; an empty dict for other models."""
    decoder: Any = getattr(model, "decoder", None)
    if not hasattr(decoder, "level_grids"):
        return {}
    levels = zip(decoder.level_grids, decoder.level_sizes)
    return {"levels": [{"grid": list(grid), "latents": size} for grid, size in levels]}


def _classes(key: str, size: int | None, names: Sequence[str] | None) -> dict[str, Any]:
    """Return the number of classes and their names; an empty dict for a model without classes."""
    texts = None if names is None else [str(name) for name in names]
    return {} if size is None else {key: {"size": size, "names": texts}}


def direction_facts(direction: Any) -> dict[str, Any]:
    """Return a `kvae.features.AttributeDirection` as JSON: each number has the digits that define its float32.

    Example:

        >>> from kvae.features import AttributeDirection
        >>> found = AttributeDirection(np.float32([0.6, 0.8]), 2.0, "smile", 0.5, -1.25, 1.5, 0.9, 0.5, 0.95, 0.8)
        >>> list(direction_facts(found).items())[:5]
        [('name', 'smile'), ('vector', [0.6, 0.8]), ('distance', 2.0), ('middle', 0.5), ('low', -1.25)]
    """
    numbers = {field: _shortest(getattr(direction, field)) for field in DIRECTION_NUMBERS}
    return {"name": direction.name, "vector": [_shortest(value) for value in direction.vector], **numbers}


def _shortest(value: float) -> float:
    """Return the shortest decimal number that is rounded to the same float32."""
    return float(str(np.float32(value)))


def value_range(model: Any) -> list[float]:
    """Return the range of pixels: [0, 1], or all of float32 for a model with `bounded=False`."""
    largest = float(np.finfo("float32").max)
    return [0.0, 1.0] if model.bounded else [-largest, largest]


def to_bytes(info: dict[str, Any]) -> bytes:
    """Encode the facts as UTF-8 JSON; the same facts give the same bytes."""
    return json.dumps(info, ensure_ascii=False, allow_nan=False).encode()


def of(
    info: dict[str, Any],
    signatures: Sequence[Signature],
    reference: Reference,
    alone: bool = False,
    io: str | None = None,
    calibration: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Return the facts of a file with other signatures.

    With `alone`, the file has a single signature, and `serving_default` is its endpoint. `io` is the dtype of an
    integer file: a number is `scale * (integer - zero_point)`, with the scale and the zero point of its tensor.
    `calibration` are the file's own scores of the images, for p-values.
    """
    return {
        **info,
        **({} if calibration is None else {"score": {**info["score"], "calibration": list(calibration)}}),
        **_signatures(signatures, reference),
        **({"serving_default": signatures[0].endpoint.name} if alone else {}),
        **({} if io is None else {"io": io}),
    }


def _signatures(signatures: Sequence[Signature], reference: Reference) -> dict[str, Any]:
    """Return the signatures of a file by endpoint, and all their batch sizes."""
    described: dict[str, Any] = {}
    for endpoint, _ in signatures:
        sizes = [batch for other, batch in signatures if other.name == endpoint.name]
        inputs, outputs = reference.inputs[endpoint.name], reference.outputs[endpoint.name]
        described[endpoint.name] = {**_sizes(sizes), **describe_tensors(endpoint, inputs, outputs)}
    return {
        **_sizes([batch for _, batch in signatures]),
        "signatures": described,
        # GPUs compute the integers of random numbers wrong, without an error.
        "cpu_only": [name for name in ("generate", "latents", "score", "explain") if name in described],
    }


def _sizes(sizes: Sequence[int | None]) -> dict[str, Any]:
    fixed = sorted({size for size in sizes if size is not None})
    return {"batch_sizes": fixed, "dynamic_batch": None in sizes}


def describe_tensors(
    endpoint: Endpoint, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return shape and dtype of the inputs and outputs of an endpoint; "B" stands for the batch axis."""

    def spec(value: np.ndarray, batched: bool) -> dict[str, Any]:
        return {"shape": ["B" if batched else value.shape[0], *value.shape[1:]], "dtype": value.dtype.name}

    return {
        "inputs": {name: spec(value, name in endpoint.batched) for name, value in inputs.items()},
        "outputs": {name: spec(value, True) for name, value in outputs.items()},
    }


def _latents(model: Any, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return mean and spread of the latents, and the active ones, most active first (Burda et al. 2016, §5.2)."""
    means = run_keras(model)("encode", inputs)["mean"]
    variance = means.var(axis=0)
    order = np.argsort(-variance, kind="stable")
    return {
        "active": [int(d) for d in order if variance[d] > ACTIVE_VARIANCE],
        "mean": _rounded(means.mean(axis=0)),
        "std": _rounded(means.std(axis=0)),
    }


def _score(model: Any, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the quantiles of the scores of ordinary images: ascending pairs `[probability, −ELBO]`."""
    scores = _negative_elbo(run_keras(model), inputs)
    quantiles = _rounded(np.quantile(scores, PROBABILITIES))
    return {"images": len(scores), "quantiles": [list(pair) for pair in zip(PROBABILITIES, quantiles, strict=True)]}


def calibration(file: str, run: Run, inputs: dict[str, np.ndarray]) -> list[float]:
    """Return a file's own scores of at most `CALIBRATION` of the images, evenly spaced: ascending −ELBOs.

    A p-value counts the images with at least the score (`kvae.export.runtime.Model.p_value`). Scores are therefore
    rounded up, to a thousandth of a nat: no p-value becomes smaller.

    Args:
        file: name of the file.
        run: the opened file.
        inputs: `image`, `(N, H, W, C)`, and `condition` for a conditional model.

    Raises:
        ExportError: if a score isn't finite.

    Example:

        >>> nats = np.float32([93.0004, -1.5, 93.0019])
        >>> calibration("vae.tflite", lambda name, inputs: {"negative_elbo": nats}, {"image": np.zeros((3, 8, 8, 1))})
        [-1.5, 93.001, 93.002]
    """
    count = len(inputs["image"])
    chosen = np.unique(np.linspace(0, count - 1, min(count, CALIBRATION)).round().astype(int))
    scores = _negative_elbo(run, {name: values[chosen] for name, values in inputs.items()})
    if not np.isfinite(scores).all():
        raise ExportError(f"Expected finite scores of the validation images from '{file}'. Received: NaN or infinity")
    return np.sort(np.ceil(1000 * scores) / 1000).tolist()


def _negative_elbo(run: Run, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return the scores of images with one sample of seed 0, as `kvae.export.runtime.Model.score`, `(N,)` in nats."""
    noise = {"seed": seed_words(0), "index": np.zeros(len(inputs["image"]), "int32")}
    return run("score", {**inputs, **noise})["negative_elbo"].astype("float64")


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
