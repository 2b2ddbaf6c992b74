"""The base class of the VAE and the plain autoencoder: matching parts, and the Keras training protocol."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from kvae.arguments import ROUNDING, integer
from kvae.callbacks import SkippedStepsWarning
from kvae.distributions import Bernoulli, Distribution, Noise
from kvae.models.batches import Batch, batch_of, check_shape, unpack
from kvae.models.metrics import SkippedSteps, StepMean
from kvae.models.parts import check_family, check_network, check_raw_outputs, output_shape
from kvae.models.precision import fit_epsilon
from kvae.models.replicas import (
    Share,
    all_finite,
    many_workers,
    over_replicas,
    overall_means,
    part_of_mean,
    share,
    sum_of_squares,
)  # fmt: skip
from kvae.networks import Decoder, Encoder, check_image_shape
from kvae.networks.composite import Composite
from kvae.objectives import Criterion
from kvae.state import Before, restore, restore_replicas

NO_CONDITION = (
    "Expected conditions that are integers from 0 to condition_dim − 1, or finite vectors. Received: a number outside "
    "this range, NaN or infinity"
)
OUTSIDE = "Expected images with values in [0, 1] and no NaN; scale them, for example x / 255. Received: values outside"
NO_LABEL = "Expected labels that are integers from 0 to num_classes − 1, or −1 for none. Received: another number"
NOT_FINITE = "Expected finite values. Received: NaN or infinity"
NETWORKS = ("encoder", "decoder", "classifier")
CLIP_NORM = 200.0  # nats: far above ordinary gradients, so that only an explosion is clipped


class Posterior(NamedTuple):
    """Moments of q(z|x) for a batch: `mean` and `variance`, `(B, D)` each. An autoencoder has no variance."""

    mean: Any
    variance: Any


class LatentModel(Composite, keras.Model):
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
        if condition_dim is not None and condition_dim < 1:
            raise ValueError(f"Argument `condition_dim` must be >= 1. Received: condition_dim={condition_dim}")
        self.condition_dim = condition_dim
        self.latent_dim = int(_size_of("latent_dim", latent_dim, "encoder", encoder))
        self.image_shape = check_image_shape(_size_of("image_shape", image_shape, "decoder", decoder))
        self.seed = seed
        self.likelihood = likelihood
        self.encoder = check_network("encoder", Encoder(self.latent_dim) if encoder is None else encoder)
        self.decoder = check_network("decoder", Decoder(self.image_shape) if decoder is None else decoder)
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

    def batch_values(self, x: Any, noise: Noise, training: bool, y: Any = None, target: Any = None) -> dict[str, Any]:
        """Return one value per example, `(B,)`, for each of `value_names`, and optionally more for the model's metrics.

        `y` are the conditions (or labels) of the images. `target` are the images that the likelihood evaluates (default
        `x`).
        """
        raise NotImplementedError(f"{type(self).__name__} must define `batch_values`.")

    def criterion(self) -> Criterion:
        """Return the criterion for the epoch that is kept (`kvae.callbacks.BestEpoch`)."""
        raise NotImplementedError(f"{type(self).__name__} must define `criterion`.")

    def after_step(self, values: dict[str, Any]) -> None:
        """Update the state of the model after a training step; `values` are the means over its whole batch."""

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
                f"The encoder must turn images {self.image_shape} into {wanted} numbers each (raw posterior "
                f"parameters for latent_dim={self.latent_dim}). Received: output shape {got}"
            )
        channels = self.likelihood.param_size(self.image_shape)
        params_shape = (*self.image_shape[:-1], channels)
        _fit_param_size(self.decoder, channels)
        got = output_shape("decoder", self.decoder, self.decoder_shape)
        if got != params_shape:
            raise ValueError(
                f"The decoder must turn {self.latent_dim} latents into {params_shape} (raw parameters of "
                f"{type(self.likelihood).__name__} for images {self.image_shape}). Received: output shape {got}"
            )
        check_raw_outputs("decoder", self.decoder, self.decoder_shape, self.likelihood)
        if not self.likelihood.built:
            self.likelihood.build((None, *params_shape))
        self.built = True

    @property
    def encoder_shape(self) -> tuple[int, ...]:
        """Input shape of the encoder, without the batch: the image, and the condition as additional channels."""
        *grid, channels = self.image_shape
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
        check_shape(x, self.image_shape)
        message = OUTSIDE if self.bounded else NOT_FINITE
        # False for NaN:
        inside = (x >= -ROUNDING) & (x <= 1.0 + ROUNDING) if self.bounded else tf.math.is_finite(x)
        inside = tf.reduce_all(inside | tf.math.is_nan(x) if training else inside)
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
        return x if c is None else ops.concatenate([x, ops.ones_like(x[..., :1]) * c[:, None, None, :]], axis=-1)

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
        return self.likelihood.mean(self.decoder_params(self.point(x, c, training), c, training))

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
        images = ops.reshape(images, (-1, steps, *self.image_shape))
        return images[0] if single else images

    def interpolate_images(self, first: Any, second: Any, steps: int = 8, condition: Any = None) -> Any:
        """Interpolate between the latents of two images `(H, W, C)` or batches of images `(B, H, W, C)`.

        Raises:
            ValueError: if steps < 2, or for images of another shape.
        """
        first, second = ops.convert_to_tensor(first), ops.convert_to_tensor(second)
        single = len(first.shape) == 3
        start, end = (self.encode_mean(x[None] if single else x, condition) for x in (first, second))
        return self.interpolate(start[0] if single else start, end[0] if single else end, steps, condition)

    # Training.

    def compile(self, optimizer: Any = "adam", *, global_clipnorm: float | None = CLIP_NORM, **kwargs: Any) -> None:
        """Compile as `keras.Model.compile` does, with the model's own loss and metrics.

        For float16 weights, an optimizer given by name gets an epsilon that float16 can represent. Under
        MultiWorkerMirroredStrategy there is one step per execution, because Keras 3.15 doesn't support more.

        Args:
            optimizer: name, or instance.
            global_clipnorm: largest norm of the gradient, in nats, for an optimizer that doesn't clip itself. Only an
                explosion reaches the default. None doesn't clip.
            **kwargs: as for `keras.Model.compile`.

        Raises:
            ValueError: for a loss or metrics.
        """
        for name in ("loss", "metrics", "weighted_metrics", "loss_weights"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{type(self).__name__} computes its own loss and metrics from its parts: choose another "
                    f"`likelihood` or `objective` instead. Received: {name}={kwargs[name]}"
                )
        named = isinstance(optimizer, str)
        optimizer = keras.optimizers.get(optimizer)
        _clip(optimizer, global_clipnorm)
        if many_workers():
            kwargs["steps_per_execution"] = 1
        super().compile(optimizer=optimizer, **kwargs)
        fit_epsilon(self.optimizer, self.trainable_weights, change=named)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as before saving. The model is always built, so the optimizer's slots exist and can be loaded."""
        self.compile(**keras.saving.deserialize_keras_object(config), global_clipnorm=None)  # the optimizer's own
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does, on arrays or a dataset of batches.

        Steps whose loss or gradients aren't finite are skipped; a `kvae.callbacks.TrainingWarning` says how many.

        Args:
            x: images `(N, H, W, C)`; for a conditional model, also the pair `(images, conditions)`. A dataset has
                batches `x`, `(x, y)`, `(x, y, sample_weight)`, or dictionaries with `image` and `label`.
            y: labels, which are the conditions of a conditional model; other models ignore them. Or images of the shape
                of `x`, the targets of a denoising model (Im et al. 2017, https://arxiv.org/abs/1511.06406): the encoder
                gets `x`, and the likelihood evaluates `y`.
            *args, **kwargs: as for `keras.Model.fit`.

        Raises:
            ValueError: for images of another shape or range, any other `y`, or if no step could be taken.
        """
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)  # Keras's default causes a warning
        callbacks = kwargs.get("callbacks")
        listed = list(
            getattr(callbacks, "callbacks", callbacks if isinstance(callbacks, list | tuple) else [callbacks])
        )
        if not any(isinstance(callback, SkippedStepsWarning) for callback in listed):
            if isinstance(callbacks, keras.callbacks.CallbackList):
                callbacks.append(SkippedStepsWarning())
            else:
                kwargs["callbacks"] = [
                    *(callback for callback in listed if callback is not None),
                    SkippedStepsWarning(),
                ]
        return self._run(super().fit, x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as `keras.Model.evaluate` does, on the same inputs as `fit`. The result is deterministic."""
        return self._run(super().evaluate, x, y, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Return reconstructions of images, or of pairs `(x, condition)`, as `keras.Model.predict` does."""

        def run(x: Any, y: Any) -> Any:
            x = x if y is None or self.condition_dim is None else (x, y)
            return keras.Model.predict(self, x, *args, **kwargs)

        return self._run(run, x, None)

    def _run(self, run: Callable[..., Any], x: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, tf.data.Dataset):
            self._batch(x.element_spec)  # checked before anything is traced
        elif isinstance(x, dict | tuple) or hasattr(x, "shape"):
            x, y, _ = unpack((x, y))
            self._batch((x, y))
            if y is None and kwargs.get("sample_weight") is not None:  # Keras drops it if there is no y
                y = x[0] if isinstance(x, tuple) else x
        try:
            return run(x, y, *args, **kwargs)
        except tf.errors.InvalidArgumentError as error:
            for message in (OUTSIDE, NOT_FINITE, NO_CONDITION, NO_LABEL):
                if message in error.message:
                    raise ValueError(message) from error
            raise

    def _batch(self, data: Any) -> Batch:
        return batch_of(data, self.image_shape, self.condition_dim is not None)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build the optimizer. With replicas, Keras would start a pass over the data to build the model, too."""
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def noise(self, step: Any, rows: tuple[Any, Any, Any] | None = None, stream: int = 0) -> Noise:
        """Return the noise of one step: a function of the model's seed, `stream` and `step`, on any replica.

        `rows` are the rows of this replica (`kvae.distributions.Noise`).
        """
        return Noise(self.seed + 7919 * stream, step, rows)

    def train_step(self, data: Any) -> dict[str, Any]:
        before = Before(self)
        part, rows, count = self._share(data, training=True)
        with tf.GradientTape() as tape:
            values = self.batch_values(part.x, self.noise(self.step, rows), True, part.y, part.target)
            # Gradients of the replicas are summed; float16 requires a scaled loss.
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            loss = part_of_mean(values["loss"], part.weight, count) + ops.cast(sum(self.losses), "float32") / replicas
            loss = self.optimizer.scale_loss(loss)
        # In float32: the norm over all gradients would overflow in float16.
        gradients = [
            gradient if gradient is None else tf.cast(gradient, "float32")
            for gradient in tape.gradient(loss, self.trainable_weights)
        ]
        self.after_step(overall_means({name: values[name] for name in self.value_names}, part.weight))
        images = ops.sum(part.x)
        images_finite, finite = all_finite(images, images + loss + sum_of_squares(gradients))
        _apply_or_restore(finite, self.optimizer, gradients, self.trainable_weights, before)
        self.skipped.update(finite, images_finite)
        self.step.assign_add(1)
        weight = ops.cast(finite, "float32")
        weight *= ops.ones_like(values["loss"]) if part.weight is None else ops.cast(part.weight, "float32")
        return self._update_metrics({name: ops.where(finite, v, 0.0) for name, v in values.items()}, weight)

    def test_step(self, data: Any) -> dict[str, Any]:
        # The number of examples seen so far is the step of the noise: the same noise in every evaluation.
        seen = over_replicas(tf.identity(self.trackers["loss"].count))
        part, rows, _ = self._share(data)
        noise = self.noise(seen, rows, stream=1)
        return self._update_metrics(self.batch_values(part.x, noise, False, part.y, part.target), part.weight)

    def predict_step(self, data: Any) -> Any:
        part, _, count = self._share(data)
        outputs = self(part.x if part.y is None else (part.x, part.y), training=False)
        return outputs[:count]

    def _share(self, data: Any, training: bool = False) -> Share:
        """Return this replica's share of a batch, checked."""
        batch = self._batch(data)
        x, target = (
            None if images is None else self.check_images(images, training) for images in (batch.x, batch.target)
        )
        return share(batch._replace(x=x, target=target), self.jit_compile)

    def _update_metrics(self, values: dict[str, Any], sample_weight: Any) -> dict[str, Any]:
        for name, tracker in self.trackers.items():
            tracker.update_state(values[name], sample_weight=sample_weight)
        results = self.get_metrics_result()
        if many_workers():
            # Keras 3.15 sums the workers' results over a first axis, which scalars don't have.
            return {name: ops.reshape(value, (1,)) for name, value in results.items()}
        return results

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self.trackers.values())

    # Saving, and other methods of Keras.

    _parts: tuple[str, ...] = ("encoder", "decoder", "likelihood")

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
        image = keras.InputSpec(shape=(None, *self.image_shape), dtype="float32", name="image")
        if self.condition_dim is None:
            return image
        return [image, keras.InputSpec(shape=(None, self.condition_dim), dtype="float32", name="condition")]

    def quantize(self, mode: Any = None, config: Any = None, filters: Any = None, **kwargs: Any) -> None:
        """Quantize the networks as `keras.Model.quantize` does; densities stay in float32."""
        networks = [getattr(self, name) for name in self._parts if name in NETWORKS]
        inside = {id(layer) for network in networks for layer in network._flatten_layers()}
        patterns = [filters] if isinstance(filters, str) else filters

        def chosen(layer: keras.layers.Layer) -> bool:
            if id(layer) not in inside:
                return False
            if callable(filters):
                return bool(filters(layer))
            return patterns is None or any(re.search(pattern, layer.name) for pattern in patterns)

        super().quantize(mode, config=config, filters=chosen, **kwargs)

    def _settings(self) -> dict[str, Any]:
        """Return the constructor arguments that aren't parts."""
        settings: dict[str, Any] = {"latent_dim": self.latent_dim, "image_shape": self.image_shape, "seed": self.seed}
        if self.condition_dim is not None:
            settings["condition_dim"] = self.condition_dim
        if not self.bounded:
            settings["bounded"] = False
        return settings

    def get_config(self) -> dict[str, Any]:
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in self._parts}
        return {**super().get_config(), **parts, **self._settings()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "LatentModel":
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in cls._parts
        }
        return cls(**{**config, **parts})


