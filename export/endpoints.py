"""The endpoints: what an exported model can do, one entry of a table each."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf
from keras import ops

from kvae.arguments import shown
from kvae.distributions import IndexedNoise
from kvae.export import operators
from kvae.export.errors import ExportError, one_line
from kvae.export.flatbuffer import Named

# What goes in: kind of an input, its shape (B: the batch, D: latents) and its dtype.
IMAGE, LATENT, END, POSITION = "image", "latent", "end", "position"
SEED, INDEX, TEMPERATURE, CONDITION = "seed", "index", "temperature", "condition"
INTEGERS = (SEED, INDEX)
#: what goes in and comes out: floats, or images as bytes
IO = ("float32", "uint8")
BATCHED = (IMAGE, LATENT, POSITION, INDEX, CONDITION)

# In which unit an error of what comes out is measured (`kvae.export.budgets`).
PIXELS, SPREAD, SIZE, NATS, EXACT = "pixels", "spread", "size", "nats", "exact"
PROBABILITY = "probability"


@dataclass(frozen=True)
class Endpoint:
    """A signature of the exported files.

    Attributes:
        name: of the signature; with a fixed batch B it is `name_B` in LiteRT files.
        function: `(model, *inputs)` to a dict of named outputs. Its argument names are those of the inputs.
            It must be a function of its inputs and must not check values: an assertion has no built-in LiteRT
            operator, nor has TensorFlow's random generator.
        inputs: kind of each input in the order of the arguments; those of a conditional model have `condition` last.
        outputs: unit of each output's error. A model may lack some of them.
        networks: that it computes with.
        needs: attribute of the models that have this endpoint.
        bytes: whether images are uint8, 0 to 255, instead of float32.
    """

    name: str
    function: Callable[..., dict[str, Any]]
    inputs: dict[str, str]
    outputs: dict[str, str]
    networks: tuple[str, ...] = ()
    needs: str = "decoder"
    bytes: bool = False

    def __hash__(self) -> int:
        return hash(self.name)

    def specs(self, model: Any, batch: int | None = None) -> dict[str, tf.TensorSpec]:
        """Shape and dtype of each input; a batch of None is any."""
        shapes = {
            IMAGE: (batch, *model.image_shape),
            LATENT: (batch, getattr(model, "latent_dim", None)),  # a classifier has none
            END: (1, getattr(model, "latent_dim", None)),
            POSITION: (batch,),
            SEED: (2,),
            INDEX: (batch,),
            TEMPERATURE: (1,),
            CONDITION: (batch, model.condition_dim),
        }
        dtype = {kind: tf.int32 if kind in INTEGERS else tf.float32 for kind in shapes}
        dtype[IMAGE] = tf.uint8 if self.bytes else tf.float32
        return {name: tf.TensorSpec(shapes[kind], dtype[kind], name=name) for name, kind in self.inputs.items()}

    @property
    def batched(self) -> set[str]:
        """Names of the inputs with one row for each example."""
        return {name for name, kind in self.inputs.items() if kind in BATCHED}

    def conditional(self) -> "Endpoint":
        """The same of a conditional model; which class an image is of, it isn't told."""
        if self.name == CLASSIFY:
            return self
        return dataclasses.replace(self, inputs={**self.inputs, CONDITION: CONDITION})

    def with_io(self, io: str) -> "Endpoint":
        """The same with images as bytes, if that is wanted, and bytes are enough for it."""
        if io != "uint8" or self.name not in WITH_BYTES:
            return self
        return dataclasses.replace(self, function=functools.partial(_in_bytes, self), bytes=True)

    def signature(self, batch: int | None) -> str:
        """Its name for a batch of this size."""
        return self.name if batch is None else f"{self.name}_{batch}"

    def trace(self, model: Any, batch: int | None = None) -> Any:
        """The endpoint as a concrete function; ExportError if it fails."""
        specs = list(self.specs(model, batch).values())
        # (Keras trains without AutoGraph, too.)
        function = tf.function(functools.partial(self.function, model), input_signature=specs, autograph=False)
        try:
            graph = function.get_concrete_function()
        except Exception as error:
            raise ExportError(
                f"Endpoint '{self.name}' can't become a graph: a layer of the model needs Python or a known "
                f"batch size; express it in keras.ops. TensorFlow says: {one_line(error)}"
            ) from error
        operators.check(self.name, graph, [variable.value for variable in model.variables])
        return graph


