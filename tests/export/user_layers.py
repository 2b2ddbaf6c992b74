"""Layers as users write them, for the tests of what can't be exported."""

from keras import layers


class Apply(layers.Layer):
    """A user's layer around any function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)

    def compute_output_shape(self, input_shape):
        return input_shape
