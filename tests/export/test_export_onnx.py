"""Tests of ONNX files: they equal Keras in onnxruntime and in ONNX's reference implementation."""

import functools
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from user_layers import Apply

import kvae
from kvae.distributions import seed_words
from kvae.export import ExportError, onnx as kvae_onnx
from kvae.export.endpoints import endpoints_of
from kvae.export.reference import Reference, run_keras

onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")
onnx_reference = pytest.importorskip("onnx.reference", reason="needs the extra `onnx`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")

pytestmark = pytest.mark.slow
pytest.importorskip("tf2onnx", reason="needs the extra `onnx`")

INFO = json.dumps({"format": "kvae", "latents": "µ"}).encode()
CPU = ["CPUExecutionProvider"]
INT32 = np.iinfo("int32")

MODELS = {
    "VAE": lambda: kvae.VAE(latent_dim=2, image_shape=(8, 8, 1)),
    "Autoencoder": lambda: kvae.Autoencoder(latent_dim=2, image_shape=(8, 8, 1)),
    "DiagonalNormal": lambda: kvae.VAE(
        likelihood=kvae.likelihoods.DiagonalNormal(), latent_dim=5, image_shape=(8, 8, 1)
    ),
}


@pytest.fixture(scope="module")
def exports(images, tmp_path_factory):
    """Function from the name of a model to the model, the folder of its files, and the result of `export`."""

    @functools.cache
    def make(name):
        keras.utils.set_random_seed(1)
        model, folder = MODELS[name](), tmp_path_factory.mktemp("models") / "onnx"
        return model, folder, kvae_onnx.export(model, folder, Reference(model, images), INFO)

    return make


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name == "DiagonalNormal" else []) for name in MODELS],
)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name, exports):
    return exports(name)[0]


@pytest.fixture(scope="module")
def written(name, exports):
    """Folder of the files of `model`, and the result of `export`."""
    return exports(name)[1:]


@pytest.fixture(scope="module")
def generate(exports):
    """A VAE and its `generate.onnx`."""
    vae, folder, _ = exports("VAE")
    return vae, folder / "generate.onnx"


@pytest.fixture(scope="module")
def autoencoder():
    """Arguments for an export of the smallest model."""
    model = MODELS["Autoencoder"]()
    reference = Reference(model)
    return lambda folder: (model, folder, reference)


def inputs_of(model, size):
    """Return `size` new rows of inputs for every endpoint."""
    rng = np.random.default_rng(size)
    z = rng.standard_normal((size + 1, model.latent_dim), dtype=np.float32)
    image = rng.random((size, *model.image_shape), dtype=np.float32)
    noise = {"seed": seed_words(-3), "index": rng.integers(0, 1000, size, dtype=np.int32)}
    values = {
        "decode": {"z": z[1:]},
        "encode": {"image": image},
        "reconstruct": {"image": image},
        "generate": {**noise, "temperature": np.array([0.7], "float32")},
        "latents": {**noise, "temperature": np.array([0.7], "float32")},
        "interpolate": {"start": z[:1], "end": z[1:2], "position": rng.random(size, dtype=np.float32)},
        "score": {"image": image, **noise},
    }
    return {endpoint.name: values[endpoint.name] for endpoint in endpoints_of(model)}


def test_there_is_one_valid_file_for_each_endpoint(model, written):
    folder, artifact = written
    names = {endpoint.name for endpoint in endpoints_of(model)}
    assert {path.name for path in folder.iterdir()} == {f"{name}.onnx" for name in names}
    for name in names:
        file = onnx.load(folder / f"{name}.onnx")
        onnx.checker.check_model(file, full_check=True)
        assert file.graph.name == name
        assert {opset.domain: opset.version for opset in file.opset_import}[""] == kvae_onnx.OPSET
    assert {signature.name for signature in artifact.signatures} == names
    assert (artifact.format, artifact.precision) == ("onnx", "float32")
    assert artifact.bytes == sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("size", [1, 5])
