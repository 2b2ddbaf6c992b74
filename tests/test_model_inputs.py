"""Accepted and refused inputs of a model: parts, networks of users, targets, dictionaries."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tiers import slow_but

import kvae
from kvae import likelihoods, networks, objectives, posteriors, priors
from kvae.models.parts import output_range

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((64, *SHAPE), "float32")


def encoder(size=4, **options):
    return keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(size, **options)])


def decoder(channels=1, **options):
    return keras.Sequential(
        [keras.Input((2,)), layers.Dense(64 * channels, **options), layers.Reshape((8, 8, channels))]
    )


def vae(**parts):
    parts.setdefault("encoder", encoder())
    parts.setdefault("decoder", decoder())
    return kvae.VAE(latent_dim=2, image_shape=SHAPE, **parts)


# Parts.

WRONG_PARTS = {
    "a likelihood as posterior": (lambda: vae(posterior=likelihoods.Normal(0.1)), "`posterior` must be a posterior"),
    "a posterior as likelihood": (
        lambda: vae(likelihood=posteriors.FullCovarianceNormal()), "`likelihood` must be a likelihood.*`posterior=`"
    ),
    "a prior as posterior": (lambda: vae(posterior=priors.StandardNormal()), "`posterior` must be a kvae"),
    "a posterior as prior": (lambda: vae(prior=posteriors.DiagonalNormal()), "`prior` must be a kvae.priors.Prior"),
    "a number as objective": (lambda: vae(objective=4.0), "`objective` must be a kvae.objectives.Objective.*4.0"),
    "a string": (lambda: vae(likelihood="bernoulli"), "`likelihood` must be.*Bernoulli.*Received: likelihood='bern"),
    "a class": (lambda: vae(prior=priors.Mixture), "`prior` must be.*create an instance: Mixture"),
    "an autoencoder's": (
        lambda: kvae.Autoencoder(latent_dim=2, image_shape=SHAPE, likelihood=objectives.ELBO()), "`likelihood` must be"
    ),
    "networks in the other order": (
        lambda: kvae.VAE(kvae.Decoder(SHAPE), kvae.Encoder(2), latent_dim=2, image_shape=SHAPE), "`encoder` must be"
    ),
    "a function": (lambda: vae(encoder=lambda x: x), "`encoder` must be a Keras model"),
    "M2's classifier": (
        lambda: kvae.SemiSupervisedVAE(num_classes=3, classifier="net", latent_dim=2, image_shape=SHAPE), "`classifier`"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_PARTS)
def test_parts_of_the_wrong_kind_are_refused(case):
    make, message = WRONG_PARTS[case]
    with pytest.raises(ValueError, match=message) as refused:
        make()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("model", [kvae.VAE, kvae.Autoencoder, kvae.SemiSupervisedVAE])
def test_parts_after_encoder_and_decoder_are_keyword_only(model):
    with pytest.raises(TypeError, match="positional"):
        model(kvae.Encoder(2), kvae.Decoder(SHAPE), likelihoods.Normal(0.1))


# Networks of users.

BOUNDED = {
    "sigmoid": (lambda: decoder(activation="sigmoid"), (0, 1)),
    "hard sigmoid": (lambda: decoder(activation="hard_sigmoid"), (0, 1)),
    "tanh": (lambda: decoder(activation="tanh"), (-1, 1)),
    "relu": (lambda: decoder(activation="relu"), (0, np.inf)),
    "relu6": (lambda: decoder(activation="relu6"), (0, 6)),
    "softplus": (lambda: decoder(activation="softplus"), (0, np.inf)),
    "elu": (lambda: decoder(activation="elu"), (-1, np.inf)),
    "exponential": (lambda: decoder(activation="exponential"), (0, np.inf)),
    "a function of a user": (lambda: decoder(activation=lambda x: 1 / (1 + keras.ops.exp(-x))), (0, 1)),
    "a separate layer": (lambda: keras.Sequential([decoder(), layers.Activation("sigmoid")]), (0, 1)),
    "rescaled": (lambda: keras.Sequential([decoder(activation="sigmoid"), layers.Rescaling(2.0, -1.0)]), (-1, 1)),
    "a convolution": (
        lambda: keras.Sequential([decoder(), layers.Conv2D(1, 3, padding="same", activation="sigmoid")]), (0, 1)
    ),
    "transposed, cropped": (
        lambda: keras.Sequential(
            [
                keras.Input((2,)), layers.Dense(25), layers.Reshape((5, 5, 1)),
                layers.Conv2DTranspose(1, 3, strides=2, padding="same", activation="sigmoid"), layers.Cropping2D(1),
            ]
        ),
        (0, 1),
    ),
}  # fmt: skip


class Subclassed(keras.Model):
    def __init__(self, activation):
        super().__init__()
        self.dense = layers.Dense(64)
        self.activation = keras.activations.get(activation)

    def call(self, z):
        return keras.ops.reshape(self.activation(self.dense(z)), (-1, *SHAPE))


BOUNDED["subclassed"] = (lambda: Subclassed("sigmoid"), (0, 1))


@pytest.mark.parametrize("case", BOUNDED)
def test_a_decoder_that_squashes_logits_is_refused(case):
    make, (low, high) = BOUNDED[case]
    assert output_range(make(), (2,)) == pytest.approx((low, high), abs=1e-6)
    with pytest.raises(ValueError, match=r"decoder to end without an activation.*takes logits.*activation=None"):
        vae(decoder=make())


UNBOUNDED = {
    "linear": lambda: decoder(),
    "leaky": lambda: decoder(activation="leaky_relu"),
    "normalised": lambda: keras.Sequential([decoder(), layers.BatchNormalization()]),
    "logits within ±10": lambda: decoder(activation=lambda x: 10 * keras.ops.tanh(x / 10)),
    "a sum of two branches": lambda: _sum_of_branches(),
    "PReLU": lambda: keras.Sequential([decoder(), layers.PReLU()]),
    "subclassed": lambda: Subclassed("linear"),
    "kvae's": lambda: kvae.Decoder(SHAPE, networks.MLP((8,))),
}


def _sum_of_branches():
    z = keras.Input((2,))
    flat = layers.add([layers.Dense(64, activation="tanh")(z), layers.Dense(64)(z)])
    return keras.Model(z, layers.Reshape(SHAPE)(flat))


@pytest.mark.parametrize("case", UNBOUNDED)
def test_a_decoder_of_logits_is_accepted(case):
    vae(decoder=UNBOUNDED[case]())


def test_families_that_accept_bounded_parameters():
    vae(decoder=decoder(activation="sigmoid"), likelihood=likelihoods.Normal(0.1))  # a mean in [0, 1]
    vae(decoder=decoder(activation="relu"), likelihood=likelihoods.OptimalNormal())
    for likelihood, channels in ((likelihoods.ContinuousBernoulli(), 1), (likelihoods.DiscretizedLogistic(), 2),
                                 (likelihoods.DiagonalNormal(), 2)):  # fmt: skip
        with pytest.raises(ValueError, match=f"{type(likelihood).__name__} takes"):
            vae(decoder=decoder(channels, activation="sigmoid"), likelihood=likelihood)
    with pytest.raises(ValueError, match=r"encoder to end without an activation.*means and log-scales"):
        vae(encoder=encoder(activation="relu"))
    kvae.Autoencoder(encoder(2, activation="tanh"), decoder(), latent_dim=2, image_shape=SHAPE)  # a code may be bounded


def two_heads(names=("mean", "log_var")):
    i = keras.Input(SHAPE)
    h = layers.Flatten()(i)
    return keras.Model(i, [layers.Dense(2, name=name)(h) for name in names])


@pytest.mark.slow
def test_the_message_for_several_outputs_shows_how_to_join_them(x):
    with pytest.raises(ValueError, match=r"one output.*2 outputs, mean \(None, 2\), log_var \(None, 2\)") as refused:
        vae(encoder=two_heads())
    shown = str(refused.value).split("`")[1::2]  # the two lines of code in the message
    scope = {"keras": keras, "encoder": two_heads()}
    for line in shown:
        exec(line, scope)
    model = vae(encoder=scope["encoder"])
    model.compile("adam")
    model.fit(x, verbose=0)
    with pytest.raises(ValueError, match="3 outputs, mean"):  # with a sampling layer, as in keras.io's example
        vae(encoder=two_heads(("mean", "log_var", "z")))
    i = keras.Input(SHAPE)
    h = layers.Flatten()(i)
    with pytest.raises(ValueError, match=r'2 outputs, mu \(None, 2\), logvar.*o\["mu"\], 0.5 \* o\["logvar"\]'):
        vae(encoder=keras.Model(i, {"mu": layers.Dense(2)(h), "logvar": layers.Dense(2)(h)}))


# Data.


def small(model=kvae.VAE, **parts):
    networks_ = networks.Encoder(2, networks.MLP((16,))), networks.Decoder(SHAPE, networks.MLP((16,)))
    built = model(*networks_, **parts)
    built.compile(keras.optimizers.Adam(1e-2))
    return built


MODELS = {
    "VAE": (small, None),
    "Autoencoder": (lambda: small(kvae.Autoencoder), None),
    "conditional": (lambda: small(condition_dim=3), np.arange(64) % 3),
    "M2": (lambda: small(kvae.SemiSupervisedVAE, num_classes=3), np.arange(64) % 3),
}


@pytest.mark.parametrize("name", slow_but({"conditional"}, MODELS))
def test_the_likelihood_evaluates_the_target(name, x):
    make, c = MODELS[name]
    model = make()
    clean = np.zeros_like(x)
    given = x if c is None else (x, c)
    fitted = model.fit(
        given, clean, epochs=25, batch_size=16, verbose=0, validation_data=(given, clean), validation_freq=25
    )
    assert model.predict(given, verbose=0).max() < 0.3  # x has a mean of 0.5
    pairs = tf.data.Dataset.from_tensor_slices((given, clean)).batch(16)
    distortion = model.evaluate(pairs, verbose=0, return_dict=True)["distortion"]
    assert distortion == pytest.approx(fitted.history["val_distortion"][-1], rel=1e-5)
    weighted = model.evaluate(given, clean, batch_size=16, sample_weight=np.ones(64), verbose=0, return_dict=True)
    assert weighted["distortion"] == pytest.approx(distortion, 1e-5)
    assert distortion < 10 < 60 < model.evaluate(given, x, verbose=0, return_dict=True)["distortion"]


@pytest.mark.slow
def test_scores_evaluate_the_target(x):
    model = small()
    clean = np.zeros_like(x)
    model.fit(x, clean, epochs=25, batch_size=16, verbose=0)
    of_clean, of_noisy = (kvae.evaluation.evaluate(model, data, 4)["distortion"] for data in ((x, clean), x))
    assert of_clean < 10 < 60 < of_noisy
    assert "label" not in kvae.features.extract(model, (x, clean))


N = np.arange(64)
LABELS = {
    "integers": N % 3, "floats": N / 3, "a column": (N % 3)[:, None], "one-hot": np.eye(3)[N % 3],
    "bools": N % 2 == 0, "several": np.stack([N, N], 1), "uint8": (N % 3).astype("uint8"),
}  # fmt: skip


@pytest.mark.slow
def test_labels_are_ignored_by_a_model_without_conditions(x):
    model = small()
    expected = model.evaluate(x, verbose=0)
    assert {kind: model.evaluate(x, labels, verbose=0) for kind, labels in LABELS.items()} == dict.fromkeys(
        LABELS, expected
    )


NO_TARGETS = {
    "another size": (np.zeros((64, 4, 4, 1)), {}),
    "without channels": (np.zeros((64, 8, 8)), {}),
    "more channels": (np.zeros((64, 8, 8, 3)), {}),
    "flat": (np.zeros((64, 64), "float32"), {}),
    "with a pair as x": (np.zeros(64), {"condition_dim": 3}),
}


@pytest.mark.parametrize("kind", NO_TARGETS)
@pytest.mark.parametrize("form", ["arrays", "dataset"])
def test_y_that_is_neither_label_nor_target_is_refused(kind, form, x):
    y, parts = NO_TARGETS[kind]
    model, given = small(**parts), (x, N % 3) if parts else x
    with pytest.raises(
        ValueError, match=r"Expected y to be .*target images of shape \(batch, 8, 8, 1\).*Received: y of"
    ):
        model.fit(given, y, verbose=0) if form == "arrays" else model.fit(
            tf.data.Dataset.from_tensor_slices((given, y)).batch(32), verbose=0
        )


def test_targets_out_of_range_are_refused(x):
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        small().fit(x, 255 * x, verbose=0)


DICTIONARIES = ("image", "label"), ("image",), ("id", "image", "label")


@pytest.mark.parametrize("condition_dim", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_dictionaries_of_tensorflow_datasets_are_accepted(condition_dim, x):
    model, pair = small(condition_dim=condition_dim), (x, N % 3)
    expected = model.evaluate(*pair, batch_size=32, verbose=0)
    predicted = model.predict(pair if condition_dim else x, verbose=0)
    everything = {"id": np.array([str(n) for n in N]), "image": x, "label": N % 3}
    for keys in DICTIONARIES:
        data = {key: everything[key] for key in keys}
        batches = tf.data.Dataset.from_tensor_slices(data).batch(32)
        if condition_dim and "label" not in keys:
            with pytest.raises(ValueError, match="Expected a condition for each image"):
                model.evaluate(batches, verbose=0)
            continue
        assert model.evaluate(batches, verbose=0) == pytest.approx(expected)
        np.testing.assert_allclose(model.predict(batches, verbose=0), predicted, atol=1e-6)
    batches = tf.data.Dataset.from_tensor_slices(everything).batch(32)
    np.testing.assert_array_equal(kvae.features.extract(model, batches)["label"], N % 3)
    assert kvae.evaluation.evaluate(model, batches, 2)["examples"] == 64
    arrays = {"image": x, "label": N % 3}
    assert model.evaluate(arrays, batch_size=32, verbose=0) == pytest.approx(expected)
    np.testing.assert_allclose(model.predict(arrays, verbose=0), predicted, atol=1e-6)
    model.fit(batches, validation_data=batches, verbose=0)


@pytest.mark.parametrize("form", ["arrays", "dataset"])
def test_other_dictionaries_are_refused(form, x):
    data = {"pixels": x, "target": N}
    given = data if form == "arrays" else tf.data.Dataset.from_tensor_slices(data).batch(32)
    for call in (small().fit, small().evaluate, small().predict):
        with pytest.raises(ValueError, match=r"key 'image'.*keys pixels, target"):
            call(given, verbose=0)


def test_rounding_errors_are_clipped_and_the_message_has_all_digits(x):
    above = np.where(x > 0.9, np.float32(1.0000001), x)
    model = small()
    assert model.evaluate(above, verbose=0) == model.evaluate(np.minimum(above, 1), verbose=0)
    with pytest.raises(ValueError, match=r"values from 0 to 1\.00001001"):
        model.encode(np.full((1, *SHAPE), 1.00001, "float32") * np.eye(8).reshape(1, 8, 8, 1))


# One batch on several replicas.


def with_statistics():
    chain = [keras.Input(SHAPE), layers.Conv2D(4, 3, strides=2), layers.BatchNormalization(), layers.Flatten()]
    return keras.Sequential([*chain, layers.Dense(4)])


@pytest.mark.slow
@pytest.mark.parametrize(("count", "batch_size"), [(5, 4), (7, 3)])
def test_unequal_shares_do_not_change_means(x, two_replicas, count, batch_size):
    """The last batch has one image, so that a replica has none; a batch of three images can't be halved."""
    x, y = x[:count], N[:count] % 3
    results = []
    for scope in (tf.distribute.get_strategy().scope, two_replicas.scope):
        keras.utils.set_random_seed(0)
        with scope():
            strided = keras.Sequential([layers.Conv2D(4, 3, strides=2), layers.Flatten(), layers.Dense(4)])
            model = kvae.VAE(strided, kvae.Decoder(SHAPE, networks.MLP((8,))), latent_dim=2, condition_dim=3)
            model.compile(keras.optimizers.SGD(1e-3))
        fitted = model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0).history
        scores = model.evaluate(x, y, batch_size=batch_size, verbose=0, return_dict=True)
        predicted = model.predict((x, y), batch_size=batch_size, verbose=0)
        results.append(({name: value[0] for name, value in fitted.items()}, scores, predicted))
    for one, two in zip(*results, strict=True):
        if isinstance(one, dict):
            assert two == pytest.approx(one, rel=1e-4)
        else:
            np.testing.assert_allclose(two, one, atol=1e-4)


@pytest.mark.slow
def test_statistics_stay_finite_if_a_share_has_no_image(x, two_replicas):
    with two_replicas.scope():
        model = kvae.VAE(encoder=with_statistics(), decoder=decoder(), latent_dim=2, image_shape=SHAPE)
        model.compile("adam")
    model.fit(x[:5], batch_size=4, epochs=2, verbose=0)
    weights = [np.asarray(weight) for weight in model.weights]
    assert model.skipped.total == 0
    assert all(np.isfinite(weight).all() for weight in weights)
