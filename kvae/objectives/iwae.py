"""Importance-weighted bounds."""

import math
from typing import Any

import keras
from keras import ops

from kvae.objectives.base import Objective, Terms
from kvae.objectives.criterion import Criterion


def log_mean_exp(log_weight: Any, axis: int = 0) -> Any:
    """Return the logarithm of the mean of exp(log_weight), without overflow."""
    return ops.logsumexp(log_weight, axis=axis) - math.log(log_weight.shape[axis])


def bound_criterion(num_samples: int) -> Criterion:
    """Return the criterion of the importance-weighted bound of K samples. K = 1 is the ELBO."""
    if num_samples == 1:
        return Criterion("−ELBO", lambda values: values["distortion"] + values["rate"])
    return Criterion(f"NLL (bound of {num_samples} samples)", lambda values: values["nll"])


@keras.saving.register_keras_serializable("kvae")
class IWAE(Objective):
    """The importance-weighted bound: −log 1/K Σ_k w_k, w_k = p(x, z_k) / q(z_k|x), z_k ~ q(z|x), in nats.

    The bound falls towards −log p(x) as K grows (Burda et al. 2016, https://arxiv.org/abs/1509.00519, eq. 8–14), but
    the encoder's gradient becomes noisier relative to its size. `DReG` fixes that.

    Args:
        num_samples: posterior samples per example, K.

    Raises:
        ValueError: if K < 1.

    Example:

        >>> import kvae
        >>> log_weight = ops.log(ops.convert_to_tensor([[1.0, 2.0], [3.0, 4.0]]))  # K = 2 of two examples
        >>> terms = kvae.objectives.Terms(None, None, log_weight, None, None)
        >>> IWAE(num_samples=2)(terms).numpy().round(3)  # −log 2, −log 3
        array([-0.693, -1.099], dtype=float32)
    """

    def __init__(self, num_samples: int = 5, **kwargs: Any):
        super().__init__(num_samples, **kwargs)

    def call(self, terms: Terms, step: Any = None) -> Any:
        return -log_mean_exp(terms.log_weight)

    def criterion(self) -> Criterion:
        return bound_criterion(self.num_samples)
