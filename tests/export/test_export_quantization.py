"""Tests of files in eight bits: their operators, their losses, and integer files."""

import keras
import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import layers, ops

import kvae
from kvae.export import integer, litert, networks, runtime
from kvae.export.endpoints import endpoints_of
from kvae.export.errors import ExportError
from kvae.export.flatbuffer import SERVING_DEFAULT, Editable, Named
from kvae.export.reference import run_keras

pytestmark = pytest.mark.slow

BATCH, LATENTS = 16, 8
DECODE = Named(f"decode_{BATCH}", ("z",), ("image",))
ENCODE = Named(f"encode_{BATCH}", ("image",), ("mean", "variance"))
FLOAT32, INT8, UINT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8, schema.TensorType.UINT8
KERNELS = {
    "XNNPACK": OpResolverType.AUTO,
    "built in": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}


def saved(model, folder, *names, batch=BATCH):
    """Write a SavedModel of these endpoints."""
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    signatures = {e.signature(batch): e.trace(model, batch) for e in endpoints_of(model) if e.name in names}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


@pytest.fixture(scope="module")
def vae():
    """A VAE with every kind of operator that might be quantised by mistake, its training images, and test images."""
    keras.utils.set_random_seed(0)
    images = np.kron(sklearn.datasets.load_digits().images / 16, np.ones((3, 3)))[..., None].astype("float32")
    vae = kvae.VAE(
        kvae.Encoder(LATENTS, kvae.networks.ConvDown((8, 16), units=32)),
        kvae.Decoder((24, 24, 1), kvae.networks.ConvUp((16, 8))),
    )
    vae.compile(keras.optimizers.Adam(3e-3), steps_per_execution=23)
    vae.fit(images[:1500], batch_size=64, epochs=5, verbose=0)
    # The flow is only needed for its operators, so it isn't trained.
    return vae.with_prior(kvae.priors.RealNVP(num_layers=2, units=(16,))), images[:1500], images[1500:]


@pytest.fixture(scope="module")
def folder(vae, tmp_path_factory):
    return saved(
        vae[0], tmp_path_factory.mktemp("quantization") / "saved_model", "decode", "encode", "reconstruct", "score"
    )


@pytest.fixture(scope="module")
def calibration(vae):
    """Calls on images and on latents of the prior; half of the latents are doubled."""
    model, images, _ = vae
    latents = np.asarray(model.prior.sample(128, 0)) * np.repeat([[1.0], [2.0]], 64, axis=0).astype("float32")
    images = images[:128]
    return {
        DECODE.name: [{"z": latents[i::8]} for i in range(8)],
        ENCODE.name: [{"image": images[i::8]} for i in range(8)],
        f"reconstruct_{BATCH}": [{"image": images[i::8]} for i in range(8)],
        f"score_{BATCH}": [scored(images[i::8]) for i in range(8)],
    }


@pytest.fixture(scope="module")
def float32(folder, calibration):
    return litert.convert(folder, list(calibration))


@pytest.fixture(scope="module")
def full_int8(vae, float32, calibration):
    return litert.quantize(float32, "full_int8", calibration, networks.in_networks(vae[0]))


def scored(images):
    return {"image": images, "seed": runtime.seed_words(7), "index": np.arange(len(images), dtype="int32")}


def operators(data, signature):
    """Kind, name and the types of inputs and outputs of each operator of a signature."""
    file = Editable(data)
    model = file.model
    (index,) = (s.subgraphIndex for s in model.signatureDefs if s.signatureKey.decode() == signature)
    tensors = model.subgraphs[index].tensors
    for operator in model.subgraphs[index].operators:
        yield (
            file.kinds[operator.opcodeIndex],
            tensors[operator.outputs[0]].name.decode(),
            {tensors[i].type for i in (*operator.inputs, *operator.outputs) if i >= 0},
        )


