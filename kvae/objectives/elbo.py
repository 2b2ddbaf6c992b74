"""The evidence lower bound."""

from typing import Any

import keras
from keras import ops

from kvae.objectives.base import Objective, Terms
from kvae.objectives.criterion import Criterion
from kvae.schedules import Scheduled, check_weight, last_value, schedule_value, steady_from


@keras.saving.register_keras_serializable("kvae")
class ELBO(Objective):
    """−ELBO = distortion + β · rate.

    β = 1 is the evidence lower bound (Kingma & Welling 2014, eq. 3). β > 1 is the β-VAE (Higgins et al. 2017, eq. 4). A
    schedule gives KL warm-up.

    Args:
        beta: weight of the rate, a number >= 0 or a schedule (`kvae.schedules`).
        num_samples: posterior samples per example.

    Raises:
        ValueError: if beta is a negative number.

    Example:

        >>> import kvae
        >>> terms = kvae.objectives.Terms(ops.ones((1, 2)), 3 * ops.ones(2), None, None, None)
        >>> [float(loss) for loss in ELBO(beta=2.0)(terms)]
        [7.0, 7.0]
        >>> objective = ELBO(beta=kvae.schedules.LinearWarmup(steps=1000))
    """

    def __init__(self, beta: Scheduled = 1.0, num_samples: int = 1, **kwargs: Any):
        super().__init__(num_samples, **kwargs)
        self.beta = check_weight("beta", beta)

    def call(self, terms: Terms, step: Any = None) -> Any:
        return ops.mean(terms.distortion, axis=0) + schedule_value(self.beta, step) * terms.rate

    def criterion(self) -> Criterion:
        beta = last_value(self.beta)
        name = "−ELBO" if beta == 1 else f"distortion + {beta:g} · rate"
        return Criterion(name, lambda values: values["distortion"] + beta * values["rate"], steady_from(self.beta))
