"""Objectives between the ELBO and the importance-weighted bound."""

from typing import Any

import keras
from keras import ops

from kvae.objectives.base import Objective, Terms
from kvae.objectives.criterion import Criterion, Values
from kvae.objectives.gradients import check_separate, with_gradient_of
from kvae.objectives.iwae import IWAE, bound_criterion, log_mean_exp

EPSILON = 1e-6


@keras.saving.register_keras_serializable("kvae")
class MIWAE(Objective):
    """The mean of M importance-weighted bounds: −1/M Σ_m log 1/K Σ_k w_mk, in nats.

    M = 1 is `IWAE`, and K = 1 is the ELBO. Values between them are a compromise of a tight bound and a good gradient
    for the encoder (Rainforth et al. 2018, https://arxiv.org/abs/1802.04537).

    Args:
        num_samples: all posterior samples of an example, M · K.
        num_groups: number of bounds, M, a divisor of `num_samples`.

    Raises:
        ValueError: if M < 1, or if M doesn't divide `num_samples`.

    Example:

        >>> import kvae
        >>> log_weight = ops.log(ops.convert_to_tensor([[1.0], [3.0], [2.0], [6.0]]))
        >>> terms = kvae.objectives.Terms(None, None, log_weight, None, None)
        >>> MIWAE(num_samples=4, num_groups=2)(terms).numpy().round(3)  # −(log 2 + log 4) / 2
        array([-1.04], dtype=float32)
    """

    def __init__(self, num_samples: int = 8, num_groups: int = 2, **kwargs: Any):
        super().__init__(num_samples, **kwargs)
        if num_groups < 1 or num_samples % num_groups:
            raise ValueError(
                "Argument `num_groups` must be >= 1 and divide `num_samples`. "
                f"Received: num_groups={num_groups}, num_samples={num_samples}"
            )
        self.num_groups = num_groups

    def grouped(self, log_weight: Any) -> Any:
        """Reshape `(M·K, B)` to `(M, K, B)`."""
        return ops.reshape(log_weight, (self.num_groups, self.num_samples // self.num_groups, -1))

    def call(self, terms: Terms, step: Any = None) -> Any:
        return -ops.mean(log_mean_exp(self.grouped(terms.log_weight), axis=1), axis=0)

    def criterion(self) -> Criterion:
        """Return the bound of all M · K samples: validation has no bounds of M groups, unless K = 1."""
        return bound_criterion(1 if self.num_groups == self.num_samples else self.num_samples)


@keras.saving.register_keras_serializable("kvae")
class PIWAE(MIWAE):
    """The decoder's gradient of `IWAE` with all M · K samples, and the encoder's gradient of `MIWAE`.

    (Rainforth et al. 2018.) The loss, in nats, is the bound of `IWAE`. A sample has the weight w̃ in that bound, and v
    in the bound of `MIWAE`. log p(x, z) is weighted with max(w̃, 10⁻⁶ v) instead of w̃, so that its gradient doesn't
    vanish before it is multiplied by v / w̃ for the encoder.

    Args:
        num_samples: all posterior samples of an example, M · K.
        num_groups: number of groups, M, a divisor of `num_samples`.

    Raises:
        ValueError: if M < 1, if M doesn't divide `num_samples`, or for a hierarchy of latents.

    Example:

        >>> import kvae
        >>> objective = PIWAE(num_samples=64, num_groups=8)
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1), objective=objective)
    """

    def connect(self, model: Any) -> None:
        check_separate(self, model)

    def call(self, terms: Terms, step: Any = None) -> Any:
        log_weight = ops.stop_gradient(terms.log_weight)  # (M·K, B)
        w = ops.softmax(log_weight, axis=0)
        v = ops.reshape(ops.softmax(self.grouped(log_weight), axis=1), ops.shape(w)) / self.num_groups
        w = ops.maximum(w, ops.maximum(EPSILON * v, 1e-30))
        terms.path.factor = (v / w)[..., None]
        surrogate = ops.sum(w * (terms.log_p - terms.distortion) - v * terms.log_q, axis=0)
        return -with_gradient_of(surrogate, log_mean_exp(log_weight))


@keras.saving.register_keras_serializable("kvae")
class CIWAE(IWAE):
    """β times the ELBO plus 1 − β times the bound of `IWAE`, from the same samples.

    −(β/K Σ_k log w_k + (1 − β) log 1/K Σ_k w_k), in nats (Rainforth et al. 2018).

    Args:
        num_samples: posterior samples per example, K.
        beta: weight of the ELBO, from 0 (`IWAE`) to 1 (`ELBO`).

    Raises:
        ValueError: if K < 1, or beta is outside [0, 1].

    Example:

        >>> import kvae
        >>> log_weight = ops.log(ops.convert_to_tensor([[1.0], [4.0]]))
        >>> terms = kvae.objectives.Terms(None, None, log_weight, None, None)
        >>> CIWAE(num_samples=2, beta=0.5)(terms).numpy().round(3)  # −(log 2 + log 2.5) / 2
        array([-0.805], dtype=float32)
    """

    def __init__(self, num_samples: int = 5, beta: float = 0.5, **kwargs: Any):
        super().__init__(num_samples, **kwargs)
        if not 0 <= beta <= 1:
            raise ValueError(f"Argument `beta` must be in [0, 1]. Received: beta={beta}")
        self.beta = beta

    def call(self, terms: Terms, step: Any = None) -> Any:
        elbo = ops.mean(terms.log_weight, axis=0)
        return -(self.beta * elbo + (1 - self.beta) * log_mean_exp(terms.log_weight))

    def criterion(self) -> Criterion:
        beta = self.beta

        def value(values: Values) -> float:
            return beta * (values["distortion"] + values["rate"]) + (1 - beta) * values["nll"]

        if self.num_samples == 1:
            return super().criterion()
        return Criterion(f"{beta:g} · (−ELBO) + {1 - beta:g} · NLL (bound of {self.num_samples} samples)", value)
