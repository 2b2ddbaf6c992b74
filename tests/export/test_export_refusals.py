"""Tests of refused models, files and arguments: errors have a reason, and earlier files stay."""

import errno
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from user_layers import Apply

import kvae
import kvae.export
from kvae.export import ExportError, budgets, flatbuffer, litert, pipeline, place, saved_model
from kvae.export.reference import Reference
from kvae.export.verify import OutputCheck
from kvae.features import AttributeDirection, Direction

#: one batch size and no file of the decoder take a third of the time
export = functools.partial(kvae.export.export, batch_sizes=(1,), networks=())


def inverse(x):
    return x + tf.linalg.inv(tf.matmul(x, x, transpose_b=True) + tf.eye(4))


def same_shape(values, x):
    return tf.reshape(values, tf.shape(x))


def table(_=None):
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([0, 1], [1.0, 2.0]), 0.5)


def looked_up(found, x):
    return x * same_shape(found.lookup(tf.cast(tf.reshape(x > 0, [-1]), tf.int32)), x)


def hidden(variable):
    return lambda layer: lambda: variable  # Keras doesn't find this variable


DRAW = r"draw only in training \(`if training:`\), or take the noise from the latents"
#: unsupported layers, and the expected messages
PLANTED = {
    "keras.random of the layer": (
        lambda: Apply(
            lambda self, x, _: x + keras.random.normal(ops.shape(x), seed=self.made),
            lambda self: keras.random.SeedGenerator(1),
        ),
        rf"random numbers.*StatelessRandom.* in layer '.*apply.*{DRAW}",
    ),
    "keras.random of the program": (
        lambda: Apply(lambda x: x + keras.random.uniform(ops.shape(x))),
        rf"random numbers.*Random.* in layer '.*apply.*{DRAW}",
    ),
    "keras.random, the same each time": (
        lambda: Apply(lambda x: x + keras.random.normal((4, 4, 4), seed=3)),
        f"random numbers.*{DRAW}",
    ),
    "random": (lambda: Apply(lambda x: x + tf.random.normal(tf.shape(x))), f"random numbers.*of Keras.*{DRAW}"),
    "a generator of TensorFlow's": (
        lambda: Apply(
            lambda self, x, _: x + self.made.normal(tf.shape(x)), lambda self: tf.random.Generator.from_seed(1)
        ),
        f"random numbers.*{DRAW}",
    ),
    "NumPy's random": (
        lambda: Apply(lambda x: x + np.random.default_rng().normal()),
        f"'image' of 'decode' to be a function of its own row.*a change of .* from call to call.*{DRAW}",
    ),
    "a Dropout that never stops": (
        lambda: Apply(lambda self, x, _: self.made(x, training=True), lambda self: layers.Dropout(0.5)),
        f"random numbers.*in layer '.*dropout.*{DRAW}",
    ),
    "a table": (lambda: Apply(lambda self, x, _: looked_up(self.made, x), table), "a lookup table.*keras.ops.take"),
    "a table made in the call": (lambda: Apply(lambda x: looked_up(table(), x)), "a lookup table.*keras.ops.take"),
    "a Python function": (
        lambda: Apply(lambda x: tf.ensure_shape(tf.numpy_function(np.abs, [x], tf.float32), x.shape)),
        r"a Python function \(PyFunc in layer '.*apply.*write it with keras.ops",
    ),
    "an eager Python function": (
        lambda: Apply(lambda x: tf.ensure_shape(tf.py_function(abs, [x], tf.float32), x.shape)),
        r"a Python function \(EagerPyFunc in .*write it with keras.ops",
    ),
    "text": (
        lambda: Apply(lambda x: x * tf.cast(tf.strings.length(tf.strings.as_string(x)), tf.float32)),
        r"text \(AsString in .*numbers before",
    ),
    "printing": (lambda: Apply(lambda x: (tf.print("x"), x)[1]), "printing.*only in training"),
    "a counter": (
        lambda: Apply(
            lambda self, x, _: (self.made.assign(self.made + 1), x)[1],
            lambda self: self.add_weight(initializer="zeros", trainable=False),
        ),
        "a weight that changes with each call.*assign only in training",
    ),
    "a variable of TensorFlow's": (
        lambda: Apply(lambda self, x, _: x * self.made, lambda self: tf.Variable(2.0, name="scale")),
        r"created with `self.add_weight`.*variable 'scale:0'.*'decode' uses",
    ),
    "a variable that Keras doesn't find": (
        lambda: Apply(lambda self, x, _: x * self.made(), hidden(tf.Variable(2.0, name="lost"))),
        r"variable 'lost:0'",
    ),
    "a tensor's value in Python": (
        lambda: Apply(lambda x: x * float(tf.reduce_sum(x))),
        "'decode' can't become a graph",
    ),
    "the mean of the batch": (
        lambda: Apply(lambda x: x - tf.reduce_mean(x)),
        "a function of its own row.*with the other rows of the batch.*computes over the batch axis",
    ),
    "no kernel in LiteRT": (
        lambda: Apply(lambda x: x + tf.math.bessel_i0(x)),
        "Custom ops: BesselI0 in layer 'sequential.*replace that layer",
    ),
    "only in TensorFlow's Select ops": (
        lambda: Apply(inverse),
        "TF Select ops: MatrixInverse in layer 'sequential.*replace that layer",
    ),
    "float64": (
        lambda: Apply(lambda x: tf.cast(2 * tf.cast(x, tf.float64), tf.float32)),
        "TF Select ops: Mul in .*compute in float32, not in float64",
    ),
    "a Fourier transform of an odd length": (
        lambda: Apply(lambda x: x + tf.abs(tf.signal.rfft(tf.reduce_mean(x, axis=(2, 3)), [3]))[:, :1, None, None]),
        "'decode' of 'autoencoder_float32.tflite' can't run.*RFFT2D.*powers of two",
    ),
}
CONVERTED = {
    "no kernel in LiteRT",
    "only in TensorFlow's Select ops",
    "float64",
    "a Fourier transform of an odd length",
}


