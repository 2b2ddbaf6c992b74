"""The rule for the epoch that a training run keeps."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kvae.arguments import decimal

Values = Mapping[str, float]


@dataclass(frozen=True)
class Criterion:
    """The rule for the kept epoch of a training run: the one with the lowest validation value, or the last one.

    Args:
        name: name of the value, such as "−ELBO".
        value: function from the means over the validation images to the value of an epoch in nats. The means are
            `distortion`, `rate`, `elbo`, `loss` (−ELBO), and `nll` for an objective of K > 1 samples. It returns None
            for an epoch that doesn't count. Without this function, the last epoch is kept.
        first_step: first training step of the epochs that count. The objective changes before it, as in a warm-up.
        why: the reason for keeping the last epoch, without `value`; with `value`, which epochs count, unless all do.
        missed: function from the same means to a line about a target that the kept epoch missed, with a remedy. It
            returns None if no target was missed.

    Example:

        >>> criterion = Criterion("distortion", lambda values: values["distortion"], first_step=100)
        >>> criterion.judge({"distortion": 20.0, "rate": 5.0}, step=200)
        20.0
        >>> criterion.judge({"distortion": 20.0, "rate": 5.0}, step=50) is None
        True
    """

    name: str = ""
    value: Callable[[Values], float | None] | None = None
    first_step: float = 0
    why: str = ""
    missed: Callable[[Values], str | None] | None = None

    def judge(self, values: Values, step: int) -> float | None:
        """Return the value of an epoch that ended at this training step, or None if it doesn't count."""
        return None if self.value is None or step < self.first_step else self.value(values)

    def reason(self, value: float | None, step: int) -> str:
        """Return why the epoch with this value, which ended at this training step, was kept."""
        if value is not None:
            since = f" from step {self.first_step:,.0f} on, where its schedules end" if self.first_step else ""
            among = f" ({self.why})" if self.why else ""
            return f"the lowest validation {self.name}, {decimal(value)} nats{since}{among}"
        if self.value is None:
            why = self.why
        elif math.isinf(self.first_step):
            why = "the objective has a schedule that doesn't define the step at which it ends (`steady_from`)"
        elif step < self.first_step:
            why = f"the schedules of the objective end at step {self.first_step:,.0f}, and training took {step:,}"
        else:
            why = f"no epoch counted ({self.why})"
        return f"the last one, because {why}"


def rate_missed(rate: float, target: float, what: str, remedy: str) -> str | None:
    """Return a line about a rate that isn't near its target, or None if it is near or there is no target."""
    if math.isnan(target) or is_near(rate, target):
        return None
    return f"The rate is {rate:.1f} nats in validation, and {what} is {target:g}: {remedy}"


def is_near(rate: float, target: float) -> bool:
    """Return whether the rate is within a tenth of the target, or within 0.1 nats for small targets."""
    return abs(rate - target) <= max(0.1 * target, 0.1)
