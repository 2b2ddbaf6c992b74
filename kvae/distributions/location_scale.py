"""Bases of the families x = mean + scale · ε."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kvae.distributions.base import Distribution
from kvae.distributions.noise import Seed

MIN_SCALE, MAX_SCALE = 1e-3, 1e3
LOW, HIGH = math.log(MIN_SCALE), math.log(MAX_SCALE)


def soft_clip(x: Any, low: float, high: float) -> Any:
    """Bound `x` smoothly to (low, high), low < 0 < high. Near 0 the function is the identity."""
    return ops.where(x > 0, high * ops.tanh(x / high), low * ops.tanh(x / low))


def check_scale(scale: float) -> None:
    if not MIN_SCALE < scale < MAX_SCALE:
        raise ValueError(f"Argument `scale` must be between {MIN_SCALE} and {MAX_SCALE:.0f}. Received: scale={scale}")


class LocationScale(Distribution):
    """x = mean + scale · ε, independently for every entry of the event.

    A subclass defines ε (`log_density`, `noise`, `unit_variance`) and the scale (`split`, which returns the property
    `log_scale` by default).
    """

    #: elementwise log-density of (value, mean, log-scale)
    log_density: Callable[..., Any]
    #: draws ε for (shape, seed)
    noise: Callable[..., Any]
    #: variance of ε
    unit_variance = 1.0
    #: logarithm of a scale that isn't a function of the raw parameters
    log_scale: Any

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        return event_shape[-1]

    def split(self, params: Any) -> tuple[Any, Any]:
        """Return the mean and the log-scale, with shapes that broadcast."""
        return ops.cast(params, "float32"), self.log_scale

    def entry_log_prob(self, params: Any, value: Any) -> Any:
        return self.log_density(ops.cast(value, "float32"), *self.split(params))

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        mean, log_scale = self.split(params)
        return mean + ops.exp(log_scale) * self.noise((n, *ops.shape(mean)), seed)  # the reparametrised sample

    def mean(self, params: Any) -> Any:
        return self.split(params)[0]

    def from_mean(self, mean: Any) -> Any:
        return mean if self.param_size((1,)) == 1 else super().from_mean(mean)

    def variance(self, params: Any) -> Any:
        mean, log_scale = self.split(params)
        return ops.ones_like(mean) * self.unit_variance * ops.exp(2 * log_scale)


class SharedScale(LocationScale):
    """A scale that is the same for every example: a number, a weight, or a weight for each entry of the event."""

    roles = ("likelihood",)

    def __init__(self, scale: float = 1.0, learned: bool = False, per_pixel: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        check_scale(scale)
        if per_pixel and not learned:
            raise ValueError(
                "Argument `per_pixel` requires a learned scale: pass `learned=True`. "
                f"Received: per_pixel={per_pixel}, learned={learned}"
            )
        self.scale, self.learned, self.per_pixel = scale, learned, per_pixel

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if self.learned:
            bound = LOW if self.scale < 1 else HIGH
            raw = bound * math.atanh(math.log(self.scale) / bound)  # the inverse of soft_clip
            self.raw_log_scale = self.add_weight(
                name="raw_log_scale",
                shape=input_shape[1:] if self.per_pixel else (),
                initializer=keras.initializers.Constant(raw),
            )
        super().build(input_shape)

    @property
    def log_scale(self) -> Any:
        """Logarithm of the scale, a scalar or an array with the shape of the event."""
        if not self.learned:
            return math.log(self.scale)
        return soft_clip(ops.convert_to_tensor(self.raw_log_scale), LOW, HIGH)


class BoundedScale(Distribution):
    """A scale from the network, bounded smoothly, so that no density is infinite."""

    unbounded = "means and log-scales"

    def __init__(self, min_scale: float = 1e-3, max_scale: float = 1e3, **kwargs: Any):
        super().__init__(**kwargs)
        if not 0 < min_scale < 1 < max_scale:
            raise ValueError(
                "Arguments `min_scale` and `max_scale` must satisfy 0 < min_scale < 1 < max_scale. "
                f"Received: min_scale={min_scale}, max_scale={max_scale}"
            )
        self.min_scale, self.max_scale = min_scale, max_scale

    def bounded(self, raw: Any) -> Any:
        """Return the bounded log-scale of a raw log-scale."""
        return soft_clip(raw, math.log(self.min_scale), math.log(self.max_scale))


class NetworkScale(BoundedScale, LocationScale):
    """Mean and scale from the network, which returns `[mean, raw log-scale]`."""

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        return 2 * event_shape[-1]

    def split(self, params: Any) -> tuple[Any, Any]:
        """Return the mean and the log-scale, each with the shape of the event."""
        mean, raw = ops.split(ops.cast(params, "float32"), 2, axis=-1)
        return mean, self.bounded(raw)
