"""Keras's own functions on models of this package: export, quantize, copies, plain loading."""

import ast
import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_settings import MODELS
from tiers import slow_but

import kvae
from kvae import networks

ROOT = Path(__file__).resolve().parent.parent
X = np.random.default_rng(0).random((8, 8, 8, 1)).astype("float32")
C = np.eye(4, dtype="float32")[np.arange(8) % 4]


@keras.saving.register_keras_serializable("tests")
class UserNetwork(keras.Model):
    """A model of a user, with layers that aren't in its configuration."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.reshape = keras.layers.Dense(64), keras.layers.Reshape((8, 8, 1))

    def call(self, z):
        return self.reshape(self.dense(z))


ALL = {
    **MODELS,
    "gated, a flow": lambda: kvae.VAE(
        networks.Encoder(3, networks.MLP((8,), gated=True)), networks.Decoder((8, 8, 1), networks.MLP((8,))),
        prior=kvae.priors.RealNVP(num_layers=2, units=(4,)),
    ),
    "a subclassed decoder": lambda: kvae.VAE(
        networks.Encoder(3, networks.MLP((8,))), UserNetwork(), image_shape=(8, 8, 1)
    ),
    "classifier": lambda: kvae.features.classifier(MODELS["VAE"](), 4),
}  # fmt: skip


def inputs_of(model):
    """Return the inputs of the model: images, or images and conditions."""
    conditional = model.condition_dim is not None and not isinstance(model, kvae.SemiSupervisedVAE)
    return [X, C] if conditional else X


def served(model, path, form):
    """Return the output of a file that Keras has exported."""
    inputs = inputs_of(model)
    given = inputs if isinstance(inputs, list) else [inputs]
    by_rank = {array.ndim: array for array in given}
    if form == "tf_saved_model":
        model.export(path / "saved", verbose=False)
        loaded = tf.saved_model.load(path / "saved")
        return loaded.serve(inputs)
    if form == "litert":
        model.export(path / "model.tflite", format="litert", verbose=False)
        from ai_edge_litert.interpreter import Interpreter

        run = Interpreter(str(path / "model.tflite")).get_signature_runner("serving_default")
        (output,) = run(**{n: by_rank[len(d["shape"])] for n, d in run.get_input_details().items()}).values()
        return output
    onnxruntime = pytest.importorskip("onnxruntime")
    model.export(path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path / "model.onnx")
    return session.run(None, {i.name: by_rank[len(i.shape)] for i in session.get_inputs()})[0]


@pytest.mark.parametrize("form", slow_but({"tf_saved_model"}, ["tf_saved_model", "litert", "onnx"]))
@pytest.mark.parametrize("name", slow_but({"VAE", "conditional", "classifier"}, ALL))
def test_export_of_a_model_that_was_never_called(name, form, tmp_path):
    model = ALL[name]()
    np.testing.assert_allclose(served(model, tmp_path, form), model(inputs_of(model)), atol=1e-5)


@pytest.mark.slow
def test_export_after_training_and_after_loading(tmp_path):
    vae = ALL["VAE"]()
    vae.compile("adam")
    vae.fit(X, verbose=0)
    np.testing.assert_allclose(served(vae, tmp_path, "tf_saved_model"), vae.predict(X, verbose=0), atol=1e-5)
    vae.save(tmp_path / "vae.keras")
    again = keras.models.load_model(tmp_path / "vae.keras")
    np.testing.assert_allclose(served(again, tmp_path / "again", "tf_saved_model"), vae(X), atol=1e-5)
    for part, data in ((again.encoder, X), (again.decoder, np.zeros((2, 3), "float32"))):
        part.export(tmp_path / part.name, verbose=False)
        loaded = tf.saved_model.load(tmp_path / part.name)  # keeps its variables alive
        np.testing.assert_allclose(loaded.serve(data), part(data), atol=1e-5)


def modes_of(model):
    return [layer.quantization_mode for layer in model._flatten_layers()]


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize")
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, "int8") for name in ("VAE", "a subclassed decoder", "classifier")),
        *(
            pytest.param(name, mode, marks=pytest.mark.slow)
            for mode, names in {
                "int8": ALL.keys() - {"VAE", "a subclassed decoder", "classifier"},
                "int4": ("VAE", "convolutions"),
                "float8": ("VAE", "gated, a flow"),
                "int8 of mixed_bfloat16": ("VAE", "conditional"),
            }.items()
            for name in sorted(names)
        ),
    ],
)
def test_a_quantized_model_is_saved_and_loaded(name, mode, tmp_path):
    mode, _, policy = mode.partition(" of ")
    keras.config.set_dtype_policy(policy or "float32")
    model = ALL[name]()
    inputs, floats = inputs_of(model), model.count_params()
    before = np.asarray(model(inputs))
    model.quantize(mode)
    assert mode in modes_of(model)
    after = np.asarray(model(inputs))
    assert 0 < np.abs(after - before).max() < 0.2
    model.save(tmp_path / "model.keras")
    for load in (kvae.load, keras.models.load_model):
        again = load(tmp_path / "model.keras")
        assert modes_of(again) == modes_of(model)
        np.testing.assert_array_equal(again(inputs), after)
    assert model.count_params() != floats


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize")
def test_only_the_selected_networks_are_quantized():
    model = ALL["gated, a flow"]()
    model.quantize("int8", filters="^head$")
    assert [layer.name for layer in model._flatten_layers() if layer.quantization_mode] == ["head"]
    config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    model.decoder.quantize(config=config, filters=lambda layer: True)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert modes_of(again) == modes_of(model)
    assert [layer.quantization_config.activation_quantizer for layer in again.decoder._flatten_layers()
            if layer.quantization_mode] == [None, None]  # fmt: skip
    assert not any(modes_of(model.prior))  # samples are exact, bit for bit, in float32


COPIES = {
    "from_config": lambda model: type(model).from_config(model.get_config()),
    "clone_model": keras.models.clone_model,
    "to_json": lambda model: keras.models.model_from_json(model.to_json()),
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("how", slow_but({"clone_model", "to_json"}, COPIES))
@pytest.mark.parametrize("name", slow_but({"conditional"}, ALL))
def test_copies(name, how):
    model = ALL[name]()
    again = COPIES[how](model)
    if how not in ("deepcopy", "pickle"):
        again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(inputs_of(model)), model(inputs_of(model)))
    lines = []
    again.summary(print_fn=lambda line: lines.append(line))
    assert f"{again.count_params():,}" in "\n".join(lines)


def classes_in_the_sources():
    """Return the names that the package's sources register with Keras: `kvae>Name`."""
    names = set()
    for file in [*ROOT.glob("kvae/**/*.py"), *ROOT.glob("export/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            decorators = getattr(node, "decorator_list", [])
            if any("register_keras_serializable('kvae')" in ast.unparse(decorator) for decorator in decorators):
                names.add(f"kvae>{node.name}")
    return names


@pytest.mark.slow
def test_importing_the_models_registers_all_classes_of_files(tmp_path):
    """In a new process, `keras.models.load_model` opens a model of `kvae train` with its optimizer."""
    rate = kvae.callbacks.LowerableRate(keras.optimizers.schedules.CosineDecay(1e-3, 100))
    objective = kvae.objectives.ELBO(kvae.schedules.LinearWarmup(10))
    vae = kvae.VAE(networks.Encoder(2, networks.MLP((8,))), networks.Decoder((8, 8, 1)), objective=objective)
    vae.compile(kvae.optimizers.FusedAdam(rate, beta_1=0.8))
    vae.fit(X, verbose=0)
    vae.save(tmp_path / "vae.keras")
    kvae.features.classifier(vae, 3).save(tmp_path / "classifier.keras")
    code = (
        "import json, keras, kvae.models, numpy as np, sys\n"
        "from keras.src.saving.object_registration import GLOBAL_CUSTOM_OBJECTS\n"
        "registered = [name for name in GLOBAL_CUSTOM_OBJECTS if name.startswith('kvae>')]\n"
        "vae, classifier = map(keras.models.load_model, sys.argv[1:3])\n"
        "x = np.load(sys.argv[3])\n"
        "vae.train_on_batch(x)\n"
        "np.savez(sys.argv[4], *vae.get_weights())\n"
        "found = [type(vae.optimizer).__module__, vae.optimizer.beta_1, type(classifier).__name__]\n"
        "print(json.dumps([registered, found, kvae.load(sys.argv[1]).predict(x, verbose=0).shape]))"
    )
    np.save(tmp_path / "x.npy", X)
    files = [str(tmp_path / name) for name in ("vae.keras", "classifier.keras", "x.npy", "weights.npz")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    registered, found, shape = json.loads(done.stdout.splitlines()[-1])
    assert set(registered) == classes_in_the_sources()
    assert len(registered) > 40
    assert found == ["kvae.optimizers", 0.8, "Classifier"]
    assert shape == [8, 8, 8, 1]
    vae.train_on_batch(X)
    with np.load(files[-1]) as weights:
        for here, there in zip(vae.get_weights(), weights.values(), strict=True):
            np.testing.assert_array_equal(here, there)
