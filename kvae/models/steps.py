"""Training, evaluation and prediction of a model: compiling, the calls of Keras, and their steps."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kvae.callbacks import SkippedStepsWarning
from kvae.distributions import Noise
from kvae.models.batches import Batch, batch_of, unpack
from kvae.models.metrics import SkippedSteps, StepMean
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
)
from kvae.state import Before, restore, restore_replicas

NO_CONDITION = (
    "Expected conditions that are integers from 0 to condition_dim − 1, or finite vectors. Received: a number outside "
    "this range, NaN or infinity"
)
OUTSIDE = "Expected images with values in [0, 1] and no NaN; scale them, for example x / 255. Received: values outside"
NO_LABEL = "Expected labels that are integers from 0 to num_classes − 1, or −1 for none. Received: another number"
NOT_FINITE = "Expected finite values. Received: NaN or infinity"
CLIP_NORM = 200.0  # nats: far above ordinary gradients, so that only an explosion is clipped


class TrainableModel(keras.Model):
    """The Keras training protocol of a model whose loss is made of values for each example.

    A subclass defines `batch_values`, `check_images`, `condition` and the attributes below.
    """

    event_shape: tuple[int, ...]
    condition_dim: int | None
    seed: int
    step: Any  # number of training steps, a weight
    skipped: SkippedSteps
    trackers: dict[str, StepMean]

    def batch_values(self, x: Any, noise: Noise, training: bool, y: Any = None, target: Any = None) -> dict[str, Any]:
        """Return one value per example, `(B,)`, for each tracker, and optionally more for the model's metrics.

        `y` are the conditions (or labels) of the images. `target` are the images that the likelihood evaluates (default
        `x`).
        """
        raise NotImplementedError(f"{type(self).__name__} must define `batch_values`.")

    def check_images(self, x: Any, training: bool = False) -> Any:
        """Return checked images as float32."""
        raise NotImplementedError(f"{type(self).__name__} must define `check_images`.")

    def after_step(self, values: dict[str, Any]) -> None:
        """Update the state of the model after a training step; `values` are the means over its whole batch."""

    def compile(self, optimizer: Any = "adam", *, global_clipnorm: float | None = CLIP_NORM, **kwargs: Any) -> None:
        """Compile as `keras.Model.compile` does, with the model's own loss and metrics.

        For float16 weights, an optimizer given by name gets an epsilon that float16 can represent. Under
        MultiWorkerMirroredStrategy there is one step per execution, because Keras 3.15 doesn't support more.

        Args:
            optimizer: name, or instance.
            global_clipnorm: largest norm of the gradient, in nats, for an optimizer that doesn't clip itself. The
                default is reached only if gradients explode. None disables clipping.
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
        return batch_of(data, self.event_shape, self.condition_dim is not None)

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
        may_be_missing = tf.math.is_nan(part.x) & self.likelihood.accepts_missing
        images = ops.sum(tf.where(may_be_missing, 0.0, part.x))
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


def _clip(optimizer: keras.optimizers.Optimizer, norm: float | None) -> None:
    """Make the optimizer clip gradients to this norm, unless it clips them already."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # inside a LossScaleOptimizer
    if norm is not None and not (inner.clipnorm or inner.clipvalue or inner.global_clipnorm):
        inner.global_clipnorm = float(norm)
