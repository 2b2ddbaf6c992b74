"""Keras's global settings: the dtypes of models, and refused settings."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_parts import PARTS, X, Y, vae_with
from tiers import slow_but

import kvae
from kvae import networks

pytestmark = pytest.mark.slow

#: name: (floatx, dtype policy, dtype of the bodies' weights); floatx alone sets the policy, too
SETTINGS = {
    "floatx float64": ("float64", "float64", "float64"),
    "floatx float16": ("float16", "float16", "float16"),
    "policy float64": ("float32", "float64", "float64"),
    "policy float16": ("float32", "float16", "float16"),
    "policy bfloat16": ("float32", "bfloat16", "bfloat16"),
    "floatx float64, policy float32": ("float64", "float32", "float32"),
    "floatx float64, policy mixed_bfloat16": ("float64", "mixed_bfloat16", "float32"),
    "floatx float16, policy mixed_float16": ("float16", "mixed_float16", "float32"),
}
#: parts that create constants or draw random numbers
CONSTANTS = {
    "posterior FullCovarianceNormal", "posterior InverseAutoregressive", "likelihood LowRankNormal", "prior VampPrior",
    "prior FixedMixture full", "objective MMD WAE", "objective DIP-II", "objective TotalCorrelation stratified",
}  # fmt: skip


def use(name):
    floatx, policy, dtype = SETTINGS[name]
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    return dtype


def bodies():
    return networks.Encoder(3, networks.MLP((16,))), networks.Decoder((8, 8, 1), networks.MLP((16,)))


MODELS = {
    "VAE": lambda: kvae.VAE(*bodies()),
    "conditional": lambda: kvae.VAE(*bodies(), condition_dim=4, prior=kvae.priors.ConditionalNormal()),
    "Autoencoder": lambda: kvae.Autoencoder(*bodies()),
    "SemiSupervisedVAE": lambda: kvae.SemiSupervisedVAE(
        *bodies(), num_classes=4, classifier=networks.Encoder(4, networks.MLP((16,)), param_size=4)
    ),
    "convolutions": lambda: kvae.VAE(
        networks.Encoder(3, networks.ResidualDown((4, 4), 1, 8)), networks.Decoder((8, 8, 1), networks.ConvUp((4, 4)))
    ),
    "a user's networks": lambda: kvae.VAE(
        keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(6)]),
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(64), keras.layers.Reshape((8, 8, 1))]),
        latent_dim=3, image_shape=(8, 8, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("setting", slow_but({"floatx float64"}, SETTINGS))
def test_a_model_works_under_every_setting(setting, tmp_path, digits):
    """Weights have the dtype of the policy; outputs are float32, finite, and better than before training."""
    dtype = use(setting)
    x, y = digits[0][:128], digits[1][:128]
    vae = MODELS["VAE"]()
    assert {weight.dtype for weight in vae.encoder.body.weights} == {dtype}
    vae.compile("adam")
    before = vae.evaluate(x, verbose=0, return_dict=True)["loss"]
    history = vae.fit(x, batch_size=16, epochs=6, validation_data=(x.astype("float64"),), verbose=0).history
    assert np.all(np.isfinite(list(history.values())))
    assert history["val_loss"][-1] < before - 3
    outputs = [
        vae.predict(x.astype("float16"), verbose=0), vae.encode_mean(x), *vae.encode(x), vae.reconstruct(x),
        vae.generate(3, seed=0), vae.decode(np.zeros((2, 3))), vae.interpolate_images(x[0], x[1], 3),
        *kvae.features.extract(vae, x).values(),
    ]  # fmt: skip
    assert {keras.backend.standardize_dtype(output.dtype) for output in outputs} == {"float32"}
    assert all(np.all(np.isfinite(output)) for output in outputs)
    scores = kvae.evaluation.evaluate(vae, x[:8], num_samples=8)
    assert scores["nll"] < before
    vae.save(tmp_path / "vae.keras")
    np.testing.assert_array_equal(kvae.load(tmp_path / "vae.keras").predict(x, verbose=0), vae.predict(x, verbose=0))
    classifier = kvae.features.classifier(vae, 10)
    classifier.compile("adam", "sparse_categorical_crossentropy")
    assert np.all(np.isfinite(classifier.fit(x, y, verbose=0).history["loss"]))


@pytest.mark.filterwarnings("ignore::kvae.callbacks.TrainingWarning")  # float16 looks for its loss scale
@pytest.mark.parametrize(
    ("name", "setting"),
    [*((name, "floatx float16") for name in MODELS), *(("VAE", s) for s in SETTINGS if s != "floatx float16")],
)
def test_every_model_trains_under_every_setting(name, setting):
    use(setting)
    model = MODELS[name]()
    model.compile("adam")
    c = Y if name == "conditional" else None
    history = model.fit(X, Y, batch_size=8, epochs=2, verbose=0).history
    assert np.all(np.isfinite(list(history.values())))
    for inputs in (X, X.astype("float64")):
        assert np.all(np.isfinite(model.predict(inputs if c is None else (inputs, c), verbose=0)))
        assert np.all(np.isfinite(model.evaluate(inputs, Y, verbose=0)))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *((name, "floatx float64") for name in PARTS if not name.startswith("objective") or name in CONSTANTS),
        *((name, "floatx float16") for name in sorted(CONSTANTS)),
    ],
)
def test_every_part_computes_in_float32(name, setting):
    """The numbers equal those of float32, up to the rounding of the networks' dtype."""
    models = [vae_with(name)]
    use(setting)
    models.append(vae_with(name))
    models[1].set_weights(models[0].get_weights())
    tolerance = 1e-4 if "64" in setting else 2e-2
    single, other = (model.batch_values(tf.constant(X), model.noise(0), True, Y) for model in models)
    for key, value in single.items():
        assert other[key].dtype == "float32", key
        np.testing.assert_allclose(other[key], value, rtol=tolerance, atol=tolerance, err_msg=key)
    c = None if models[1].condition_dim is None else Y
    samples = [model.generate(16, seed=1, condition=c) for model in models]
    np.testing.assert_allclose(*samples, rtol=tolerance, atol=tolerance)