def test_onnxruntime_equals_keras(model, written, size):
    run_in_keras = run_keras(model)
    for name, inputs in inputs_of(model, size).items():
        session = onnxruntime.InferenceSession(written[0] / f"{name}.onnx", providers=CPU)
        assert {value.name for value in session.get_inputs()} == set(inputs)
        assert {value.type for value in session.get_inputs()} <= {"tensor(float)", "tensor(int32)"}
        outputs = [value.name for value in session.get_outputs()]
        expected = run_in_keras(name, inputs)
        assert set(outputs) == set(expected)
        for output, got in zip(outputs, session.run(outputs, inputs)):
            assert got.dtype == np.float32
            assert got.shape == expected[output].shape
            # Nats are sums over the pixels, and float32 has 24 bits.
            limit = 1e-5 * max(1.0, np.abs(expected[output]).max())
            assert np.abs(got - expected[output]).max() < limit


def test_only_the_batch_axis_is_dynamic(model, written):
    for name in inputs_of(model, 1):
        graph = onnx.load(written[0] / f"{name}.onnx").graph
        shapes = {
            value.name: [length.dim_param or length.dim_value for length in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.output)
        }
        fixed = {"start": [1, model.latent_dim], "end": [1, model.latent_dim], "seed": [2], "temperature": [1]}
        for value, shape in shapes.items():
            if value in fixed:
                assert shape == fixed[value]
            else:
                assert shape[0] == "batch"
                assert all(isinstance(length, int) and length > 0 for length in shape[1:])


SEEDS = [0, 7, -1, -(2**63), 2**64 - 1, 0x0123456789ABCDEF]
INDICES = [0, 1, -1, 2**20, INT32.max, INT32.min]


@pytest.mark.parametrize("seed", SEEDS)
def test_latents_equal_keras_bit_for_bit(generate, seed):
    vae, path = generate
    session = onnxruntime.InferenceSession(path, providers=CPU)
    index = np.concatenate([INDICES, np.random.default_rng(0).integers(INT32.min, INT32.max, 2000)]).astype("int32")
    for temperature in (np.array([1.0], "float32"), np.array([0.3], "float32")):
        (z,) = session.run(["z"], {"seed": seed_words(seed), "index": index, "temperature": temperature})
        assert np.array_equal(z, np.asarray(vae.prior.draw(seed_words(seed), index, temperature)))


def test_latents_in_the_reference_implementation(generate):
    """ONNX's reference implementation in NumPy is independent of onnxruntime."""
    vae, path = generate
    index, temperature = np.array(INDICES, "int32"), np.ones(1, "float32")
    evaluator = onnx_reference.ReferenceEvaluator(str(path))
    for seed in map(seed_words, SEEDS):
        with np.errstate(over="ignore"):  # int32 wraps
            (z,) = evaluator.run(["z"], {"seed": seed, "index": index, "temperature": temperature})
        assert np.array_equal(z, np.asarray(vae.prior.draw(seed, index, temperature)))


def convert(function, dtype):
    """Return a function of `(B, 1)` as an onnxruntime session, with a fake endpoint."""

    class Made:
        name = "made"

        def specs(self, model):
            return {"x": tf.TensorSpec((None, 1), dtype, name="x")}

        def trace(self, model):
            signature = list(self.specs(model).values())
            return tf.function(lambda x: {"y": function(x)}, input_signature=signature).get_concrete_function()

    return onnxruntime.InferenceSession(kvae_onnx.convert(Made(), None).SerializeToString(), providers=CPU)


