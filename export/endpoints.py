"""The endpoints: what an exported model can do, one entry of a table each."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from kvae.export.errors import ExportError, one_line

# What goes in, and in which unit an error of what comes out is measured (`kvae.export.budgets`).
IMAGE, LATENT = "image", "latent"
PIXELS, SPREAD, SIZE = "pixels", "spread", "size"


@dataclass(frozen=True)
class Endpoint:
    """A signature of the exported files.

    Attributes:
        name: of the signature.
        function: `(model, *inputs)` to a dict of named outputs. Its argument names are those of the inputs.
            It must not be random and must not check values: an assertion has no built-in LiteRT operator.
        inputs: kind of each input in the order of the arguments, `IMAGE` `(B, H, W, C)` or `LATENT` `(B, D)`.
        outputs: unit of each output's error, `PIXELS`, `SPREAD` or `SIZE`. A model may lack some of them.
    """

    name: str
    function: Callable[..., dict[str, Any]]
    inputs: dict[str, str]
    outputs: dict[str, str]

    def input_shapes(self, model: Any) -> dict[str, tuple[int, ...]]:
        """Shape of each input, without the batch."""
        shapes = {IMAGE: tuple(model.image_shape), LATENT: (model.latent_dim,)}
        return {name: shapes[kind] for name, kind in self.inputs.items()}

    def trace(self, model: Any) -> Any:
        """The endpoint as a concrete function, float32, any batch size; ExportError if it fails."""
        shapes = self.input_shapes(model).items()
        specs = [tf.TensorSpec((None, *shape), tf.float32, name=name) for name, shape in shapes]
        function = tf.function(functools.partial(self.function, model), input_signature=specs)
        try:
            return function.get_concrete_function()
        except Exception as error:
            raise ExportError(
                f"Endpoint '{self.name}' can't become a graph: a layer of the model needs Python or a known "
                f"batch size; express it in keras.ops. TensorFlow says: {one_line(error)}"
            ) from error


def decode(model: Any, z: Any) -> dict[str, Any]:
    return {"image": model.likelihood.mean(model.decoder(z, training=False))}


def encode(model: Any, image: Any) -> dict[str, Any]:
    params = model.encoder(image, training=False)
    if not hasattr(model, "posterior"):  # a plain autoencoder: the code itself
        return {"mean": params}
    return {"mean": model.posterior.mean(params), "variance": model.posterior.variance(params)}


def reconstruct(model: Any, image: Any) -> dict[str, Any]:
    return {"reconstruction": decode(model, encode(model, image)["mean"])["image"]}


ENDPOINTS = (
    Endpoint("decode", decode, {"z": LATENT}, {"image": PIXELS}),
    Endpoint("encode", encode, {"image": IMAGE}, {"mean": SPREAD, "variance": SIZE}),
    Endpoint("reconstruct", reconstruct, {"image": IMAGE}, {"reconstruction": PIXELS}),
)


@contextmanager
def float32_compute(model: Any) -> Iterator[None]:
    """The model computes in float32 inside, whatever its dtype policy: the kernels of LiteRT do."""
    changed = []
    try:
        for layer in model._flatten_layers():
            if layer.compute_dtype != "float32" and layer.variable_dtype == "float32":
                changed.append((layer, layer.dtype_policy))
                layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in changed:
            layer.dtype_policy = policy
