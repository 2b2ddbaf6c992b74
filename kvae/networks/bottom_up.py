"""The encoder of a hierarchy of latents: features of the image on grids, and the posterior of each layer."""

import math
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers, ops

from kvae.networks.bodies import ACTIVATION, _Chain
from kvae.networks.composite import Composite
from kvae.networks.events import check_image_shape
from kvae.networks.levels import check_levels, split_grids
from kvae.networks.residual import ResidualBlock

MOST_BLOCKS = 100


@keras.saving.register_keras_serializable("kvae")
class LayerPosterior(Composite):
    """Raw parameters of q(ε_l | ε_<l, x) from the features of the image and the state of the decoder.

    They start at zero: the posterior of an untrained layer is the prior, N(0, I).

    Args:
        channels: channels of the latents.
        block: kind of the residual block (`ResidualBlock`).
        activation: activation before each convolution.
    """

    def __init__(self, channels: int, block: str = "bottleneck", activation: str = ACTIVATION, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels, self.block, self.activation = channels, block, activation

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        *grid, width = input_shape
        assert width is not None
        policy = self.dtype_policy
        self.act = layers.Activation(self.activation, dtype=policy)
        self.of_image = layers.Conv2D(width, 1, use_bias=False, dtype=policy)
        self.of_state = layers.Conv2D(width, 1, dtype=policy)
        self.residual = ResidualBlock(width, self.activation, self.block, dtype=policy)
        # float32 under every policy, because densities are computed from this output.
        self.head = layers.Conv2D(2 * self.channels, 1, kernel_initializer="zeros", dtype="float32")
        for layer in (self.of_image, self.of_state, self.residual, self.head):
            layer.build((*grid, width))
        self.built = True

    def call(self, features: Any, state: Any) -> Any:
        """Return `[mean, raw log-scale]` `(n, h, w, 2·channels)` for features of B images; n is a multiple of B."""
        of_image, of_state = self.of_image(self.act(features)), self.of_state(self.act(state))
        joint = ops.reshape(of_state, (-1, *ops.shape(of_image))) + of_image  # (K, B, h, w, width)
        return self.head(self.act(self.residual(ops.reshape(joint, ops.shape(of_state)))))


@keras.saving.register_keras_serializable("kvae")
class Features(_Chain):
    """Residual blocks at falling resolution, with the features of several grids.

    Args:
        levels: rows (stride, layers, channels, width), coarse to fine: see `Level`.
        blocks: residual blocks at each resolution.
        block: kind of the residual blocks (`ResidualBlock`).
        activation: activation before each convolution.
    """

    def __init__(self, levels: Any, blocks: int, block: str, activation: str = ACTIVATION, **kwargs: Any):
        super().__init__(activation, **kwargs)
        self.levels, self.blocks, self.block = check_levels(levels), blocks, block

    def make_layers(self, input_shape: tuple[int | None, ...]) -> Iterator[layers.Layer]:
        policy, stride, self.ends = self.dtype_policy, 1, {}
        count = 0
        for level in reversed(self.levels):
            steps = max(1, (level.stride // stride).bit_length() - 1)
            for _ in range(steps):
                strides = 2 if stride < level.stride else 1
                yield layers.Conv2D(level.width, 3, strides=strides, padding="same", dtype=policy)
                for _ in range(self.blocks):
                    yield ResidualBlock(level.width, self.activation, self.block, dtype=policy)
                stride *= strides
                count += 1 + self.blocks
            self.ends[level.stride] = count
        yield layers.Activation(self.activation, dtype=policy)
        yield layers.Flatten(dtype=policy)

    def grids(self, x: Any) -> list[Any]:
        """Return the features of each level, `(B, h, w, width)`, coarse to fine."""
        ends = {count: stride for stride, count in self.ends.items()}
        found = {}
        for i, layer in enumerate(self.chain[:-2], start=1):
            x = layer(x)
            if i in ends:
                found[ends[i]] = x
        return [found[level.stride] for level in self.levels]


@keras.saving.register_keras_serializable("kvae")
class BottomUp(Composite, keras.Model):
    """Encoder for `TopDown`: features of the image on the grids of the levels, flattened, `(B, param_size)`.

    The posterior of each layer depends on these features and on the state of the decoder above it
    (`layer_params`; `kvae.posteriors.TopDownNormal`).

    Args:
        image_shape: `(H, W, C)`.
        levels: rows (stride, layers, channels, width), coarse to fine: those of the decoder.
        blocks: residual blocks at each resolution.
        block: kind of the residual blocks: "plain", "bottleneck" or "separable" (`ResidualBlock`).
        activation: activation before each convolution.

    Attributes:
        param_size: numbers per image.

    Raises:
        ValueError: for levels that `TopDown` refuses, or a number of blocks outside 1 … 100.

    Example:

        >>> encoder = BottomUp((28, 28, 1), levels=[(4, 2, 8, 16), (2, 1, 4, 16)])
        >>> encoder(ops.zeros((3, 28, 28, 1))).shape  # 7 · 7 · 16 + 14 · 14 · 16
        TensorShape([3, 3920])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: Any,
        blocks: int = 1,
        block: str = "bottleneck",
        activation: str = ACTIVATION,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.image_shape, self.levels = check_image_shape(image_shape), check_levels(levels)
        if not (isinstance(blocks, int) and 1 <= blocks <= MOST_BLOCKS):
            raise ValueError(f"Argument `blocks` must be from 1 to {MOST_BLOCKS}. Received: blocks={blocks}")
        self.blocks, self.block, self.activation = blocks, block, activation
        self.grids = [(*level.grid(self.image_shape), level.width) for level in self.levels]
        self.param_size = sum(map(math.prod, self.grids))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        policy = self.dtype_policy
        self.body = Features(self.levels, self.blocks, self.block, self.activation, dtype=policy)
        self.body.build(input_shape)
        self.posteriors, self.level_of = [], []
        for i, level in enumerate(self.levels):
            for _ in range(level.layers):  # built at once, so that a file can't ask for many more than it has
                layer = LayerPosterior(level.channels, self.block, self.activation, dtype=policy)
                layer.build((None, *self.grids[i]))
                self.posteriors.append(layer)
                self.level_of.append(i)
        self.built = True

    def call(self, x: Any) -> Any:
        grids = self.body.grids(x)
        flat = [ops.reshape(h, (-1, math.prod(shape))) for h, shape in zip(grids, self.grids)]
        return ops.cast(ops.concatenate(flat, axis=-1), "float32")

    def hidden(self, x: Any) -> Any:
        """Return the features of the coarsest grid, flattened: for a classifier."""
        return self.body(x)

    def layer_params(self, number: int, features: list[Any], state: Any) -> Any:
        """Return the raw parameters of q(ε_l | ε_<l, x), `[mean, raw log-scale]` `(n, h, w, 2·channels)`.

        Args:
            number: number of the layer, from the top.
            features: features of B images on the grids of the levels (`split`).
            state: state of the decoder above the layer, `(n, h, w, width)`; n is a multiple of B.
        """
        return self.posteriors[number](features[self.level_of[number]], state)

    def split(self, params: Any) -> list[Any]:
        """Return the output of the encoder as the grids of each level, `(B, h, w, width)`."""
        return split_grids(params, self.grids)
