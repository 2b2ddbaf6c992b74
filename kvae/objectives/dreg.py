"""The importance-weighted bound with a better gradient for the encoder."""

from typing import Any

import keras
from keras import ops

from kvae.objectives.base import Terms
from kvae.objectives.gradients import check_separate, with_gradient_of
from kvae.objectives.iwae import IWAE, log_mean_exp


@keras.saving.register_keras_serializable("kvae")
class DReG(IWAE):
    """The bound of `IWAE`, with doubly reparametrised gradients.

    With w̃_k = w_k / Σ w, the decoder's gradient is Σ w̃_k ∂ log w_k / ∂θ, and the encoder's is
    Σ w̃_k² (∂ log w_k / ∂z_k) (∂z_k / ∂φ) (Tucker et al. 2019, https://arxiv.org/abs/1810.04152, eq. 8). In
    expectation, both are the gradients of the bound. The encoder's gradient has far less noise if K is large.

    Args:
        num_samples: posterior samples per example, K.

    Raises:
        ValueError: if K < 1, or if the posterior of the VAE has its own weights, as a flow has: the gradient of
            log q(z|x) through them can't be separated from the gradient through z. Also for a hierarchy of latents.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1), objective=DReG(num_samples=8))
    """

    stop_posterior = True

    def connect(self, model: Any) -> None:
        check_separate(self, model)
        if model.posterior.trainable_weights:
            raise ValueError(
                "Doubly reparametrised gradients require a posterior without its own weights: use `IWAE`. "
                f"Received: posterior={type(model.posterior).__name__}"
            )

    def call(self, terms: Terms, step: Any = None) -> Any:
        w = ops.stop_gradient(ops.softmax(terms.log_weight, axis=0))  # w̃, (K, B)
        terms.path.factor = w[..., None]  # for the gradient of log p(x, z), which already contains one w̃
        log_joint = terms.log_p - terms.distortion
        surrogate = ops.sum(w * log_joint - ops.square(w) * terms.log_q, axis=0)
        return -with_gradient_of(surrogate, log_mean_exp(terms.log_weight))
