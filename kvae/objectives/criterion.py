"""By what the epochs of a training run are judged."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Values = Mapping[str, float]


@dataclass(frozen=True)
class Criterion:
    """Which epoch of a training run is kept: that of the lowest value in validation, or the last one.

    Args:
        name: of the value, as in "−ELBO".
        value: of an epoch, in nats, made of its means over the validation images: `distortion`, `rate`, `elbo`,
            `loss` (−ELBO), and `nll` for an objective of K > 1 samples. None for an epoch that doesn't count. Without
            this function the last epoch is kept.
        first_step: the training step from which epochs count: the objective changes before it, as in a warm-up.
        why: without `value`, why the last epoch is kept; else which epochs count, if not all of them do.
        missed: what the kept epoch should have reached and hasn't, with a remedy, made of the same means; None if there
            is nothing to say.

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
        """The value of an epoch that ended at this training step; None if it doesn't count."""
        return None if self.value is None or step < self.first_step else self.value(values)

    def reason(self, value: float | None, step: int) -> str:
        """Why an epoch was kept that has this value and ended at this training step."""
        if value is not None:
            since = f" from step {self.first_step:,.0f} on, where its schedules end" if self.first_step else ""
            among = f" ({self.why})" if self.why else ""
            return f"the lowest validation {self.name}, {value:.2f} nats{since}{among}"
        if self.value is None:
            why = self.why
        elif math.isinf(self.first_step):
            why = "the objective has a schedule that doesn't say at which step it ends (`steady_from`)"
        elif step < self.first_step:
            why = f"the schedules of the objective end at step {self.first_step:,.0f}, and training took {step:,}"
        else:
            why = f"none counted ({self.why})"
        return f"the last one, since {why}"


def rate_missed(rate: float, target: float, what: str, remedy: str) -> str | None:
    """A line about a rate that isn't near its target; None if it is, or if there is no target."""
    if math.isnan(target) or is_near(rate, target):
        return None
    return f"The rate is {rate:.1f} nats in validation, and {what} is {target:g}: {remedy}"


def is_near(rate: float, target: float) -> bool:
    """Within a tenth of the target, and at least 0.1 nats."""
    return abs(rate - target) <= max(0.1 * target, 0.1)
