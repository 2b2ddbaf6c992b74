"""Gradients that differ from the gradient of the loss, for estimators that are defined by their gradient."""

from typing import Any

from keras import ops


class GradientScale:
    """The identity, with a gradient that is multiplied by a factor.

    z goes through it before the decoder and the prior. So the encoder's gradient can have other weights than the
    decoder's. These weights are known only after the decoder has run: the objective then sets `factor`, before the
    gradient is computed.

    Example:

        >>> import tensorflow as tf
        >>> z, path = tf.constant(3.0), GradientScale()
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(z)
        ...     loss = path(z) ** 2
        >>> path.factor = 10.0
        >>> float(loss), float(tape.gradient(loss, z))
        (9.0, 60.0)
    """

    factor: Any = 1.0

    def __call__(self, z: Any) -> Any:
        @ops.custom_gradient
        def identity(z: Any) -> Any:
            def grad(*args: Any, upstream: Any = None) -> Any:
                return (args[0] if upstream is None else upstream) * self.factor

            return z, grad

        return identity(z)


def check_separate(objective: Any, model: Any) -> None:
    """Raise a ValueError if the gradients of the encoder and of the decoder can't be weighted differently."""
    if model.posterior.is_joint:
        raise ValueError(
            f"{type(objective).__name__} weights the gradients of the encoder and of the decoder differently, but in a "
            "hierarchy the latents are drawn in the pass of the decoder: use `IWAE`. "
            f"Received: posterior={type(model.posterior).__name__}"
        )


def with_gradient_of(surrogate: Any, value: Any) -> Any:
    """Return `value` with the gradient of `surrogate`."""
    return ops.stop_gradient(value) + (surrogate - ops.stop_gradient(surrogate))
