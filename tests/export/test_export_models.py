"""Tests of every kind of model: its files equal Keras, compared without `kvae.export.verify`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import kvae.export
from kvae.distributions import IndexedNoise
from kvae.export.runtime import seed_words

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(any_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "out"
    kvae.export.export(any_model, out, batch_sizes=(5, None), networks=())
    return out


def answers(model, size):
    """Return inputs and outputs of every signature, computed with the model's methods in float32."""
    rng = np.random.default_rng(size)
    z = rng.standard_normal((size, model.latent_dim), dtype=np.float32)
    x = rng.random((size, *model.image_shape), dtype=np.float32)
    posterior = {name: value for name, value in model.encode(x)._asdict().items() if value is not None}
    t = np.linspace(0, 1, size, dtype="float32")
    path = (1 - t[:, None]) * z[:1] + t[:, None] * z[-1:]
    calls = {
        "decode": ({"z": z}, {"image": model.decode(z)}),
        "encode": ({"image": x}, posterior),
        "reconstruct": ({"image": x}, {"reconstruction": model.reconstruct(x)}),
        "interpolate": ({"start": z[:1], "end": z[-1:], "position": t}, {"image": model.decode(path)}),
    }
    if hasattr(model, "prior"):
        seed, index = seed_words(7), np.arange(size, dtype="int32")
        calls["generate"] = (
            {"seed": seed, "index": index, "temperature": np.ones(1, "float32")},
            {"image": model.generate(size, seed=7), "z": model.prior.sample(size, seed=7)},
        )
        calls["latents"] = (calls["generate"][0], {"z": calls["generate"][1]["z"]})
        terms = model.terms(x, IndexedNoise(seed, index))
        score = {"distortion": terms.distortion[0], "rate": terms.rate, "negative_elbo": -elbo(terms)}
        calls["score"] = ({"image": x, "seed": seed, "index": index}, score)
    return calls


def elbo(terms):
    return -(terms.distortion[0] + terms.rate)


def limit(model, precision):
    """Return the largest absolute error: images are in [0, 1], untrained latents have a variance of about 1."""
    if precision == "int8":
        return 0.1
    # The export computes in float32; Keras with mixed_float16 has 11 bits.
    policies = {layer.compute_dtype for layer in model._flatten_layers()}
    return 5e-3 if "float16" in policies else 1e-5


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_litert_equals_keras_at_any_batch_size(any_model, out, precision):
    (path,) = out.glob(f"*_{precision}.tflite")
    interpreter = Interpreter(model_path=str(path))
    for size, suffix in ((5, "_5"), (1, ""), (3, ""), (32, "")):
        for name, (inputs, expected) in answers(any_model, size).items():
            got = interpreter.get_signature_runner(name + suffix)(**inputs)
            assert set(got) == set(expected)
            for output, right in expected.items():
                assert got[output].shape == right.shape
                if output == "z":
                    np.testing.assert_array_equal(got[output], right)
                else:
                    scale = max(1.0, np.abs(right).max())
                    assert np.abs(got[output] - right).max() < scale * limit(any_model, precision)


def test_saved_model_equals_keras(any_model, out):
    loaded = tf.saved_model.load(str(out / "saved_model")).signatures
    calls = answers(any_model, 3)
    assert set(loaded) == {*calls, "info"}
    for name, (inputs, expected) in calls.items():
        got = loaded[name](**{k: tf.constant(v) for k, v in inputs.items()})
        for output, right in expected.items():
            scale = max(1.0, np.abs(right).max())
            assert np.abs(got[output] - right).max() < scale * limit(any_model, "float32")


def test_saved_model_as_a_keras_layer(any_model, out):
    layer = keras.layers.TFSMLayer(str(out / "saved_model"), call_endpoint="decode")
    z = np.ones((2, any_model.latent_dim), "float32")
    assert np.abs(layer(z)["image"] - any_model.decode(z)).max() < limit(any_model, "float32")


@pytest.mark.slow
def test_a_mixed_precision_model_keeps_its_policy(tmp_path, mixed_vae):
    assert mixed_vae.encoder.body.compute_dtype == "float16"
    kvae.export.export(mixed_vae, tmp_path, precisions=("float32",), batch_sizes=(1,))
    assert mixed_vae.encoder.body.compute_dtype == "float16"