def run(data, signature, inputs, kernels=OpResolverType.AUTO):
    """Return the signature's outputs for all rows of whole batches."""
    interpreter = Interpreter(model_content=bytes(data), experimental_op_resolver_type=kernels, num_threads=1)
    runner = interpreter.get_signature_runner(signature)
    batched = {name for name in inputs if name != "seed"}
    rows = len(inputs[next(iter(sorted(batched)))])
    outputs = [
        {
            k: v.copy()
            for k, v in runner(**{n: v[i : i + BATCH] if n in batched else v for n, v in inputs.items()}).items()
        }
        for i in range(0, rows - BATCH + 1, BATCH)
    ]
    return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}


def run_integers(data, inputs, kernels=OpResolverType.AUTO):
    """Return the outputs of an integer file, for floats rounded to its scales."""
    runner = Interpreter(model_content=bytes(data)).get_signature_runner(SERVING_DEFAULT)
    put, got = runner.get_input_details(), runner.get_output_details()

    def rounded(name, values):
        (scale, zero), limits = put[name]["quantization"], np.iinfo(put[name]["dtype"])
        return np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(put[name]["dtype"])

    outputs = run(data, SERVING_DEFAULT, {name: rounded(name, values) for name, values in inputs.items()}, kernels)
    scales = {name: got[name]["quantization"] for name in outputs}
    return {name: scales[name][0] * (values.astype("float32") - scales[name][1]) for name, values in outputs.items()}


def wide_latents(temperature):
    return (temperature * np.random.default_rng(5).normal(size=(256, LATENTS))).astype("float32")


def test_full_int8_only_quantises_networks(vae, full_int8):
    inside = networks.in_networks(vae[0])
    found = [(kind, name) for kind, name, types in operators(full_int8, f"score_{BATCH}") if INT8 in types]
    at_the_borders = ("QUANTIZE", "DEQUANTIZE")
    assert {kind for kind, _ in found} == {
        "CONV_2D", "FULLY_CONNECTED", "RESHAPE", "DEPTH_TO_SPACE", *at_the_borders,
    }  # fmt: skip
    assert [name for kind, name in found if kind not in at_the_borders and not inside(name)] == []
    # Once at the encoder and once at the decoder.
    assert [kind for kind, _ in found if kind in at_the_borders] == ["QUANTIZE", "DEQUANTIZE"] * 2
    flow = {name for kind, name, _ in operators(full_int8, f"score_{BATCH}") if kind == "FULLY_CONNECTED"}
    assert any("affine_coupling" in name for name in flow)  # the flow has operators that must stay in floats


def test_a_decoder_stays_in_integers(full_int8):
    kinds = [kind for kind, _, _ in operators(full_int8, DECODE.name)]
    assert kinds == [
        "QUANTIZE", "FULLY_CONNECTED", "RESHAPE", "CONV_2D", "DEPTH_TO_SPACE", "CONV_2D", "CONV_2D", "DEQUANTIZE",
        "LOGISTIC", "DEPTH_TO_SPACE",
    ]  # fmt: skip


