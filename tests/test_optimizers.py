"""`kvae.optimizers.FusedAdam` takes the same steps as Keras's Adam."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kvae

pytestmark = pytest.mark.slow

X = (np.random.default_rng(0).random((96, 8, 8, 1)) < 0.3).astype("float32")


def trained(optimizer, **settings):
    """Train an autoencoder of a few layers; the optimizer doesn't depend on the model."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(8, "gelu"), layers.Dense(64)])
    model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True), **settings)
    model.fit(X, X.reshape(-1, 64), batch_size=32, epochs=4, shuffle=False, verbose=0)
    return model


def trained_vae(optimizer, **settings):
    keras.utils.set_random_seed(0)
    mlp = kvae.networks.MLP
    vae = kvae.VAE(kvae.Encoder(2, mlp((8,))), kvae.Decoder((8, 8, 1), mlp((8,))), seed=0)
    vae.compile(optimizer, **settings)
    vae.fit(X, batch_size=32, epochs=4, shuffle=False, verbose=0)
    return vae


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-4},
        {"global_clipnorm": 1.0},
        {"weight_decay": 0.1},
        {"gradient_accumulation_steps": 2},
        {"amsgrad": True},
    ],
    ids=str,
)
def test_the_steps_are_those_of_keras(settings):
    same(kvae.optimizers.FusedAdam(1e-2, **settings), keras.optimizers.Adam(1e-2, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [{"jit_compile": True}, {"steps_per_execution": 3}], ids=str)
def test_compiled_steps_are_those_of_keras(compiled):
    same(kvae.optimizers.FusedAdam(1e-2), keras.optimizers.Adam(1e-2), **compiled)


def test_steps_of_a_vae_are_those_of_keras():
    same(kvae.optimizers.FusedAdam(1e-2), keras.optimizers.Adam(1e-2), trained_vae)


def same(adam, reference, train=trained, **compiled):
    ours, theirs = train(adam, **compiled), train(reference, **compiled)
    assert int(ours.optimizer._iterations) == 12
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for a, b in zip(ours.optimizer.variables, theirs.optimizer.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.3, 0.999])
def test_averages_of_weights_cover_the_last_steps(momentum):
    variable = keras.Variable(0.0)
    optimizer = kvae.optimizers.FusedAdam(0.1, use_ema=True, ema_momentum=momentum, ema_warmup=True)
    weights, average = [], 0.0
    for step in range(300):
        optimizer.apply([keras.ops.convert_to_tensor(-1.0)], [variable])
        weights.append(float(variable))
        share = min(momentum, step / (step + 10))
        average = share * average + (1 - share) * weights[-1]
    found = float(optimizer._model_variables_moving_average[0])
    assert found == pytest.approx(average, rel=1e-5)
    assert weights[-50] < found < weights[-1]
    optimizer.finalize_variable_values([variable])
    assert float(variable) == found


@pytest.mark.slow
def test_averages_are_good_after_a_short_training_run():
    def loss(adam):
        model = trained(adam)
        model.optimizer.finalize_variable_values(model.trainable_variables)
        return float(model.loss(X.reshape(-1, 64), model(X)))

    plain = loss(kvae.optimizers.FusedAdam(1e-2))
    settings = {"use_ema": True, "ema_momentum": 0.999}
    averaged, reference = (loss(kvae.optimizers.FusedAdam(1e-2, ema_warmup=warm, **settings)) for warm in (True, False))
    assert averaged < plain + 0.2 * (reference - plain)


def test_with_a_schedule_and_a_scaled_loss():
    def schedule():
        return keras.optimizers.schedules.ExponentialDecay(1e-2, 4, 0.5)

    def scaled(adam):
        return keras.optimizers.LossScaleOptimizer(adam(schedule()))

    ours, theirs = trained(scaled(kvae.optimizers.FusedAdam)), trained(scaled(keras.optimizers.Adam))
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [pytest.param({}, marks=pytest.mark.slow), {"use_ema": True}], ids=str)
def test_replicas_take_the_same_step_as_one(settings, two_replicas):
    """A single replica uses the operation, too: another rounding would change the run after some hundred steps."""
    single = trained_vae(kvae.optimizers.FusedAdam(1e-2, **settings))
    with two_replicas.scope():
        mirrored = trained_vae(kvae.optimizers.FusedAdam(1e-2, **settings))
    for a, b in zip(single.get_weights(), mirrored.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    for a, b in zip(single.optimizer.variables, mirrored.optimizer.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_sparse_gradients():
    """Sparse gradients have the rows of a lookup; the moments of other rows decay, as in Keras."""

    def rows(adam):
        variable = keras.Variable(np.ones((4, 2), "float32"))
        optimizer = adam(0.1)
        for _ in range(3):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.gather(variable.value, [1, 3]) ** 2)
            optimizer.apply([tape.gradient(loss, variable.value)], [variable])
        return np.array(variable)

    np.testing.assert_allclose(rows(kvae.optimizers.FusedAdam), rows(keras.optimizers.Adam), atol=1e-6)
