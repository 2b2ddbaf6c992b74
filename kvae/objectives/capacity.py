"""A rate that is held at a capacity."""

from typing import Any

import keras
from keras import ops

from kvae.objectives.base import Objective, Terms
from kvae.objectives.criterion import Criterion, Values, rate_missed
from kvae.schedules import Scheduled, check_weight, last_value, schedule_value, steady_from


@keras.saving.register_keras_serializable("kvae")
class Capacity(Objective):
    """distortion + γ · |rate − C|: every example is trained to use C nats. C usually grows during training.

    Burgess et al. 2018 (https://arxiv.org/abs/1804.03599), eq. 8. With C = 0 it is `ELBO(beta=γ)`.

    Args:
        rate: the capacity C in nats, a number >= 0 or a schedule, such as `LinearWarmup(steps=100_000, end=25.0)`.
        gamma: γ, a number >= 0 or a schedule.
        num_samples: posterior samples per example.

    Raises:
        ValueError: for negative numbers.

    Example:

        >>> import kvae
        >>> terms = kvae.objectives.Terms(ops.ones((1, 2)), ops.convert_to_tensor([3.0, 6.0]), None, None, None)
        >>> Capacity(rate=5.0, gamma=10.0)(terms).numpy()
        array([21., 11.], dtype=float32)
    """

    def __init__(self, rate: Scheduled, gamma: Scheduled = 1000.0, num_samples: int = 1, **kwargs: Any):
        super().__init__(num_samples, **kwargs)
        self.rate = check_weight("rate", rate)
        self.gamma = check_weight("gamma", gamma)

    def call(self, terms: Terms, step: Any = None) -> Any:
        excess = terms.rate - schedule_value(self.rate, step)
        return ops.mean(terms.distortion, axis=0) + schedule_value(self.gamma, step) * ops.abs(excess)

    def criterion(self) -> Criterion:
        capacity, gamma = last_value(self.rate), last_value(self.gamma)

        def value(values: Values) -> float:
            return values["distortion"] + gamma * abs(values["rate"] - capacity)

        def missed(values: Values) -> str | None:
            remedy = "train for more epochs, or with a larger `gamma`"
            return rate_missed(values["rate"], capacity, "the capacity", remedy)

        first_step = max(steady_from(self.rate), steady_from(self.gamma))
        return Criterion(f"distortion + {gamma:g} · |rate − {capacity:g}|", value, first_step, missed=missed)
