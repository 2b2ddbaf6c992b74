"""The endpoints of exported models, as a table."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf
from keras import ops

from kvae.arguments import shown
from kvae.distributions import IndexedNoise
from kvae.export import operators
from kvae.export.errors import ExportError, one_line
from kvae.export.flatbuffer import Named

# Kinds of inputs, which determine shape and dtype (`Endpoint.specs`).
IMAGE, LATENT, END, POSITION = "image", "latent", "end", "position"
SEED, INDEX, TEMPERATURE, CONDITION = "seed", "index", "temperature", "condition"
INTEGERS = (SEED, INDEX)
#: dtypes of images: floats or bytes
IO = ("float32", "uint8")
BATCHED = (IMAGE, LATENT, POSITION, INDEX, CONDITION)

# Units for the errors of outputs (`kvae.export.budgets`).
PIXELS, SPREAD, SIZE, NATS, EXACT = "pixels", "spread", "size", "nats", "exact"
PROBABILITY, ENTRIES = "probability", "entries"


@dataclass(frozen=True)
class Endpoint:
    """A signature of the exported files.

    Attributes:
        name: name of the signature; with a fixed batch B, `name_B` in LiteRT files.
        function: maps `(model, *inputs)` to a dict of outputs. Its argument names are the names of the inputs. It must
            depend only on its inputs and must not check values: LiteRT has no built-in operator for assertions, or for
            TensorFlow's random generator.
        inputs: kind of each input in the order of the arguments; in conditional models, `condition` is the last.
        outputs: unit of each output's error. A model may lack some outputs.
        networks: names of the networks that it uses.
        needs: attribute that a model must have for this endpoint.
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
        """Return shape and dtype of each input; a batch of None means any size."""
        shapes = {
            IMAGE: (batch, *model.event_shape),
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
        """Names of the inputs with one row per example."""
        return {name for name, kind in self.inputs.items() if kind in BATCHED}

    def conditional(self) -> "Endpoint":
        """Return the endpoint of a conditional model. `classify` takes no condition."""
        if self.name == CLASSIFY:
            return self
        return dataclasses.replace(self, inputs={**self.inputs, CONDITION: CONDITION})

    def with_io(self, io: str) -> "Endpoint":
        """Return the endpoint with images as bytes, if `io` is "uint8" and bytes are precise enough for it."""
        if io != "uint8" or self.name not in WITH_BYTES:
            return self
        return dataclasses.replace(self, function=functools.partial(_in_bytes, self), bytes=True)

    def signature(self, batch: int | None) -> str:
        """Return the name of the signature for a batch size."""
        return self.name if batch is None else f"{self.name}_{batch}"

    def trace(self, model: Any, batch: int | None = None) -> Any:
        """Trace the endpoint as a concrete function; raise an ExportError if that fails."""
        specs = list(self.specs(model, batch).values())
        # Keras also trains without AutoGraph.
        function = tf.function(functools.partial(self.function, model), input_signature=specs, autograph=False)
        try:
            graph = function.get_concrete_function()
        except Exception as error:
            raise ExportError(
                f"Endpoint '{self.name}' can't become a graph: a layer of the model requires Python or a known batch "
                f"size; write it with keras.ops. TensorFlow's message: {one_line(error)}"
            ) from error
        operators.check(self.name, graph, [variable.value for variable in model.variables])
        return graph


def _in_bytes(floats: Endpoint, model: Any, *inputs: Any, **named: Any) -> dict[str, Any]:
    """Run an endpoint on images as bytes."""
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
    if not hasattr(model, "posterior"):  # a plain autoencoder: the code
        return {"mean": params}
    mean, variance = model.posterior.moments(params)
    return {"mean": mean, "variance": variance}


def reconstruct(model: Any, image: Any, condition: Any = None) -> dict[str, Any]:
    return {"reconstruction": model.likelihood.mean(model.reconstruction_params(image, condition))}


def generate(model: Any, seed: Any, index: Any, temperature: Any, condition: Any = None) -> dict[str, Any]:
    drawn = latents(model, seed, index, temperature, condition)
    return {**decode(model, drawn["z"], condition), **drawn}


def latents(model: Any, seed: Any, index: Any, temperature: Any, condition: Any = None) -> dict[str, Any]:
    """Return the latents that `generate` decodes. GPUs compute the integers of the noise wrong: use the CPU."""
    return {"z": model.prior.draw(seed, index, temperature, condition)}


def interpolate(model: Any, start: Any, end: Any, position: Any, condition: Any = None) -> dict[str, Any]:
    """Return images on the straight line between two latents."""
    t = position[:, None]
    return decode(model, (1.0 - t) * start + t * end, condition)


def score(model: Any, image: Any, seed: Any, index: Any, condition: Any = None) -> dict[str, Any]:
    """Return distortion, rate and −ELBO in nats, with one posterior sample; seed and index select its noise."""
    terms = model.terms(image, IndexedNoise(seed, index), c=condition)
    distortion = terms.distortion[0]
    return {"distortion": distortion, "rate": terms.rate, "negative_elbo": distortion + terms.rate}


def explain(model: Any, image: Any, seed: Any, index: Any, condition: Any = None) -> dict[str, Any]:
    """Return what each entry of x contributes to −ELBO, in nats: its part of the distortion, and of the rate.

    The rate belongs to no entry, and is shared equally, as are the logarithms of units.
    """
    terms = model.terms(image, IndexedNoise(seed, index), c=condition)
    entries = model.likelihood.entry_distortion(terms.params[0], image)
    rate = ops.reshape(terms.rate / math.prod(entries.shape[1:]), (-1, *[1] * (len(entries.shape) - 1)))
    return {"contribution": entries + rate, "negative_elbo": terms.distortion[0] + terms.rate}


def classify(model: Any, image: Any) -> dict[str, Any]:
    """Return the probabilities of the classes; logits go through a softmax."""
    net = getattr(model, "classifier", model)  # the classifier of a semi-supervised VAE is an attribute
    output = ops.cast(net(image), "float32")
    return {"probability": output if getattr(net, "activation", None) in GIVE_PROBABILITIES else ops.softmax(output)}


NETWORKS = ("encoder", "decoder", "classifier")
CLASSIFY, EXPLAIN = "classify", "explain"
WITH_BYTES = ("decode", "encode", "reconstruct", CLASSIFY)
GIVE_PROBABILITIES = ("softmax", "sigmoid")  # activations of a classifier's head; other heads return logits
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
    Endpoint(
        EXPLAIN, explain, _SCORED, {"contribution": ENTRIES, "negative_elbo": NATS}, ("encoder", "decoder"), "prior"
    ),
    Endpoint(CLASSIFY, classify, {"image": IMAGE}, {"probability": PROBABILITY}, ("classifier",), needs="num_classes"),
)
ALL = tuple(endpoint.name for endpoint in ENDPOINTS)
INFO = "info"


