"""Numeric arguments: NumPy's and Python's numbers are equivalent; others are refused in one line before any use."""

import numpy as np
import pytest
import tensorflow as tf

import kvae
from kvae.arguments import integer, real

ONES = (1, np.int64(1), np.uint8(1), np.array(1), tf.constant(1))
NO_INTEGERS = (1.5, 1.0, np.float64(1), "1", None, True, np.True_, np.array(True), [1], np.array([1]), 1j, b"1", {})
NO_NUMBERS = ("1", None, True, np.True_, [1.0], np.array([1.0]), 1j, np.nan, np.inf, -np.inf, 10**400, [[1], [1, 2]])


@pytest.mark.parametrize("value", ONES, ids=repr)
def test_ones(value):
    assert type(integer("n", value, least=1)) is int
    assert integer("n", value, least=1, most=1) == 1
    assert type(real("x", value, least=1)) is float
    assert real("x", value) == 1.0


@pytest.mark.parametrize("value", [0.5, np.float16(0.5), np.array(0.5), tf.constant(0.5)], ids=repr)
def test_halves(value):
    assert real("x", value, least=0) == 0.5


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_other_values_than_integers_are_refused(value):
    with pytest.raises(ValueError, match=r"Argument `n` must be an integer from 1 to 9. Received: n=") as caught:
        integer("n", value, least=1, most=9)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:20])
def test_other_values_than_numbers_are_refused(value):
    with pytest.raises(ValueError, match=r"Argument `x` must be a finite number >= 0. Received: x=") as caught:
        real("x", value, least=0)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    ("value", "limits"), [(0, {"least": 1}), (10, {"least": 1, "most": 9}), (-(2**70), {"least": 0})]
)
def test_limits(value, limits):
    with pytest.raises(ValueError, match=f"n={value}"):
        integer("n", value, **limits)


@pytest.fixture(scope="module")
def vae():
    return kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))


IMAGE = np.zeros((8, 8, 1), "float32")
WRONG = {
    "n of 1.5": (lambda m: m.generate(1.5), "`n` must be an integer >= 1. Received: n=1.5"),
    "n of True": (lambda m: m.generate(True), "n=True"),
    "n of 0": (lambda m: m.generate(0), "n=0"),
    "seed of 1.7": (lambda m: m.generate(1, seed=1.7), "`seed` must be an integer. Received: seed=1.7"),
    "seed of text": (lambda m: m.generate(1, seed="7"), "seed='7'"),
    "seed of 65 bits": (lambda m: m.generate(1, seed=2**64), "64 bits"),
    "temperature of text": (lambda m: m.generate(1, temperature="1"), "`temperature` must be a finite number >= 0"),
    "temperature of NaN": (lambda m: m.generate(1, temperature=np.nan), "temperature=nan"),
    "temperature of None": (lambda m: m.generate(1, temperature=None), "temperature=None"),
    "temperature below 0": (lambda m: m.generate(1, temperature=-1), "temperature=-1"),
    "steps of 2.5": (lambda m: m.interpolate_images(IMAGE, IMAGE, 2.5), "`steps` must be an integer >= 2.*steps=2.5"),
    "steps of 1": (lambda m: m.interpolate_images(IMAGE, IMAGE, 1), "steps=1"),
    "steps of text": (lambda m: m.interpolate_images(IMAGE, IMAGE, "8"), "steps='8'"),
    "seed of a prior": (lambda m: m.prior.sample(2, seed=1.5), "seed=1.5"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_the_model_refuses_invalid_arguments(case, vae):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call(vae)


def test_the_model_accepts_numpy_numbers(vae):
    right = vae.generate(3, seed=7)
    np.testing.assert_array_equal(vae.generate(np.int64(3), np.uint8(7), np.float32(1)), right)
    assert vae.interpolate_images(IMAGE, IMAGE, np.int8(3)).shape == (3, 8, 8, 1)
