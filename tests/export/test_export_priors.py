"""Tests that latents are equal bit for bit in Keras, compiled graphs, LiteRT (at every precision) and ONNX.

tests/test_random.py tests the standard normal.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from kvae.distributions import seed_words
from kvae.export import litert
from kvae.priors import ConditionalNormal, FixedMixture, FlowMatching, Mixture, RealNVP

pytestmark = pytest.mark.slow

ROWS, LATENTS, CLASSES = 64, 5, 3
RNG = np.random.default_rng(0)


def filled(prior, scale):
    """Return the prior with weights far from their initial values."""
    prior.build((None, LATENTS))
    for weight in prior.trainable_weights:
        weight.assign(RNG.normal(scale=scale, size=weight.shape))
    return prior


def full_mixture():
    lower = np.tril(RNG.normal(size=(4, LATENTS, LATENTS)), -1) + np.eye(LATENTS)
    means, scales = RNG.normal(size=(2, 4, LATENTS))
    return FixedMixture.of(RNG.normal(size=4), 3 * means, 10.0**scales, lower)


def flow_matching():
    prior = FlowMatching(units=(16, 8), steps=3)
    prior.build((None, LATENTS))
    for weight in (*prior.kernels, *prior.biases, prior.means, prior.mixing):
        weight.assign(RNG.normal(scale=0.5, size=weight.shape))
    prior.scales.assign(10.0 ** RNG.normal(size=LATENTS))
    return prior


PRIORS = {
    "mixture": lambda: filled(Mixture(components=7), 2.0).fixed(),
    "full_mixture": full_mixture,
    "conditional": lambda: filled(ConditionalNormal(CLASSES), 2.0),
    "flow": lambda: filled(RealNVP(num_layers=2, units=(16, 8)), 0.5),
    "flow_matching": flow_matching,
}


@pytest.fixture(scope="module")
def priors():
    keras.utils.set_random_seed(0)
    return {name: make() for name, make in PRIORS.items()}


def drawing(prior):
    def draw(seed, index, temperature, condition):
        return {"z": prior.draw(seed, index, temperature, condition)}

    return draw


@pytest.fixture(scope="module")
def functions(priors):
    specs = [
        tf.TensorSpec((2,), tf.int32, name="seed"),
        tf.TensorSpec((ROWS,), tf.int32, name="index"),
        tf.TensorSpec((1,), tf.float32, name="temperature"),
        tf.TensorSpec((ROWS, CLASSES), tf.float32, name="condition"),
    ]
    return {name: tf.function(drawing(prior), input_signature=specs, autograph=False) for name, prior in priors.items()}


@pytest.fixture(scope="module")
def inputs():
    """Inputs of three calls."""
    return [
        {
            "seed": seed_words(seed),
            "index": RNG.integers(-(2**31), 2**31, ROWS).astype("int32"),
            "temperature": np.array([temperature], "float32"),
            "condition": RNG.normal(size=(ROWS, CLASSES)).astype("float32"),
        }
        for seed, temperature in [(7, 1.0), (2**63 + 11, 0.7), (-3, 2.3)]
    ]


@pytest.fixture(scope="module")
def eager(priors, inputs):
    return {name: [np.asarray(prior.draw(**call)) for call in inputs] for name, prior in priors.items()}


@pytest.fixture(scope="module")
def file(functions, priors, tmp_path_factory):
    """One LiteRT file with a signature for each prior."""
    module = tf.Module()
    module.weights = [variable.value for prior in priors.values() for variable in prior.variables]
    folder = str(tmp_path_factory.mktemp("priors") / "saved_model")
    tf.saved_model.save(module, folder, signatures=functions)
    return litert.convert(folder, list(functions))


@pytest.mark.parametrize("name", PRIORS)
def test_graphs(name, priors, functions, inputs, eager):
    compiled = tf.function(drawing(priors[name]), jit_compile=True, autograph=False)
    for call, z in zip(inputs, eager[name]):
        tensors = {key: tf.constant(value) for key, value in call.items()}
        np.testing.assert_array_equal(functions[name](**tensors)["z"], z)
        np.testing.assert_array_equal(compiled(**tensors)["z"], z)


@pytest.mark.parametrize("precision", litert.PRECISIONS)
def test_litert(precision, file, inputs, eager):
    signatures = Interpreter(model_content=file).get_signature_list()
    used = {name: [{key: call[key] for key in signatures[name]["inputs"]} for call in inputs] for name in PRIORS}
    model = litert.quantize(file, precision, used if precision == "full_int8" else None)
    for kernels in (OpResolverType.AUTO, OpResolverType.BUILTIN_REF):  # XNNPACK and the reference kernels
        interpreter = Interpreter(model_content=model, experimental_op_resolver_type=kernels)
        for name in PRIORS:
            runner = interpreter.get_signature_runner(name)
            for call, z in zip(used[name], eager[name]):
                np.testing.assert_array_equal(runner(**call)["z"], z, err_msg=f"{name} {kernels}")


@pytest.mark.parametrize("name", PRIORS)
def test_onnx(name, functions, inputs, eager):
    pytest.importorskip("tf2onnx", reason="needs the extra `onnx`")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    from kvae.export import onnx

    session = onnxruntime.InferenceSession(
        onnx.convert(Drawing(functions[name]), None).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    for call, z in zip(inputs, eager[name]):
        np.testing.assert_array_equal(session.run(["z"], {key: call[key] for key in names})[0], z)


class Drawing:
    """Fake endpoint for the ONNX exporter."""

    name = "draw"

    def __init__(self, function):
        self.function = function

    def trace(self, model):
        return self.function.get_concrete_function()

    def specs(self, model):
        return {spec.name: spec for spec in self.function.input_signature}
