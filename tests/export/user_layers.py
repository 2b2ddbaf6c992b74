"""Layers as users write them, for the tests of what can't be exported."""

from collections.abc import Callable
from typing import Any

from keras import layers


class Apply(layers.Layer):
    """A user's layer around any function of its input, or of itself and its input if it has something to make first."""

    def __init__(self, function: Callable, make: Callable[[layers.Layer], Any] | None = None):
        super().__init__()
        self.function = function
        self.made = make(self) if make else None

    def call(self, x, training=False):
        return self.function(x) if self.made is None else self.function(self, x, training)

    def compute_output_shape(self, input_shape):
        return input_shape