@pytest.mark.parametrize(
    "plant", [pytest.param(plant, marks=pytest.mark.slow if plant in CONVERTED else []) for plant in PLANTED]
)
def test_unexportable_layers_are_named_and_nothing_is_written(plant, make_decoder, tmp_path, capfd):
    make, reason = PLANTED[plant]
    decoder = make_decoder(make(), layers.UpSampling2D(2))
    model = kvae.Autoencoder(encoder=kvae.Encoder(3, kvae.networks.MLP((4,))), decoder=decoder, image_shape=(8, 8, 1))
    capfd.readouterr()
    with pytest.raises(ExportError, match=reason) as caught:
        export(model, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not (tmp_path / "out").exists()
    assert "x" not in capfd.readouterr().err.split()


@pytest.mark.slow
def test_layers_that_only_act_in_training_are_exported(make_decoder, tmp_path):
    def noisy(self, x, training):
        if training:
            self.made[1].assign(self.made[1] + 1)
            x += keras.random.normal(ops.shape(x), seed=self.made[0])
        return x

    def make(self):
        return keras.random.SeedGenerator(1), self.add_weight(initializer="zeros", trainable=False)

    regularizers = (
        layers.Dropout(0.5), layers.SpatialDropout2D(0.5), layers.AlphaDropout(0.5), layers.GaussianDropout(0.5),
        layers.GaussianNoise(0.5), layers.BatchNormalization(), layers.RandomFlip(), Apply(noisy, make),
    )  # fmt: skip
    decoder = make_decoder(*regularizers, layers.UpSampling2D(2))
    model = kvae.VAE(encoder=kvae.Encoder(3, kvae.networks.MLP((4,))), decoder=decoder, image_shape=(8, 8, 1))
    graphs = saved_model.trace(model)
    z = np.ones((2, 3), "float32")
    np.testing.assert_allclose(graphs["decode"](z=tf.constant(z))["image"], model.decode(z), atol=1e-6)
    Reference(model)


@pytest.mark.slow
def test_a_select_operator_in_a_file_is_found(make_decoder, tmp_path):
    decoder = make_decoder(Apply(inverse), layers.UpSampling2D(2))
    model = kvae.VAE(decoder=decoder, latent_dim=3, image_shape=(8, 8, 1))
    function = tf.function(model.decode, input_signature=[tf.TensorSpec((None, 3), name="z")])
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    path = tmp_path / "flex.tflite"
    path.write_bytes(converter.convert())
    assert flatbuffer.read(path).not_builtin == ("FlexMatrixInverse",)
    with pytest.raises(ExportError, match="FlexMatrixInverse"):
        kvae.export.verify_litert(path, "float32", Reference(model))


@pytest.mark.slow
def test_a_file_without_weights_is_found(vae, tmp_path):
    # The converter makes such a file, without a message, if it doesn't get the Keras 3 variables.
    function = tf.function(vae.decode, input_signature=[tf.TensorSpec((None, 2), name="z")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], vae)
    path = tmp_path / "weightless.tflite"
    path.write_bytes(converter.convert())
    assert flatbuffer.read(path).variables
    with pytest.raises(ExportError, match="weights of the model"):
        kvae.export.verify_litert(path, "float32", Reference(vae))


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def earlier(exported, tmp_path):
    """A folder with an earlier export and a user's own file, and its contents."""
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    (out / "notes.txt").write_text("mine")
    return out, snapshot(out)


@pytest.mark.slow
def test_a_file_over_budget_is_left_out_with_its_reason(small, earlier, monkeypatch):
    out, before = earlier
    tight = {unit: budgets.Budget(max=1e-9, mean=1e-9) for unit in budgets._INT8}
    monkeypatch.setitem(budgets._BY_PRECISION, "int8", tight)
    with pytest.raises(ExportError, match=r"Received: a difference of .*; export precisions=\('float32',\)"):
        export(small, out, precisions="int8")  # nothing passes
    assert snapshot(out) == before
    report = export(small, out, networks="decoder")
    assert [artifact["path"] for artifact in report["artifacts"]] == [
        "saved_model", "vae_float32.tflite", "decoder_float32.tflite",
    ]  # fmt: skip
    assert sorted(report["refused"]) == ["decoder_int8.tflite", "vae_int8.tflite"]
    assert all("a difference of" in reason for reason in report["refused"].values())
    assert not [path for path in out.iterdir() if "int8" in path.name]


@pytest.mark.slow
def test_lost_nats_are_refused_or_accepted(small, images, tmp_path, monkeypatch):
    monkeypatch.setitem(budgets._NATS, "int8", -1.0)
    report = export(small, tmp_path, images)
    assert list(report["refused"]) == ["vae_int8.tflite"]  # the decoder alone has no ELBO
    assert "nats of ELBO on the test images. Received:" in report["refused"]["vae_int8.tflite"]
    tight = {unit: budgets.Budget(max=1e-9, mean=1e-9) for unit in budgets._INT8}
    monkeypatch.setitem(budgets._BY_PRECISION, "int8", tight)
    report = export(small, tmp_path, images, accept_losses=True)
    assert report["refused"] == {}
    (whole,) = [entry for entry in report["artifacts"] if entry["path"] == "vae_int8.tflite"]
    assert whole["signatures"]["decode"]["max_abs_error"] > 1e-9
    assert whole["signatures"]["latents"]["max_abs_error"] == 0


@pytest.mark.slow
def test_float32_of_a_large_model_with_normalisations_is_close_enough(tmp_path):
    keras.utils.set_random_seed(0)
    network = [keras.Input((8,)), layers.Dense(16 * 16 * 16), layers.Reshape((16, 16, 16))]
    for _ in range(2):
        network += [layers.UpSampling2D(2, interpolation="bilinear"), layers.Conv2D(16, 3, padding="same")]
        network += [layers.GroupNormalization(4), layers.Activation("silu")]
    decoder = keras.Sequential([*network, layers.Conv2D(3, 3, padding="same")])
    encoder = kvae.Encoder(8, kvae.networks.ConvDown((8, 16, 16), units=16))
    model = kvae.VAE(encoder, decoder, latent_dim=8, image_shape=(64, 64, 3))
    images = np.full((4, 64, 64, 3), 0.5, "float32")  # constant images
    report = export(model, tmp_path, images, precisions="float32")
    assert report["refused"] == {}
    assert report["artifacts"][1]["behaviour"]["nats_lost"] < 0.5


@pytest.mark.slow
def test_wrong_weights_are_refused(vae, earlier, monkeypatch):
    out, before = earlier
    right = (out / "vae_float32.tflite").read_bytes()
    other = keras.models.clone_model(vae)
    other.set_weights([weight + 0.01 for weight in vae.get_weights()])
    monkeypatch.setattr(litert, "convert", lambda *_: right)
    with pytest.raises(ExportError, match=r"'image' from 'decode' of 'vae_float32.tflite' within 1e-05"):
        kvae.export.export(other, out, precisions="float32")
    assert snapshot(out) == before


STAGES = [
    (litert, "quantize"),
    (pipeline.os, "rename"),
    pytest.param((litert, "convert"), marks=pytest.mark.slow),
    pytest.param((pathlib.Path, "write_text"), marks=pytest.mark.slow),
]
FULL = OSError(errno.ENOSPC, "No space left on device")
FAILURES = [KeyboardInterrupt(), pytest.param(FULL, marks=pytest.mark.slow)]


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES, ids=["interrupted", "disk full"])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage[1])
def test_an_interrupted_export_keeps_the_earlier_one(small, earlier, monkeypatch, stage, failure):
    out, before = earlier
    module, name = stage
    original, calls = getattr(module, name), []

    def stops(*args, **kwargs):
        calls.append(args)
        if len(calls) == (4 if name == "rename" else 1):
            raise failure
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, stops)
    with pytest.raises(type(failure)):
        export(small, out, precisions=("float32",) if name != "quantize" else ("int8",))
    assert snapshot(out) == before


