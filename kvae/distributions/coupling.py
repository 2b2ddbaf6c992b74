"""Affine couplings: an invertible map whose Jacobian is triangular."""

from typing import Any

import keras
from keras import layers, ops

from kvae.distributions.base import Part
from kvae.distributions.exact import log_rational_scale, rational_scale


@keras.saving.register_keras_serializable("kvae")
class AffineCoupling(Part):
    """Affine coupling: one half of the vector is scaled and shifted by a function of the other half.

    (Dinh et al. 2017, eq. 4–5.) `z = [a, b]` becomes `[a, (b − t(a)) / s(a)]`; with `swap`, the other half changes. A
    small ReLU network returns t and the raw scale, and s is `rational_scale`. The coupling starts as the identity.

    Args:
        units: widths of the hidden layers.
        swap: whether the first half changes instead of the second.

    Example:

        >>> coupling = AffineCoupling(units=(8,))
        >>> u, log_det = coupling(ops.ones((3, 5)))
        >>> u.shape, log_det.shape
        (TensorShape([3, 5]), TensorShape([3]))
    """

    def __init__(self, units: tuple[int, ...] = (128,), swap: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.units, self.swap = tuple(units), swap

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        size = input_shape[-1]
        assert size is not None
        if size < 2:
            raise ValueError(f"A coupling requires a vector of at least 2 numbers. Received: {size}")
        self.cut = size // 2
        changed = self.cut if self.swap else size - self.cut
        self.network = [layers.Dense(units, activation="relu", dtype="float32") for units in self.units]
        self.network.append(layers.Dense(2 * changed, kernel_initializer="zeros", dtype="float32"))
        shape: tuple[int | None, ...] = (None, size - changed)
        for layer in self.network:
            layer.build(shape)
            shape = (None, layer.units)
        self.built = True

    def split(self, z: Any) -> tuple[Any, Any]:
        """Return `(a, b)`: the half that stays and the half that changes."""
        first, second = z[..., : self.cut], z[..., self.cut :]
        return (second, first) if self.swap else (first, second)

    def join(self, a: Any, b: Any) -> Any:
        return ops.concatenate([b, a] if self.swap else [a, b], axis=-1)

    def scale_and_shift(self, a: Any) -> tuple[Any, Any]:
        """Return the raw scale and the shift of the half that changes."""
        for layer in self.network:
            a = layer(a)
        raw, shift = ops.split(a, 2, axis=-1)
        return raw, shift

    def call(self, z: Any) -> tuple[Any, Any]:
        """Map `z` `(…, D)` towards the noise u. Return u and log |det ∂u/∂z| `(…,)`."""
        a, b = self.split(z)
        raw, shift = self.scale_and_shift(a)
        b = (b - shift) / rational_scale(raw)
        return self.join(a, b), -ops.sum(log_rational_scale(raw), axis=-1)