def test_bits_of_positive_numbers():
    session = convert(lambda x: tf.bitcast(x, tf.int32), tf.float32)
    smallest, infinity = (np.float32(x).view("int32") for x in (np.finfo("float32").tiny, np.inf))
    bits = np.random.default_rng(0).integers(smallest, infinity, 100_000, dtype="int32")
    powers = np.arange(1, 255, dtype="int32") << 23
    bits = np.concatenate([bits, powers, powers[1:] - 1, powers + 1, [smallest, infinity - 1]]).astype("int32")
    (got,) = session.run(None, {"x": bits.view("float32")[:, None]})
    assert np.array_equal(got[:, 0], bits)


def test_log1p_of_small_and_large_numbers():
    session = convert(tf.math.log1p, tf.float32)
    x = np.concatenate([10.0 ** np.linspace(-37, 38, 1001), -(10.0 ** np.linspace(-37, -1e-3, 1001)), [0.0]])
    x = x.astype("float32")
    (got,) = session.run(None, {"x": x[:, None]})
    # Error of a few roundings of 2⁻²⁴.
    np.testing.assert_allclose(got[:, 0], np.log1p(x.astype("float64")), rtol=3e-7)


def test_a_folder_opens_as_a_function_of_any_number_of_rows(model, written):
    inputs = inputs_of(model, 300)["encode"]
    got = kvae_onnx.open_onnx(written[0])("encode", inputs)
    for output, right in run_keras(model)("encode", inputs).items():
        np.testing.assert_allclose(got[output], right, rtol=1e-5, atol=1e-5)


def test_each_file_has_the_info(written):
    for path in written[0].iterdir():
        properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert properties["kvae"].encode() == INFO
        metadata = onnxruntime.InferenceSession(path, providers=CPU).get_modelmeta().custom_metadata_map
        assert json.loads(metadata["kvae"]) == json.loads(INFO)


def test_the_same_model_gives_the_same_bytes(generate, tmp_path):
    vae, path = generate
    vae.save(tmp_path / "vae.keras")
    again = keras.saving.load_model(tmp_path / "vae.keras")  # with other numbers in TensorFlow's and tf2onnx's names
    (endpoint,) = (endpoint for endpoint in endpoints_of(vae) if endpoint.name == "generate")
    file = kvae_onnx.convert(endpoint, again)
    file.metadata_props.add(key="kvae", value=INFO.decode())
    assert file.SerializeToString() == path.read_bytes()


@pytest.mark.parametrize("package", ["onnx", "tf2onnx", "onnxruntime"])
def test_a_missing_package_is_named(autoencoder, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=rf'package {package} .*pip install "keras-vae\[onnx\]"$'):
        kvae_onnx.export(*autoencoder(tmp_path / "onnx"))
    assert not (tmp_path / "onnx").exists()


def test_an_operator_that_onnx_lacks_is_named(make_decoder):
    vae = kvae.VAE(
        keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(6)]),
        make_decoder(layers.UpSampling2D(2), Apply(tf.math.digamma)),
        latent_dim=3,
        image_shape=(8, 8, 1),
    )
    with pytest.raises(ExportError, match=r"in 'decode'. Received: Digamma; replace the layer"):
        kvae_onnx.convert(endpoints_of(vae)[0], vae)


def test_a_file_with_wrong_outputs_is_refused(written, model, images):
    other = Reference(model, images)
    other.outputs["decode"] = {"image": other.outputs["decode"]["image"] + 0.01}
    with pytest.raises(ExportError, match="'image' from 'decode' of 'onnx' within"):
        kvae_onnx.compare("onnx", kvae_onnx.open_onnx(written[0]), "float32", other)


def test_an_invalid_onnx_file_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"Expected ONNX files in .* Received: none"):
        kvae_onnx.open_onnx(tmp_path)
    (tmp_path / "decode.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"onnxruntime can't open 'decode.onnx'"):
        kvae_onnx.open_onnx(tmp_path)


def test_the_export_prints_nothing(autoencoder, tmp_path, capfd):
    arguments = autoencoder(tmp_path)
    capfd.readouterr()
    kvae_onnx.export(*arguments)
    assert capfd.readouterr() == ("", "")
