"""Custom layers for tests of unsupported models."""

from collections.abc import Callable
from typing import Any

from keras import layers


class Apply(layers.Layer):
    """A custom layer around a function of its input; with `make`, of itself, its input and `training`."""

    def __init__(self, function: Callable, make: Callable[[layers.Layer], Any] | None = None):
        super().__init__()
        self.function = function
        self.made = make(self) if make else None

    def call(self, x, training=False):
        return self.function(x) if self.made is None else self.function(self, x, training)

    def compute_output_shape(self, input_shape):
        return input_shape
