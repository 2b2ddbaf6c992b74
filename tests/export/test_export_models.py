"""Every kind of model exports, and its files say what Keras says, compared without `kvae.export.verify`."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import kvae.export

BATCHES = (1, 3, 32)


@pytest.fixture(scope="module")
def out(any_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "out"
    kvae.export.export(any_model, out)
    return out


def answers(model, size):
    """Inputs and outputs of every signature, by what the model's own methods give in float32."""
    rng = np.random.default_rng(size)
    z = rng.standard_normal((size, model.latent_dim), dtype=np.float32)
    x = rng.random((size, *model.image_shape), dtype=np.float32)
    code = model.encode(x)
    posterior = {"mean": code} if hasattr(code, "shape") else code._asdict()
    return {
        "decode": ({"z": z}, {"image": model.decode(z)}),
        "encode": ({"image": x}, posterior),
        "reconstruct": ({"image": x}, {"reconstruction": model.reconstruct(x)}),
    }


def limit(model, precision):
    """Largest error, absolute: images are about [0, 1], untrained latents have a variance of about 1."""
    if precision == "int8":
        return 0.1
    # The export computes in float32, where Keras under mixed_float16 has 11 bits.
    policies = {layer.compute_dtype for layer in model._flatten_layers()}
    return 5e-3 if "float16" in policies else 1e-5


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_litert_says_what_keras_says_at_any_batch_size(any_model, out, precision):
    (path,) = out.glob(f"*_{precision}.tflite")
    interpreter = Interpreter(model_path=str(path))
    for size in BATCHES:
        for name, (inputs, expected) in answers(any_model, size).items():
            got = interpreter.get_signature_runner(name)(**inputs)
            assert set(got) == set(expected)
            for output, right in expected.items():
                assert got[output].shape == right.shape
                assert np.abs(got[output] - right).max() < limit(any_model, precision)


def test_saved_model_says_what_keras_says(any_model, out):
    loaded = tf.saved_model.load(str(out / "saved_model")).signatures
    assert set(loaded) == {"decode", "encode", "reconstruct"}
    for name, (inputs, expected) in answers(any_model, 3).items():
        got = loaded[name](**{k: tf.constant(v) for k, v in inputs.items()})
        for output, right in expected.items():
            assert np.abs(got[output] - right).max() < limit(any_model, "float32")


def test_a_mixed_precision_model_keeps_its_policy(tmp_path, mixed_vae):
    assert mixed_vae.encoder.body.compute_dtype == "float16"
    kvae.export.export(mixed_vae, tmp_path, precisions=("float32",))
    assert mixed_vae.encoder.body.compute_dtype == "float16"