def test_a_schedule_of_keras_in_another_floatx():
    keras.config.set_floatx("float64")
    beta = keras.optimizers.schedules.PolynomialDecay(0.0, 100, 1.0)
    vae = kvae.VAE(*bodies(), objective=kvae.objectives.ELBO(beta))
    values = vae.batch_values(tf.constant(X), vae.noise(0), True)
    assert values["loss"].dtype == "float32"
    np.testing.assert_allclose(values["loss"], values["distortion"], rtol=1e-6)  # β is 0 at the first step


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float64", "float16", "mixed_float16"])
def test_files_compute_in_float32(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    vae = MODELS["convolutions"]()
    kvae.export.export(vae, tmp_path, precisions=("float32",), batch_sizes=(1,))  # compares file and model
    assert vae.encoder.body.compute_dtype == {"mixed_float16": "float16"}.get(policy, policy)


def test_epsilon_is_raised_for_float16_weights():
    keras.config.set_dtype_policy("float16")
    vae = MODELS["VAE"]()
    for name, epsilon in {"adam": 0.01, "rmsprop": 0.01, "sgd": None}.items():
        vae.compile(name)
        assert getattr(vae.optimizer, "epsilon", None) == epsilon
    with pytest.warns(UserWarning, match=r"Weights are float16, too coarse for Adam\(epsilon=1e-07\).*mixed_float16"):
        vae.compile(keras.optimizers.Adam())
    keras.config.set_dtype_policy("mixed_float16")
    vae = MODELS["VAE"]()
    vae.compile("adam")
    assert vae.optimizer.inner_optimizer.epsilon == 1e-7


@pytest.mark.parametrize(
    "make",
    [
        lambda path: kvae.VAE(latent_dim=2, image_shape=(8, 8, 1)),
        lambda path: kvae.Autoencoder(latent_dim=2, image_shape=(8, 8, 1)),
        lambda path: kvae.SemiSupervisedVAE(latent_dim=2, image_shape=(8, 8, 1), num_classes=2),
        lambda path: kvae.Encoder(2),
        lambda path: kvae.Decoder((8, 8, 1)),
        lambda path: networks.ConvDown(),
        lambda path: networks.ResidualUp(),
        lambda path: kvae.load(path),
    ],
)
def test_channels_first_is_refused_before_anything_is_built(make, tmp_path):
    (tmp_path / "model.keras").touch()
    keras.config.set_image_data_format("channels_first")
    with pytest.raises(
        ValueError, match=r"set_image_data_format\(\"channels_last\"\) first. Received: 'channels_first'"
    ):
        make(tmp_path / "model.keras")


def run(code, **environment):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_jax_supports_densities_but_not_models(tmp_path):
    """The backend is set in keras.json; the environment variable has the same effect."""
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax", "floatx": "float32"}))
    done = run(
        "import kvae\n"
        "from keras import ops\n"
        "from kvae import likelihoods, networks, objectives, posteriors, priors, schedules\n"
        "p = likelihoods.Bernoulli()\n"
        "print(float(p.log_prob(ops.zeros((1, 3)), ops.ones((1, 3)))[0]), end=' ')\n"
        "print(networks.MLP((2,))(ops.ones((1, 4))).shape)\n"
        "for name in ('VAE', 'load', 'features'):\n"
        "    try:\n"
        "        getattr(kvae, name)\n"
        "    except ImportError as error:\n"
        "        print(error)\n",
        KERAS_HOME=str(tmp_path),
    )
    densities, *refusals = done.stdout.splitlines()
    assert densities.startswith("-2.079441"), done.stderr
    assert densities.endswith("(1, 2)")
    message = (
        "Expected Keras to run on TensorFlow. Received: the backend 'jax'. Set KERAS_BACKEND=tensorflow in the "
        "environment, before Keras is imported"
    )
    assert refusals == [message] * 3


@pytest.mark.parametrize("backend", ["torch", "nonsense"])  # neither can be imported
def test_other_backends_are_refused(backend):
    done = run("import kvae; kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))", KERAS_BACKEND=backend)
    assert f"Received: the backend '{backend}'. Set KERAS_BACKEND=tensorflow" in done.stderr.splitlines()[-1]
