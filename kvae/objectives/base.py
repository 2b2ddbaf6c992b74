"""The interface of objectives, and their inputs."""

from typing import Any, NamedTuple

from kvae.arguments import at_least
from kvae.distributions.base import Part
from kvae.objectives.criterion import Criterion


class Terms(NamedTuple):
    """Quantities of a batch of B examples with K posterior samples each, in nats."""

    distortion: Any  # (K, B)     −log p(x|z)
    rate: Any  # (B,)       KL(q(z|x) ‖ p(z)), in closed form if one exists
    log_weight: Any  # (K, B)     log p(x|z) + log p(z) − log q(z|x)
    z: Any  # (K, B, D)  the posterior's samples
    z_mean: Any  # (B, D)     the posterior's mean
    log_q: Any = None  # (K, B)     log q(z|x)
    log_p: Any = None  # (K, B)     log p(z)
    q: Any = None  # (B, P)     raw parameters of the posterior
    posterior: Any = None  # the family, for objectives that need other densities
    prior: Any = None
    noise: Any = None  # source of random numbers of this step, for objectives that draw
    c: Any = None  # (B, C)     condition vectors of a conditional model
    path: Any = None  # `GradientScale` through which z went to the decoder and the prior, in training
    rates: Any = None  # (B, L)     KL of each layer of a hierarchy from N(0, I)
    params: Any = None  # (K, B, …)  raw parameters of the likelihood


class Objective(Part):
    """The training loss: a formula of `Terms`, in nats per example.

    A subclass defines `call`, and keeps the arguments of its constructor as attributes. It defines `criterion` if a
    training run keeps the best epoch by a validation value instead of the last epoch. An objective that learns without
    gradients adds weights for its state in `build` and changes them in `update`.

    Args:
        num_samples: posterior samples per example and training step, K.

    Attributes:
        stop_posterior: whether `log_q` treats the posterior's parameters as constants, so that its gradient comes only
            through z.

    Raises:
        ValueError: if K < 1.
    """

    stop_posterior = False

    def __init__(self, num_samples: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_samples = at_least("num_samples", num_samples, 1)

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def connect(self, model: Any) -> None:
        """Connect the objective to its VAE after that is built. Raise ValueError for incompatible parts."""

    def call(self, terms: Terms, step: Any = None) -> Any:
        """Return the loss of each example, `(B,)`. `step` is the training step, for schedules.

        A function of the whole batch is added to the loss of every example. Each replica uses its own batch.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `call`.")

    def __call__(self, terms: Terms, step: Any = None) -> Any:
        if not self.built:
            self.build()
        return self.call(terms, step)

    def update(self, values: dict[str, Any], step: Any) -> None:
        """Update the state after a training step.

        `values` are the means of `loss`, `elbo`, `distortion` and `rate` over the batch.
        """

    def criterion(self) -> Criterion:
        """Return the rule for the kept epoch: the last one, unless a subclass names a validation value."""
        return Criterion(why=f"{type(self).__name__} names no validation value to judge epochs by")