def _apply_or_restore(finite: Any, optimizer: Any, gradients: list[Any], weights: list[Any], before: Before) -> None:
    """Apply the gradients if all is finite; otherwise restore everything that the forward pass has assigned."""
    if not optimizer.built:
        optimizer.build(weights)
    pairs = before.assigned()
    variables, values = [variable for variable, _ in pairs], [value for _, value in pairs]

    def take(gradients: list[Any]) -> None:
        optimizer.apply(gradients, weights)

    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # It skips the step itself and lowers the scale if a gradient isn't finite.
        lost = tf.where(finite, 0.0, float("nan"))
        take([g if g is None else tf.convert_to_tensor(g) + tf.cast(lost, g.dtype) for g in gradients])
        take = lambda gradients: None  # noqa: E731
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        tf.cond(finite, lambda: take(gradients), lambda: restore(pairs))
        return

    def in_all_replicas(strategy: Any, finite: Any, gradients: list[Any], values: list[Any]) -> None:
        """Put the condition around the replicas: inside a replica, no branch may communicate with others."""
        tf.cond(
            strategy.experimental_local_results(finite)[0],
            lambda: strategy.extended.call_for_each_replica(take, args=(gradients,)),
            lambda: restore_replicas(strategy, list(zip(variables, values))),
        )

    tf.distribute.get_replica_context().merge_call(in_all_replicas, args=(finite, gradients, values))


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
    if known is not None and value is not None and known != (tuple(value) if name == "image_shape" else value):
        raise ValueError(
            f"Argument `{name}` contradicts the {part_name}. Received: {name}={value}, {part_name}.{name}={known}"
        )
    return known if value is None else value


def _fit_param_size(network: Any, size: int) -> None:
    """Set the number of outputs of an `Encoder` or `Decoder` that isn't built yet."""
    if isinstance(network, Encoder | Decoder) and not network.built and network.param_size is None:
        network.param_size = size


def _clip(optimizer: keras.optimizers.Optimizer, norm: float | None) -> None:
    """Make the optimizer clip gradients to this norm, unless it clips them already."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # inside a LossScaleOptimizer
    if norm is not None and not (inner.clipnorm or inner.clipvalue or inner.global_clipnorm):
        inner.global_clipnorm = float(norm)
