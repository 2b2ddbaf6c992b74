"""A controller that sets β to reach a target rate."""

from typing import Any

import keras
from keras import ops

from kvae.arguments import at_least
from kvae.objectives.base import Objective, Terms
from kvae.objectives.criterion import Criterion, Values, is_near, rate_missed
from kvae.schedules import Scheduled, check_weight, last_value, schedule_value, steady_from


@keras.saving.register_keras_serializable("kvae")
class TargetRate(Objective):
    """distortion + β · rate, with β set by a PI controller that holds the rate at a target: ControlVAE.

    After every training step, with e = target − rate, the batch's mean rate in nats,

        I ← I − k_i e,    β = k_p / (1 + exp(e)) + I + β_min,    within [β_min, β_max]

    (Shao et al. 2020, https://arxiv.org/abs/2004.05988, algorithm 1). I stays within [0, β_max − β_min], so
    that it doesn't wind up while β is at a bound. I and β are weights, so a resumed training run restores them.

    Args:
        rate: the target in nats, a number >= 0 or a schedule.
        k_p, k_i: gains of the two terms, >= 0. The default of k_i suits about 10,000 steps and 784 pixels. Fewer steps
            require a larger k_i, k_i ∝ 1 / steps.
        min_beta, max_beta: bounds of β, 0 <= min_beta < max_beta. β starts at min_beta.
        num_samples: posterior samples per example.

    Raises:
        ValueError: for negative numbers, or bounds in the wrong order.

    Example:

        >>> objective = TargetRate(rate=10.0, k_i=0.001)
        >>> objective.build()
        >>> objective.update({"rate": 30.0}, step=0)  # 20 nats too much
        >>> round(float(objective.beta), 6)
        0.03
    """

    def __init__(
        self,
        rate: Scheduled,
        k_p: float = 0.01,
        k_i: float = 0.0001,
        min_beta: float = 0.0,
        max_beta: float = 1.0,
        num_samples: int = 1,
        **kwargs: Any,
    ):
        super().__init__(num_samples, **kwargs)
        if not 0 <= min_beta < max_beta:
            raise ValueError(
                "Arguments `min_beta` and `max_beta` must satisfy 0 <= min_beta < max_beta. "
                f"Received: min_beta={min_beta}, max_beta={max_beta}"
            )
        self.rate = check_weight("rate", rate)
        self.k_p, self.k_i = at_least("k_p", k_p, 0), at_least("k_i", k_i, 0)
        self.min_beta, self.max_beta = min_beta, max_beta

    def build(self, input_shape: Any = None) -> None:
        settings: dict[str, Any] = {"shape": (), "trainable": False, "aggregation": "only_first_replica"}
        self.integral = self.add_weight(name="integral", initializer="zeros", **settings)
        self.beta = self.add_weight(name="beta", initializer=keras.initializers.Constant(self.min_beta), **settings)
        super().build(input_shape)

    def call(self, terms: Terms, step: Any = None) -> Any:
        return ops.mean(terms.distortion, axis=0) + self.beta * terms.rate

    def update(self, values: dict[str, Any], step: Any) -> None:
        error = schedule_value(self.rate, step) - values["rate"]
        error = ops.where(ops.isfinite(error), error, 0.0)  # a non-finite batch must not stay in β
        integral = ops.clip(self.integral - self.k_i * error, 0.0, self.max_beta - self.min_beta)
        beta = self.k_p * ops.sigmoid(-error) + integral + self.min_beta
        self.integral.assign(integral)
        self.beta.assign(ops.clip(beta, self.min_beta, self.max_beta))

    def criterion(self) -> Criterion:
        """Return the rule: the lowest distortion of the epochs with a rate near the target, or else the last epoch."""
        target = last_value(self.rate)

        def value(values: Values) -> float | None:
            return values["distortion"] if is_near(values["rate"], target) else None

        def missed(values: Values) -> str | None:
            beta, rate = float(ops.convert_to_numpy(self.beta)), values["rate"]
            remedy = "train for more epochs, or with a larger `k_i`"
            if rate > target and beta >= self.max_beta:
                remedy = f"β is at its upper bound, {beta:g}; raise `max_beta`"
            elif rate < target and beta <= self.min_beta:
                remedy = f"β is at its lower bound, {beta:g}; train for more epochs, or use a lower target"
            return rate_missed(rate, target, "the target", remedy)

        why = f"only epochs with a rate within 10 % of {target:g} nats count"
        return Criterion("distortion", value, steady_from(self.rate), why, missed)