@pytest.mark.parametrize("kernels", ["XNNPACK", "reference"])
def test_full_int8_loses_at_most_a_fifth_of_a_nat(vae, full_int8, kernels):
    model, _, images = vae
    inputs = scored(images[: len(images) // BATCH * BATCH])
    expected = run_keras(model)("score", inputs)
    got = run(full_int8, f"score_{BATCH}", inputs, KERNELS[kernels])
    lost = np.mean(got["negative_elbo"] - expected["negative_elbo"])
    assert abs(lost) < 0.2  # measured: 0.11, and 0.40 with densities in eight bits


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_full_int8_decodes_wide_latents(vae, full_int8, temperature):
    z = wide_latents(temperature)
    off = np.abs(run(full_int8, DECODE.name, {"z": z})["image"] - run_keras(vae[0])("decode", {"z": z})["image"])
    assert off.mean() < 0.01
    assert off.max() < 0.2


@pytest.mark.parametrize("kernels", KERNELS)
def test_full_int8_reconstructs(vae, full_int8, kernels):
    """A SPLIT with an unused output is between the two networks."""
    inputs = {"image": vae[2][: 4 * BATCH]}
    got = run(full_int8, f"reconstruct_{BATCH}", inputs, KERNELS[kernels])["reconstruction"]
    assert np.abs(got - run_keras(vae[0])("reconstruct", inputs)["reconstruction"]).mean() < 0.01


@pytest.fixture(scope="module", params=integer.IO)
def decoder(request, folder, calibration):
    return request.param, integer.integer(folder, DECODE, calibration[DECODE.name], request.param)


def check_integers(data, io, signature=SERVING_DEFAULT):
    """Check for one subgraph without floats, with inputs and outputs of the dtype and their scales."""
    model = Editable(data).model
    (subgraph,) = model.subgraphs
    assert [s.signatureKey for s in model.signatureDefs] == [signature.encode()]
    types = set().union(*(types for _, _, types in operators(data, signature)))
    assert types <= {INT8, UINT8, schema.TensorType.INT32, schema.TensorType.BOOL}
    kinds = [kind for kind, _, _ in operators(data, signature)]
    ends = [subgraph.tensors[i] for i in (*subgraph.inputs, *subgraph.outputs)]
    assert "DEQUANTIZE" not in kinds
    assert kinds.count("QUANTIZE") == (0 if io == "int8" else len(ends))
    assert {tensor.type for tensor in ends} == {INT8 if io == "int8" else UINT8}
    assert all(len(tensor.quantization.scale) == len(tensor.quantization.zeroPoint) == 1 for tensor in ends)
    return [tensor.name.decode() for tensor in ends]


def test_a_decoder_in_integers(decoder):
    io, data = decoder
    assert check_integers(data, io) == ["z", "image"]
    assert len(data) < 50_000  # with 34,000 weights of a byte each
    # Kernels with only the first version, and older runtimes with one scale per dense layer, run it, too.
    file = Editable(data)
    model, versions = file.model, file.operators
    assert versions["DEPTH_TO_SPACE"] == 1
    (dense,) = (o for o in model.subgraphs[0].operators if file.kinds[o.opcodeIndex] == "FULLY_CONNECTED")
    assert len(model.subgraphs[0].tensors[dense.inputs[1]].quantization.scale) == 1


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_decoder_in_integers_loses_at_most_a_tenth_of_a_nat(vae, decoder, kernels):
    model, _, images = vae
    images = images[: len(images) // BATCH * BATCH]
    moments = run_keras(model)("encode", {"image": images})
    noise = np.random.default_rng(0).normal(size=moments["mean"].shape).astype("float32")
    z = moments["mean"] + np.sqrt(moments["variance"]) * noise
    lost = distortion(images, run_integers(decoder[1], {"z": z}, KERNELS[kernels])["image"])
    lost -= distortion(images, run_keras(model)("decode", {"z": z})["image"])
    assert abs(lost.mean()) < 0.1  # measured: 0.03


def distortion(images, means):
    """Return −log p(x|z) of a Bernoulli in nats `(B,)`; probabilities are clipped at half a step of the integers."""
    p = np.clip(means.astype("float64"), 1 / 512, 1 - 1 / 512)
    return -np.sum(images * np.log(p) + (1 - images) * np.log1p(-p), axis=(1, 2, 3))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_decoder_in_integers_decodes_wide_latents(vae, decoder, temperature):
    z = wide_latents(temperature)
    off = np.abs(run_integers(decoder[1], {"z": z})["image"] - run_keras(vae[0])("decode", {"z": z})["image"])
    assert off.mean() < 0.01
    assert off.max() < 0.2


def test_an_encoder_in_integers(vae, folder, calibration):
    model, _, images = vae
    data = integer.integer(folder, ENCODE, calibration[ENCODE.name])
    assert check_integers(data, "int8") == ["image", "mean", "variance"]
    images = images[: len(images) // BATCH * BATCH]
    expected = run_keras(model)("encode", {"image": images})
    spread = np.sqrt(np.mean(np.var(expected["mean"], axis=0)) + np.mean(expected["variance"]))
    for kernels in KERNELS.values():
        got = run_integers(data, {"image": images}, kernels)
        assert np.abs(got["mean"] - expected["mean"]).mean() < 0.05 * spread  # same limit as other files in eight bits
        assert np.abs(got["variance"] - expected["variance"]).mean() < 0.05 * np.sqrt(
            np.mean(expected["variance"] ** 2)
        )


def test_an_encoder_in_integers_without_a_variance(vae, folder, calibration):
    both, mean = (
        integer.integer(folder, Named(ENCODE.name, ENCODE.inputs, outputs), calibration[ENCODE.name])
        for outputs in (("mean", "variance"), ("mean",))
    )
    assert check_integers(mean, "int8") == ["image", "mean"]
    assert [kind for kind, _, _ in operators(mean, SERVING_DEFAULT)][-2:] == ["FULLY_CONNECTED", "SPLIT"]
    images = vae[2][:BATCH]
    np.testing.assert_array_equal(*(run_integers(data, {"image": images})["mean"] for data in (both, mean)))


def test_a_classifier_in_integers(tmp_path):
    keras.utils.set_random_seed(0)
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8, 1).astype("float32")
    encoder = kvae.Encoder(4, kvae.networks.MLP((32,)))
    encoder.build((None, 8, 8, 1))
    model = kvae.features.Classifier(encoder, 10, image_shape=(8, 8, 1))
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    model.fit(images[:1500], labels[:1500], epochs=2, verbose=0)
    images = images[-18 * BATCH :]
    folder = saved(model, tmp_path / "saved_model", "classify")
    named = Named(f"classify_{BATCH}", ("image",), ("probability",))
    data = integer.integer(folder, named, [{"image": images[i::18]} for i in range(18)], "uint8")
    assert check_integers(data, "uint8") == ["image", "probability"]
    expected = run_keras(model)("classify", {"image": images})["probability"]
    got = run_integers(data, {"image": images})["probability"]
    assert np.mean(got.argmax(1) == expected.argmax(1)) > 0.97
    assert np.abs(got - expected).mean() < 0.01
    float32 = litert.convert(folder, [named.name])
    chosen = networks.in_eight_bits(float32, networks.in_networks(model))
    assert len(chosen["FULLY_CONNECTED"]) == sum(k == "FULLY_CONNECTED" for k, _, _ in operators(float32, named.name))


class Wave(layers.Layer):
    def call(self, x):
        return ops.sin(x)


def test_an_operator_that_requires_floats_is_refused(make_decoder, tmp_path):
    encoder = kvae.Encoder(3, kvae.networks.MLP((4,)))
    vae = kvae.VAE(
        encoder, make_decoder(Wave(name="wave"), layers.UpSampling2D(2)), latent_dim=3, image_shape=(8, 8, 1)
    )
    folder = saved(vae, tmp_path / "saved_model", "decode")
    calls = [{"z": np.zeros((BATCH, 3), "float32")}]
    with pytest.raises(ExportError, match=r"SIN in layer '.*wave_1'.*: replace that layer.*full_int8$") as caught:
        integer.integer(folder, DECODE, calls)
    assert "\n" not in str(caught.value)


def test_invalid_arguments_of_integer_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`io` must be one of .*Received: 'float32'"):
        integer.integer(tmp_path, DECODE, [{}], "float32")
    with pytest.raises(ValueError, match="`calibration` must have at least one call"):
        integer.integer(tmp_path, DECODE, [])


def test_names_of_networks(make_decoder):
    """Keras's automatic names differ by a number, like the names of scopes that are entered again."""
    keras.backend.clear_session()
    encoder = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(6)])
    decoder, prior = make_decoder(layers.UpSampling2D(2)), kvae.priors.StandardNormal()
    prior.net = keras.Sequential([layers.Dense(2)])
    assert [encoder.name, decoder.name, prior.net.name] == ["sequential", "sequential_1", "sequential_2"]
    vae = kvae.VAE(encoder, decoder, prior=prior, latent_dim=3, image_shape=(8, 8, 1))
    inside = networks.in_networks(vae)
    assert inside("sequential_1/dense_1/MatMul")
    assert inside("sequential_1_2/dense_1_1/MatMul2")
    assert inside("x/BiasAdd;sequential_1/dense_1/MatMul")
    assert not inside("sequential_2_1/dense_3_1/MatMul")
    assert not inside("Reshape_3")
    assert not inside("StatefulPartitionedCall:0")