KILLED = """
import os, signal, sys
from kvae.export.place import inside
with inside(sys.argv[1]) as folder:
    (folder / "new" / "vae_int8.tflite").write_bytes(b"half")
    (folder / "scratch").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_the_next_export_removes_files_of_a_killed_one(earlier):
    out, before = earlier
    environment = {**os.environ, "PYTHONPATH": kvae.__path__[-1]}
    assert subprocess.run([sys.executable, "-c", KILLED, out], env=environment).returncode == -signal.SIGKILL
    (left,) = out.glob(".export-*")
    (out / ".export-of an older version" / "new").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt), place.inside(out) as first, place.inside(out) as second:
        assert not left.exists()
        assert sorted(out.glob(".export-*")) == sorted([first, second])  # both are in use
        raise KeyboardInterrupt
    assert snapshot(out) == before
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("errors", [(np.nan, 0.0), (0.0, np.nan), (np.inf, 0.0), (2e-5, 0.0), (0.0, 2e-5)])
def test_nan_and_large_errors_never_pass(errors):
    budget = budgets.Budget(max=1e-5, mean=1e-5)
    assert OutputCheck(1e-5, 1e-6, budget).passed
    assert not OutputCheck(*errors, budget).passed


def test_nan_weights_are_refused(tmp_path):
    model = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
    model.decoder.head[0].bias.assign(np.full(4, np.nan))
    steps = []
    with pytest.raises(ExportError, match=r"NaN or infinity in 'image' of 'decode', .* the weight '.*decoder.*bias'"):
        export(model, tmp_path / "out", on_step=steps.append)
    assert len(steps) == 1  # nothing was converted


@pytest.mark.slow
def test_outdated_files_are_removed_and_other_files_stay(small, earlier):
    out, _ = earlier
    export(small, out, precisions=("float32",))
    assert sorted(path.name for path in out.iterdir()) == [
        "export.html",
        "kvae_runtime.py",
        "notes.txt",
        "report.json",
        "saved_model",
        "vae_float32.golden.json",
        "vae_float32.tflite",
    ]


@pytest.mark.slow
def test_a_slow_operator_gives_a_warning(make_decoder, tmp_path):
    decoder = make_decoder(layers.Conv2DTranspose(4, 3, strides=2, padding="same"))
    model = kvae.VAE(decoder=decoder, latent_dim=3, image_shape=(8, 8, 1))
    report = export(model, tmp_path, precisions=("float32",), batch_sizes=(1, None))
    assert len(report["warnings"]) == 1
    assert "transposed convolutions" in report["warnings"][0]
    assert not export(model, tmp_path, precisions=("float32",))["warnings"]  # fixed sizes are fast


SMILE = AttributeDirection(np.array([0.6, 0.8]), 2.0, "smile", 0.5, -1.0, 1.0, 0.9, 0.5, 0.95, 0.8)
WRONG_ARGUMENTS = {
    "a direction without a range": (
        {"directions": [Direction(SMILE.vector, 2.0)]},
        "attribute_direction.*Direction'?$",
    ),
    "a direction of another model": ({"directions": [SMILE._replace(vector=np.ones(3))]}, r"2 latents.*shape \(3,\)"),
    "a direction without a length": ({"directions": SMILE._replace(distance=0.0)}, "'smile' with distance=0.0"),
    "a direction without a name": ({"directions": [SMILE._replace(name="")]}, "each with a name"),
    "two directions of a name": ({"directions": [SMILE, SMILE]}, "different names. Received: smile, smile"),
    "unknown precision": ({"precisions": ("int4",)}, r"precisions.*float32.*Received: \('int4',\)"),
    "no precision": ({"precisions": ()}, r"precisions.*Received: \(\)"),
    "full_int8 without images": ({"precisions": "full_int8"}, "requires images"),
    "auto without images": ({"precisions": "auto"}, "Expected a `kvae.VAE` and images"),
    "no batch size": ({"batch_sizes": ()}, r"batch_sizes.*Received: \(\)"),
    "only any batch size": ({"batch_sizes": (None,)}, "at least one"),
    "batch 0": ({"batch_sizes": (1, 0)}, r"Received: \(1, 0\)"),
    "labels alone": ({"data": (None, [1, 2])}, "2 labels, 0 images"),
    "shape": ({"data": np.zeros((4, 9, 9, 1))}, r"\(batch, 8, 8, 1\).*Received: shape \(4, 9, 9, 1\)"),
    "no images": ({"data": np.zeros((0, 8, 8, 1))}, "one or more images"),
    "range": ({"data": np.full((4, 8, 8, 1), 255.0)}, r"\[0, 1\].*from 255 to 255"),
    "NaN": ({"data": np.full((4, 8, 8, 1), np.nan)}, "without NaN"),
}


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_invalid_arguments_are_refused(case, vae, tmp_path):
    arguments, message = WRONG_ARGUMENTS[case]
    with pytest.raises(ValueError, match=message):
        kvae.export.export(vae, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_file_instead_of_a_folder_is_refused(vae, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ExportError, match="Expected a folder"):
        kvae.export.export(vae, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
