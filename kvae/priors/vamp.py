"""A prior that averages the model's posterior over learned images."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import initializers, ops

from kvae.arguments import at_least
from kvae.distributions import DiagonalNormal, FullCovarianceNormal
from kvae.priors.base import Prior
from kvae.priors.fixed_mixture import FixedMixture, mixture_log_density


@keras.saving.register_keras_serializable("kvae")
class VampPrior(Prior):
    """Variational mixture of posteriors (Tomczak & Welling 2018, https://arxiv.org/abs/1705.07120, eq. 9–10).

    p(z) = 1/K Σₖ q(z | uₖ). The pseudo-inputs uₖ are weights with the shape of an image, clipped to [0, 1]. q is the
    encoder's posterior (without dropout, with moving averages). It must be `DiagonalNormal` or `FullCovarianceNormal`.
    To start from training images, call `vae.prior.images.assign(x[:500])`.

    Args:
        pseudo_inputs: number of pseudo-inputs, K.
        mean, stddev: mean and standard deviation of the initial pixels of the pseudo-inputs.
        seed: seed of the initial pixels.

    Raises:
        ValueError: if pseudo_inputs < 1 or stddev < 0, for a conditional model, or for another posterior.

    Example:

        >>> from kvae import VAE
        >>> vae = VAE(prior=VampPrior(pseudo_inputs=4), latent_dim=2, image_shape=(8, 8, 1))
        >>> vae.prior.sample(3, seed=0).shape
        TensorShape([3, 2])
    """

    def __init__(self, pseudo_inputs: int = 500, mean: float = 0.5, stddev: float = 0.1, seed: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.pseudo_inputs, self.seed = at_least("pseudo_inputs", pseudo_inputs, 1), seed
        self.mean, self.stddev = float(mean), float(at_least("stddev", stddev, 0))

    def connect(self, model: Any) -> None:
        if model.condition_dim is not None:
            raise ValueError(
                "VampPrior requires a model without conditions: use another prior, such as `ConditionalNormal`. "
                f"Received: condition_dim={model.condition_dim}"
            )
        posterior, encoder = model.posterior, model.encoder
        if not isinstance(posterior, DiagonalNormal | FullCovarianceNormal):
            raise ValueError(
                "VampPrior requires the posterior DiagonalNormal or FullCovarianceNormal. "
                f"Received: {type(posterior).__name__}"
            )
        if self.built and self.encoder() is not encoder:
            raise ValueError(
                "Expected a VampPrior of this model's encoder. Received: a VampPrior that belongs to another model"
            )
        self.encoder_shape, self.bounded = model.encoder_shape, model.bounded
        self.encoder: Callable[[], Any] = lambda: encoder
        # A function, because Keras would track and save parts of the model that are attributes.
        self.encode: Callable[[Any], Any] = lambda images: posterior.split(encoder(images, training=False))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if not hasattr(self, "encode"):
            raise ValueError("VampPrior is built by its VAE: pass it as `VAE(prior=...)`.")
        super().build(input_shape)
        start = initializers.RandomNormal(self.mean, self.stddev, seed=self.seed)
        shape = (self.pseudo_inputs, *self.encoder_shape)
        self.images = self.add_weight(name="images", shape=shape, initializer=start)

    def get_build_config(self) -> None:
        """Return None: a loaded model connects its prior before it builds it."""

    def posteriors(self) -> tuple[Any, ...]:
        """Return the means and log-scales `(K, D)` of q(z|uₖ).

        With a full covariance, also return the entries below its diagonal, `(K, D, D)`.
        """
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
