"""Losses and gradients that are not finite: skipping, counting, warnings, and rescues."""

import contextlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import kvae
from kvae.callbacks import LowerableRate, Rescue, TrainingWarning
from kvae.state import state_of

pytestmark = pytest.mark.filterwarnings("ignore::kvae.callbacks.TrainingWarning")  # except in tests that expect them


def small(**parts):
    return kvae.VAE(kvae.Encoder(2, kvae.networks.MLP((8,))), kvae.Decoder((8, 8, 1), kvae.networks.MLP((8,))), **parts)


@pytest.fixture
def x():
    return np.random.default_rng(0).random((256, 8, 8, 1)).astype("float32")


OPTIMIZERS = {
    "by name": lambda: "adam",
    "Adam": lambda: keras.optimizers.Adam(1e-3),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-3)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_nan_image_skips_only_its_step(x, name):
    bad = x.copy()
    bad[70, 3, 3] = np.nan  # in the third of eight batches
    vae = small()
    vae.compile(OPTIMIZERS[name](), steps_per_execution=4)
    before = [np.array(weight) for weight in vae.trainable_weights]
    history = vae.fit(bad, batch_size=32, epochs=2, shuffle=False, verbose=0).history
    assert (vae.skipped.total, vae.skipped.in_a_row, int(vae.step)) == (2, 0, 16)
    assert int(vae.optimizer.iterations) == 14
    assert np.isfinite(list(history.values())).all()
    assert all(np.isfinite(weight).all() for weight in vae.get_weights())
    assert any((np.asarray(weight) != old).any() for weight, old in zip(vae.trainable_weights, before))


def test_a_skipped_step_leaves_weights_and_moments_alone(x):
    vae = small()
    vae.compile("adam")
    vae.train_on_batch(x[:32])
    held = [*vae.trainable_weights, *vae.optimizer.variables]
    before = [np.array(variable) for variable in held]
    logs = vae.train_on_batch(np.full_like(x[:32], np.nan), return_dict=True)
    for variable, old in zip(held, before, strict=True):
        np.testing.assert_array_equal(variable, old)
    assert np.isnan(logs["loss"])  # it was the only step


class Stateful(keras.layers.Layer):
    """A layer with state of every kind: a running quantile, a count, a metric, a plain tf.Variable, a seed."""

    def __init__(self):
        super().__init__()
        self.quantile = self.add_weight(name="quantile", shape=(), trainable=False)
        self.calls = self.add_weight(name="calls", shape=(), dtype="int32", initializer="zeros", trainable=False)
        self.mean = keras.metrics.Mean()
        self.plain = tf.Variable(0.0, trainable=False, aggregation=tf.VariableAggregation.MEAN)
        self.drop = keras.layers.Dropout(0.1, seed=1)

    def call(self, x, training=False):
        if training:
            largest = keras.ops.max(keras.ops.abs(x))
            self.quantile.assign(0.9 * self.quantile + 0.1 * largest)
            self.calls.assign_add(1)
            self.mean.update_state(largest)
            self.plain.assign(0.5 * self.plain + largest)
        return self.drop(x, training=training)


def stateful(**parts):
    """Return a VAE whose networks and likelihood have state that a forward pass assigns, including weights."""
    layers = keras.layers
    body = [layers.Flatten(), layers.SpectralNormalization(layers.Dense(8)), layers.BatchNormalization(), Stateful()]
    encoder = keras.Sequential([keras.Input((8, 8, 1)), *body, layers.Dense(4)])
    decoder = keras.Sequential([keras.Input((2,)), layers.Dense(64), layers.BatchNormalization(), layers.Dense(64)])
    decoder.add(layers.Reshape((8, 8, 1)))
    parts.setdefault("likelihood", kvae.likelihoods.OptimalNormal(0.3))
    return kvae.VAE(encoder, decoder, latent_dim=2, image_shape=(8, 8, 1), **parts)


