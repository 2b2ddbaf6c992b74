"""A likelihood of values in their own units: another family of the standardised values."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kvae.arguments import numbers, shown
from kvae.distributions.base import Distribution
from kvae.distributions.diagonal_normal import DiagonalNormal
from kvae.distributions.noise import Seed


@keras.saving.register_keras_serializable("kvae")
class Scaled(Distribution):
    """Likelihood of x in its own units, such as of a sensor: (x − location) / scale has the distribution `base`.

    log p(x|z) = log p_base((x − location) / scale | z) − Σ log scale, the change of variables, so that densities are in
    nats of the original units. Networks take and return standardised values. Location and scale are part of the
    model and of exported files, which therefore take raw values and return raw values.

    Args:
        base: family of the standardised values, with the support "real" (default `DiagonalNormal`).
        location, scale: one number for each entry of the last axis of x, such as the mean and the standard deviation of
            the training data; scale > 0.
        names: names of the entries of the last axis, for exported files; None for none.

    Raises:
        ValueError: for a base of other values, numbers that aren't finite, a scale that isn't positive, or lengths that
            differ.

    Example:

        >>> p = Scaled(location=[20.0, 1013.0], scale=[5.0, 10.0])
        >>> p.build((None, 64, 4))
        >>> x = np.full((1, 64, 2), [25.0, 1013.0], "float32")
        >>> p.standardize(x)[0, 0].numpy().tolist(), p.mean(np.zeros((1, 64, 4)))[0, 0].numpy().tolist()
        ([1.0, 0.0], [20.0, 1013.0])
    """

    roles = ("likelihood",)

    def __init__(
        self,
        base: Distribution | None = None,
        location: Any = (0.0,),
        scale: Any = (1.0,),
        names: Sequence[str] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.base = DiagonalNormal() if base is None else base
        if not isinstance(self.base, Distribution) or self.base.support != "real":
            raise ValueError(
                "Argument `base` must be a likelihood of real numbers, such as kvae.likelihoods.DiagonalNormal(). "
                f"Received: base={base!r}"
            )
        self.location, self.scale = _checked("location", location), _checked("scale", scale)
        if len(self.location) != len(self.scale) or min(self.scale) <= 0:
            raise ValueError(
                "Arguments `location` and `scale` must have the same length, and scale > 0. "
                f"Received: {shown(location)} and {shown(scale)}"
            )
        self._location, self._scale = np.array(self.location, "float32"), np.array(self.scale, "float32")
        self.names = None if names is None else tuple(map(str, names))
        if self.names is not None and len(self.names) != len(self.scale):
            raise ValueError(
                f"Argument `names` must have one name for each of {len(self.scale)} features. "
                f"Received: {len(self.names)} names"
            )
        self.unbounded = self.base.unbounded

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        if not self.base.built:
            self.base.build(input_shape)

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        if len(self.location) not in (1, event_shape[-1]):
            raise ValueError(
                f"Expected a likelihood with location and scale of {event_shape[-1]} features, as x has. "
                f"Received: {len(self.location)}"
            )
        return self.base.param_size(event_shape)

    def standardize(self, x: Any) -> Any:
        # The difference in one step: a product with 1 / scale and a sum would lose digits of large values.
        return (ops.cast(x, "float32") - self._location) / self._scale

    @property
    def unit(self) -> np.ndarray:
        return self._scale

    def plausible(self, uniform: Any) -> Any:
        return self._raw(4.0 * uniform - 2.0)

    def log_prob(self, params: Any, value: Any) -> Any:
        return self.base.log_prob(params, self.standardize(value)) - self._log_volume(value)

    @property
    def has_entries(self) -> bool:
        return self.base.has_entries

    def entry_log_prob(self, params: Any, value: Any) -> Any:
        return self.base.entry_log_prob(params, self.standardize(value)) - np.float32(np.log(self.scale))

    def training_log_prob(self, params: Any, value: Any) -> Any:
        return self.base.training_log_prob(params, self.standardize(value)) - self._log_volume(value)

    def entry_distortion(self, params: Any, value: Any) -> Any:
        shared = np.float32(np.mean(np.log(self.scale)))
        return self.base.entry_distortion(params, self.standardize(value)) + shared

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        return self._raw(self.base.sample(params, n, seed))

    def mean(self, params: Any) -> Any:
        return self._raw(self.base.mean(params))

    def variance(self, params: Any) -> Any:
        return np.square(self._scale) * self.base.variance(params)

    def from_mean(self, mean: Any) -> Any:
        return self.base.from_mean(self.standardize(mean))

    def _raw(self, values: Any) -> Any:
        return self._location + self._scale * values

    def _log_volume(self, value: Any) -> float:
        """Return Σ log scale over an event."""
        event = value.shape[len(value.shape) - self.event_rank :]
        return float(np.log(self.scale).mean() * np.prod(event))


def _checked(name: str, values: Any) -> tuple[float, ...]:
    found = np.asarray(numbers(f"Argument `{name}` must be one number for each feature", values), np.float64)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise ValueError(f"Argument `{name}` must be one finite number for each feature. Received: {shown(values)}")
    return tuple(found.tolist())
