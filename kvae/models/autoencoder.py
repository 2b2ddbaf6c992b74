"""The plain autoencoder, for comparison with the VAE."""

from typing import Any, NoReturn

import keras

from kvae.distributions import Distribution, Noise
from kvae.models.base import LatentModel, Posterior
from kvae.objectives import Criterion


@keras.saving.register_keras_serializable("kvae")
class Autoencoder(LatentModel):
    """Deterministic autoencoder: a bottleneck and a reconstruction loss, for comparison with `kvae.VAE`.

    It minimises the distortion −log p(x|z) at z = encoder(x) (Hinton & Salakhutdinov 2006). Its latent space has no
    prior: the model reconstructs images, but can't generate them.

    Args:
        encoder: images to D latents, any Keras model (default `kvae.Encoder`).
        decoder: latents to raw likelihood parameters, any Keras model (default `kvae.Decoder`).
        likelihood: likelihood of the reconstruction (default `kvae.likelihoods.Bernoulli`).
        latent_dim: D; required unless the encoder defines it.
        event_shape: shape of x, as in `kvae.VAE`; required unless the decoder defines it.
        condition_dim: size of the condition of encoder and decoder, as in `kvae.VAE`.
        bounded: whether x must be in [0, 1], as in `kvae.VAE`.
        image_shape: another name of event_shape, for images.

    Raises:
        ValueError: if parts don't fit together; the message says which shape was expected.

    Example:

        >>> import numpy as np
        >>> autoencoder = Autoencoder(latent_dim=2, image_shape=(8, 8, 1))
        >>> autoencoder.compile()
        >>> autoencoder.encode(np.zeros((3, 8, 8, 1))).mean.shape
        TensorShape([3, 2])
    """

    value_names = ("loss", "distortion")

    def __init__(
        self,
        encoder: keras.Model | None = None,
        decoder: keras.Model | None = None,
        *,
        likelihood: Distribution | None = None,
        latent_dim: int | None = None,
        event_shape: tuple[int, ...] | None = None,
        condition_dim: int | None = None,
        bounded: bool = True,
        seed: int = 0,
        image_shape: tuple[int, int, int] | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            encoder, decoder, likelihood, latent_dim, event_shape, image_shape, seed, condition_dim, bounded, **kwargs
        )
        self.build()

    def posterior_size(self) -> int:
        return self.latent_dim

    def batch_values(self, x: Any, noise: Noise, training: bool, y: Any = None, target: Any = None) -> dict[str, Any]:
        c = self.condition(y, x.shape[0], labels=True)
        params = self.decoder_params(self.point(x, c, training), c, training)
        log_likelihood = self.likelihood.training_log_prob if training else self.likelihood.log_prob
        distortion = -log_likelihood(params, x if target is None else target)
        return {"loss": distortion, "distortion": distortion}

    def point(self, x: Any, c: Any = None, training: bool = False) -> Any:
        return self.encoder_params(x, c, training)

    def criterion(self) -> Criterion:
        """Return the criterion for the epoch that is kept: the lowest validation distortion."""
        return Criterion("distortion", lambda values: values["distortion"])

    def encode(self, x: Any, condition: Any = None) -> Posterior:
        """Return latents, `(B, D)`, as `mean`; `variance` is None."""
        return Posterior(self.encode_mean(x, condition), None)

    def generate(self, n: int, seed: int | None = None) -> NoReturn:
        """Raise a TypeError: an autoencoder has no prior to generate from."""
        raise TypeError(
            "An Autoencoder can't generate images, because it has no prior p(z). Train a kvae.VAE, or decode points "
            "near the codes of real images: autoencoder.decode(autoencoder.encode(x).mean). "
            f"Received: generate(n={n})"
        )
