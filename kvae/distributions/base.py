"""The interface of families of distributions."""

from typing import Any

import keras
from keras import ops

from kvae.distributions.noise import Seed
from kvae.saving import Saved


class Part(Saved, keras.layers.Layer):
    """Base of the parts of a model that compute in float32 under every policy."""

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)


class Distribution(Part):
    """A family of distributions: densities and samples from the raw parameters that a network returns.

    The same interface serves posteriors q(z|x), whose event is a vector `(D,)`, and likelihoods p(x|z), whose
    event is an image `(H, W, C)`. Raw parameters have the shape of the event, except for the last axis, which has
    `param_size(event_shape)` entries. A family has settings and at most a few weights, but no batch tensors, so it
    can be saved. Densities are float32 under every policy.

    A subclass defines `param_size`, `sample`, `mean` and `variance`, and `entry_log_prob` if the entries of the event
    are independent given the parameters, or else `log_prob`. It keeps the arguments of its constructor as attributes
    and adds weights, if any, in `build`. Called as a layer, a family returns its mean.

    A likelihood may standardise x: `standardize` returns x in the form that networks take, such as with the mean and
    the scale of the training data removed.

    Attributes:
        support: values of the distribution: "real" numbers, the "unit" interval [0, 1], "binary" 0 and 1, or
            "levels" k / (levels − 1).
        roles: possible roles, "posterior" or "likelihood".
        is_joint: whether samples of a posterior are drawn together with the pass of the decoder (`TopDownNormal`).
        accepts_missing: whether NaN in x means a missing value, which the density leaves out.
        unbounded: names of the raw parameters without bounds, for the error about a network whose last activation has
            bounds. None for a family that accepts bounded raw parameters.
    """

    support = "real"
    is_joint = False
    accepts_missing = False
    roles: tuple[str, ...] = ("posterior", "likelihood")
    unbounded: str | None = None

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.event_rank = 1

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build for the shape of the raw parameters, `(batch, …)`."""
        self.event_rank = len(input_shape) - 1
        self.built = True

    def connect(self, model: Any) -> None:
        """Connect a posterior to its VAE, before the networks are built. Raise ValueError for incompatible parts."""

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        """Return the size of the last axis of the raw parameters for an event of this shape."""
        raise NotImplementedError(f"{type(self).__name__} must define `param_size`.")

    @property
    def standardizes(self) -> bool:
        """Whether `standardize` changes x."""
        return type(self).standardize is not Distribution.standardize

    def standardize(self, x: Any) -> Any:
        """Return x `(…, *event)` in the form that an encoder takes, `(…, *standardized_shape(event))`."""
        return x

    def standardized_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an event after `standardize`."""
        return event_shape

    @property
    def unit(self) -> Any:
        """Size of one standardised unit in x: a number, or one for each entry of the last axis."""
        return 1.0

    def plausible(self, uniform: Any) -> Any:
        """Return values that x may have for numbers in [0, 1), `(…, *event)`: inputs for tests of exported files."""
        return uniform

    def log_prob(self, params: Any, value: Any) -> Any:
        """Return the log-density of `value` `(…, B, *event)` in nats, summed over the event: `(…, B)`."""
        return self.sum_event(self.entry_log_prob(params, value))

    @property
    def has_entries(self) -> bool:
        """Whether `entry_log_prob` is defined."""
        return type(self).entry_log_prob is not Distribution.entry_log_prob

    def entry_log_prob(self, params: Any, value: Any) -> Any:
        """Return the terms of `log_prob`: the log-density of each entry in nats, `(…, B, *event)`.

        If the channels of a pixel depend on each other, they have one value, and the last axis has size 1.

        Raises:
            ValueError: if all entries depend on each other.
        """
        raise ValueError(
            f"Expected a family with entries that are independent given its parameters. Received: {type(self).__name__}"
        )

    def entry_distortion(self, params: Any, value: Any) -> Any:
        """Return −log p of each entry in nats, with the logarithms of the entries' units shared equally.

        The sum over an event is that of −`entry_log_prob`, but the order of the entries doesn't depend on their units.
        """
        return -self.entry_log_prob(params, value)

    def training_log_prob(self, params: Any, value: Any) -> Any:
        """Return `log_prob` in a training step. A family that learns without gradients updates its state here."""
        return self.log_prob(params, value)

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        """Return `n` samples for each row of `params` `(B, …)`: `(n, B, *event)`, reparametrised if possible."""
        raise NotImplementedError(f"{type(self).__name__} must define `sample`.")

    def sample_and_log_prob(self, params: Any, n: int, seed: Seed) -> tuple[Any, Any]:
        """Return samples `(n, B, *event)` and their log-density `(n, B)`."""
        z = self.sample(params, n, seed)
        return z, self.log_prob(params, z)

    def mean(self, params: Any) -> Any:
        """Return the mean, `(B, *event)`. It is deterministic and used in exported files."""
        raise NotImplementedError(f"{type(self).__name__} must define `mean`.")

    def from_mean(self, mean: Any) -> Any:
        """Return raw parameters with this mean, `(…, *event)`, for families without another parameter.

        Raises:
            ValueError: if the raw parameters aren't determined by the mean.
        """
        raise ValueError(f"Expected a likelihood that its mean determines. Received: {type(self).__name__}")

    def variance(self, params: Any) -> Any:
        """Return the variance of every entry, `(B, *event)`: the diagonal of the covariance."""
        raise NotImplementedError(f"{type(self).__name__} must define `variance`.")

    def moments(self, params: Any) -> tuple[Any, Any]:
        """Return `mean` and `variance`."""
        return self.mean(params), self.variance(params)

    def top_moments(self, params: Any) -> tuple[Any, Any]:
        """Return the moments of the latents that represent an image: all, or the top level of a hierarchy."""
        return self.moments(params)

    def covariance(self, params: Any) -> Any:
        """Return the covariance matrix of the flattened event, `(B, N, N)`."""
        variance = self.variance(params)
        size = 1
        for axis in variance.shape[1:]:
            size *= axis
        return ops.reshape(variance, (-1, 1, size)) * ops.eye(size, dtype="float32")

    @property
    def is_discrete(self) -> bool:
        """Whether `log_prob` is the logarithm of a probability (at most 0) instead of a density."""
        return self.support in ("binary", "levels")

    def call(self, params: Any) -> Any:
        return self.mean(params)

    def sum_event(self, values: Any) -> Any:
        """Sum over the event axes (never a mean, because a mean would change the bound)."""
        return ops.sum(values, axis=tuple(range(-self.event_rank, 0)))
