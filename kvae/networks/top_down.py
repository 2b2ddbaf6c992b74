"""The decoder of a hierarchy of latents: from the top to the image, one stochastic layer after the other."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import layers, ops

from kvae.networks.bodies import ACTIVATION, DepthToSpace, build_chain
from kvae.networks.composite import Composite
from kvae.networks.events import check_image_shape
from kvae.networks.levels import check_levels, grid_of, layer_shapes, split_grids
from kvae.networks.residual import ResidualBlock

MAX_LOG_SCALE = 3.0  # of σ_l


@keras.saving.register_keras_serializable("kvae")
class Enlarge(Composite):
    """A grid with twice the sides, cropped to `grid`: convolution and depth-to-space.

    Args:
        filters: channels of the result.
        grid: height and width of the result.
        activation: activation before the convolution; None for none.
    """

    def __init__(self, filters: int, grid: tuple[int, int], activation: str | None = ACTIVATION, **kwargs: Any):
        super().__init__(**kwargs)
        self.filters, self.grid, self.activation = filters, tuple(grid), activation

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.chain = [
            layers.Activation(self.activation, dtype=self.dtype_policy),
            layers.Conv2D(4 * self.filters, 3, padding="same", dtype=self.dtype_policy),
            DepthToSpace(dtype=self.dtype_policy),
        ]
        build_chain(self.chain, input_shape)
        self.built = True

    def call(self, x: Any) -> Any:
        for layer in self.chain:
            x = layer(x)
        height, width = self.grid
        return x if x.shape[1:3] == self.grid else x[:, :height, :width, :]


@keras.saving.register_keras_serializable("kvae")
class StochasticLayer(Composite):
    """p(z_l | z_<l) in terms of its noise: z_l = μ_l + σ_l ⊙ ε_l, which is added to the state; then a residual block.

    μ_l and σ_l are functions of the state h. They start at 0 and 1, and σ_l stays between e⁻³ and e³.

    Args:
        channels: channels of the latents.
        gain: scale of the initial projection of z_l. The states of deep hierarchies are sums of many z_l.
        block: kind of the residual block (`ResidualBlock`).
        activation: activation before each convolution.
    """

    def __init__(
        self, channels: int, gain: float = 1.0, block: str = "bottleneck", activation: str = ACTIVATION, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.channels, self.gain, self.block, self.activation = channels, gain, block, activation

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        policy, (*grid, width) = self.dtype_policy, input_shape
        assert width is not None
        self.act = layers.Activation(self.activation, dtype=policy)
        self.prior = layers.Conv2D(2 * self.channels, 1, kernel_initializer="zeros", dtype=policy)
        scaled = keras.initializers.VarianceScaling(self.gain**2)
        self.project = layers.Conv2D(width, 1, kernel_initializer=scaled, dtype=policy)
        self.residual = ResidualBlock(width, self.activation, self.block, dtype=policy)
        self.prior.build(input_shape)
        self.project.build((*grid, self.channels))
        self.residual.build(input_shape)
        self.built = True

    def call(self, h: Any, epsilon: Any = 0.0) -> Any:
        shift, raw = ops.split(self.prior(self.act(h)), 2, axis=-1)
        scale = ops.exp(MAX_LOG_SCALE * ops.tanh(raw / MAX_LOG_SCALE))
        z = shift + scale * ops.cast(epsilon, scale.dtype)
        return self.residual(h + self.project(z))


@keras.saving.register_keras_serializable("kvae")
class TopDown(Composite, keras.Model):
    """Decoder with a hierarchy of latents on grids: standard normal noise `(B, D)` to raw likelihood parameters.

    The model is p(z₁) Π p(z_l | z_<l) p(x | z), with a grid of latents z_l in each stochastic layer (Sønderby et al.
    2016, https://arxiv.org/abs/1602.02282; Child 2021, https://arxiv.org/abs/2011.10650). In the non-centred form
    z_l = μ_l + σ_l ⊙ ε_l (Kingma & Welling 2014, https://arxiv.org/abs/1402.0480) it is a decoder of ε, whose prior is
    N(0, I): a decoder like any other. `z` are the ε of all layers, top to bottom, each flattened.

    Args:
        image_shape: `(H, W, C)`.
        levels: rows (stride, layers, channels, width), coarse to fine: see `Level`.
        block: kind of the residual blocks: "plain", "bottleneck" or "separable" (`ResidualBlock`).
        activation: activation before each convolution.
        param_size: numbers per pixel. By default, `kvae.VAE` takes it from its likelihood; without a VAE it is C.

    Attributes:
        latent_dim: D, the number of latents of all layers.
        layer_shapes: shape `(h, w, channels)` of the latents of each layer.

    Raises:
        ValueError: for an image shape or levels that aren't positive integers, or strides that aren't falling powers
            of 2.

    Example:

        >>> decoder = TopDown((28, 28, 1), levels=[(4, 2, 8, 16), (2, 1, 4, 16)])
        >>> decoder.latent_dim, decoder(ops.zeros((3, 1568))).shape
        (1568, TensorShape([3, 28, 28, 1]))
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: Any,
        block: str = "bottleneck",
        activation: str = ACTIVATION,
        param_size: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.image_shape, self.levels = check_image_shape(image_shape), check_levels(levels)
        self.block, self.activation, self.param_size = block, activation, param_size
        self.layer_shapes = layer_shapes(self.levels, self.image_shape)
        self.latent_dim = sum(map(math.prod, self.layer_shapes))

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of x."""
        return self.image_shape

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.param_size = self.param_size or self.image_shape[-1]
        policy, top = self.dtype_policy, self.levels[0]
        size = input_shape[-1]
        assert size is not None
        grid = (*top.grid(self.image_shape), top.width)
        self.top = self.add_weight(name="top", shape=grid, initializer="zeros")
        self.of_condition = layers.Dense(top.width, dtype=policy) if size > self.latent_dim else None
        if self.of_condition:
            self.of_condition.build((None, size - self.latent_dim))
        self.chain = build_chain(self._stages(), (None, *grid))
        self.built = True

    def _stages(self) -> Iterator[layers.Layer]:
        assert self.param_size is not None
        policy, activation = self.dtype_policy, self.activation
        gain = 1 / math.sqrt(len(self.layer_shapes))

        def doubled(strides: list[int], width: int) -> Iterator[layers.Layer]:
            for stride in strides:
                yield Enlarge(width, grid_of(stride, self.image_shape), activation, dtype=policy)
                yield ResidualBlock(width, activation, self.block, dtype=policy)

        stride = self.levels[0].stride
        for level in self.levels:
            yield from doubled(_halves(stride, level.stride), level.width)
            for _ in range(level.layers):
                yield StochasticLayer(level.channels, gain, self.block, activation, dtype=policy)
            stride = level.stride
        yield from doubled(_halves(stride, 2), self.levels[-1].width)
        # float32 under every policy, because densities are computed from this output.
        if stride > 1:
            yield Enlarge(self.param_size, self.image_shape[:2], activation, dtype="float32")
        else:
            yield layers.Activation(activation, dtype="float32")
            yield layers.Conv2D(self.param_size, 3, padding="same", dtype="float32")

    def walk(self, latents: Callable[[int, Any], Any], n: Any, c: Any = None) -> Any:
        """Pass from the top to the raw parameters of p(x|z), `(n, H, W, param_size)`, with latents from a function.

        Args:
            latents: function of the number of a layer and of the state `(n, h, w, width)` above it to its
                ε_l, `(n, h, w, channels)`.
            n: number of rows.
            c: condition vectors `(n, C)` of a conditional model.
        """
        h = ops.cast(self.top, self.compute_dtype)[None]
        h = ops.repeat(h, n, axis=0) if self.of_condition is None else h + self.of_condition(c)[:, None, None, :]
        layer_number = 0
        for layer in self.chain:
            if isinstance(layer, StochasticLayer):
                h = layer(h, latents(layer_number, h))
                layer_number += 1
            else:
                h = layer(h)
        return h

    def call(self, z: Any) -> Any:
        epsilon, c = z[:, : self.latent_dim], z[:, self.latent_dim :]
        parts = self.split(epsilon)
        return self.walk(lambda number, h: parts[number], ops.shape(z)[0], c)

    @property
    def level_grids(self) -> list[tuple[int, int]]:
        """Height and width of the grid of each level."""
        return [level.grid(self.image_shape) for level in self.levels]

    @property
    def level_sizes(self) -> list[int]:
        """Number of latents of each level."""
        return [level.layers * level.channels * math.prod(grid) for level, grid in zip(self.levels, self.level_grids)]

    @property
    def level_names(self) -> list[str]:
        """Names of the rates of the levels, such as "rate_7x7"."""
        return [f"rate_{height}x{width}" for height, width in self.level_grids]

    def by_level(self, rates: Any) -> dict[str, Any]:
        """Return the sums of the layers' rates `(…, L)` over each level, `(…)`, by name."""
        sums, start = {}, 0
        for name, level in zip(self.level_names, self.levels):
            sums[name] = ops.sum(rates[..., start : start + level.layers], axis=-1)
            start += level.layers
        return sums

    def split(self, z: Any) -> list[Any]:
        """Return latents `(n, D)` as the grids of each layer, `(n, h, w, channels)`."""
        return split_grids(z, self.layer_shapes)


def _halves(stride: int, end: int) -> list[int]:
    """Return the strides after `stride`, each half of the one before, down to `end`.

    Example:

        >>> _halves(16, 2), _halves(2, 2)
        ([8, 4, 2], [])
    """
    return [stride >> i for i in range(1, stride.bit_length()) if stride >> i >= end]
