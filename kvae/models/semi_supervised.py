"""M2: labels as part of the generative model, for datasets in which few images have one."""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kvae.arguments import at_least
from kvae.distributions import Noise
from kvae.models.parts import check_part, output_shape
from kvae.models.steps import NO_LABEL
from kvae.models.vae import VAE
from kvae.networks import Encoder, kind_of
from kvae.objectives import Criterion

UNLABELLED = -1


@keras.saving.register_keras_serializable("kvae")
class SemiSupervisedVAE(VAE):
    """A conditional VAE that infers missing labels: model M2 of Kingma et al. 2014.

    p(x, y, z) = p(y) p(z) p(x|y, z), with q(z|x, y) and a classifier q(y|x). Labels are integers; −1 marks an image
    without a label (as in scikit-learn's semi-supervised estimators). With L(x, y) = −ELBO(x|y) − log p(y) the loss of
    an image is (https://arxiv.org/abs/1406.5298, eq. 6–9)

    * L(x, y) − α log q(y|x), with its label y;
    * Σ_y q(y|x) L(x, y) − H(q(y|x)), without a label.

    `fit` and `evaluate` report `elbo` (a bound on log p(x, y), or on log p(x) without a label), `distortion` and `rate`
    in nats, and the classifier's `accuracy` on images with a label. For images without a label, the terms are means
    over q(y|x). Each step computes every image with every label: it takes `num_classes` times as long as a VAE's.

    Args:
        classifier: images to logits `(B, num_classes)`, any Keras model (default: another `kvae.Encoder`).
        num_classes: C, >= 2; the `condition_dim` of the VAE.
        alpha: α, >= 0, weight of the classification loss. The paper uses 0.1 · N for its sum over a dataset with N
            labelled images; here, each image has its own loss, and this becomes 0.1 · N / (number of labelled images in
            an epoch).
        vae: encoder, decoder, posterior, likelihood, prior, objective, latent_dim, event_shape, bounded and seed of
            `kvae.VAE`. The objective must have one sample.

    Raises:
        ValueError: if parts don't fit together.

    Example:

        >>> import numpy as np
        >>> x, y = np.random.default_rng(0).random((64, 8, 8, 1)), np.full(64, -1)
        >>> y[:8] = np.arange(8) % 2
        >>> model = SemiSupervisedVAE(num_classes=2, latent_dim=2, image_shape=(8, 8, 1))
        >>> model.compile()
        >>> history = model.fit(x, y, verbose=0)
        >>> model.classify(x).shape, model.generate(3, condition=1).shape
        (TensorShape([64, 2]), TensorShape([3, 8, 8, 1]))
    """

    def __init__(
        self,
        encoder: keras.Model | None = None,
        decoder: keras.Model | None = None,
        *,
        classifier: keras.Model | None = None,
        num_classes: int | None = None,
        alpha: float = 1.0,
        **vae: Any,
    ):
        num_classes = vae.pop("condition_dim", num_classes)
        if num_classes is None or num_classes < 2:
            raise ValueError(f"Argument `num_classes` must be >= 2. Received: num_classes={num_classes}")
        self.num_classes, self.alpha = num_classes, float(at_least("alpha", alpha, 0))
        if classifier is None:
            classifier = Encoder(num_classes, param_size=num_classes, name="classifier")
        self.classifier = check_part("classifier", classifier, keras.layers.Layer)
        super().__init__(encoder, decoder, condition_dim=num_classes, **vae)
        if self.posterior.is_joint:
            raise ValueError(
                "Expected a posterior of a vector of latents: a hierarchy would be drawn once for each class. "
                f"Received: posterior={type(self.posterior).__name__}"
            )
        if self.objective.num_samples > 1:
            raise ValueError(
                f"Expected an objective with one sample, such as ELBO(). Received: {type(self.objective).__name__} "
                f"with num_samples={self.objective.num_samples}"
            )

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        self.accuracy = keras.metrics.Mean(name="accuracy", dtype="float32")
        got = output_shape("classifier", self.classifier, self.event_shape)
        if got != (self.num_classes,):
            raise ValueError(
                f"The classifier must turn {kind_of(self.event_shape)} {self.event_shape} into {self.num_classes} "
                f"logits each. Received: output shape {got}"
            )
        super().build(input_shape)

    def _call_spec(self) -> Any:
        return keras.InputSpec(shape=(None, *self.event_shape), dtype="float32", name="image")

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*super().metrics, self.accuracy]

    def classify(self, x: Any) -> Any:
        """Return the probabilities q(y|x) of the labels of images, `(B, num_classes)`."""
        return ops.softmax(ops.cast(self.classifier(self.check_images(x)), "float32"))

    def probable_labels(self, x: Any, training: bool = False) -> Any:
        """Return the most probable label of each image under q(y|x), `(B,)`."""
        return tf.argmax(self.classifier(x, training=training), axis=-1)  # LiteRT has no built-in for Keras's argmax

    def call(self, x: Any, training: bool = False) -> Any:
        """Return reconstructions of a pair `(x, condition)`, or of images with their most probable labels."""
        if not isinstance(x, tuple | list):
            x = (x, self.probable_labels(x, training))
        return super().call(x, training)

    def batch_values(self, x: Any, noise: Noise, training: bool, y: Any = None, target: Any = None) -> dict[str, Any]:
        labels = self._labels(y, x)
        logits = ops.cast(self.classifier(x, training=training), "float32")
        log_q = ops.log_softmax(logits)  # (B, C)
        known = ops.cast(labels >= 0, "float32")  # (B,)
        one_hot = ops.one_hot(labels, self.num_classes, dtype="float32")
        weights = ops.where(known[:, None] > 0, one_hot, ops.exp(log_q))  # q(y|x), or the label: (B, C)

        # Every image with every label: B · C images.
        c = ops.tile(ops.eye(self.num_classes, dtype="float32"), (ops.shape(x)[0], 1))
        x, target = (None if v is None else ops.repeat(v, self.num_classes, axis=0) for v in (x, target))
        terms = self.terms(x, noise, 1, training, c, target)
        distortion, rate, cost = (
            ops.reshape(values, (-1, self.num_classes))
            for values in (terms.distortion[0], terms.rate, self.objective(terms, self.step))
        )
        z_mean = ops.reshape(terms.z_mean, (-1, self.num_classes, self.latent_dim))

        def mean(values: Any) -> Any:
            return ops.sum(weights * values, axis=-1)

        label_cost = math.log(self.num_classes) + (1 - known) * mean(log_q)  # −log p(y), less H(q(y|x)) if unknown
        elbo = -(mean(distortion + rate) + label_cost)
        loss = -elbo
        if training:
            loss = mean(cost) + label_cost - self.alpha * known * ops.sum(one_hot * log_q, axis=-1)
        right = ops.cast(ops.argmax(logits, axis=-1) == labels, "float32")
        return {
            "loss": loss, "elbo": elbo, "distortion": mean(distortion), "rate": mean(rate),
            "accuracy": right, "known": known, "z_mean": ops.sum(weights[..., None] * z_mean, axis=1),
        }  # fmt: skip

    def criterion(self) -> Criterion:
        return Criterion(why="the loss of the classifier is not a validation value")

    def _update_metrics(self, values: dict[str, Any], sample_weight: Any) -> dict[str, Any]:
        weight = values["known"] if sample_weight is None else values["known"] * ops.cast(sample_weight, "float32")
        self.accuracy.update_state(values["accuracy"], sample_weight=weight)
        return super()._update_metrics(values, sample_weight)

    def _labels(self, y: Any, x: Any) -> Any:
        """Return labels as int32 `(B,)`, −1 for an image without a label."""
        if y is None:
            return ops.full((ops.shape(x)[0],), UNLABELLED, dtype="int32")
        y = ops.cast(y, "int32")
        valid = tf.reduce_all((y >= UNLABELLED) & (y < self.num_classes))
        if len(y.shape) != 1:
            raise ValueError(NO_LABEL.replace("another number", f"an array of shape {tuple(y.shape)}"))
        if not tf.is_symbolic_tensor(valid) and not valid:
            raise ValueError(NO_LABEL)
        tf.debugging.Assert(valid, [NO_LABEL])
        return y