MODES = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "XLA": {"jit_compile": True},
    "loss scale": {"optimizer": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-3))},
    "two replicas": {},
    "two replicas, loss scale": {"optimizer": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-3))},
    "a controller": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_skipped_step_leaves_every_state_alone(x, mode, request):
    settings = dict(MODES[mode])
    strategy = request.getfixturevalue("two_replicas") if "replicas" in mode else None
    with strategy.scope() if strategy else contextlib.nullcontext():
        vae = stateful(**({"objective": kvae.objectives.TargetRate(1.0)} if mode == "a controller" else {}))
        vae.compile(settings.pop("optimizer", lambda: keras.optimizers.SGD(1e-3))(), **settings)
    bad = x[:32].copy()
    bad[3, 3, 3] = np.nan

    def state():
        return [np.array(variable) for variable in state_of(vae) if variable is not vae.step]

    vae.train_on_batch(x[:32])
    before = state()
    vae.train_on_batch(bad)
    for variable, old, new in zip(state_of(vae), before, state(), strict=False):
        np.testing.assert_array_equal(old, new, getattr(variable, "path", "tf.Variable"))
    vae.train_on_batch(x[:32])
    moved = [bool(np.any(old != new)) for old, new in zip(before, state(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)  # all, except for biases before a normalisation
    assert len(moved) >= 25
    assert np.isfinite(vae.encode_mean(x[:1])).all()
    assert vae.skipped.total == vae.skipped.missing == 1


def test_rescue_restores_the_whole_state(x):
    vae = stateful()
    vae.compile("adam")
    vae.train_on_batch(x[:32])
    kept = {id(variable) for variable in Rescue._variables(type("callback", (), {"model": vae})())}
    assert {id(variable) for variable in state_of(vae)} - kept == {id(vae.step)}


def test_fit_warns_of_skipped_steps_and_ends_if_all_are_skipped(x):
    bad = x.copy()
    bad[::40] = np.nan
    vae = small()
    vae.compile("adam")
    with pytest.warns(TrainingWarning, match=r"steps were skipped.*Images hold NaN") as caught:
        vae.fit(bad, batch_size=32, epochs=2, shuffle=False, verbose=0)
    messages = [str(warning.message) for warning in caught if warning.category is TrainingWarning]
    assert [message.split(" because")[0] for message in messages] == [
        f"epoch {n}: 7 steps were skipped" for n in (1, 2)
    ]
    with pytest.raises(ValueError, match=r"Received: none in 8 steps.*Images hold NaN"):
        vae.fit(np.full_like(x, np.nan), batch_size=32, epochs=2, verbose=0)
    vae.decoder.set_weights([np.full_like(weight, 1e38) for weight in vae.decoder.get_weights()])
    with pytest.raises(ValueError, match="lower learning rate"):
        vae.fit(x, batch_size=32, verbose=0)


def test_metrics_exclude_skipped_steps(x):
    vae = small()
    vae.compile(keras.optimizers.SGD(0.0))
    vae.reset_metrics()
    clean = {name: float(value) for name, value in vae.train_step(keras.ops.convert_to_tensor(x[:32])).items()}
    vae.train_step(keras.ops.convert_to_tensor(np.full_like(x[:32], np.nan)))
    assert {name: float(value) for name, value in vae.get_metrics_result().items()} == clean


@pytest.mark.slow
def test_replicas_skip_together(x, two_replicas):
    bad = x.copy()
    bad[70] = np.nan
    with two_replicas.scope():
        vae = small()
        vae.compile("adam")
    vae.fit(bad, batch_size=64, shuffle=False, verbose=0)
    assert (vae.skipped.total, int(vae.optimizer.iterations.numpy())) == (1, 3)
    assert all(np.isfinite(weight).all() for weight in vae.get_weights())


#: optimizer and options, and the largest norm of its gradients
CLIPPED = {
    "a name": ("adam", {}, 200),
    "an instance": (keras.optimizers.Adam, {}, 200),
    "another norm": ("adam", {"global_clipnorm": 5}, 5),
    "none": ("adam", {"global_clipnorm": None}, None),
    "none of an instance": (keras.optimizers.Adam, {"global_clipnorm": None}, None),
    "its own": (lambda: keras.optimizers.Adam(global_clipnorm=1.0), {}, 1),
    "another kind of its own": (lambda: keras.optimizers.Adam(clipvalue=1.0), {}, None),
}


@pytest.mark.parametrize("case", CLIPPED)
def test_gradients_are_clipped_unless_the_optimizer_clips(case, tmp_path):
    optimizer, options, norm = CLIPPED[case]
    vae = small()
    vae.compile(optimizer if isinstance(optimizer, str) else optimizer(), **options)
    assert vae.optimizer.global_clipnorm == norm
    vae.save(tmp_path / "vae.keras")
    assert kvae.load(tmp_path / "vae.keras").optimizer.global_clipnorm == norm


class Explodes(keras.callbacks.Callback):
    """Set the weights to NaN `times` times, as an exploding learning rate does."""

    def __init__(self, times, at=5):
        super().__init__()
        self.times, self.at = times, at

    def on_train_batch_begin(self, batch, logs=None):
        if self.times and batch == self.at:
            self.times -= 1
            weight = self.model.trainable_weights[-1]
            weight.assign(np.nan * weight.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("scheduled", [False, True])
def test_too_many_skipped_steps_restore_the_weights_and_lower_the_rate(x, scheduled):
    rate = LowerableRate(keras.optimizers.schedules.PiecewiseConstantDecay([10_000], [1e-2, 1e-3]))
    vae = small()
    vae.compile(keras.optimizers.Adam(rate if scheduled else 1e-2))
    rescue = Rescue(rate if scheduled else None, in_a_row=3, factor=0.5)
    with pytest.warns(TrainingWarning) as caught:
        history = vae.fit(x, batch_size=8, epochs=3, callbacks=[Explodes(2), rescue], verbose=0).history
    messages = [str(warning.message) for warning in caught if warning.category is TrainingWarning]
    rescued = "3 steps in a row had no finite loss or gradients"
    assert [message.split(":")[0] for message in messages] == [rescued, "epoch 1", rescued, "epoch 2"]
    assert "epoch 1: 3 steps were skipped" in messages[1]
    assert (rescue.rescues, rescue.lowered, rescue.diagnosis) == (2, 0.25, None)
    assert float(vae.optimizer.learning_rate) == pytest.approx(2.5e-3)
    assert history["loss"][2] < history["loss"][0]
    assert all(np.isfinite(weight).all() for weight in vae.get_weights())


def test_training_stops_with_a_diagnosis_after_too_many_rescues(x):
    vae = small()
    vae.compile(keras.optimizers.Adam(1e-3))
    rescue = Rescue(in_a_row=3, times=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        history = vae.fit(np.full_like(x, np.nan), batch_size=8, epochs=5, callbacks=[rescue], verbose=0)
    assert len(history.epoch) == 1
    assert np.isnan(history.history["loss"][0])  # not 0, the mean over nothing
    assert "Images hold NaN" in rescue.diagnosis
    assert all(np.isfinite(weight).all() for weight in vae.get_weights())


def test_an_exploding_learning_rate_is_lowered_until_it_trains(x):
    vae = small(likelihood=kvae.likelihoods.Normal(0.1))
    vae.compile(keras.optimizers.SGD(1e18))
    rescue = Rescue(in_a_row=2, factor=1e-12, times=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        history = vae.fit(x, batch_size=8, epochs=3, callbacks=[rescue], verbose=0).history
    assert rescue.rescues >= 1
    assert rescue.diagnosis is None
    assert np.isfinite(history["loss"][-1])


def test_a_lowerable_rate_is_saved_with_the_model(tmp_path):
    vae = small()
    vae.compile(keras.optimizers.Adam(kvae.callbacks.LowerableRate(keras.optimizers.schedules.CosineDecay(1e-2, 100))))
    vae.save(tmp_path / "vae.keras")
    again = kvae.load(tmp_path / "vae.keras")
    assert float(again.optimizer.learning_rate) == float(vae.optimizer.learning_rate) == pytest.approx(1e-2)


@pytest.mark.slow
def test_an_overflow_of_float16_is_skipped(x):
    keras.config.set_dtype_policy("mixed_float16")
    vae = small()
    vae.compile("adam")
    assert isinstance(vae.optimizer, keras.optimizers.LossScaleOptimizer)
    vae.optimizer.build(vae.trainable_variables)
    vae.optimizer.dynamic_scale.assign(2.0**40)  # every gradient overflows until the scale is lower
    history = vae.fit(x, batch_size=8, epochs=3, verbose=0).history
    assert vae.skipped.total > 5
    assert history["loss"][2] < history["loss"][0]
