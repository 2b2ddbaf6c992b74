"""A classifier that starts with the weights of a trained encoder."""

import copy
import types
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kvae.arguments import at_least
from kvae.distributions import Distribution
from kvae.features.outputs import encoder_output
from kvae.models import LatentModel
from kvae.models.precision import fit_epsilon
from kvae.networks import check_event_shape
from kvae.networks.composite import Composite
from kvae.saving import Saved


@keras.saving.register_keras_serializable("kvae")
class GradualUnfreezing(Saved):
    """A schedule that unfreezes the trunk's layers one after the other, starting next to the head.

    The last layer of the trunk starts to learn after `steps` training steps, the layer before it after 2 · `steps`,
    and so on (Howard & Ruder 2018, ULMFiT, §3.3, https://arxiv.org/abs/1801.06146).

    Args:
        steps: number of training steps between two layers, >= 1.
        rate: learning rate of an unfrozen layer, relative to that of the head.

    Raises:
        ValueError: if an argument is out of range.

    Example:

        >>> unfreezing = GradualUnfreezing(steps=100, rate=0.1)
        >>> [round(float(unfreezing(depth=1, step=step)), 3) for step in (0, 199, 200)]  # depth 0: next to the head
        [0.0, 0.0, 0.1]
    """

    def __init__(self, steps: int, rate: float = 0.1):
        self.steps, self.rate = at_least("steps", steps, 1), _check_rate("rate", rate)

    def __call__(self, depth: int, step: Any) -> Any:
        """Return the relative learning rate of the layer at a depth."""
        return self.rate * ops.cast(ops.cast(step, "int64") >= (depth + 1) * self.steps, "float32")


def classifier(
    model: LatentModel,
    num_classes: int,
    trainable: str = "all",
    trunk_rate: float | GradualUnfreezing = 0.1,
    output: str = "hidden",
    activation: str | None = "softmax",
    dropout: float = 0.0,
    class_names: Sequence[str] | None = None,
) -> "Classifier":
    """Make a Keras classifier that starts with the encoder of a trained model: compile it, and `fit` it with labels.

    The classifier has a copy of the encoder; the model doesn't change.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder` without conditions.
        num_classes: C, >= 2.
        trainable: layers to train: "head", only the new dense layer; "all"; or "last_n", such as "last_2", the head and
            the last n layers of the encoder.
        trunk_rate: learning rate of the encoder's layers relative to that of the head, for any optimizer; or a
            `GradualUnfreezing`. Unless it is 1, the encoder's weights are excluded from weight decay.
        output: input of the head: "hidden", "layers", "mean" or "moments", as in `kvae.features.feature_model`.
        activation: activation of the head; None gives logits.
        dropout: dropout rate before the head.
        class_names: C names, in the order of the outputs; exported files contain them.

    Raises:
        ValueError: if an argument is out of range, or the model is conditional.

    Example:

        >>> import numpy as np
        >>> from kvae import VAE
        >>> vae = VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> net = classifier(vae, num_classes=3, trainable="last_1")
        >>> net.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> net.predict(np.zeros((5, 8, 8, 1)), verbose=0).shape, len(net.trainable_weights)
        ((5, 3), 4)
    """
    if model.condition_dim is not None:
        raise ValueError(
            "Expected a model without conditions: the encoder of a conditional model requires the label. "
            f"Received: condition_dim={model.condition_dim}"
        )
    trained = copy.deepcopy(model)
    return Classifier(
        trained.encoder,
        num_classes,
        trainable,
        trunk_rate,
        event_shape=trained.event_shape,
        likelihood=trained.likelihood if trained.likelihood.standardizes else None,
        posterior=getattr(trained, "posterior", None),
        output=output,
        activation=activation,
        dropout=dropout,
        bounded=trained.bounded,
        class_names=class_names,
    )


