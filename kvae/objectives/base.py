"""What an objective gets, and what it must provide."""

from typing import Any, NamedTuple


class Terms(NamedTuple):
    """What a VAE knows about a batch, for K posterior samples of B examples; nats."""

    distortion: Any  # (K, B)     −log p(x|z)
    rate: Any  # (B,)       KL(q(z|x) ‖ p(z)), in closed form where there is one
    log_weight: Any  # (K, B)     log p(x|z) + log p(z) − log q(z|x)
    z: Any  # (K, B, D)  the posterior's samples
    z_mean: Any  # (B, D)     the posterior's mean


class Objective:
    """What is minimised: a formula of `Terms`, in nats per example.

    A subclass writes `call`, and `get_config` if it has settings of its own.

    Args:
        num_samples: K, posterior samples per example and training step.

    Raises:
        ValueError: if K < 1.
    """

    def __init__(self, num_samples: int = 1):
        if num_samples < 1:
            raise ValueError(f"Argument `num_samples` must be >= 1. Received: num_samples={num_samples}")
        self.num_samples = num_samples

    def call(self, terms: Terms, step: Any = None) -> Any:
        """Loss of each example, `(B,)`; `step` is the training step, for schedules."""
        raise NotImplementedError(f"{type(self).__name__} must define `call`.")

    def __call__(self, terms: Terms, step: Any = None) -> Any:
        return self.call(terms, step)

    def get_config(self) -> dict[str, Any]:
        return {"num_samples": self.num_samples}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Objective":
        return cls(**config)
