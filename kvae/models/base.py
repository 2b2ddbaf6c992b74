"""The base class of the VAE and the plain autoencoder: matching parts, images, latents and conditions."""

import re
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from kvae.arguments import ROUNDING, at_least, integer
from kvae.distributions import Bernoulli, Distribution
from kvae.models.batches import check_shape
from kvae.models.metrics import SkippedSteps, StepMean
from kvae.models.parts import check_family, check_network, check_raw_outputs, output_shape
from kvae.models.steps import NO_CONDITION, NOT_FINITE, OUTSIDE, TrainableModel
from kvae.networks import Decoder, Encoder, TopDown, check_event_shape, kind_of
from kvae.networks.composite import Composite
from kvae.objectives import Criterion

NETWORKS = ("encoder", "decoder", "classifier")


class Posterior(NamedTuple):
    """Moments of q(z|x) for a batch: `mean` and `variance`, `(B, D)` each. An autoencoder has no variance."""

    mean: Any
    variance: Any


class LatentModel(Composite, TrainableModel):
    """An encoder, a decoder and a likelihood around a latent vector, with `fit`, `evaluate` and `predict`.

    A subclass defines the number of raw parameters that its encoder outputs (`posterior_size`), the values of a batch
    (`batch_values`), and the point in latent space that represents an image (`point`).
    """

    def __init__(
        self,
        encoder: keras.Model | None,
        decoder: keras.Model | None,
        likelihood: Distribution | None,
        latent_dim: int | None,
        event_shape: tuple[int, ...] | None,
        image_shape: tuple[int, int, int] | None,
        seed: int,
        condition_dim: int | None = None,
        bounded: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        likelihood = check_family("likelihood", Bernoulli() if likelihood is None else likelihood)
        if not bounded and likelihood.support != "real":
            raise ValueError(
                f"Argument `bounded=False` requires a likelihood of real numbers, such as kvae.likelihoods.Normal. "
                f"Received: likelihood={type(likelihood).__name__}, with {likelihood.support} values"
            )
        self.bounded = bounded
        self.condition_dim = None if condition_dim is None else at_least("condition_dim", condition_dim, 1)
        where = ("encoder", encoder) if not hasattr(decoder, "latent_dim") else ("decoder", decoder)
        self.latent_dim = int(_size_of("latent_dim", latent_dim, *where))
        if event_shape is not None or image_shape is not None:
            event_shape = check_event_shape(event_shape, image_shape)
        self.event_shape = check_event_shape(_size_of("event_shape", event_shape, "decoder", decoder))
        self.seed = seed
        self.likelihood = likelihood
        self.encoder = check_network("encoder", Encoder(self.latent_dim) if encoder is None else encoder)
        self.decoder = check_network("decoder", Decoder(self.event_shape) if decoder is None else decoder)
        self.step = self.add_weight(
            name="step", shape=(), dtype="int64", initializer="zeros", trainable=False,
            aggregation="only_first_replica",
        )  # fmt: skip
        self.skipped = SkippedSteps()
        self.trackers = {name: StepMean(name=name) for name in self.value_names}

    # To be defined by a subclass.

    value_names: tuple[str, ...] = ("loss",)

    def posterior_size(self) -> int:
        """Return the number of raw parameters that the encoder outputs for an image."""
        raise NotImplementedError(f"{type(self).__name__} must define `posterior_size`.")

    def criterion(self) -> Criterion:
        """Return the criterion for the epoch that is kept (`kvae.callbacks.BestEpoch`)."""
        raise NotImplementedError(f"{type(self).__name__} must define `criterion`.")

    def point(self, x: Any, c: Any = None, training: bool = False) -> Any:
        """Return the points in latent space that represent images, `(B, D)`.

        `x` are checked images, `c` the vectors of their conditions.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `point`.")

    # Building: the constructor matches the parts, so that a compiled model is always built.

    def build(self, input_shape: Any = None) -> None:
        if self.built:  # type: ignore[has-type]
            return
        wanted = self.posterior_size()
        _fit_param_size(self.encoder, wanted)
        got = output_shape("encoder", self.encoder, self.encoder_shape)
        if got != (wanted,):
            raise ValueError(
                f"The encoder must turn {kind_of(self.event_shape)} {self.encoder_shape} into {wanted} numbers each "
                f"(raw posterior parameters for latent_dim={self.latent_dim}). Received: output shape {got}"
            )
        channels = self.likelihood.param_size(self.event_shape)
        params_shape = (*self.event_shape[:-1], channels)
        _fit_param_size(self.decoder, channels)
        got = output_shape("decoder", self.decoder, self.decoder_shape)
        if got != params_shape:
            raise ValueError(
                f"The decoder must turn {self.latent_dim} latents into {params_shape} (raw parameters of "
                f"{type(self.likelihood).__name__} for {kind_of(self.event_shape)} {self.event_shape}). "
                f"Received: output shape {got}"
            )
        check_raw_outputs("decoder", self.decoder, self.decoder_shape, self.likelihood)
        if not self.likelihood.built:
            self.likelihood.build((None, *params_shape))
        self.built = True

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Another name of `event_shape`."""
        return self.event_shape

    @property
    def encoder_shape(self) -> tuple[int, ...]:
        """Input shape of the encoder, without the batch: the image, and the condition as additional channels."""
        *grid, channels = self.likelihood.standardized_shape(self.event_shape)
        return (*grid, channels + (self.condition_dim or 0))

    @property
    def decoder_shape(self) -> tuple[int, ...]:
        """Input shape of the decoder, without the batch: latents and condition."""
        return (self.latent_dim + (self.condition_dim or 0),)

    def check_images(self, x: Any, training: bool = False) -> Any:
        """Return `x` as float32 images of the right shape with values in [0, 1]; raise a ValueError otherwise.

        Values beyond 0 or 1 by a rounding error are clipped. A model with `bounded=False` accepts any finite values. In
        training NaN is accepted, too: the step is skipped. (Inside a `tf.function` an assertion checks the values; XLA
        omits it.)
        """
        x = ops.cast(x, "float32")
        check_shape(x, self.event_shape)
        message = OUTSIDE if self.bounded else NOT_FINITE
        # False for NaN:
        inside = (x >= -ROUNDING) & (x <= 1.0 + ROUNDING) if self.bounded else tf.math.is_finite(x)
        inside = tf.reduce_all(inside | tf.math.is_nan(x) if training or self.likelihood.accepts_missing else inside)
        if not tf.is_symbolic_tensor(inside) and not inside:
            raise ValueError(message.replace("values outside", _range(x)))
        tf.debugging.Assert(inside, [message])
        return tf.clip_by_value(x, 0.0, 1.0) if self.bounded else x

    # Conditions.

    def condition(self, c: Any, batch: Any = None, labels: bool = False) -> Any:
        """Return `c` as float32 vectors `(B, condition_dim)`; None for a model without conditions.

        (Inside a `tf.function` an assertion checks the values; XLA omits it.)

        Args:
            c: integers below `condition_dim`, `(B,)` or one for all; or vectors, `(B, condition_dim)` or one for all.
            batch: B, if it is known.
            labels: whether `c` came with the data: then there is one for each image, and a model without conditions
                ignores them.

        Raises:
            ValueError: if a condition is missing, or doesn't fit.
        """
        if self.condition_dim is None:
            if c is None or labels:
                return None
            raise ValueError(
                f"This {type(self).__name__} takes no condition: create it with `condition_dim=...` to train a "
                f"conditional model. Received: condition={c}"
            )
        expected = (
            f"Expected a condition for each image: integers below {self.condition_dim}, or vectors of "
            f"{self.condition_dim} numbers."
        )
        if c is None:
            raise ValueError(f"{expected} Received: none; pass conditions to `fit` and `evaluate` as labels")
        try:
            c = ops.convert_to_tensor(c)
            integers = len(c.shape) < 2 and keras.backend.is_int_dtype(c.dtype)
            c = ops.cast(c, "int64") if integers else c  # a uint8 can't be compared with 300
            vectors = ops.one_hot(c, self.condition_dim, dtype="float32") if integers else ops.cast(c, "float32")
        except (TypeError, ValueError, tf.errors.OpError) as error:
            raise ValueError(f"{expected} Received: {c!r}") from error
        single = len(vectors.shape) == 1 and not labels
        fits = single or (len(vectors.shape) == 2 and (batch is None or vectors.shape[0] in (None, batch)))
        if not fits or vectors.shape[-1] != self.condition_dim:
            raise ValueError(f"{expected} Received: shape {tuple(c.shape)}" + (f" for {batch}" if batch else ""))
        valid = tf.reduce_all((c >= 0) & (c < self.condition_dim) if integers else tf.math.is_finite(vectors))
        if not tf.is_symbolic_tensor(valid) and not valid:
            raise ValueError(f"{expected} Received: {ops.convert_to_numpy(c)}")
        tf.debugging.Assert(valid, [NO_CONDITION])
        return ops.broadcast_to(vectors, (1 if batch is None else batch, self.condition_dim)) if single else vectors

    def encoder_input(self, x: Any, c: Any = None) -> Any:
        """Return the input of the encoder, `(B, *encoder_shape)`, for checked images and the condition's vectors."""
        x = self.likelihood.standardize(x)
        if c is None:
            return x
        c = ops.reshape(c, (-1, *[1] * (len(x.shape) - 2), c.shape[-1]))
        return ops.concatenate([x, ops.ones_like(x[..., :1]) * c], axis=-1)

    def encoder_params(self, x: Any, c: Any = None, training: bool = False) -> Any:
        """Return raw parameters `(B, P)` of q(z|x) for checked images and the condition's vectors."""
        return self.encoder(self.encoder_input(x, c), training=training)

    def decoder_params(self, z: Any, c: Any = None, training: bool = False) -> Any:
        """Return raw parameters `(…, B, H, W, P)` of p(x|z), for latents `(…, B, D)` and condition vectors `(B, C)`."""
        z = ops.cast(z, "float32")
        if c is not None:
            z = ops.concatenate([z, ops.ones_like(z[..., :1]) * c], axis=-1)
        if len(z.shape) == 2:
            return self.decoder(z, training=training)
        params = self.decoder(ops.reshape(z, (-1, z.shape[-1])), training=training)
        return ops.reshape(params, (*z.shape[:-2], -1, *params.shape[1:]))

    # Latents and images.

    def call(self, x: Any, training: bool = False) -> Any:
        """Return the reconstruction without noise, `(B, H, W, C)`: the mean of x given the mean of z.

        A conditional model takes the pair `(x, condition)`.
        """
        x, c = x if isinstance(x, tuple | list) else (x, None)
        x, c = ops.cast(x, "float32"), self.condition(c, x.shape[0])
        return self.likelihood.mean(self.reconstruction_params(x, c, training))

    def reconstruction_params(self, x: Any, c: Any = None, training: bool = False) -> Any:
        """Return raw parameters `(B, H, W, P)` of p(x|z) at the points that represent checked images."""
        return self.decoder_params(self.point(x, c, training), c, training)

    def encode_mean(self, x: Any, condition: Any = None) -> Any:
        """Return the latents of images `(B, H, W, C)`, `(B, D)`: the posterior mean, or an autoencoder's code."""
        x = self.check_images(x)
        return self.point(x, self.condition(condition, x.shape[0]))

    def decode(self, z: Any, condition: Any = None) -> Any:
        """Return the mean image for each latent, `(B, D)` to `(B, H, W, C)`.

        The variance of the pixels is `vae.likelihood.variance(vae.decoder(z))`.
        """
        return self.likelihood.mean(self.decoder_params(z, self.condition(condition, z.shape[0])))

    def reconstruct(self, x: Any, condition: Any = None) -> Any:
        """Encode and decode images without noise, `(B, H, W, C)`."""
        x = self.check_images(x)
        c = self.condition(condition, x.shape[0])
        return self(x) if c is None else self((x, c))

    def interpolate(self, start: Any, end: Any, steps: int = 8, condition: Any = None) -> Any:
        """Return images on the straight line between two latents or batches of latents, both ends included.

        Args:
            start, end: latents, `(D,)` or `(B, D)`.
            steps: number of images.
            condition: condition of all images, for a conditional model.

        Returns:
            `(steps, H, W, C)` or `(B, steps, H, W, C)`.

        Raises:
            ValueError: if steps < 2, or for latents of another shape.
        """
        steps = integer("steps", steps, least=2)
        a, b = (ops.cast(ops.convert_to_tensor(z), "float32") for z in (start, end))
        for name, z in (("start", a), ("end", b)):
            if len(z.shape) not in (1, 2) or z.shape[-1] != self.latent_dim:
                raise ValueError(
                    f"Argument `{name}` must be latents ({self.latent_dim},) or (B, {self.latent_dim}). "
                    f"Received: shape {tuple(z.shape)}; `interpolate_images` takes images"
                )
        single = len(a.shape) == 1
        a, b = (ops.reshape(z, (-1, 1, self.latent_dim)) for z in (a, b))  # (B, 1, D)
        t = ops.linspace(0.0, 1.0, steps, dtype="float32")[None, :, None]  # (1, steps, 1)
        z = (1 - t) * a + t * b  # (B, steps, D)
        images = self.decode(ops.reshape(z, (-1, self.latent_dim)), condition)
        images = ops.reshape(images, (-1, steps, *self.event_shape))
        return images[0] if single else images

    def interpolate_images(self, first: Any, second: Any, steps: int = 8, condition: Any = None) -> Any:
        """Interpolate between the latents of two images `(H, W, C)` or batches of images `(B, H, W, C)`.

        Raises:
            ValueError: if steps < 2, or for images of another shape.
        """
        first, second = ops.convert_to_tensor(first), ops.convert_to_tensor(second)
        single = len(first.shape) == len(self.event_shape)
        start, end = (self.encode_mean(x[None] if single else x, condition) for x in (first, second))
        return self.interpolate(start[0] if single else start, end[0] if single else end, steps, condition)

    # Saving, and other methods of Keras.

    def export(
        self,
        filepath: Any,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Export as `keras.Model.export` does: images (or images and conditions) to reconstructions.

        Use `kvae.export.export` for verified files with encoder, decoder and generator.
        """
        if input_signature is None:
            input_signature = [self._call_spec()]
        super().export(filepath, format, verbose, input_signature, **kwargs)

    def _call_spec(self) -> Any:
        """Return the input specification of the model."""
        image = keras.InputSpec(shape=(None, *self.event_shape), dtype="float32", name="image")
        if self.condition_dim is None:
            return image
        return [image, keras.InputSpec(shape=(None, self.condition_dim), dtype="float32", name="condition")]

    def quantize(self, mode: Any = None, config: Any = None, filters: Any = None, **kwargs: Any) -> None:
        """Quantize the networks as `keras.Model.quantize` does; densities stay in float32."""
        networks = [getattr(self, name) for name in NETWORKS if hasattr(self, name)]
        inside = {id(layer) for network in networks for layer in network._flatten_layers()}
        patterns = [filters] if isinstance(filters, str) else filters

        def chosen(layer: keras.layers.Layer) -> bool:
            if id(layer) not in inside:
                return False
            if callable(filters):
                return bool(filters(layer))
            return patterns is None or any(re.search(pattern, layer.name) for pattern in patterns)

        super().quantize(mode, config=config, filters=chosen, **kwargs)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        defaults = {"condition_dim": None, "bounded": True, "image_shape": self.event_shape}
        return {name: value for name, value in config.items() if (name, value) not in defaults.items()}


def _range(x: Any) -> str:
    """Describe the range of values for an error message, with all digits."""
    low, high = (float(extreme(x)) for extreme in (tf.reduce_min, tf.reduce_max))
    return "NaN" if low != low or high != high else f"values from {low:.9g} to {high:.9g}"


def _size_of(name: str, value: Any, part_name: str, part: Any) -> Any:
    """Return a size from the argument, or from the part that defines it."""
    known = getattr(part, name, None)
    if value is None and known is None:
        raise ValueError(
            f"Argument `{name}` is missing, and the {part_name} doesn't define it: pass `{name}=...`. "
            f"Received: {part_name}={part!r}"
        )
    if known is not None and value is not None and known != value:
        raise ValueError(
            f"Argument `{name}` contradicts the {part_name}. Received: {name}={value}, {part_name}.{name}={known}"
        )
    return known if value is None else value


def _fit_param_size(network: Any, size: int) -> None:
    """Set the number of outputs of an `Encoder`, `Decoder` or `TopDown` that isn't built yet."""
    if isinstance(network, Encoder | Decoder | TopDown) and not network.built and network.param_size is None:
        network.param_size = size
