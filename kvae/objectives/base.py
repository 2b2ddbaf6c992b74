"""What an objective gets, and what it must provide."""

from typing import Any, NamedTuple

import keras

from kvae.objectives.criterion import Criterion


class Terms(NamedTuple):
    """What a VAE knows about a batch, for K posterior samples of B examples; nats."""

    distortion: Any  # (K, B)     −log p(x|z)
    rate: Any  # (B,)       KL(q(z|x) ‖ p(z)), in closed form where there is one
    log_weight: Any  # (K, B)     log p(x|z) + log p(z) − log q(z|x)
    z: Any  # (K, B, D)  the posterior's samples
    z_mean: Any  # (B, D)     the posterior's mean
    log_q: Any = None  # (K, B)     log q(z|x)
    log_p: Any = None  # (K, B)     log p(z)
    q: Any = None  # (B, P)     raw parameters of the posterior
    posterior: Any = None  # the family, for objectives that need other densities
    prior: Any = None
    noise: Any = None  # random numbers of this step, for objectives that draw
    c: Any = None  # (B, C)     the condition's vectors, of a conditional model
    path: Any = None  # `GradientScale` through which z went to the decoder and the prior, in training


class Objective(keras.layers.Layer):
    """What is minimised: a formula of `Terms`, in nats per example.

    A subclass writes `call`, and `get_config` if it has settings of its own; `criterion`, if a training run is to keep
    the best epoch by a validation value, and not the last one. One that learns from training, other
    than by gradients, keeps its state in weights that it adds in `build` and changes in `update`.

    Args:
        num_samples: K, posterior samples per example and training step.

    Attributes:
        stop_posterior: whether `log_q` is evaluated at parameters that count as constants, so that its gradient
            comes through z alone.

    Raises:
        ValueError: if K < 1.
    """

    stop_posterior = False

    def __init__(self, num_samples: int = 1, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if num_samples < 1:
            raise ValueError(f"Argument `num_samples` must be >= 1. Received: num_samples={num_samples}")
        self.num_samples = num_samples

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def connect(self, model: Any) -> None:
        """Meet the VAE that it belongs to, once that is built: ValueError for parts that don't go together."""

    def call(self, terms: Terms, step: Any = None) -> Any:
        """Loss of each example, `(B,)`; `step` is the training step, for schedules.

        What is a function of the whole batch is added to the loss of every example. (Replicas have their own.)
        """
        raise NotImplementedError(f"{type(self).__name__} must define `call`.")

    def __call__(self, terms: Terms, step: Any = None) -> Any:
        if not self.built:
            self.build()
        return self.call(terms, step)

    def update(self, values: dict[str, Any], step: Any) -> None:
        """After a training step: `values` are the means of `loss`, `elbo`, `distortion` and `rate` over its batch."""

    def criterion(self) -> Criterion:
        """Which epoch of a training run is kept: the last one, unless a subclass names a validation value."""
        return Criterion(why=f"{type(self).__name__} names no validation value to judge epochs by")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_samples": self.num_samples}
