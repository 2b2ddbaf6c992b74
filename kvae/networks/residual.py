"""Residual bodies: deeper networks that still train well."""

from collections.abc import Iterator
from typing import Any

import keras
from keras import layers

from kvae.networks.bodies import (
    ACTIVATION,
    CONVOLUTIONS,
    KERNELS,
    MIN_SIDE,
    DepthToSpace,
    _Chain,
    _check_sizes,
    build_chain,
    conv,
)
from kvae.networks.composite import Composite

KINDS = ("plain", "bottleneck", "separable")


@keras.saving.register_keras_serializable("kvae")
class ResidualBlock(Composite):
    """x + conv(act(conv(act(x)))): convolutions around an identity (He et al. 2016, full pre-activation).

    There is no batch normalization. The last kernel starts at zero, so that a block starts as the identity.

    Args:
        filters: channels, the same number as in the input.
        activation: activation before each convolution.
        kind: "plain", two convolutions (3×3, or of 5 steps for series); "bottleneck", two of half as many channels
            between two 1×1 convolutions; or "separable", two depthwise separable convolutions.

    Raises:
        ValueError: if the kind is unknown.
    """

    def __init__(self, filters: int, activation: str = ACTIVATION, kind: str = "plain", **kwargs: Any):
        super().__init__(**kwargs)
        if kind not in KINDS:
            raise ValueError(f"Argument `kind` must be one of {', '.join(KINDS)}. Received: kind={kind!r}")
        self.filters, self.activation, self.kind = filters, activation, kind

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shared: dict[str, Any] = {"padding": "same", "dtype": self.dtype_policy}
        sides = len(input_shape) - 2
        layer, width = CONVOLUTIONS[sides], KERNELS[sides]
        self.act = layers.Activation(self.activation, dtype=self.dtype_policy)
        self.between = []
        if self.kind == "bottleneck":
            half = max(1, self.filters // 2)
            self.first = layer(half, 1, **shared)
            self.between = [layer(half, width, **shared) for _ in range(2)]
            self.second = layer(self.filters, 1, kernel_initializer="zeros", **shared)
        elif self.kind == "separable":
            separable = layers.SeparableConv1D if sides == 1 else layers.SeparableConv2D
            self.first = separable(self.filters, width, **shared)
            self.second = separable(self.filters, width, pointwise_initializer="zeros", **shared)
        else:
            self.first = layer(self.filters, width, **shared)
            self.second = layer(self.filters, width, kernel_initializer="zeros", **shared)
        build_chain([self.first, *self.between, self.second], input_shape)
        self.built = True

    def call(self, x: Any) -> Any:
        h = x
        for layer in (self.first, *self.between, self.second):
            h = layer(self.act(h))
        return x + h


@keras.saving.register_keras_serializable("kvae")
class ResidualDown(_Chain):
    """Residual blocks from an image to a vector: a body for encoders.

    Args:
        filters: filters of each level. A level begins with a convolution that halves the image (down to a side
            of 4).
        blocks: residual blocks in each level.
        units: width of the dense layer after the blocks, the encoder's last hidden layer.
        activation: activation of every layer.

    Raises:
        ValueError: for sizes that are not positive integers.

    Example:

        >>> ResidualDown(filters=(8, 8), blocks=1, units=32)(keras.ops.zeros((2, 13, 17, 3))).shape
        TensorShape([2, 32])
    """

    def __init__(
        self,
        filters: tuple[int, ...] = (32, 64),
        blocks: int = 2,
        units: int = 256,
        activation: str = ACTIVATION,
        **kwargs: Any,
    ):
        super().__init__(activation, **kwargs)
        self.filters = _check_sizes("filters", filters)
        (self.blocks,), (self.units,) = _check_sizes("blocks", (blocks,)), _check_sizes("units", (units,))

    def make_layers(self, input_shape: tuple[int | None, ...]) -> Iterator[layers.Layer]:
        policy = self.dtype_policy
        side = min(size for size in input_shape[1:-1] if size is not None)
        for filters in self.filters:
            strides = 2 if side > MIN_SIDE else 1
            yield conv(len(input_shape) - 2, filters, strides=strides, dtype=policy)
            for _ in range(self.blocks):
                yield ResidualBlock(filters, self.activation, dtype=policy)
            side = -(-side // strides)
        yield layers.Activation(self.activation, dtype=policy)
        yield layers.Flatten(dtype=policy)
        yield layers.Dense(self.units, activation=self.activation, dtype=policy)


@keras.saving.register_keras_serializable("kvae")
class ResidualUp(_Chain):
    """Residual blocks at growing resolution: a body for decoders.

    As in `ConvUp`, the input is a grid of `filters[0]` channels, each further entry doubles the grid, and the
    decoder's head doubles it once more.

    Args:
        filters: channels at each resolution, coarse to fine.
        blocks: residual blocks at each resolution.
        activation: activation of every layer.

    Raises:
        ValueError: for sizes that are not positive integers.

    Example:

        >>> ResidualUp(filters=(16, 8), blocks=1)(keras.ops.zeros((2, 7, 7, 16))).shape
        TensorShape([2, 14, 14, 8])
    """

    stem_activation = None  # each block begins with an activation

    def __init__(
        self,
        filters: tuple[int, ...] = (64, 32),
        blocks: int = 2,
        activation: str = ACTIVATION,
        **kwargs: Any,
    ):
        super().__init__(activation, **kwargs)
        self.filters, (self.blocks,) = _check_sizes("filters", filters), _check_sizes("blocks", (blocks,))

    @property
    def upsampling(self) -> int:
        """Ratio of the output's side to the input's side."""
        return 2 ** (len(self.filters) - 1)

    def make_layers(self, input_shape: tuple[int | None, ...]) -> Iterator[layers.Layer]:
        policy = self.dtype_policy
        for level, filters in enumerate(self.filters):
            if level:
                yield conv(len(input_shape) - 2, 2 ** (len(input_shape) - 2) * filters, dtype=policy)
                yield DepthToSpace(dtype=policy)
            for _ in range(self.blocks):
                yield ResidualBlock(filters, self.activation, dtype=policy)
        yield layers.Activation(self.activation, dtype=policy)
