"""Bodies: the layers of an encoder or a decoder between its input and its head."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras import layers, ops

from kvae.networks.composite import Composite

ACTIVATION = "relu"
MIN_SIDE = 4  # a grid of this side is not halved again, because it would lose positions
CONVOLUTIONS = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}  # by the number of sides
KERNELS = {1: 5, 2: 3, 3: 3}  # width of the kernel


def _check_sizes(name: str, sizes: tuple[int, ...]) -> tuple[int, ...]:
    sizes = tuple(sizes)
    if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"Argument `{name}` must be a tuple of positive integers. Received: {name}={sizes}")
    return sizes


def halvings(side: int, end: int) -> int:
    """Return how often a side is halved, rounding up, until it is at most `end`.

    Example:

        >>> halvings(28, 4), halvings(64, 4), halvings(65, 4)
        (3, 4, 5)
    """
    return max(0, (-(-side // end) - 1).bit_length())


def conv(sides: int, filters: int, **options: Any) -> layers.Layer:
    """Return a convolution with padding over the time of a series (1 side), an image (2) or a volume (3)."""
    if sides not in CONVOLUTIONS:
        raise ValueError(
            "Expected a grid of features, such as an image (H, W, C) or a series (T, F), for a convolution; a row of a "
            f"table requires `MLP`. Received: {sides} sides"
        )
    return CONVOLUTIONS[sides](filters, KERNELS[sides], padding="same", **options)


def build_chain(chain: Iterable[layers.Layer], input_shape: tuple[int | None, ...]) -> list[layers.Layer]:
    """Build consecutive layers, each before the next one is made."""
    x, built = keras.KerasTensor(input_shape), []
    for layer in chain:
        x = layer(x)
        built.append(layer)
    return built


class _Chain(Composite):
    """Consecutive layers; a subclass makes them in `make_layers`."""

    def __init__(self, activation: str = ACTIVATION, **kwargs: Any):
        super().__init__(**kwargs)
        self.activation = keras.activations.serialize(keras.activations.get(activation))

    def make_layers(self, input_shape: tuple[int | None, ...]) -> Iterator[layers.Layer]:
        raise NotImplementedError(f"{type(self).__name__} must define `make_layers`.")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.chain = build_chain(self.make_layers(input_shape), input_shape)
        self.built = True

    def call(self, x: Any) -> Any:
        for layer in self.chain:
            x = layer(x)
        return x


@keras.saving.register_keras_serializable("kvae")
class GatedDense(Composite):
    """(W h + b) ⊙ sigmoid(V h + c): gated linear units (Dauphin et al. 2017, https://arxiv.org/abs/1612.08083, eq. 1).

    Args:
        units: width of the output.
    """

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.linear = layers.Dense(self.units, dtype=self.dtype_policy)
        self.gate = layers.Dense(self.units, activation="sigmoid", dtype=self.dtype_policy)
        self.linear.build(input_shape)
        self.gate.build(input_shape)
        self.built = True

    def call(self, h: Any) -> Any:
        return self.linear(h) * self.gate(h)


@keras.saving.register_keras_serializable("kvae")
class MLP(_Chain):
    """Dense layers on the flattened input: a body for encoders and for decoders.

    Args:
        units: widths of the layers, first to last.
        activation: activation of every layer.
        gated: whether the layers are `GatedDense`, without `activation`.

    Raises:
        ValueError: for widths that are not positive integers.

    Example:

        >>> MLP(units=(64, 32))(ops.zeros((2, 8, 8, 1))).shape
        TensorShape([2, 32])
    """

    def __init__(
        self,
        units: tuple[int, ...] = (512, 256),
        activation: str = ACTIVATION,
        gated: bool = False,
        **kwargs: Any,
    ):
        super().__init__(activation, **kwargs)
        self.units, self.gated = _check_sizes("units", units), gated

    def make_layers(self, input_shape: tuple[int | None, ...]) -> Iterator[layers.Layer]:
        policy = self.dtype_policy
        yield layers.Flatten(dtype=policy)
        for units in self.units:
            if self.gated:
                yield GatedDense(units, dtype=policy)
            else:
                yield layers.Dense(units, activation=self.activation, dtype=policy)


@keras.saving.register_keras_serializable("kvae")
class ConvDown(_Chain):
    """Convolutions from an image or a series to a vector: the default body of encoders.

    Kernels are 3×3 for images, and 5 steps for series.

    Args:
        filters: filters of the convolutions. Each convolution halves the image, down to a side of 4. None grows with
            the image: 32, then 64 for each further convolution; at least three, and as many as a side of 4 takes.
        units: width of the dense layer after the convolutions, the encoder's last hidden layer.
        activation: activation of every layer.

    Raises:
        ValueError: for sizes that are not positive integers.

    Example:

        >>> ConvDown(filters=(8, 16), units=32)(ops.zeros((2, 13, 17, 3))).shape
        TensorShape([2, 32])
    """

    def __init__(
        self,
        filters: tuple[int, ...] | None = None,
        units: int = 256,
        activation: str = ACTIVATION,
        **kwargs: Any,
    ):
        super().__init__(activation, **kwargs)
        self.filters = None if filters is None else _check_sizes("filters", filters)
        (self.units,) = _check_sizes("units", (units,))

    def make_layers(self, input_shape: tuple[int | None, ...]) -> Iterator[layers.Layer]:
        shared: dict[str, Any] = {"activation": self.activation, "dtype": self.dtype_policy}
        side = min((size for size in input_shape[1:-1] if size is not None), default=1)
        for filters in self.filters or (32, *[64] * max(2, halvings(side, MIN_SIDE) - 1)):
            strides = 2 if side > MIN_SIDE else 1
            yield conv(len(input_shape) - 2, filters, strides=strides, **shared)
            side = -(-side // strides)
        yield layers.Flatten(dtype=self.dtype_policy)
        yield layers.Dense(self.units, **shared)


@keras.saving.register_keras_serializable("kvae")
class DepthToSpace(layers.Layer):
    """Rearrangement of channels into pixels: `(B, H, W, 4·C)` to `(B, 2·H, 2·W, C)` (Shi et al. 2016).

    For a series, `(B, T, 2·C)` to `(B, 2·T, C)`.

    Convolution + depth-to-space is the fastest upsampling in training on a CPU. It keeps its full speed in LiteRT at
    any batch size (`benchmarks/upsampling.py`).
    """

    def call(self, x: Any) -> Any:
        if len(x.shape) == 3:
            return ops.reshape(x, (-1, 2 * x.shape[1], x.shape[2] // 2))
        return ops.depth_to_space(x, 2, data_format="channels_last")


@keras.saving.register_keras_serializable("kvae")
class ConvUp(_Chain):
    """Convolutions at growing resolution: the default body of decoders of images and series.

    The decoder turns the latents into a grid of `filters[0]` channels. Each further entry doubles the grid.
    The decoder's head doubles it once more: with two entries, a 7×7 grid becomes a 28×28 image.

    Args:
        filters: channels at each resolution, coarse to fine.
        activation: activation of every layer.

    Raises:
        ValueError: for filters that are not positive integers.

    Example:

        >>> ConvUp(filters=(64, 32))(ops.zeros((2, 7, 7, 64))).shape
        TensorShape([2, 14, 14, 32])
    """

    def __init__(self, filters: tuple[int, ...] = (64, 32), activation: str = ACTIVATION, **kwargs: Any):
        super().__init__(activation, **kwargs)
        self.filters = _check_sizes("filters", filters)

    @property
    def stem_activation(self) -> Any:
        """Activation of the dense layer that makes the grid."""
        return self.activation

    @property
    def upsampling(self) -> int:
        """Ratio of the output's side to the input's side."""
        return 2 ** (len(self.filters) - 1)

    def make_layers(self, input_shape: tuple[int | None, ...]) -> Iterator[layers.Layer]:
        shared: dict[str, Any] = {"activation": self.activation, "dtype": self.dtype_policy}
        sides = len(input_shape) - 2
        for filters in self.filters[1:]:
            yield conv(sides, 2**sides * filters, **shared)
            yield DepthToSpace(dtype=self.dtype_policy)
        yield conv(sides, self.filters[-1], **shared)
