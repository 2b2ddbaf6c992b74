"""N(mean, σ²) with the best σ of each batch."""

from typing import Any

import keras
from keras import ops

from kvae.distributions.diagonal_normal import normal_log_density
from kvae.distributions.location_scale import HIGH, LOW, LocationScale, check_scale
from kvae.distributions.noise import standard_normal


@keras.saving.register_keras_serializable("kvae")
class OptimalNormal(LocationScale):
    """Normal likelihood with the maximum-likelihood scale, in closed form: the optimal σ-VAE.

    For any mean μ, the maximum-likelihood scale is σ*² = mean (x − μ)², over the batch and the pixels (Rybkin et al.
    2021, https://arxiv.org/abs/2006.13202, eq. 11). There is nothing to tune or to train. In training, the density, in
    nats, uses σ* of the batch. Evaluation, sampling and export use a moving average of σ² over about 1 / (1 − momentum)
    batches, which is saved with the model. Gradients treat σ* as a constant. This is exact for the ELBO, because σ*
    maximises it, but not for importance-weighted objectives.

    Args:
        scale: standard deviation before training; it counts as one batch.
        momentum: momentum of the moving average, in [0, 1).

    Raises:
        ValueError: if scale is not a number between 0.001 and 1000, or for another momentum.

    Example:

        >>> p = OptimalNormal()
        >>> p.build((None, 2))
        >>> density = p.training_log_prob(ops.zeros((1, 2)), ops.convert_to_tensor([[3.0, 4.0]]))  # σ*² = 12.5
        >>> [round(float(v), 3) for v in (density[0], p.variance(ops.zeros((1, 2)))[0, 0])]        # −log 2πe·12.5
        [-5.364, 6.779]
    """

    roles = ("likelihood",)

    log_density = staticmethod(normal_log_density)
    noise = staticmethod(standard_normal)

    def __init__(self, scale: float = 1.0, momentum: float = 0.99, **kwargs: Any):
        super().__init__(**kwargs)
        check_scale(scale)
        if not 0 <= momentum < 1:
            raise ValueError(f"Argument `momentum` must be in [0, 1). Received: momentum={momentum}")
        self.scale, self.momentum = scale, momentum

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        # Sums of σ*² and of 1 over the batches, with smaller weights for older batches. Replicas average their sums.
        settings: dict[str, Any] = {"shape": (), "trainable": False, "aggregation": "mean"}
        self.total = self.add_weight(name="total", initializer=keras.initializers.Constant(self.scale**2), **settings)
        self.count = self.add_weight(name="count", initializer="ones", **settings)
        super().build(input_shape)

    @property
    def log_scale(self) -> Any:
        """Logarithm of the moving average of σ*, a scalar."""
        return ops.clip(0.5 * ops.log(self.total / self.count), LOW, HIGH)

    def training_log_prob(self, params: Any, value: Any) -> Any:
        value, mean = ops.cast(value, "float32"), self.mean(params)
        # The derivative of the batch's density with respect to σ is 0 at σ*, so the ELBO's gradient doesn't need it.
        squares = ops.stop_gradient(ops.square(value - mean))
        size = ops.cast(ops.size(squares), "float32")
        squared_error = ops.sum(squares) / ops.maximum(size, 1.0)
        known = ops.logical_and(size > 0, ops.isfinite(squared_error))  # a replica may have no examples
        self.total.assign(ops.where(known, self.momentum * self.total + squared_error, self.total))
        self.count.assign(ops.where(known, self.momentum * self.count + 1, self.count))
        log_scale = ops.clip(0.5 * ops.log(squared_error + 1e-12), LOW, HIGH)
        return self.sum_event(normal_log_density(value, mean, log_scale))
