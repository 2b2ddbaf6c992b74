"""Encoder, decoder and bodies: images of any size, and Keras's layer checks."""

import keras
import numpy as np
import pytest
from keras.src.testing import TestCase

from kvae import distributions, networks, priors
from kvae.networks import top_down

SHAPES = [(8, 8, 1), (28, 28, 1), (29, 31, 3), (13, 64, 1), (17, 11, 3), (64, 64, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("body", ["conv", "mlp", "residual"])
def test_any_image_size(shape, body):
    down, up = {
        "conv": (None, None),
        "mlp": (networks.MLP((32,)), networks.MLP((32,))),
        "residual": (networks.ResidualDown((4, 8), blocks=1, units=8), networks.ResidualUp((8, 4), blocks=1)),
    }[body]
    encoder, decoder = networks.Encoder(5, down), networks.Decoder(shape, up)
    params = encoder(np.zeros((2, *shape), "float32"))
    assert params.shape == (2, 10)
    assert decoder(params[:, :5]).shape == (2, *shape)


class TestWithKerasLayerChecks(TestCase):
    """`run_layer_test`: config round trip, build, symbolic and eager calls, a training step, mixed precision."""

    def check(self, cls, kwargs, input_shape, output_shape, **options):
        self.run_layer_test(
            cls, init_kwargs=kwargs, input_shape=input_shape, expected_output_shape=output_shape, **options
        )

    @pytest.mark.slow
    def test_bodies(self):
        self.check(networks.MLP, {"units": (6, 4)}, (2, 8, 8, 1), (2, 4))
        self.check(networks.ConvDown, {"filters": (4, 6), "units": 5}, (2, 9, 8, 3), (2, 5))
        self.check(networks.ConvUp, {"filters": (4, 6, 8)}, (2, 3, 3, 4), (2, 12, 12, 8))
        self.check(networks.MLP, {"units": (6, 4), "gated": True}, (2, 8, 8, 1), (2, 4))
        self.check(networks.GatedDense, {"units": 3}, (2, 4), (2, 3))
        self.check(networks.ResidualBlock, {"filters": 4}, (2, 5, 5, 4), (2, 5, 5, 4))
        self.check(networks.ResidualDown, {"filters": (4, 6), "blocks": 1, "units": 5}, (2, 9, 8, 3), (2, 5))
        self.check(networks.ResidualUp, {"filters": (4, 6), "blocks": 1}, (2, 3, 3, 4), (2, 6, 6, 6))
        for kind in ("bottleneck", "separable"):
            self.check(networks.ResidualBlock, {"filters": 4, "kind": kind}, (2, 5, 5, 4), (2, 5, 5, 4))
        self.check(top_down.Enlarge, {"filters": 3, "grid": (5, 6)}, (2, 3, 3, 4), (2, 5, 6, 3))
        self.check(top_down.StochasticLayer, {"channels": 2}, (2, 4, 4, 6), (2, 4, 4, 6))
        self.check(networks.DepthToSpace, {}, (2, 3, 4, 8), (2, 6, 8, 2))

    def test_networks(self):
        self.check(networks.Encoder, {"latent_dim": 3}, (2, 8, 9, 1), (2, 6))
        self.check(networks.Encoder, {"latent_dim": 3, "body": networks.MLP((4,))}, (2, 8, 9, 1), (2, 6))
        self.check(networks.Decoder, {"image_shape": (8, 9, 1)}, (2, 3), (2, 8, 9, 1))
        self.check(
            networks.Decoder,
            {"image_shape": (8, 9, 1), "body": networks.MLP((4,)), "param_size": 2},
            (2, 3),
            (2, 8, 9, 2),
        )

    def test_families_and_priors(self):
        # No mixed precision check, because densities are float32 under every policy.
        off = {"run_mixed_precision_check": False}
        self.check(distributions.Bernoulli, {}, (2, 4, 4, 1), (2, 4, 4, 1), **off)
        self.check(distributions.Normal, {"scale": 0.5}, (2, 4, 4, 1), (2, 4, 4, 1), **off)
        self.check(distributions.DiagonalNormal, {"min_scale": 0.01}, (2, 6), (2, 3), **off)
        self.check(priors.StandardNormal, {}, (2, 3), (2,), **off)


def test_networks_return_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    for network, x in (
        (networks.Encoder(3), np.zeros((2, 8, 8, 1))),
        (networks.Decoder((8, 8, 1)), np.zeros((2, 3))),
    ):
        assert keras.backend.standardize_dtype(network(x).dtype) == "float32"
        assert network.body.compute_dtype == "bfloat16"


@pytest.mark.parametrize(("side", "convolutions", "grid"), [(8, 3, 2), (32, 3, 8), (64, 4, 8), (256, 6, 8)])
def test_default_networks_grow_with_the_image(side, convolutions, grid):
    encoder, decoder = networks.Encoder(2), networks.Decoder((side, side, 3))
    encoder.build((None, side, side, 3)), decoder.build((None, 2))
    layers = [layer for layer in encoder.body.chain if isinstance(layer, keras.layers.Conv2D)]
    assert (len(layers), side // (2 * decoder.body.upsampling)) == (convolutions, grid)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: networks.Encoder(0), "latent_dim=0"),
        (lambda: networks.Decoder(image_shape=(28, 28)), r"image_shape=\(28, 28\)"),
        (lambda: networks.Decoder(image_shape=(28, 0, 1)), "three positive integers"),
        (lambda: networks.Decoder((28, 0)), r"event_shape=\(28, 0\)"),
        (lambda: networks.MLP(()), r"units=\(\)"),
        (lambda: networks.ConvUp((8, -1)), "filters"),
        (lambda: networks.ConvDown((8, 2.5)), "filters"),
    ],
)
def test_invalid_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_residual_blocks_start_as_the_identity():
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 4)).astype("float32")
    np.testing.assert_array_equal(networks.ResidualBlock(4)(x), x)


def test_gated_dense_is_a_product_with_a_sigmoid():
    layer = networks.GatedDense(3)
    x = np.random.default_rng(0).normal(size=(2, 5)).astype("float32")
    y = np.asarray(layer(x))
    w, b, v, c = (np.asarray(weight) for weight in layer.weights)
    np.testing.assert_allclose(y, (x @ w + b) / (1 + np.exp(-(x @ v + c))), rtol=1e-5)


def test_dense_head_starts_at_the_mean_image():
    mean = np.random.default_rng(0).random((4, 4, 1))
    decoder = networks.Decoder((4, 4, 1), networks.MLP((8,)), mean_image=mean)
    logits = np.asarray(decoder(np.zeros((1, 3), "float32")))[0]  # hidden units are 0 at z = 0
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), np.clip(mean, 0.001, 0.999), atol=1e-6)
