"""Metrics of a VAE that are not means over examples."""

from typing import Any

import keras
from keras import ops

ACTIVE_VARIANCE = 0.01


class StepMean(keras.metrics.Mean):
    """A mean over examples, in float32 whatever the policy; NaN instead of 0 if every step was skipped."""

    def __init__(self, name: str = "mean", dtype: Any = "float32"):
        super().__init__(name=name, dtype=dtype)

    def result(self) -> Any:
        return ops.where(self.count > 0, super().result(), float("nan"))


class SkippedSteps:
    """Counters of training steps that were skipped because the loss or a gradient was not finite.

    They are not saved with the model.

    Attributes:
        total: number of skipped steps since the model was created.
        in_a_row: number of consecutive skipped steps up to now.
        missing: number of skipped steps whose images held NaN.
    """

    def __init__(self) -> None:
        settings: dict[str, Any] = {"dtype": "int32", "trainable": False, "aggregation": "only_first_replica"}
        self._total, self._in_a_row, self._missing = (
            keras.Variable("zeros", shape=(), name=name, **settings) for name in ("total", "in_a_row", "missing")
        )

    @property
    def variables(self) -> list[keras.Variable]:
        return [self._total, self._in_a_row, self._missing]

    @property
    def total(self) -> int:
        return _integer(self._total)

    @property
    def in_a_row(self) -> int:
        return _integer(self._in_a_row)

    @property
    def missing(self) -> int:
        return _integer(self._missing)

    def update(self, finite: Any, images_finite: Any) -> None:
        """Count a step, inside the graph."""
        skipped = 1 - ops.cast(finite, "int32")
        self._total.assign_add(skipped)
        self._in_a_row.assign(skipped * (self._in_a_row + 1))
        self._missing.assign_add(1 - ops.cast(images_finite, "int32"))

    def begin_row(self) -> None:
        self._in_a_row.assign(0)


def _integer(variable: keras.Variable) -> int:
    return int(ops.convert_to_tensor(variable).numpy())


@keras.saving.register_keras_serializable("kvae")
class ActiveUnits(keras.metrics.Metric):
    """Number of latents whose posterior mean varies over the data: Var_x(E[z_d|x]) > 0.01.

    Burda, Grosse & Salakhutdinov 2016 (https://arxiv.org/abs/1509.00519), §5.2. A latent that is not active
    carries no information about x: its posterior has collapsed onto the prior.

    Example:

        >>> import numpy as np
        >>> metric = ActiveUnits(latent_dim=2)
        >>> metric.update_state(np.array([[1.0, 0.0], [-1.0, 0.01]]))
        >>> int(metric.result()), [round(float(v), 6) for v in metric.variance()]
        (1, [1.0, 2.5e-05])
    """

    def __init__(self, latent_dim: int, name: str = "active_units", **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(name=name, **kwargs)
        self.latent_dim = latent_dim
        self.count = self.add_variable(shape=(), initializer="zeros", name="count")
        self.total = self.add_variable(shape=(latent_dim,), initializer="zeros", name="total")
        self.squares = self.add_variable(shape=(latent_dim,), initializer="zeros", name="squares")

    def update_state(self, z_mean: Any, sample_weight: Any = None) -> None:
        z_mean = ops.cast(z_mean, "float32")
        weight = ops.ones_like(z_mean[:, :1]) if sample_weight is None else ops.cast(sample_weight, "float32")[:, None]
        z_mean = ops.where(weight > 0, z_mean, 0.0)
        self.count.assign(self.count + ops.sum(weight))
        self.total.assign(self.total + ops.sum(weight * z_mean, axis=0))
        self.squares.assign(self.squares + ops.sum(weight * ops.square(z_mean), axis=0))

    def variance(self) -> Any:
        """Return the variance over the data of each latent's posterior mean, `(D,)`."""
        count = ops.maximum(self.count, 1e-30)
        return ops.maximum(self.squares / count - ops.square(self.total / count), 0.0)

    def result(self) -> Any:
        return ops.sum(ops.cast(self.variance() > ACTIVE_VARIANCE, "float32"))

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "latent_dim": self.latent_dim}
