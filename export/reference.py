"""Outputs of Keras, the reference for every exported file."""

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.arguments import ROUNDING, numbers
from kvae.export import endpoints, operators
from kvae.export.budgets import FLOAT32, rounding
from kvae.export.endpoints import endpoints_of, with_fixed_prior
from kvae.export.errors import ExportError
from kvae.export.runtime import seed_words, to_bytes
from kvae.models import float32_compute

ROWS = 101
CHUNK = 256  # rows per call of Keras
SEED = 0x0123456789ABCDEF  # both words are used
TEMPERATURE = 0.8  # for `generate`
WIDEST = 2.0  # temperature of every second decoded latent, because files must also be correct there

#: An opened model (Keras or a file): maps an endpoint and inputs with any number of rows to outputs.
Run = Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]]


def run_keras(model: Any, io: str = "float32") -> Run:
    """Return a function that runs the endpoints in Keras, always in float32; `io` is the dtype of images."""
    functions = {endpoint.name: endpoint.with_io(io).function for endpoint in endpoints_of(model, endpoints.ALL)}

    def call(name: str, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        with float32_compute(model):
            return functions[name](model, **{key: tf.constant(value) for key, value in inputs.items()})

    return in_pieces(call)


def in_pieces(call: Callable[[str, dict[str, np.ndarray]], dict[str, Any]], first: int = CHUNK) -> Run:
    """Extend `call` to any number of rows: first `first` rows, then up to `CHUNK` rows per call."""
    batched_inputs = {endpoint.name: endpoint.conditional().batched for endpoint in endpoints.ENDPOINTS}

    def run(name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        batched = batched_inputs[name] & set(inputs)
        rows = len(inputs[next(iter(batched))])
        starts = [0, *range(first, rows, CHUNK)]
        pieces = [
            call(name, {key: value[start:end] if key in batched else value for key, value in inputs.items()})
            for start, end in itertools.pairwise([*starts, rows])
        ]
        return {key: np.concatenate([np.asarray(piece[key]) for piece in pieces]) for key in pieces[0]}

    return run


class Reference:
    """Inputs for every endpoint of a model, and its outputs in Keras in float32.

    Args:
        model: a built `kvae.VAE`, `kvae.Autoencoder` or `kvae.features.Classifier`.
        images: real images `(N, H, W, C)` in [0, 1], preferably images that the model hasn't seen. `rows` evenly spaced
            images are used. None makes noise of random brightness and contrast.
        conditions: conditions of the images, in the form for `fit`, if the model is conditional. Noise gets each
            condition in turn.
        seed: seed of the latents and of the noise.
        rows: number of rows of the inputs.
        temperature: temperature of `generate`.
        io: "uint8" for images as bytes.
        requested: names of requested endpoints (`kvae.export.endpoints.endpoints_of`).

    Attributes:
        endpoints: endpoints of the model.
        inputs: by endpoint and input, `(rows, …)` for inputs with a batch.
        outputs: by endpoint and output, `(rows, …)` each.
        parameters: number of weights that the endpoints use.
        units: size of one standardised unit in x, for the errors of decoded values.
        rounding: relative rounding error of float32 in the outputs (`kvae.export.budgets.rounding`).

    Raises:
        ValueError: if images have another shape or values outside [0, 1].
        ExportError: if the outputs of Keras have NaN or infinite values.
    """

    def __init__(
        self,
        model: Any,
        images: Any = None,
        seed: int = 0,
        rows: int = ROWS,
        temperature: float = TEMPERATURE,
        conditions: Any = None,
        io: str = "float32",
        requested: Collection[str] = (),
    ):
        model = with_fixed_prior(model)
        self.image_source = "noise of random brightness and contrast" if images is None else "given"
        self.latent_source = None
        self._weights = endpoints.weights_of(model)
        self.rounding = rounding([(weight.path, tuple(weight.shape)) for weight in model.weights], model.event_shape)
        self.units = np.asarray(getattr(getattr(model, "likelihood", None), "unit", 1.0))
        self.parameters = sum(self._weights.values())
        self.endpoints = tuple(endpoint.with_io(io) for endpoint in endpoints_of(model, requested))
        if images is None:
            pixels, condition = _noise(model, seed, rows), conditions_in_turn(model, rows)
        else:
            images = check_images(images, model)
            chosen = np.linspace(0, len(images) - 1, rows).round().astype(int)
            pixels = images[chosen]
            condition = {name: c[chosen] for name, c in check_conditions(model, conditions, len(images)).items()}
        run = run_keras(model, io)
        ends: dict[str, np.ndarray] = {}
        data = {
            **condition,
            endpoints.IMAGE: pixels,
            endpoints.POSITION: np.linspace(0, 1, rows, dtype="float32"),
            endpoints.SEED: seed_words(SEED),
            endpoints.INDEX: np.arange(rows, dtype="int32") * 7919,
            endpoints.TEMPERATURE: np.array([temperature], "float32"),
        }
        if hasattr(model, "decoder"):
            if hasattr(model, "prior"):
                self.latent_source = f"prior, at temperatures 1 and {WIDEST:g}"
                drawn = [
                    np.asarray(model.prior.sample(rows, seed, t, condition=condition.get("condition")), "float32")
                    for t in (1.0, WIDEST)
                ]
                latents = np.stack([drawn[row % 2][row] for row in range(rows)])
            else:
                self.latent_source = "codes of the images"
                latents = run_keras(model)("encode", {"image": pixels, **condition})["mean"]
            data[endpoints.LATENT] = latents
            ends = {"start": latents[:1], "end": latents[1:2]}
        self.inputs: dict[str, dict[str, np.ndarray]] = {}
        self.outputs: dict[str, dict[str, np.ndarray]] = {}
        for endpoint in self.endpoints:
            inputs = {name: ends[name] if name in ends else data[kind] for name, kind in endpoint.inputs.items()}
            if endpoint.bytes and endpoints.IMAGE in inputs:
                inputs[endpoints.IMAGE] = to_bytes(pixels)
            outputs = run(endpoint.name, inputs)
            for name, value in outputs.items():
                if not np.isfinite(value).all():
                    raise ExportError(
                        f"Expected finite numbers from the model. Received: NaN or infinity in '{name}' "
                        f"of '{endpoint.name}', already in Keras{_not_finite(model)}; load an earlier checkpoint"
                    )
            few = {name: value[-2:] if name in endpoint.batched else value for name, value in inputs.items()}
            _check_repeatable(endpoint.name, outputs, *(run(endpoint.name, few) for _ in range(2)))
            self.inputs[endpoint.name], self.outputs[endpoint.name] = inputs, outputs

    def weights(self, of: Sequence[endpoints.Endpoint]) -> int:
        """Return the number of weights that these endpoints use."""
        used = {name for endpoint in of for name in endpoint.networks}
        return sum(count for name, count in self._weights.items() if name in used)


def _not_finite(model: Any) -> str:
    """Name the weights that aren't finite, as part of a sentence."""
    found = [weight.path for weight in model.weights if not np.isfinite(np.asarray(weight, "float64")).all()]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f", and in the weight '{found[0]}'{more}" if found else ""


def _check_repeatable(
    endpoint: str, outputs: dict[str, np.ndarray], few: dict[str, np.ndarray], again: dict[str, np.ndarray]
) -> None:
    """Raise an ExportError unless the last rows are the same in two separate calls and in the whole batch."""
    for name, value in few.items():
        allowed = FLOAT32.times(max(1.0, float(np.max(np.abs(outputs[name]))))).max
        if outputs[name].dtype == np.uint8:  # a value between two levels may be rounded either way
            allowed = max(allowed, 1.0)
        for other, what, reason in (
            (again[name], "from call to call", f"draws random numbers or counts its calls: {operators.RANDOM}"),
            (outputs[name][-len(value) :], "with the other rows of the batch", "computes over the batch axis"),
        ):
            off = float(np.max(np.abs(value.astype("float64") - other)))
            if not off <= allowed:
                raise ExportError(
                    f"Expected '{name}' of '{endpoint}' to be a function of its own row only. Received: a change of "
                    f"{off:.2g} {what}, already in Keras; a layer {reason}"
                )


def check_images(images: Any, model: Any, name: str = "images") -> np.ndarray:
    """Return `images` as float32; raise a ValueError if they have another shape, or values outside [0, 1]."""
    shape = ", ".join(map(str, model.event_shape))
    wanted = f"Argument `{name}` must be one or more images, an array of shape (batch, {shape})"
    array = numbers(wanted, images)
    if array.shape[1:] != tuple(model.event_shape) or len(array) == 0:
        raise ValueError(f"{wanted}. Received: shape {array.shape}")
    array = array.astype("float32")
    inside = (array >= -ROUNDING) & (array <= 1 + ROUNDING) if model.bounded else np.isfinite(array)
    if getattr(getattr(model, "likelihood", None), "accepts_missing", False):
        inside |= np.isnan(array)
    if not inside.all():
        wanted = "in [0, 1] without NaN: scale them, for example x / 255" if model.bounded else "that are finite"
        raise ValueError(
            f"Argument `{name}` must have values {wanted}. Received: values from {array.min():.9g} to {array.max():.9g}"
        )
    return np.clip(array, 0, 1) if model.bounded else array


def check_conditions(model: Any, conditions: Any, count: int) -> dict[str, np.ndarray]:
    """Return the input `condition` for `count` images, `(count, condition_dim)`; empty for unconditional models."""
    if model.condition_dim is None:
        return {}
    return {endpoints.CONDITION: np.asarray(model.condition(conditions, count, labels=True))}


def conditions_in_turn(model: Any, count: int) -> dict[str, np.ndarray]:
    """Return the input `condition` without data: each class in turn."""
    classes = None if model.condition_dim is None else np.arange(count) % model.condition_dim
    return check_conditions(model, classes, count)


def _noise(model: Any, seed: int, rows: int) -> np.ndarray:
    rng, shape = np.random.default_rng(seed), model.event_shape
    low, high = np.sort(rng.random((2, rows, *[1] * len(shape))), axis=0)
    noise = (low + (high - low) * rng.random((rows, *shape))).astype("float32")
    likelihood = getattr(model, "likelihood", None)
    return noise if likelihood is None else np.asarray(likelihood.plausible(noise), "float32")