def _in_bytes(floats: Endpoint, model: Any, *inputs: Any, **named: Any) -> dict[str, Any]:
    """An endpoint with images in [0, 1], of bytes."""
    given = {**dict(zip(floats.inputs, inputs)), **named}
    outputs = floats.function(
        model,
        **{name: ops.cast(x, "float32") / 255.0 if floats.inputs[name] == IMAGE else x for name, x in given.items()},
    )
    return {
        name: ops.cast(ops.round(255.0 * ops.clip(x, 0.0, 1.0)), "uint8") if floats.outputs[name] == PIXELS else x
        for name, x in outputs.items()
    }


def decode(model: Any, z: Any, condition: Any = None) -> dict[str, Any]:
    return {"image": model.likelihood.mean(model.decoder_params(z, condition))}


def encode(model: Any, image: Any, condition: Any = None) -> dict[str, Any]:
    params = model.encoder_params(image, condition)
    if not hasattr(model, "posterior"):  # a plain autoencoder: the code itself
        return {"mean": params}
    return {"mean": model.posterior.mean(params), "variance": model.posterior.variance(params)}


def reconstruct(model: Any, image: Any, condition: Any = None) -> dict[str, Any]:
    return {"reconstruction": decode(model, encode(model, image, condition)["mean"], condition)["image"]}


def generate(model: Any, seed: Any, index: Any, temperature: Any, condition: Any = None) -> dict[str, Any]:
    drawn = latents(model, seed, index, temperature, condition)
    return {**decode(model, drawn["z"], condition), **drawn}


def latents(model: Any, seed: Any, index: Any, temperature: Any, condition: Any = None) -> dict[str, Any]:
    """What `generate` decodes. (Integers make the noise; a GPU computes them wrong: there, they are the CPU's part.)"""
    return {"z": model.prior.draw(seed, index, temperature, condition)}


def interpolate(model: Any, start: Any, end: Any, position: Any, condition: Any = None) -> dict[str, Any]:
    """Images on the straight line between two latents."""
    t = position[:, None]
    return decode(model, (1.0 - t) * start + t * end, condition)


def score(model: Any, image: Any, seed: Any, index: Any, condition: Any = None) -> dict[str, Any]:
    """Distortion, rate and −ELBO in nats, with one posterior sample; its noise is chosen by seed and index."""
    terms = model.terms(image, IndexedNoise(seed, index), c=condition)
    distortion = terms.distortion[0]
    return {"distortion": distortion, "rate": terms.rate, "negative_elbo": distortion + terms.rate}


def classify(model: Any, image: Any) -> dict[str, Any]:
    """Probabilities of the classes, the softmax of what are logits."""
    net = getattr(model, "classifier", model)  # that of a semi-supervised VAE is one of its parts
    output = ops.cast(net(image), "float32")
    return {"probability": output if getattr(net, "activation", None) in GIVE_PROBABILITIES else ops.softmax(output)}


