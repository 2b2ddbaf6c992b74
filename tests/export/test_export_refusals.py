"""What must not be shipped is refused with its reason, and leaves what was there before."""

import errno
import functools
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from user_layers import Apply

import kvae
import kvae.export
from kvae.export import ExportError, budgets, flatbuffer, litert, pipeline
from kvae.export.reference import Reference
from kvae.export.verify import OutputCheck

#: one batch size: half the work
export = functools.partial(kvae.export.export, batch_sizes=(1,))


def inverse(x):
    return x + tf.linalg.inv(tf.matmul(x, x, transpose_b=True) + tf.eye(4))


PLANTED = {
    "no kernel in LiteRT": (lambda x: x + tf.math.bessel_i0(x), "Custom ops: BesselI0 in layer 'sequential"),
    "only in TensorFlow's Select ops": (inverse, "TF Select ops: MatrixInverse in layer 'sequential"),
    "a Python function": (
        lambda x: tf.ensure_shape(tf.numpy_function(np.abs, [x], tf.float32), x.shape),
        "PyFunc",
    ),
    "a tensor's value in Python": (lambda x: x * float(tf.reduce_sum(x)), "'decode' can't become a graph"),
    "random": (lambda x: x + tf.random.normal(tf.shape(x)), "of Keras"),
}


@pytest.mark.parametrize(
    "plant", [pytest.param(plant, marks=[] if plant == "random" else pytest.mark.slow) for plant in PLANTED]
)
def test_unexportable_layers_are_named_and_nothing_is_written(plant, make_decoder, tmp_path, capfd):
    function, reason = PLANTED[plant]
    decoder = make_decoder(Apply(function), layers.UpSampling2D(2))
    model = kvae.VAE(decoder=decoder, latent_dim=3, image_shape=(8, 8, 1))
    with pytest.raises(ExportError) as caught:
        export(model, tmp_path / "out")
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
    assert len(message) < 500
    assert not (tmp_path / "out").exists()
    assert capfd.readouterr().err == ""


def test_a_select_operator_that_slipped_through_is_found_in_the_file(make_decoder, tmp_path):
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


def test_a_file_without_weights_is_found(vae, tmp_path):
    # The converter makes one, without a word, of Keras 3 variables that it isn't shown.
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


def test_over_budget_is_refused_and_the_earlier_export_stays(small, earlier, monkeypatch):
    out, before = earlier
    tight = {unit: budgets.Budget(max=1e-9, mean=1e-9) for unit in budgets._INT8}
    monkeypatch.setitem(budgets._BY_PRECISION, "int8", tight)
    with pytest.raises(ExportError, match=r"Received: off by .*; export precisions=\('float32',\)"):
        export(small, out)
    assert snapshot(out) == before


def test_wrong_weights_are_refused(vae, earlier, monkeypatch):
    out, before = earlier
    right = (out / "vae_float32.tflite").read_bytes()
    other = keras.models.clone_model(vae)
    other.set_weights([weight + 0.01 for weight in vae.get_weights()])
    monkeypatch.setattr(litert, "convert", lambda *_: right)
    with pytest.raises(ExportError, match=r"'image' from 'decode' of 'vae_float32.tflite' within 1e-05"):
        kvae.export.export(other, out)
    assert snapshot(out) == before


STAGES = [
    (litert, "quantize"),
    (pipeline.os, "rename"),
    pytest.param((litert, "convert"), marks=pytest.mark.slow),
    pytest.param((pathlib.Path, "write_text"), marks=pytest.mark.slow),
]
FULL = OSError(errno.ENOSPC, "No space left on device")
FAILURES = [KeyboardInterrupt(), pytest.param(FULL, marks=pytest.mark.slow)]


@pytest.mark.parametrize("failure", FAILURES, ids=["interrupted", "disk full"])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage[1])
def test_an_export_that_stops_half_way_leaves_the_earlier_one(small, earlier, monkeypatch, stage, failure):
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


@pytest.mark.parametrize("errors", [(np.nan, 0.0), (0.0, np.nan), (np.inf, 0.0), (2e-5, 0.0), (0.0, 2e-5)])
def test_nan_and_large_errors_never_pass(errors):
    budget = budgets.Budget(max=1e-5, mean=1e-5)
    assert OutputCheck(1e-5, 1e-6, budget).passed
    assert not OutputCheck(*errors, budget).passed


def test_nan_weights_are_refused(tmp_path):
    model = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
    model.decoder.head[0].bias.assign(np.full(4, np.nan))
    with pytest.raises(ExportError, match="NaN or infinity in 'image' of 'decode'"):
        export(model, tmp_path / "out")


@pytest.mark.slow
def test_files_that_are_not_made_again_are_removed_and_others_are_not(small, earlier):
    out, _ = earlier
    export(small, out, precisions=("float32",))
    assert sorted(path.name for path in out.iterdir()) == [
        "export.html",
        "notes.txt",
        "report.json",
        "saved_model",
        "vae_float32.golden.json",
        "vae_float32.tflite",
    ]


@pytest.mark.slow
def test_a_slow_operator_is_a_warning(make_decoder, tmp_path):
    decoder = make_decoder(layers.Conv2DTranspose(4, 3, strides=2, padding="same"))
    model = kvae.VAE(decoder=decoder, latent_dim=3, image_shape=(8, 8, 1))
    report = export(model, tmp_path, precisions=("float32",), batch_sizes=(1, None))
    assert len(report["warnings"]) == 1
    assert "transposed convolutions" in report["warnings"][0]
    assert not export(model, tmp_path, precisions=("float32",))["warnings"]  # fixed sizes are fast


WRONG_ARGUMENTS = {
    "unknown precision": ({"precisions": ("int4",)}, r"precisions.*float32.*Received: \('int4',\)"),
    "no precision": ({"precisions": ()}, r"precisions.*Received: \(\)"),
    "full_int8 without images": ({"precisions": "full_int8"}, "needs images"),
    "auto without images": ({"precisions": "auto"}, "it needs a `kvae.VAE`"),
    "no batch size": ({"batch_sizes": ()}, r"batch_sizes.*Received: \(\)"),
    "only any batch size": ({"batch_sizes": (None,)}, "at least one"),
    "batch 0": ({"batch_sizes": (1, 0)}, r"Received: \(1, 0\)"),
    "labels alone": ({"labels": [1, 2]}, "2 labels, 0 images"),
    "shape": ({"images": np.zeros((4, 9, 9, 1))}, r"\(batch, 8, 8, 1\).*Received: shape \(4, 9, 9, 1\)"),
    "no images": ({"images": np.zeros((0, 8, 8, 1))}, "at least one"),
    "range": ({"images": np.full((4, 8, 8, 1), 255.0)}, r"\[0, 1\].*from 255 to 255"),
    "NaN": ({"images": np.full((4, 8, 8, 1), np.nan)}, "no NaN"),
}


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_wrong_arguments(case, vae, tmp_path):
    arguments, message = WRONG_ARGUMENTS[case]
    with pytest.raises(ValueError, match=message):
        kvae.export.export(vae, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way(vae, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ExportError, match="Expected a folder"):
        kvae.export.export(vae, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
