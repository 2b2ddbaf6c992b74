"""The random number generator: known answers, comparison with JAX, statistics, and equality in every runtime."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import ops
from scipy import special, stats

import kvae
from kvae.distributions import IndexedNoise, normal_from_words, random_words, seed_words, uniform_from_words
from kvae.distributions.quantile import _table
from kvae.distributions.threefry import threefry

# Random123's kat_vectors: key, counter, result.
KNOWN_ANSWERS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


def int32(words) -> np.ndarray:
    return np.asarray(words, np.uint32).view(np.int32)


@pytest.mark.parametrize(("key", "counter", "result"), KNOWN_ANSWERS)
def test_known_answers(key, counter, result):
    got = threefry(tuple(int32(key)), tuple(int32(counter)))
    np.testing.assert_array_equal(np.array(got).view(np.uint32), np.array(result, np.uint32))


def test_words_equal_jax():
    """JAX runs in a separate process, because it shouldn't share one with TensorFlow."""
    pytest.importorskip("jax", reason="the reference of Threefry requires JAX")
    words = np.random.default_rng(0).integers(0, 2**32, (4, 5000), dtype=np.uint32)
    code = (
        "import sys, numpy as np; from jax.extend.random import threefry_2x32; "
        "words = np.frombuffer(sys.stdin.buffer.read(), np.uint32).reshape(4, -1); "
        "both = [threefry_2x32(words[:2, i], words[2:, i]) for i in range(200)]; "
        "sys.stdout.buffer.write(np.array(both).astype(np.uint32).tobytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], input=words.tobytes(), capture_output=True, check=True)
    right = np.frombuffer(done.stdout, np.uint32).reshape(200, 2)
    got = np.array(threefry(tuple(int32(words[:2])), tuple(int32(words[2:])))).view(np.uint32)
    np.testing.assert_array_equal(got[:, :200].T, right)


@pytest.mark.parametrize(("seed", "words"), [(0, (0, 0)), (7, (0, 7)), (2**32 + 5, (1, 5)), (-1, (-1, -1))])
def test_seed_words(seed, words):
    np.testing.assert_array_equal(seed_words(seed), words)
    np.testing.assert_array_equal(kvae.export.runtime.seed_words(seed), words)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_seed_of_more_than_64_bits_is_refused(seed):
    with pytest.raises(ValueError, match="64 bits"):
        seed_words(seed)


def test_row_depends_only_on_its_index():
    seed = seed_words(3)
    words = np.asarray(random_words(seed, np.arange(50, dtype="int32"), 7))
    assert words.shape == (50, 7)
    assert words.dtype == np.int32
    np.testing.assert_array_equal(random_words(seed, int32([49, 3, 3]), 7), words[[49, 3, 3]])
    assert np.any(words != np.asarray(random_words(seed_words(4), np.arange(50, dtype="int32"), 7)))
    assert np.any(words != np.asarray(random_words(seed, np.arange(50, dtype="int32"), 7, stream=1)))
    assert len(np.unique(words)) > 345  # of 350: no word is drawn twice


def test_quantile_function_of_every_bin():
    """The error against SciPy in float64 comes from half a step of a bin and from the curvature."""
    edge = int32([0, 1, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1])
    words = np.concatenate([edge, int32(np.random.default_rng(0).integers(0, 2**32, 200_000))])
    signed = words.astype(np.float64) + 0.5
    right = -np.sign(signed) * special.ndtri(np.abs(signed) / 2**32)
    assert np.abs(np.asarray(normal_from_words(words)) - right).max() < 2e-5
    tail = np.unique((2.0 ** np.linspace(0, 20, 5000)).astype(np.int32))  # beyond 3.5 standard deviations
    right = -special.ndtri((tail + 0.5) / 2**32)
    assert np.abs(np.asarray(normal_from_words(tail)) - right).max() < 2e-5


def test_products_of_the_interpolation_are_exact():
    """slope (12 bits) · step (12 bits) fits float32, so a fused multiplication and addition rounds the same way."""
    base, slope = _table()
    step = np.arange(4096, dtype=np.float64)
    exact = slope.astype(np.float64)[:, None] * step
    np.testing.assert_array_equal(exact.astype(np.float32), exact)
    assert np.all(np.diff(base) < 0)


@pytest.fixture(scope="module")
def normals() -> np.ndarray:
    """Return normal numbers, `(250 000, 4)`."""
    return np.asarray(normal_from_words(random_words(seed_words(2024), np.arange(250_000, dtype="int32"), 4)))


def test_moments_tails_and_correlations(normals):
    n = normals.size  # standard errors of the first four moments: 1, √2, √6·, √24, over √n
    z = normals.ravel().astype(np.float64)
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(stats.skew(z)) < 4 * np.sqrt(6 / n)
    assert abs(stats.kurtosis(z)) < 4 * np.sqrt(24 / n)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    for bound in (2, 3, 4):
        expected = 2 * n * stats.norm.sf(bound)
        assert abs((np.abs(z) > bound).sum() - expected) < 4 * np.sqrt(expected)
    error = 4 / np.sqrt(len(normals))
    assert np.abs(np.corrcoef(normals.T) - np.eye(4)).max() < error  # latents of an image
    assert np.abs(np.corrcoef(normals[1:].T, normals[:-1].T)[:4, 4:]).max() < error  # neighbouring images
    others = np.asarray(normal_from_words(random_words(seed_words(2025), np.arange(250_000, dtype="int32"), 4)))
    assert np.abs(np.corrcoef(normals.T, others.T)[:4, 4:]).max() < error  # neighbouring seeds


def test_uniform_numbers():
    u = np.asarray(uniform_from_words(random_words(seed_words(1), np.arange(100_000, dtype="int32"), 2)))
    assert u.min() > 0
    assert u.max() < 1
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    assert float(uniform_from_words(int32([2**31]))[0]) == 2**-24  # the smallest
    assert float(uniform_from_words(int32([2**31 - 1]))[0]) == 1 - 2**-24


def test_indexed_noise():
    index = np.array([5, 1, 5], "int32")
    noise = IndexedNoise(seed_words(3), index)
    first, second = np.asarray(noise.normal((2, 3, 4, 5))), np.asarray(noise.normal((2, 3, 4, 5)))
    assert first.shape == (2, 3, 4, 5)
    assert np.any(first != second)
    np.testing.assert_array_equal(first[:, 0], first[:, 2])
    np.testing.assert_array_equal(IndexedNoise(seed_words(3), index[1:2]).normal((2, 1, 4, 5))[:, 0], first[:, 1])
    uniform = np.asarray(IndexedNoise(seed_words(3), index).uniform((1, 3, 1000)))
    assert 0 < uniform.min() < uniform.max() < 1


@pytest.mark.slow
@pytest.mark.parametrize("resolver", [OpResolverType.AUTO, OpResolverType.BUILTIN_REF])
def test_litert_and_compiled_graphs_are_equal_bit_for_bit(resolver):
    """LiteRT runs with XNNPACK and with the reference kernels. tests/export/test_export_web.py tests the browser."""
    rows = 64

    def draw(seed, index):
        return {"z": 0.7 * normal_from_words(random_words(seed, index, 6))}

    specs = [tf.TensorSpec((2,), tf.int32, name="seed"), tf.TensorSpec((rows,), tf.int32, name="index")]
    function = tf.function(draw, input_signature=specs, autograph=False)
    module = tf.Module()
    module.draw = function
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], module)
    interpreter = Interpreter(model_content=converter.convert(), experimental_op_resolver_type=resolver)
    runner = interpreter.get_signature_runner()
    rng = np.random.default_rng(0)
    for seed in (0, 7, -3, 2**63 + 11):
        inputs = {"seed": seed_words(seed), "index": int32(rng.integers(0, 2**32, rows))}
        eager = np.asarray(draw(**inputs)["z"])
        np.testing.assert_array_equal(runner(**inputs)["z"].view(np.int32), eager.view(np.int32))
        graph = function(**{name: tf.constant(value) for name, value in inputs.items()})["z"]
        np.testing.assert_array_equal(graph, eager)
        compiled = tf.function(draw, jit_compile=True, autograph=False)(**inputs)["z"]
        np.testing.assert_array_equal(compiled, eager)


def test_vae_samples_use_this_generator():
    vae = kvae.VAE(latent_dim=3, image_shape=(8, 8, 1))
    z = vae.prior.sample(5, seed=7)
    words = random_words(seed_words(7), ops.arange(5, dtype="int32"), 3)
    np.testing.assert_array_equal(z, normal_from_words(words))
    np.testing.assert_array_equal(vae.generate(5, seed=7), vae.decode(z))
    np.testing.assert_allclose(vae.generate(9, seed=7)[:5], vae.generate(5, seed=7), atol=1e-6)
    np.testing.assert_array_equal(vae.generate(2, seed=1, temperature=0.0), vae.decode(np.zeros((2, 3), "float32")))
    with pytest.raises(ValueError, match="temperature=-1"):
        vae.generate(1, temperature=-1)