NETWORKS = ("encoder", "decoder", "classifier")
CLASSIFY = "classify"
WITH_BYTES = ("decode", "encode", "reconstruct", CLASSIFY)
GIVE_PROBABILITIES = ("softmax", "sigmoid")  # activations of a classifier's head; others give logits
_DRAWN = {"seed": SEED, "index": INDEX, "temperature": TEMPERATURE}
_SCORED = {"image": IMAGE, "seed": SEED, "index": INDEX}
_ENDS = {"start": END, "end": END, "position": POSITION}
_TERMS = {"distortion": NATS, "rate": NATS, "negative_elbo": NATS}
ENDPOINTS = (
    Endpoint("decode", decode, {"z": LATENT}, {"image": PIXELS}, ("decoder",)),
    Endpoint("encode", encode, {"image": IMAGE}, {"mean": SPREAD, "variance": SIZE}, ("encoder",)),
    Endpoint("reconstruct", reconstruct, {"image": IMAGE}, {"reconstruction": PIXELS}, ("encoder", "decoder")),
    Endpoint("generate", generate, _DRAWN, {"image": PIXELS, "z": EXACT}, ("decoder",), needs="prior"),
    Endpoint("latents", latents, _DRAWN, {"z": EXACT}, needs="prior"),
    Endpoint("interpolate", interpolate, _ENDS, {"image": PIXELS}, ("decoder",)),
    Endpoint("score", score, _SCORED, _TERMS, ("encoder", "decoder"), needs="prior"),
    Endpoint(CLASSIFY, classify, {"image": IMAGE}, {"probability": PROBABILITY}, ("classifier",), needs="num_classes"),
)
INFO = "info"


def endpoints_of(model: Any) -> tuple[Endpoint, ...]:
    """The endpoints that this model has: an autoencoder, which has no prior, lacks two; a classifier has one alone."""
    found = tuple(endpoint for endpoint in ENDPOINTS if hasattr(model, endpoint.needs))
    return (
        found if getattr(model, "condition_dim", None) is None else tuple(endpoint.conditional() for endpoint in found)
    )


class Signature(NamedTuple):
    """An endpoint for a batch of one size; None is any."""

    endpoint: Endpoint
    batch: int | None

    @property
    def name(self) -> str:
        return self.endpoint.signature(self.batch)

    def named(self) -> Named:
        """Its place in a flatbuffer."""
        return Named(self.name, tuple(self.endpoint.inputs), tuple(self.endpoint.outputs))


def signatures_of(
    model: Any,
    wanted: str | Iterable[str] | None = None,
    batch_sizes: Sequence[int | None] = (None,),
    io: str = "float32",
) -> tuple[Signature, ...]:
    """The signatures of a file, in the order in which they were asked for.

    Args:
        model: of which the endpoints are.
        wanted: names such as "decode", for all batch sizes, or "decode_16", for that one; None takes all endpoints.
        batch_sizes: of the names without one.
        io: "uint8" for images as bytes.

    Raises:
        ValueError: for names of none of the model's endpoints.
    """
    known = {endpoint.name: endpoint.with_io(io) for endpoint in endpoints_of(model)}
    names = list(known) if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    found: dict[str, Signature] = {}
    for text in names:
        name, _, size = str(text).partition("_")
        if name not in known or not ((size.isdecimal() and int(size)) or (size == "" and not str(text).endswith("_"))):
            raise ValueError(
                f"Argument `signatures` must be some of {', '.join(known)}, each with a batch size where it isn't for "
                f"all (such as {next(iter(known))}_4). Received: {shown(text)}"
            )
        for batch in [int(size)] if size else batch_sizes:
            signature = Signature(known[name], batch)
            found.setdefault(signature.name, signature)
    return tuple(found.values())


def with_fixed_prior(model: Any) -> Any:
    """The model as files hold it: with a prior that needs nothing of the other networks, and doesn't learn."""
    prior = getattr(model, "prior", None)
    fixed = prior and prior.fixed()
    return model if fixed is prior else model.with_prior(fixed)


def weights_of(model: Any) -> dict[str, int]:
    """Number of weights of each of the model's networks."""
    if hasattr(model, "trunk"):  # a classifier may leave out some layers of its encoder
        return {"classifier": sum(part.count_params() for part in (*model.trunk, model.head))}
    return {name: getattr(model, name).count_params() for name in NETWORKS if hasattr(model, name)}