@keras.saving.register_keras_serializable("kvae")
class Classifier(Composite, keras.Model):
    """An encoder with a dense layer on top, made by `classifier`.

    The argument `trainable` of `classifier` has the name `trainable_layers` here.

    `compile`, `fit`, `evaluate`, `predict`, `save` and `keras.models.load_model` work as for any Keras model.
    """

    condition_dim = None  # no conditions: see `classifier`

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        trainable_layers: str = "all",
        trunk_rate: float | GradualUnfreezing = 0.1,
        *,
        event_shape: tuple[int, ...] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        likelihood: Distribution | None = None,
        posterior: Distribution | None = None,
        output: str = "hidden",
        activation: str | None = "softmax",
        dropout: float = 0.0,
        bounded: bool = True,
        class_names: Sequence[str] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_classes = at_least("num_classes", num_classes, 2)
        self.bounded, self.class_names = bounded, check_class_names(class_names, num_classes)
        gradual = isinstance(trunk_rate, GradualUnfreezing)
        self.trunk_rate = trunk_rate if gradual else _check_rate("trunk_rate", trunk_rate)
        self.encoder, self.posterior, self.likelihood = encoder, posterior, likelihood
        self.event_shape = check_event_shape(event_shape, image_shape)
        self.trainable_layers, self.output_name = trainable_layers, output
        self.activation, self.dropout = activation, dropout
        self.drop = keras.layers.Dropout(dropout)
        self.head = keras.layers.Dense(num_classes, activation=activation, dtype="float32", name="classifier_head")
        features = encoder_output(self, self.encoder_input(keras.KerasTensor((None, *self.event_shape))), output)
        self.head.build(features.shape)
        learning = self.trunk[: _num_trainable(trainable_layers, len(self.trunk))]
        for layer in encoder_layers(encoder):
            layer.trainable = any(layer is other for other in learning)
        if posterior is not None:
            posterior.trainable = False
        self.build((None, *self.event_shape))

    def build(self, input_shape: Any) -> None:
        self.built = True  # the constructor has built the layers

    @property
    def trunk(self) -> list[keras.layers.Layer]:
        """The encoder's layers with weights that the head uses, starting next to the head."""
        return encoder_layers(self.encoder, with_head=self.output_name in ("mean", "moments"))[::-1]

    def encoder_input(self, x: Any) -> Any:
        """Return the input of the encoder: x, standardised if the likelihood of the VAE does so."""
        return x if self.likelihood is None else self.likelihood.standardize(x)

    def call(self, x: Any, training: bool = False) -> Any:
        """Return the probabilities (or logits) of the classes, `(B, C)`."""
        features = encoder_output(self, self.encoder_input(ops.cast(x, "float32")), self.output_name)
        return self.head(self.drop(features, training=training))

    def compile(self, optimizer: Any = "adam", *args: Any, **kwargs: Any) -> None:
        """Compile as with `keras.Model.compile`."""
        super().compile(optimizer, *args, **kwargs)
        fit_epsilon(self.optimizer, self.trainable_weights, change=isinstance(optimizer, str))
        if self.trunk_rate != 1.0:
            self._slow_down(getattr(self.optimizer, "inner_optimizer", self.optimizer))

    def export(
        self,
        filepath: Any,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Export as with `keras.Model.export`: images to probabilities."""
        if input_signature is None:
            input_signature = [keras.InputSpec(shape=(None, *self.event_shape), dtype="float32", name="image")]
        super().export(filepath, format, verbose, input_signature, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile with the settings of the saved model."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def _slow_down(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Make the optimizer update the trunk's weights with their own learning rates."""
        weights = [(depth, weight) for depth, layer in enumerate(self.trunk) for weight in layer.trainable_weights]
        if optimizer.weight_decay and not optimizer.built:
            optimizer.exclude_from_weight_decay([weight for _, weight in weights])
        depths = {optimizer._var_key(weight): depth for depth, weight in weights}
        update_step = types.MethodType(type(optimizer).update_step, optimizer)

        def update(gradient: Any, variable: Any, learning_rate: Any) -> None:
            depth = depths.get(optimizer._var_key(variable))
            if depth is not None:
                rate = self.trunk_rate
                rate = rate(depth, optimizer.iterations) if isinstance(rate, GradualUnfreezing) else rate
                learning_rate = learning_rate * ops.cast(rate, learning_rate.dtype)
            update_step(gradient, variable, learning_rate)

        optimizer.update_step = update

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "output": self.output_name}


def check_class_names(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...] | None:
    """Return the names of classes as strings; raise ValueError unless they are different and as many as the classes."""
    if names is None:
        return None
    texts = tuple(str(name) for name in names)
    if len(set(texts)) != len(texts) or len(texts) != num_classes:
        raise ValueError(
            f"Argument `class_names` must be {num_classes} different names. Received: {', '.join(texts) or 'none'}"
        )
    return texts


def encoder_layers(encoder: keras.Model, with_head: bool = True) -> list[keras.layers.Layer]:
    """Return the layers of an encoder that have weights, in order, with or without its last layer."""
    if hasattr(encoder, "body"):
        body = getattr(encoder.body, "chain", [encoder.body])
        found = [*body, *([encoder.head] if hasattr(encoder, "head") else [])]
    else:
        found = list(getattr(encoder, "layers", None) or [encoder])
    found = [layer for layer in found if layer.weights]
    return found if with_head else found[:-1]


def _num_trainable(trainable: str, layers: int) -> int:
    """Return how many layers of the trunk are trained."""
    named = {"head": 0, "all": layers}
    if trainable in named:
        return named[trainable]
    last, _, number = str(trainable).partition("_")
    if last == "last" and number.isdecimal() and 1 <= int(number) <= layers:
        return int(number)
    raise ValueError(
        f"Argument `trainable` must be 'head', 'all', or 'last_n' with n from 1 to {layers}. Received: {trainable!r}"
    )


def _check_rate(name: str, rate: Any) -> float:
    if not (isinstance(rate, int | float) and 0 <= rate <= 1):
        raise ValueError(f"Argument `{name}` must be a number from 0 to 1. Received: {name}={rate!r}")
    return float(rate)
