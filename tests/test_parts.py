"""A VAE for every part: saved, trained, compiled, in mixed precision, and converted."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import LIKELIHOODS, OBJECTIVES, POSTERIORS, PRIORS, networks_for

import kvae
from kvae import likelihoods
from kvae.distributions import Distribution, seed_words
from kvae.export import endpoints
from kvae.export.litert import convert
from kvae.export.reference import conditions_in_turn, run_keras
from kvae.objectives import Objective
from kvae.priors import ConditionalNormal, Prior

TABLES = {"posterior": POSTERIORS, "likelihood": LIKELIHOODS, "prior": PRIORS, "objective": OBJECTIVES}
PARTS = {f"{part} {name}": (part, make) for part, table in TABLES.items() for name, make in table.items()}
CLASSES = 4

RNG = np.random.default_rng(0)
X = (RNG.random((16, 8, 8, 1)) < 0.4).astype("float32")  # binary values, levels k / (levels − 1) and reals
Y = np.arange(16) % CLASSES


def vae_with(*names):
    """Return a tiny VAE with these parts. It is conditional if a part requires that; other models ignore labels."""
    parts = {kind: make() for kind, make in map(PARTS.get, names)}
    return kvae.VAE(
        *networks_for(parts.get("posterior")),
        condition_dim=CLASSES if isinstance(parts.get("prior"), ConditionalNormal) else None,
        **parts,
    )


@pytest.mark.parametrize("base", [Distribution, Prior, Objective])
def test_every_part_has_a_case(base):
    def family(cls):
        return {cls}.union(*map(family, cls.__subclasses__()))

    registered = {cls for cls in family(base) if keras.saving.get_registered_name(cls).startswith("kvae>")}
    # Columns has rows of mixed types instead of images: tests/test_columns.py
    assert registered - {likelihoods.Columns} <= {type(make()) for _, make in PARTS.values()}


#: parts in the default tests; each takes seconds, and tests/test_objectives.py has all objectives
QUICK = {"likelihood OptimalNormal", "prior ConditionalNormal", "objective TargetRate"}
LONG = {"posterior TopDownNormal", "prior FlowMatching"}


def parts(slow):
    """Return parameters for all parts; those in `slow` are no default tests."""
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in PARTS]


@pytest.mark.parametrize("name", parts({name for name in PARTS if name.startswith("objective")} - QUICK | LONG))
def test_gradients_and_round_trip(name, tmp_path):
    vae = vae_with(name)
    vae.compile(keras.optimizers.SGD(1e-3))
    with tf.GradientTape() as tape:
        values = vae.batch_values(tf.constant(X), vae.noise(0), True, Y)
        loss = tf.reduce_mean(values["loss"]) + sum(vae.losses)
    gradients = tape.gradient(loss, vae.trainable_weights)
    assert [w.path for w, g in zip(vae.trainable_weights, gradients) if g is None or not np.all(np.isfinite(g))] == []
    vae.optimizer.apply_gradients(zip(gradients, vae.trainable_weights))
    for weight in vae.weights:
        assert np.all(np.isfinite(weight)), weight.path
    vae.save(tmp_path / "vae.keras")
    again = kvae.load(tmp_path / "vae.keras")
    assert [w.name for w in again.weights] == [w.name for w in vae.weights]
    for a, b in zip(again.weights, vae.weights):
        np.testing.assert_array_equal(a, b, err_msg=b.path)
    mine, theirs = (model.batch_values(tf.constant(X), model.noise(5), False, Y) for model in (vae, again))
    for key, value in mine.items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)
    c = None if vae.condition_dim is None else Y
    np.testing.assert_array_equal(again.reconstruct(X, c), vae.reconstruct(X, c))
    samples = [model.generate(16, seed=1, condition=c) for model in (again, vae)]
    np.testing.assert_array_equal(*samples)


#: all parts except objectives (tests/test_objectives.py trains them), one of each kind at a time
TOGETHER = list(itertools.zip_longest(*(
    [name for name in PARTS if name.startswith(kind)] for kind in ("posterior", "likelihood", "prior")
)))  # fmt: skip


@pytest.mark.parametrize("how", ["xla", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "names", [pytest.param(names, marks=pytest.mark.slow if i else (), id=str(i)) for i, names in enumerate(TOGETHER)]
)
def test_fit(names, how):
    if how != "xla":
        keras.config.set_dtype_policy(how)
    vae = vae_with(*filter(None, names))
    vae.compile(keras.optimizers.SGD(1e-4), jit_compile=how == "xla")
    before = vae.encoder.get_weights()
    history = vae.fit(X, Y, batch_size=8, epochs=2, verbose=0).history
    assert np.all(np.isfinite(list(history.values())))
    assert any(np.any(a != b) for a, b in zip(before, vae.encoder.get_weights()))
    assert all(np.all(np.isfinite(weight)) for weight in vae.weights)


CONVERTED = ("encode", "generate", "score")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Return models of the parts, and one file with the signatures of all models."""
    folder = tmp_path_factory.mktemp("parts")
    models, signatures, module = [], {}, tf.Module()
    for i, names in enumerate(TOGETHER):
        vae = endpoints.with_fixed_prior(vae_with(*filter(None, names)))
        models.append(vae)
        known = {endpoint.name: endpoint for endpoint in endpoints.endpoints_of(vae)}
        for endpoint in CONVERTED:
            signatures[f"{endpoint}_{i}"] = known[endpoint].trace(vae, len(X))
    module.weights = [variable.value for vae in models for variable in vae.variables]
    tf.saved_model.save(module, str(folder), signatures=signatures)
    from ai_edge_litert.interpreter import Interpreter

    return models, Interpreter(model_content=convert(folder, list(signatures)))


@pytest.mark.slow
@pytest.mark.parametrize("i", range(len(TOGETHER)))
def test_file_equals_keras(i, converted):
    """The file has only built-in operators, because the converter refuses all others."""
    models, interpreter = converted
    vae, run = models[i], run_keras(models[i])
    noise = {"seed": seed_words(7), "index": np.arange(len(X), dtype="int32")}
    data = {
        "encode": {"image": X},
        "score": {"image": X, **noise},
        "generate": {**noise, "temperature": np.ones(1, "float32")},
    }
    for endpoint in CONVERTED:
        inputs = data[endpoint] | conditions_in_turn(vae, len(X))
        got = interpreter.get_signature_runner(f"{endpoint}_{i}")(**inputs)
        for output, right in run(endpoint, inputs).items():
            # As in `kvae.export.budgets`: arithmetic in another order. Latents of the prior are equal bit for bit.
            allowed = 0 if output == "z" else 1e-5 * max(1.0, float(np.abs(right).max()))
            assert np.all(np.isfinite(right)), output
            assert np.abs(got[output] - right).max() <= allowed, output
