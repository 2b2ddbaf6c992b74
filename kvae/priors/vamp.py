"""The prior that is the model's own posterior, averaged over images that are learned."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import initializers, ops

from kvae.distributions import DiagonalNormal, FullCovarianceNormal
from kvae.priors.base import Prior
from kvae.priors.fixed_mixture import FixedMixture, mixture_log_density


@keras.saving.register_keras_serializable("kvae")
class VampPrior(Prior):
    """Variational mixture of posteriors (Tomczak & Welling 2018, https://arxiv.org/abs/1705.07120, eq. 9–10).

    p(z) = 1/K Σₖ q(z | uₖ), where the pseudo-inputs uₖ are weights of the shape of an image, clipped to [0, 1], and q
    is the encoder's posterior (without dropout, with moving averages). The posterior must be `DiagonalNormal` or
    `FullCovarianceNormal`. To start from training images: `vae.prior.images.assign(x[:500])`.

    Args:
        pseudo_inputs: K.
        mean, stddev: of the pseudo-inputs' pixels at first.
        seed: of them.

    Raises:
        ValueError: if pseudo_inputs < 1 or stddev < 0; for a conditional model, or another posterior.

    Example:

        >>> from kvae import VAE
        >>> vae = VAE(prior=VampPrior(pseudo_inputs=4), latent_dim=2, image_shape=(8, 8, 1))
        >>> vae.prior.sample(3, seed=0).shape
        TensorShape([3, 2])
    """

    def __init__(self, pseudo_inputs: int = 500, mean: float = 0.5, stddev: float = 0.1, seed: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        if pseudo_inputs < 1:
            raise ValueError(f"Argument `pseudo_inputs` must be >= 1. Received: pseudo_inputs={pseudo_inputs}")
        if not stddev >= 0:
            raise ValueError(f"Argument `stddev` must be >= 0. Received: stddev={stddev}")
        self.pseudo_inputs, self.mean, self.stddev, self.seed = pseudo_inputs, float(mean), float(stddev), seed

    def connect(self, model: Any) -> None:
        if model.condition_dim is not None:
            raise ValueError(
                "VampPrior is a prior of models without conditions: take `ConditionalNormal` or another one. "
                f"Received: condition_dim={model.condition_dim}"
            )
        posterior, encoder = model.posterior, model.encoder
        if not isinstance(posterior, DiagonalNormal | FullCovarianceNormal):
            raise ValueError(
                "VampPrior needs a posterior that is DiagonalNormal or FullCovarianceNormal. "
                f"Received: {type(posterior).__name__}"
            )
        if self.built and self.encoder() is not encoder:
            raise ValueError(
                "Expected a VampPrior of this model's encoder. Received: one that belongs to another model"
            )
        self.image_shape, self.bounded = model.image_shape, model.bounded
        self.encoder: Callable[[], Any] = lambda: encoder
        # A function, for Keras would track, and save, parts of the model that were attributes here.
        self.encode = lambda images: posterior.split(encoder(images, training=False))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if not hasattr(self, "encode"):
            raise ValueError("VampPrior is built by the VAE that it belongs to: pass it as `VAE(prior=...)`.")
        super().build(input_shape)
        start = initializers.RandomNormal(self.mean, self.stddev, seed=self.seed)
        shape = (self.pseudo_inputs, *self.image_shape)
        self.images = self.add_weight(name="images", shape=shape, initializer=start)

    def get_build_config(self) -> None:
        """None: a model that is loaded connects its prior before building it."""

    def posteriors(self) -> tuple[Any, ...]:
        """Means and log-scales `(K, D)` of q(z|uₖ), and with a full covariance what stands below its diagonal."""
        images = ops.convert_to_tensor(self.images)
        return self.encode(ops.clip(images, 0.0, 1.0) if self.bounded else images)

    def log_prob(self, z: Any, condition: Any = None) -> Any:
        means, log_scales, *below = self.posteriors()
        whitening = None
        if below:  # z = μ + σ (I + T) ε
            identity = ops.broadcast_to(ops.eye(self.latent_dim, dtype="float32"), below[0].shape)
            inverse = ops.linalg.solve_triangular(identity + below[0], identity, lower=True)
            whitening = ops.swapaxes(inverse, -1, -2)
        log_weights = ops.full((self.pseudo_inputs,), -math.log(self.pseudo_inputs), dtype="float32")
        return mixture_log_density(z, log_weights, means, log_scales, whitening)

    def fixed(self) -> FixedMixture:
        means, log_scales, *below = (np.asarray(value) for value in self.posteriors())
        lower = np.eye(self.latent_dim) + below[0] if below else None
        return FixedMixture.of(np.zeros(self.pseudo_inputs), means, np.exp(log_scales), lower)

    def get_config(self) -> dict[str, Any]:
        settings = {"pseudo_inputs": self.pseudo_inputs, "mean": self.mean, "stddev": self.stddev, "seed": self.seed}
        return {**super().get_config(), **settings}
