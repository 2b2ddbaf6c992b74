"""An invertible flow as the prior."""

from typing import Any

import keras
from keras import ops

from kvae.arguments import at_least
from kvae.distributions import normal_from_words
from kvae.distributions.coupling import AffineCoupling
from kvae.distributions.diagonal_normal import normal_log_density
from kvae.distributions.exact import exact_dense, exact_stretch, on_grid
from kvae.priors.base import Prior


@keras.saving.register_keras_serializable("kvae")
class RealNVP(Prior):
    """Real-valued non-volume-preserving flow (Dinh et al. 2017, https://arxiv.org/abs/1605.08803) as a learned prior.

    log p(z) = log N(f(z); 0, I) + log |det ∂f/∂z|, where f is a chain of affine couplings that change each half of
    the latents in turn. The flow starts as N(0, I). Latents are drawn by the inverse of f in exact arithmetic
    (`kvae.distributions.exact`), within 10⁻² of a standard deviation of the float32 inverse.

    Args:
        num_layers: number of couplings.
        units: widths of the hidden layers in each coupling.

    Raises:
        ValueError: if num_layers < 1, or if there are fewer than two latents.

    Example:

        >>> p = RealNVP(num_layers=4, units=(16,))
        >>> p.build((None, 3))
        >>> p.log_prob(ops.zeros((2, 3))).shape
        TensorShape([2])
    """

    def __init__(self, num_layers: int = 8, units: tuple[int, ...] = (128,), **kwargs: Any):
        super().__init__(**kwargs)
        self.num_layers, self.units = at_least("num_layers", num_layers, 1), tuple(units)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.couplings = []
        for i in range(self.num_layers):
            coupling = AffineCoupling(self.units, swap=bool(i % 2))
            coupling.build(input_shape)
            self.couplings.append(coupling)
        super().build(input_shape)

    def log_prob(self, z: Any, condition: Any = None) -> Any:
        u, log_det = ops.cast(z, "float32"), 0.0
        for coupling in self.couplings:
            u, step = coupling(u)
            log_det = log_det + step
        return ops.sum(normal_log_density(u, 0.0, 0.0), axis=-1) + log_det

    def from_words(self, words: Any, temperature: Any = 1.0, condition: Any = None) -> Any:
        z = on_grid(temperature * normal_from_words(words))
        for coupling in reversed(self.couplings):
            a, b = coupling.split(z)
            raw, shift = ops.split(_exact_output(coupling.network, a), 2, axis=-1)
            z = coupling.join(a, exact_stretch(b, raw) + shift)
        return z


def _exact_output(network: list[keras.layers.Dense], x: Any) -> Any:
    """Return the output of a coupling's network, the same to the last bit on every platform."""
    for i, layer in enumerate(network):
        x = exact_dense(ops.relu(x) if i else x, ops.reshape(layer.kernel, (1, -1)), layer.bias)
    return x
