"""What the VAE and the plain autoencoder share: parts that fit together, and the Keras training protocol."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kvae.distributions import Distribution, Noise
from kvae.models.metrics import SkippedSteps, StepMean
from kvae.networks import Decoder, Encoder, check_image_shape
from kvae.objectives import Criterion

NO_CONDITION = "Expected conditions that are integers from 0 to condition_dim − 1, or finite vectors. Received: others"
OUTSIDE = "Expected images with values in [0, 1] and no NaN; scale them, for example x / 255. Received: values outside"
NO_LABEL = "Expected labels that are integers from 0 to num_classes − 1, or −1 for none. Received: others"
CLIP_NORM = 200.0  # of the gradient, in nats: far above ordinary ones, only an explosion is cut
NOT_FINITE = "Expected values that are finite. Received: NaN or infinite ones"


class LatentModel(keras.Model):
    """An encoder, a decoder and a likelihood around a latent vector; `fit`, `evaluate` and `predict` work.

    A subclass says which raw parameters its encoder puts out (`posterior_size`), what a batch costs
    (`batch_values`) and which point of latent space stands for an image (`point`).
    """

    def __init__(
        self,
        encoder: keras.Model | None,
        decoder: keras.Model | None,
        likelihood: Distribution,
        latent_dim: int | None,
        image_shape: tuple[int, int, int] | None,
        seed: int,
        condition_dim: int | None = None,
        bounded: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not bounded and likelihood.support != "real":
            raise ValueError(
                f"Argument `bounded=False` needs a likelihood of real numbers, such as kvae.likelihoods.Normal. "
                f"Received: likelihood={type(likelihood).__name__}, of {likelihood.support} values"
            )
        self.bounded = bounded
        if condition_dim is not None and condition_dim < 1:
            raise ValueError(f"Argument `condition_dim` must be >= 1. Received: condition_dim={condition_dim}")
        self.condition_dim = condition_dim
        self.latent_dim = int(_given("latent_dim", latent_dim, "encoder", encoder))
        self.image_shape = check_image_shape(_given("image_shape", image_shape, "decoder", decoder))
        self.seed = seed
        self.likelihood = likelihood
        self.encoder = encoder if encoder is not None else Encoder(self.latent_dim)
        self.decoder = decoder if decoder is not None else Decoder(self.image_shape)
        self.step = self.add_weight(
            name="step", shape=(), dtype="int64", initializer="zeros", trainable=False,
            aggregation="only_first_replica",
        )  # fmt: skip
        self.skipped = SkippedSteps()
        self.trackers = {name: StepMean(name=name) for name in self.value_names}

    # What a subclass defines.

    value_names: tuple[str, ...] = ("loss",)

    def posterior_size(self) -> int:
        """Numbers per image that the encoder puts out."""
        raise NotImplementedError(f"{type(self).__name__} must define `posterior_size`.")

    def batch_values(self, x: Any, noise: Noise, training: bool, y: Any = None) -> dict[str, Any]:
        """One value per example, `(B,)`, for each of `value_names`; `y` is what came beside the images."""
        raise NotImplementedError(f"{type(self).__name__} must define `batch_values`.")

    def criterion(self) -> Criterion:
        """Which epoch of a training run is kept (`kvae.callbacks.BestEpoch`)."""
        raise NotImplementedError(f"{type(self).__name__} must define `criterion`.")

    def after_step(self, values: dict[str, Any]) -> None:
        """What else changes with a training step; `values` are the means over its whole batch."""

    def point(self, x: Any, c: Any = None, training: bool = False) -> Any:
        """The point in latent space that stands for an image, `(B, D)`; `x` is checked, `c` its condition's vectors."""
        raise NotImplementedError(f"{type(self).__name__} must define `point`.")

    # Building: the parts are fitted to each other here, so that a compiled model is always a built one.

    def build(self, input_shape: Any = None) -> None:
        if self.built:  # type: ignore[has-type]
            return
        wanted = self.posterior_size()
        _fit_param_size(self.encoder, wanted)
        got = _output_shape(self.encoder, self.encoder_shape)
        if got != (wanted,):
            raise ValueError(
                f"The encoder must turn images {self.image_shape} into {wanted} numbers each (raw posterior "
                f"parameters for latent_dim={self.latent_dim}). Received: output shape {got}"
            )
        channels = self.likelihood.param_size(self.image_shape)
        params_shape = (*self.image_shape[:-1], channels)
        _fit_param_size(self.decoder, channels)
        got = _output_shape(self.decoder, self.decoder_shape)
        if got != params_shape:
            raise ValueError(
                f"The decoder must turn {self.latent_dim} latents into {params_shape} (raw parameters of "
                f"{type(self.likelihood).__name__} for images {self.image_shape}). Received: output shape {got}"
            )
        if not self.likelihood.built:
            self.likelihood.build((None, *params_shape))
        self.built = True

    @property
    def encoder_shape(self) -> tuple[int, ...]:
        """Shape of what the encoder gets, without the batch: the image, and the condition as further channels."""
        *grid, channels = self.image_shape
        return (*grid, channels + (self.condition_dim or 0))

    @property
    def decoder_shape(self) -> tuple[int, ...]:
        """Shape of what the decoder gets, without the batch: latents and condition."""
        return (self.latent_dim + (self.condition_dim or 0),)

    def check_images(self, x: Any, training: bool = False) -> Any:
        """`x` as float32 images of the right shape with values in [0, 1]; ValueError otherwise.

        Of a model with `bounded=False`, any finite values will do. In training NaN will, too: the step is skipped.
        (Inside a `tf.function` the values are checked by an assertion, which XLA leaves out.)
        """
        x = ops.cast(x, "float32")
        self._check_shape(x.shape)
        message = OUTSIDE if self.bounded else NOT_FINITE
        inside = (x >= 0.0) & (x <= 1.0) if self.bounded else tf.math.is_finite(x)  # false for NaN
        inside = tf.reduce_all(inside | tf.math.is_nan(x) if training else inside)
        if not tf.is_symbolic_tensor(inside) and not inside:
            raise ValueError(message)
        tf.debugging.Assert(inside, [message])
        return x

    def _check_shape(self, shape: Any) -> None:
        shape = tf.TensorShape(shape)
        if shape.rank is None or tuple(shape[1:]) != self.image_shape:
            raise ValueError(
                f"Expected a batch of images of shape (batch, {', '.join(map(str, self.image_shape))}). "
                f"Received: shape {shape}"
            )

    # Conditions.

    def condition(self, c: Any, batch: Any = None, labels: bool = False) -> Any:
        """`c` as float32 vectors `(B, condition_dim)`; None for a model without conditions.

        (As with images, values inside a `tf.function` are checked by an assertion, which XLA leaves out.)

        Args:
            c: integers below `condition_dim`, `(B,)` or one for all; or vectors, `(B, condition_dim)` or one for all.
            batch: B, if it is known.
            labels: whether `c` came with the data: one for each image then, and ignored by a model without conditions.

        Raises:
            ValueError: if a condition is missing, or doesn't fit.
        """
        if self.condition_dim is None:
            if c is None or labels:
                return None
            raise ValueError(
                f"This {type(self).__name__} takes no condition: make it with `condition_dim=...` to train a "
                f"conditional one. Received: condition={c}"
            )
        expected = (
            f"Expected a condition for each image: integers below {self.condition_dim}, or vectors of "
            f"{self.condition_dim} numbers."
        )
        if c is None:
            raise ValueError(f"{expected} Received: none; `fit` and `evaluate` take it where labels go")
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
        """What the encoder gets, `(B, *encoder_shape)`, for checked images and the condition's vectors."""
        return x if c is None else ops.concatenate([x, ops.ones_like(x[..., :1]) * c[:, None, None, :]], axis=-1)

    def encoder_params(self, x: Any, c: Any = None, training: bool = False) -> Any:
        """Raw parameters `(B, P)` of q(z|x) for checked images and the condition's vectors."""
        return self.encoder(self.encoder_input(x, c), training=training)

    def decoder_params(self, z: Any, c: Any = None, training: bool = False) -> Any:
        """Raw parameters `(…, B, H, W, P)` of p(x|z) for latents `(…, B, D)` and the condition's vectors `(B, C)`."""
        if c is not None:
            z = ops.concatenate([z, ops.ones_like(z[..., :1]) * c], axis=-1)
        if len(z.shape) == 2:
            return self.decoder(z, training=training)
        params = self.decoder(ops.reshape(z, (-1, z.shape[-1])), training=training)
        return ops.reshape(params, (*z.shape[:-2], -1, *params.shape[1:]))

    # Latents and images.

    def call(self, x: Any, training: bool = False) -> Any:
        """Reconstruction without noise, `(B, H, W, C)`: the mean of x given the mean of z.

        A conditional model takes the pair `(x, condition)`.
        """
        x, c = x if isinstance(x, tuple | list) else (x, None)
        c = self.condition(c, x.shape[0])
        return self.likelihood.mean(self.decoder_params(self.point(x, c, training), c, training))

    def encode_mean(self, x: Any, condition: Any = None) -> Any:
        """Where images `(B, H, W, C)` lie in latent space, `(B, D)`: the posterior mean, or an autoencoder's code."""
        x = self.check_images(x)
        return self.point(x, self.condition(condition, x.shape[0]))

    def decode(self, z: Any, condition: Any = None) -> Any:
        """Mean image for each latent, `(B, D)` to `(B, H, W, C)`.

        The variance of the pixels is `vae.likelihood.variance(vae.decoder(z))`.
        """
        return self.likelihood.mean(self.decoder_params(z, self.condition(condition, z.shape[0])))

    def reconstruct(self, x: Any, condition: Any = None) -> Any:
        """Images encoded and decoded again without noise, `(B, H, W, C)`."""
        x = self.check_images(x)
        c = self.condition(condition, x.shape[0])
        return self(x) if c is None else self((x, c))

    def interpolate(self, first: Any, second: Any, steps: int = 8, condition: Any = None) -> Any:
        """Images on the straight line in latent space between two images or batches of images.

        Args:
            first, second: `(H, W, C)` or `(B, H, W, C)`.
            steps: how many, both ends included.
            condition: of a conditional model, one for all images.

        Returns:
            `(steps, H, W, C)` or `(B, steps, H, W, C)`.

        Raises:
            ValueError: if steps < 2, or for images of another shape.
        """
        if steps < 2:
            raise ValueError(f"Argument `steps` must be >= 2. Received: steps={steps}")
        first, second = ops.convert_to_tensor(first), ops.convert_to_tensor(second)
        single = len(first.shape) == 3
        if single:
            first, second = first[None], second[None]
        a, b = (self.encode_mean(x, condition)[:, None] for x in (first, second))  # (B, 1, D)
        t = ops.linspace(0.0, 1.0, steps)[None, :, None]  # (1, steps, 1)
        z = (1 - t) * a + t * b  # (B, steps, D)
        images = self.decode(ops.reshape(z, (-1, self.latent_dim)), condition)
        images = ops.reshape(images, (-1, steps, *self.image_shape))
        return images[0] if single else images

    # Training.

    def compile(self, optimizer: Any = "adam", **kwargs: Any) -> None:
        """As `keras.Model.compile`; the loss and the metrics are the model's own.

        An optimizer that is given by its name clips gradients to a norm of 200, which only an explosion reaches.
        Under MultiWorkerMirroredStrategy there is one step per execution: Keras 3.15 can't do more there.
        """
        for name in ("loss", "metrics", "weighted_metrics", "loss_weights"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{type(self).__name__} computes its own loss and metrics from its parts: choose another "
                    f"`likelihood` or `objective` instead. Received: {name}={kwargs[name]}"
                )
        if isinstance(optimizer, str):
            optimizer = keras.optimizers.get({"class_name": optimizer, "config": {"global_clipnorm": CLIP_NORM}})
        if _many_workers():
            kwargs["steps_per_execution"] = 1
        super().compile(optimizer=optimizer, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as before saving; the model is always built, so the optimizer's slots are there to be loaded."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`; labels are the conditions of a conditional model, others ignore them."""
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)  # Keras's default only makes it warn
        return self._run(super().fit, x, self._target(y, kwargs), *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`, on what `fit` takes; the same data gives the same numbers every time."""
        return self._run(super().evaluate, x, self._target(y, kwargs), *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.predict`: reconstructions of images, or of pairs `(x, condition)`."""
        return self._run(super().predict, x, *args, **kwargs)

    def _target(self, y: Any, settings: dict[str, Any]) -> Any:
        """Keras drops sample_weight where there is no y."""
        return settings.get("sample_weight") if y is None and self.condition_dim is None else y

    def _run(self, run: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
        images = x.element_spec if isinstance(x, tf.data.Dataset) else x
        while isinstance(images, tuple | list) and images:
            images = images[0]
        if tf.TensorShape(getattr(images, "shape", None)).rank:  # told before anything is traced
            self._check_shape(images.shape)
        try:
            return run(x, *args, **kwargs)
        except tf.errors.InvalidArgumentError as error:
            for message in (OUTSIDE, NOT_FINITE, NO_CONDITION, NO_LABEL):
                if message in error.message:
                    raise ValueError(message) from error
            raise

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """With replicas, Keras would begin a pass over the data to build the model, which is built already."""
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def noise(self, step: Any, batch: Any = None, stream: int = 0) -> Noise:
        """Random numbers for one step: a function of the model's seed, `stream` and `step`, on any replica.

        `batch` is how many examples this replica has.
        """
        seed, context = self.seed + 7919 * stream, tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return Noise(seed, step)
        index, count = context.replica_id_in_sync_group, context.num_replicas_in_sync
        if isinstance(batch, int) or self.jit_compile:  # all have as many; XLA can't draw what it learns on the way
            return Noise(seed, step, (index * batch, batch, count * batch))
        sizes = _over_replicas(tf.one_hot(index, count, dtype="int32") * batch)
        return Noise(seed, step, (tf.reduce_sum(sizes[:index]), batch, tf.reduce_sum(sizes)))

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = self.check_images(x, training=True)
        with tf.GradientTape() as tape:
            values = self.batch_values(x, self.noise(self.step, ops.shape(x)[0]), True, y)
            # Gradients of the replicas are summed; float16 needs the loss scaled.
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            loss = _part_of_mean(values["loss"], sample_weight) + sum(self.losses) / replicas
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, self.trainable_weights)
        finite = _all_finite([x, loss], gradients)
        _apply_if(finite, self.optimizer, gradients, self.trainable_weights)
        self.skipped.update(finite)
        self.after_step(_overall_means(values, sample_weight))
        self.step.assign_add(1)
        counted = ops.cast(finite, "float32")
        counted *= ops.ones_like(values["loss"]) if sample_weight is None else ops.cast(sample_weight, "float32")
        return self._update_metrics({name: ops.where(finite, v, 0.0) for name, v in values.items()}, counted)

    def test_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        # Numbered by the examples seen so far: the same noise in every evaluation.
        seen = self.trackers["loss"].count * tf.distribute.get_strategy().num_replicas_in_sync
        x = self.check_images(x)
        noise = self.noise(seen, ops.shape(x)[0], stream=1)
        return self._update_metrics(self.batch_values(x, noise, False, y), sample_weight)

    def predict_step(self, data: Any) -> Any:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        x, c = x if isinstance(x, tuple | list) else (x, None if self.condition_dim is None else y)
        x = self.check_images(x)
        return self(x if c is None else (x, c), training=False)

    def _update_metrics(self, values: dict[str, Any], sample_weight: Any) -> dict[str, Any]:
        for name, tracker in self.trackers.items():
            tracker.update_state(values[name], sample_weight=sample_weight)
        results = self.get_metrics_result()
        if _many_workers():
            # Keras 3.15 sums what the workers report over a first axis, which scalars haven't.
            return {name: ops.reshape(value, (1,)) for name, value in results.items()}
        return results

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self.trackers.values())

    # Saving.

    _parts: tuple[str, ...] = ("encoder", "decoder", "likelihood")

    def _settings(self) -> dict[str, Any]:
        """Arguments of the constructor that aren't parts."""
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


def _many_workers() -> bool:
    return isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def _over_replicas(value: Any) -> Any:
    """The sum of `value` over the replicas, on each of them."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def _part_of_mean(values: Any, sample_weight: Any) -> Any:
    """What this replica brings to the mean over the batch of all (divided by the batch, as Keras does, not by weights).

    Replicas' batches differ in size, where the last batch of an epoch is a smaller one.
    """
    if sample_weight is not None:
        values = values * ops.cast(sample_weight, values.dtype)
    batch = _over_replicas(ops.cast(ops.shape(values)[0], values.dtype))
    return ops.sum(values) / ops.maximum(batch, 1.0)


def _all_finite(tensors: list[Any], gradients: list[Any]) -> Any:
    """Whether all values are finite, on all replicas.

    (Their sum is, and the sum of the gradients' squares, unless one isn't, or it is beyond 1e38.)
    """
    total = sum(tf.reduce_sum(tensor) for tensor in tensors)
    total += sum(tf.nn.l2_loss(tf.convert_to_tensor(gradient)) for gradient in gradients if gradient is not None)
    return _over_replicas(1.0 - tf.cast(tf.math.is_finite(total), "float32")) == 0.0


def _apply_if(finite: Any, optimizer: Any, gradients: list[Any], weights: list[Any]) -> None:
    """Take the step, or leave weights and optimizer as they are."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.apply(gradients, weights)  # skips by itself, and lowers the scale
        return
    if not optimizer.built:
        optimizer.build(weights)
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        tf.cond(finite, lambda: optimizer.apply(gradients, weights), lambda: None)
        return

    def in_all_replicas(strategy: Any, finite: Any, gradients: list[Any]) -> None:
        """A condition in a replica can't have a branch in which replicas meet: it is put around them."""

        def apply() -> None:
            strategy.extended.call_for_each_replica(optimizer.apply, args=(gradients, weights))

        tf.cond(strategy.experimental_local_results(finite)[0], apply, lambda: None)

    tf.distribute.get_replica_context().merge_call(in_all_replicas, args=(finite, gradients))


def _overall_means(values: dict[str, Any], sample_weight: Any) -> dict[str, Any]:
    """Weighted means of `(B,)` values over the batches of all replicas."""
    table = ops.stack([ops.ones_like(values["loss"]), *values.values()])  # (1 + number of values, B)
    if sample_weight is not None:
        table = table * ops.cast(sample_weight, table.dtype)
    sums = _over_replicas(ops.sum(table, axis=1))
    return {name: total / ops.maximum(sums[0], 1e-30) for name, total in zip(values, ops.unstack(sums[1:]))}


def _given(name: str, value: Any, part_name: str, part: Any) -> Any:
    """A size from the argument, or from the part that knows it."""
    known = getattr(part, name, None)
    if value is None and known is None:
        raise ValueError(
            f"Argument `{name}` is missing, and the {part_name} doesn't know it: pass `{name}=...`. "
            f"Received: {part_name}={part!r}"
        )
    if known is not None and value is not None and known != (tuple(value) if name == "image_shape" else value):
        raise ValueError(
            f"Argument `{name}` contradicts the {part_name}. Received: {name}={value}, {part_name}.{name}={known}"
        )
    return known if value is None else value


def _fit_param_size(network: Any, size: int) -> None:
    """Tell one of our own networks, if it isn't built yet, how many numbers are wanted."""
    if isinstance(network, Encoder | Decoder) and not network.built and network.param_size is None:
        network.param_size = size


def _output_shape(network: keras.Model, input_shape: tuple[int, ...]) -> tuple[int | None, ...]:
    """Shape of the output without the batch; builds the network if it isn't."""
    return tuple(network(keras.KerasTensor((None, *input_shape))).shape[1:])
