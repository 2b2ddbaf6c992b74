"""`FusedAdam`: Adam with one operation for each weight."""

from typing import Any

import keras
import tensorflow as tf

__all__ = ["FusedAdam"]


@keras.saving.register_keras_serializable("kvae")
class FusedAdam(keras.optimizers.Adam):
    """`keras.optimizers.Adam` with one operation instead of fifteen: the same arguments, step and state.

    Keras computes the update (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1) as products, sums and
    roots of whole tensors, each of which goes through memory. TensorFlow has one operation for the whole update. With
    wide layers and short steps, this saves a good part of a step (benchmarks/training/fit.py). For sparse gradients,
    and with `amsgrad`, the update is Keras's.

    Args:
        ema_warmup: whether averages of weights (`use_ema`) have the momentum min(`ema_momentum`, t/(t + 10)) at step t.
            They then cover about the last tenth of the steps, until `ema_momentum` is reached. Without it, as in Keras,
            averages contain the initial weights for thousands of steps (with a momentum of 0.999, the first step's
            weights are 13 % of an average after 2,000 steps).
        *args, **kwargs: as for `keras.optimizers.Adam`.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> vae.compile(kvae.optimizers.FusedAdam(1e-3, use_ema=True, ema_momentum=0.999, ema_warmup=True))
    """

    def __init__(self, *args: Any, ema_warmup: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.ema_warmup = ema_warmup

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if self.amsgrad or isinstance(gradient, tf.IndexedSlices):
            return super().update_step(gradient, variable, learning_rate)
        dtype, index = variable.dtype, self._get_variable_index(variable)
        beta_1, beta_2 = tf.cast(self.beta_1, dtype), tf.cast(self.beta_2, dtype)
        step = tf.cast(self.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=beta_1**step,
            beta2_power=beta_2**step,
            lr=tf.cast(learning_rate, dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
        )
        return None

    def _update_model_variables_moving_average(self, trainable_variables: Any) -> None:
        if not self.ema_warmup:
            super()._update_model_variables_moving_average(trainable_variables)
            return
        step = tf.cast(self.iterations, "float32")
        momentum = tf.minimum(self.ema_momentum, step / (step + 10.0))
        for variable, average in zip(trainable_variables, self._model_variables_moving_average):
            if average is not None:
                share = tf.cast(momentum, variable.dtype)
                average.assign(share * average + (1 - share) * variable)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ema_warmup": self.ema_warmup}
