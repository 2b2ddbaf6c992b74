"""What a family of distributions must provide."""

from typing import Any

import keras
from keras import ops

from kvae.distributions.noise import Seed


class Distribution(keras.layers.Layer):
    """A family of distributions: turns the raw parameters that a network puts out into densities and samples.

    The same interface serves posteriors q(z|x), whose event is a vector `(D,)`, and likelihoods p(x|z), whose
    event is an image `(H, W, C)`. Raw parameters have the shape of the event, but for the last axis, which has
    `param_size(event_shape)` entries. A family holds settings and at most a few weights, never batch tensors,
    and so can be saved. Densities are float32 whatever the policy.

    A subclass writes `param_size`, `log_prob`, `sample`, `mean` and `variance`, its settings in `get_config`,
    and `add_weight`s in `build`, if it has any. Called as a layer, a family gives its mean.

    Attributes:
        support: values that it is a distribution of: "real" numbers, the "unit" interval [0, 1], "binary" 0 and 1,
            or "levels" k / (levels − 1).
        roles: what it can be, "posterior" or "likelihood".
        unbounded: which of its raw parameters have no bounds, as an error names them where a network's last activation
            has; None for a family that takes bounded ones.
    """

    support = "real"
    roles: tuple[str, ...] = ("posterior", "likelihood")
    unbounded: str | None = None

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.event_rank = 1

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """`input_shape` is that of the raw parameters, `(batch, …)`."""
        self.event_rank = len(input_shape) - 1
        self.built = True

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        """Size of the last axis of the raw parameters for an event of this shape."""
        raise NotImplementedError(f"{type(self).__name__} must define `param_size`.")

    def log_prob(self, params: Any, value: Any) -> Any:
        """Log-density of `value` `(…, B, *event)` in nats, summed over the event: `(…, B)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `log_prob`.")

    def training_log_prob(self, params: Any, value: Any) -> Any:
        """`log_prob` in a training step: a family that learns other than by gradients does it here."""
        return self.log_prob(params, value)

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        """`n` samples for each row of `params` `(B, …)`: `(n, B, *event)`, reparametrised where the family can."""
        raise NotImplementedError(f"{type(self).__name__} must define `sample`.")

    def sample_and_log_prob(self, params: Any, n: int, seed: Seed) -> tuple[Any, Any]:
        """Samples `(n, B, *event)` and their log-density `(n, B)`."""
        z = self.sample(params, n, seed)
        return z, self.log_prob(params, z)

    def mean(self, params: Any) -> Any:
        """Mean, `(B, *event)`: deterministic, what export uses."""
        raise NotImplementedError(f"{type(self).__name__} must define `mean`.")

    def variance(self, params: Any) -> Any:
        """Variance of every entry, `(B, *event)`: the diagonal of the covariance."""
        raise NotImplementedError(f"{type(self).__name__} must define `variance`.")

    def covariance(self, params: Any) -> Any:
        """Covariance matrix of the flattened event, `(B, N, N)`."""
        variance = self.variance(params)
        size = 1
        for axis in variance.shape[1:]:
            size *= axis
        return ops.reshape(variance, (-1, 1, size)) * ops.eye(size, dtype="float32")

    @property
    def is_discrete(self) -> bool:
        """Whether `log_prob` is that of a probability, which is at most 0, and not of a density."""
        return self.support in ("binary", "levels")

    def call(self, params: Any) -> Any:
        return self.mean(params)

    def sum_event(self, values: Any) -> Any:
        """Sum over the event axes (never a mean: it would change the bound)."""
        return ops.sum(values, axis=tuple(range(-self.event_rank, 0)))
