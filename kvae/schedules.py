"""Schedules: a number or a function of the training step, for weights such as β."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kvae.arguments import at_least
from kvae.saving import Saved

__all__ = ["Cyclical", "LinearWarmup"]

Scheduled = float | Callable[[Any], Any]


def schedule_value(value: Scheduled, step: Any) -> Any:
    """Return the value at `step` (training steps, from 0), or the final value if `step` is None.

    Any `keras.optimizers.schedules.LearningRateSchedule` is a schedule as well.
    """
    if not callable(value):
        return value
    value = value(math.inf if step is None else ops.cast(step, "float32"))
    return ops.cast(value, "float32")  # Keras's schedules return float64 or float16


def steady_from(value: Scheduled) -> float:
    """Return the training step from which a weight is constant: 0 for a number.

    A schedule defines it as an attribute of this name; without the attribute, the result is infinity.

    Example:

        >>> [steady_from(value) for value in (4.0, LinearWarmup(100), Cyclical(100, cycles=2), lambda step: 1.0)]
        [0, 100, 150.0, inf]
    """
    return getattr(value, "steady_from", math.inf) if callable(value) else 0


def last_value(value: Scheduled) -> float:
    """Return the final value of a weight; NaN for a schedule without a known end."""
    return float(schedule_value(value, None)) if math.isfinite(steady_from(value)) else math.nan


def check_weight(name: str, value: Any) -> Scheduled:
    """Check a weight that a constructor received: a number >= 0, or a schedule.

    Raises:
        ValueError: for a negative number.
    """
    return value if callable(value) else float(at_least(name, value, 0))


def _check_steps(steps: int) -> None:
    if steps <= 0:
        raise ValueError(f"Argument `steps` must be a positive number of training steps. Received: steps={steps}")


@keras.saving.register_keras_serializable("kvae")
class LinearWarmup(Saved):
    """A linear warm-up from `start` to `end` over `steps`, then `end` (Sønderby et al. 2016, §2.3).

    Example:

        >>> [float(LinearWarmup(steps=100)(step)) for step in (0, 50, 100, 1000)]
        [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, steps: int, start: float = 0.0, end: float = 1.0):
        _check_steps(steps)
        self.steps, self.start, self.end = steps, float(start), float(end)

    @property
    def steady_from(self) -> float:
        return self.steps

    def __call__(self, step: Any) -> Any:
        return self.start + (self.end - self.start) * ops.minimum(step / self.steps, 1.0)


@keras.saving.register_keras_serializable("kvae")
class Cyclical(Saved):
    """Repeated warm-ups: each cycle has `steps` steps and rises during its first `ratio` (Fu et al. 2019, eq. 6).

    Example:

        >>> schedule = Cyclical(steps=100, cycles=2)
        >>> [float(schedule(step)) for step in (0, 25, 75, 100, 125, 200, 300)]
        [0.0, 0.5, 1.0, 0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, steps: int, cycles: int = 4, ratio: float = 0.5, end: float = 1.0):
        _check_steps(steps)
        if cycles < 1 or not 0 < ratio <= 1:
            raise ValueError(f"Expected cycles >= 1 and 0 < ratio <= 1. Received: cycles={cycles}, ratio={ratio}")
        self.steps, self.cycles, self.ratio, self.end = steps, cycles, float(ratio), float(end)

    @property
    def steady_from(self) -> float:
        return (self.cycles - 1 + self.ratio) * self.steps

    def __call__(self, step: Any) -> Any:
        step = ops.minimum(ops.cast(step, "float32"), 1e30)
        phase = ops.mod(step, self.steps) / (self.steps * self.ratio)
        return self.end * ops.where(step >= self.steps * self.cycles, 1.0, ops.minimum(phase, 1.0))