def endpoints_of(model: Any, requested: Collection[str] = ()) -> tuple[Endpoint, ...]:
    """Return the endpoints of a model. An autoencoder has no prior and lacks four; a classifier has only one.

    `explain` of images takes as much space as another `score`, so that it is included only if its name is requested.
    """
    likelihood = getattr(model, "likelihood", None)  # a classifier may have it without a value
    has_entries = likelihood is not None and likelihood.has_entries
    explains = has_entries and (len(model.event_shape) != 3 or EXPLAIN in requested)
    left_out = () if explains else (EXPLAIN,)
    found = tuple(
        endpoint for endpoint in ENDPOINTS if hasattr(model, endpoint.needs) and endpoint.name not in left_out
    )
    return (
        found if getattr(model, "condition_dim", None) is None else tuple(endpoint.conditional() for endpoint in found)
    )


class Signature(NamedTuple):
    """An endpoint with a batch size; None means any size."""

    endpoint: Endpoint
    batch: int | None

    @property
    def name(self) -> str:
        return self.endpoint.signature(self.batch)

    def named(self) -> Named:
        """Return the signature's names in a flatbuffer."""
        return Named(self.name, tuple(self.endpoint.inputs), tuple(self.endpoint.outputs))


def signatures_of(
    model: Any,
    wanted: str | Iterable[str] | None = None,
    batch_sizes: Sequence[int | None] = (None,),
    io: str = "float32",
) -> tuple[Signature, ...]:
    """Return the signatures of a file, in the requested order.

    Args:
        model: model with the endpoints.
        wanted: names such as "decode", for all batch sizes, or "decode_16", for one; None takes all endpoints, without
            `explain` of images.
        batch_sizes: batch sizes for names without one.
        io: "uint8" for images as bytes.

    Raises:
        ValueError: if a name is not an endpoint of the model.
    """
    known = {endpoint.name: endpoint.with_io(io) for endpoint in endpoints_of(model, ALL)}
    usual = [endpoint.name for endpoint in endpoints_of(model)]
    names = usual if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    found: dict[str, Signature] = {}
    for text in names:
        name, _, size = str(text).partition("_")
        if name not in known or not ((size.isdecimal() and int(size)) or (size == "" and not str(text).endswith("_"))):
            raise ValueError(
                f"Argument `signatures` must be some of {', '.join(known)}, optionally with a batch size "
                f"(such as {next(iter(known))}_4). Received: {shown(text)}"
            )
        for batch in [int(size)] if size else batch_sizes:
            signature = Signature(known[name], batch)
            found.setdefault(signature.name, signature)
    return tuple(found.values())


def with_fixed_prior(model: Any) -> Any:
    """Return the model for export: with a fixed prior that doesn't use the other networks."""
    prior = getattr(model, "prior", None)
    fixed = prior and prior.fixed()
    return model if fixed is prior else model.with_prior(fixed)


def weights_of(model: Any) -> dict[str, int]:
    """Return the number of weights of each network of the model."""
    if hasattr(model, "trunk"):  # a classifier may leave out some layers of its encoder
        return {"classifier": sum(part.count_params() for part in (*model.trunk, model.head))}
    return {name: getattr(model, name).count_params() for name in NETWORKS if hasattr(model, name)}
