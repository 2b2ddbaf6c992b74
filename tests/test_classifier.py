"""Classifiers with a trained encoder: trainable layers, learning rates, files."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import kvae
from kvae import features, networks
from kvae.features import classifier


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return (x / 16).reshape(-1, 8, 8, 1).astype("float32"), y


@pytest.fixture(scope="module")
def vae(digits):
    keras.utils.set_random_seed(0)
    model = kvae.VAE(
        networks.Encoder(4, networks.MLP((32, 16))), networks.Decoder((8, 8, 1), networks.MLP((32,))), seed=0
    )
    model.compile(keras.optimizers.Adam(2e-3))
    model.fit(digits[0], epochs=3, verbose=0)
    return model


def trunk_weights(net) -> list[np.ndarray]:
    """Return the weights by layer, starting next to the head."""
    return [np.concatenate([w.numpy().ravel() for w in layer.weights]) for layer in net.trunk]


def moves(vae, digits, optimizer, steps: int = 3, eagerly: bool = False, **settings) -> list[float]:
    """Return the largest change of a weight in each layer of the trunk, starting next to the head."""
    keras.utils.set_random_seed(1)
    net = classifier(vae, 10, **settings)
    before = trunk_weights(net)
    net.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=eagerly)
    net.fit(digits[0][: 32 * steps], digits[1][: 32 * steps], shuffle=False, verbose=0)
    return [float(np.abs(after - first).max()) for first, after in zip(before, trunk_weights(net), strict=True)]


@pytest.mark.parametrize(
    ("settings", "learning"),
    [
        ({"trainable": "head"}, [False, False]),
        ({"trainable": "last_1"}, [True, False]),
        ({"trainable": "last_2"}, [True, True]),
        ({"trainable": "all"}, [True, True]),
        ({"trainable": "all", "output": "mean"}, [True, True, True]),
        ({"trainable": "last_1", "output": "moments"}, [True, False, False]),
        ({"trainable": "all", "output": "layers"}, [True, True]),
    ],
)
def test_trainable_selects_the_layers_that_learn(vae, digits, settings, learning):
    original = [weight.numpy() for weight in vae.weights]
    moved = moves(vae, digits, keras.optimizers.Adam(1e-2), steps=1, eagerly=True, **settings)
    assert [move > 0 for move in moved] == learning
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(original, vae.weights, strict=True))


@pytest.mark.slow
def test_trunk_rate_scales_the_steps_of_the_optimizer(vae, digits):
    """One step of Adam moves a weight by about its learning rate; scaling the gradient would not change the step."""
    full = moves(vae, digits, keras.optimizers.Adam(1e-2), steps=1, trunk_rate=1.0)
    tenth = moves(vae, digits, keras.optimizers.Adam(1e-2), steps=1, trunk_rate=0.1)
    np.testing.assert_allclose(full, 1e-2, rtol=1e-3)
    np.testing.assert_allclose(tenth, 1e-3, rtol=1e-3)


def test_weight_decay_does_not_change_the_trunk(vae, digits):
    frozen = moves(vae, digits, keras.optimizers.AdamW(1e-2, weight_decay=0.5), trunk_rate=0.0)
    assert frozen == [0.0, 0.0]


@pytest.mark.slow
def test_gradual_unfreezing_starts_next_to_the_head(vae, digits):
    optimizer = keras.optimizers.SGD
    assert moves(vae, digits, optimizer(0.1), steps=2, trunk_rate=features.GradualUnfreezing(2)) == [0.0, 0.0]
    one = moves(vae, digits, optimizer(0.1), steps=4, trunk_rate=features.GradualUnfreezing(2))
    assert one[0] > 0
    assert one[1] == 0
    assert min(moves(vae, digits, optimizer(0.1), steps=5, trunk_rate=features.GradualUnfreezing(2))) > 0


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
def test_mixed_precision(policy, digits):
    keras.config.set_dtype_policy(policy)
    try:
        model = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        net = classifier(model, 10)
    finally:
        keras.config.set_dtype_policy("float32")
    before = trunk_weights(net)
    optimizer = keras.optimizers.Adam(1e-2)
    net.compile(
        keras.optimizers.LossScaleOptimizer(optimizer) if policy == "mixed_float16" else optimizer,
        "sparse_categorical_crossentropy",
    )
    net.fit(digits[0][:64], digits[1][:64], verbose=0)
    assert net.predict(digits[0][:3], verbose=0).dtype == np.float32
    largest = max(float(np.abs(a - b).max()) for a, b in zip(before, trunk_weights(net), strict=True))
    assert 0 < largest < 2.5e-3  # two steps of a tenth of the rate


@pytest.mark.slow
@pytest.mark.parametrize(
    "trunk_rate", [pytest.param(0.1, marks=pytest.mark.slow), features.GradualUnfreezing(3, rate=0.5)]
)
def test_training_resumes_from_a_file(vae, digits, tmp_path, trunk_rate):
    x, y = digits
    keras.utils.set_random_seed(2)
    net = classifier(vae, 10, trunk_rate=trunk_rate, dropout=0.0)
    net.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
    net.fit(x[:320], y[:320], shuffle=False, verbose=0)
    net.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(again.predict(x[:9], verbose=0), net.predict(x[:9], verbose=0))
    for model in (net, again):
        model.fit(x[:320], y[:320], shuffle=False, verbose=0)
    for a, b in zip(net.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.slow
def test_xla_and_a_distribution_strategy(vae, digits):
    import tensorflow as tf

    net = classifier(vae, 10, trunk_rate=0.5)
    net.compile("sgd", "sparse_categorical_crossentropy", jit_compile=True)
    net.fit(digits[0][:64], digits[1][:64], verbose=0)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        net = classifier(model, 10, trunk_rate=features.GradualUnfreezing(1))
        net.compile("adam", "sparse_categorical_crossentropy")
    net.fit(digits[0][:64], digits[1][:64], verbose=0)


def test_a_classifier_learns_digits(vae, digits):
    x, y = digits
    keras.utils.set_random_seed(0)
    net = classifier(vae, 10, trunk_rate=1.0)
    net.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    net.fit(x[:1200], y[:1200], epochs=6, verbose=0)
    assert net.evaluate(x[1200:], y[1200:], verbose=0, return_dict=True)["accuracy"] > 0.85


def test_custom_encoders(digits):
    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.Dense(6, activation="relu")(keras.layers.Flatten()(inputs))
    for encoder in (
        keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(6), keras.layers.Dense(4)]
        ),
        keras.Model(inputs, keras.layers.Dense(4)(hidden)),
    ):
        model = kvae.VAE(encoder, latent_dim=2, image_shape=(8, 8, 1))
        net = classifier(model, 3, trainable="last_1")
        assert net.head.kernel.shape == (6, 3)
        assert len(net.trainable_weights) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 2, "trainable": "last_9"}, "from 1 to 2"),
        ({"num_classes": 2, "trainable": "tail"}, "'last_n'"),
        ({"num_classes": 2, "trunk_rate": 1.5}, "trunk_rate"),
        ({"num_classes": 2, "output": "pixels"}, "output"),
    ],
)
def test_invalid_arguments_are_refused(vae, settings, message):
    with pytest.raises(ValueError, match=message):
        classifier(vae, **settings)


def test_the_class_can_be_constructed_directly(vae):
    net = features.Classifier(vae.encoder, 3, "head", image_shape=(8, 8, 1))
    assert len(net.trainable_weights) == 2
    with pytest.raises(ValueError, match="steps"):
        features.GradualUnfreezing(0)


def test_a_conditional_model_is_refused():
    with pytest.raises(ValueError, match="requires the label"):
        classifier(kvae.VAE(latent_dim=2, image_shape=(8, 8, 1), condition_dim=3), 3)
