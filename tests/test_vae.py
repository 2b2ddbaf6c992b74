"""The VAE as a Keras model."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

import kvae
from kvae import likelihoods, networks, objectives, schedules

NAMES = {"loss", "elbo", "distortion", "rate", "active_units"}


def small_vae(**kwargs):
    """Return a VAE that trains fast."""
    kwargs = {"latent_dim": 3, "image_shape": (8, 8, 1)} | kwargs
    bodies = {
        "encoder": networks.Encoder(kwargs["latent_dim"], networks.MLP((32,))),
        "decoder": networks.Decoder(kwargs["image_shape"], networks.MLP((32,))),
    }
    return kvae.VAE(**(bodies | kwargs))


@pytest.fixture
def x(digits):
    return digits[0][:256]


def assert_equal_weights(a, b):
    assert len(a.weights) == len(b.weights)
    for v, w in zip(a.weights, b.weights):
        np.testing.assert_array_equal(v, w, err_msg=v.path)


def test_fit_with_validation_early_stopping_and_checkpoint(x, tmp_path):
    vae = small_vae()
    vae.compile("adam")
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="val_loss", save_best_only=True),
        keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True),
    ]
    history = vae.fit(x, epochs=3, batch_size=32, validation_data=x[:64], callbacks=callbacks, verbose=0).history
    assert set(history) == NAMES | {f"val_{name}" for name in NAMES}
    assert history["val_loss"][-1] < history["val_loss"][0]
    np.testing.assert_allclose(history["val_loss"], -np.asarray(history["val_elbo"]), rtol=1e-6)
    best = kvae.load(tmp_path / "best.keras")
    score = best.evaluate(x[:64], batch_size=32, verbose=0, return_dict=True)
    assert score["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-5)


def test_the_encoder_runs_once_for_any_number_of_samples(x, monkeypatch):
    vae = small_vae(objective=objectives.IWAE(50))
    encoded, decoded = [], []
    for part, seen in ((vae.encoder, encoded), (vae.decoder, decoded)):
        call = part.call
        monkeypatch.setattr(part, "call", lambda x, call=call, seen=seen: seen.append(len(x)) or call(x))
    vae.compile("adam", run_eagerly=True)
    encoded.clear(), decoded.clear()
    vae.train_on_batch(x[:8])
    assert (sum(encoded), sum(decoded)) == (8, 8 * 50)


def test_evaluation_draws_the_same_noise_every_time(x):
    vae = small_vae()
    vae.compile()
    first, second = (vae.evaluate(x, batch_size=50, verbose=0, return_dict=True) for _ in range(2))
    assert first == second
    assert first["elbo"] == pytest.approx(-(first["distortion"] + first["rate"]), rel=1e-6)


def test_val_loss_is_not_weighted_by_beta(x):
    scores = []
    for beta in (0.0, 10.0):
        vae = small_vae(objective=objectives.ELBO(beta))
        vae.set_weights(keras.tree.map_structure(np.asarray, reference_weights(vae)))
        vae.compile()
        scores.append(vae.evaluate(x, verbose=0, return_dict=True))
    assert scores[0] == scores[1]


def reference_weights(vae):
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1, w.shape).astype(np.asarray(w).dtype) for w in vae.get_weights()]


@pytest.mark.parametrize(
    "kind", ["x", pytest.param("(x, y)", marks=pytest.mark.slow), "(x, y, sample_weight)", "arrays"]
)
def test_inputs_of_fit(kind, x):
    y, weight = np.arange(len(x)), np.ones(len(x), "float32")
    vae = small_vae()
    vae.compile()
    if kind == "arrays":
        vae.fit(x, y, sample_weight=weight, verbose=0)
        score = vae.evaluate(x, verbose=0, return_dict=True)
        prediction = vae.predict(x, verbose=0)
    else:
        tensors = {"x": x, "(x, y)": (x, y), "(x, y, sample_weight)": (x, y, weight)}[kind]
        data = tf.data.Dataset.from_tensor_slices(tensors).batch(32)
        vae.fit(data, verbose=0)
        score, prediction = vae.evaluate(data, verbose=0, return_dict=True), vae.predict(data, verbose=0)
    assert set(score) == NAMES
    np.testing.assert_allclose(prediction, vae.reconstruct(x), atol=1e-6)


def test_sample_weight_zero_removes_an_example(x):
    weight = np.concatenate([np.ones(100), np.zeros(156)]).astype("float32")
    vae = small_vae()
    vae.compile(keras.optimizers.SGD(1e-3))
    values = vae.batch_values(tf.constant(x), vae.noise(0), training=True)
    history = vae.fit(x, sample_weight=weight, batch_size=256, shuffle=False, verbose=0).history
    assert history["distortion"][0] == pytest.approx(float(np.mean(values["distortion"][:100])), rel=1e-4)
    assert history["loss"][0] != pytest.approx(float(np.mean(values["loss"])), rel=1e-4)


def test_keras_file_keeps_outputs_optimizer_step_and_randomness(x, tmp_path):
    """A resumed training run equals an unbroken one, bit for bit."""
    vae = small_vae(objective=objectives.ELBO(schedules.LinearWarmup(steps=30)))
    vae.compile(keras.optimizers.Adam(1e-3))
    vae.fit(x, epochs=2, batch_size=32, shuffle=False, verbose=0)
    vae.save(tmp_path / "vae.keras")
    again = keras.models.load_model(tmp_path / "vae.keras")
    assert int(again.step) == int(vae.step) == int(again.optimizer.iterations) == 16
    np.testing.assert_array_equal(again.predict(x, verbose=0), vae.predict(x, verbose=0))
    assert len(again.optimizer.variables) == len(vae.optimizer.variables) > 10
    for a, b in zip(again.optimizer.variables, vae.optimizer.variables):
        np.testing.assert_array_equal(a, b)
    for model in (vae, again):
        model.fit(x, epochs=1, batch_size=32, shuffle=False, verbose=0)
    assert_equal_weights(vae, again)


@keras.saving.register_keras_serializable("tests")
class UserDecoder(keras.Model):
    """A subclassed decoder of a user, without `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.reshape = keras.layers.Dense(64), keras.layers.Reshape((8, 8, 1))

    def call(self, z):
        return self.reshape(self.dense(z))


def test_user_models_are_used_and_saved(x, tmp_path):
    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(16)(keras.layers.Flatten()(inputs)))
    encoder = keras.Model(inputs, keras.layers.Dense(6)(keras.layers.Dropout(0.1)(hidden)))
    vae = kvae.VAE(encoder, UserDecoder(), latent_dim=3, image_shape=(8, 8, 1))
    vae.compile()
    vae.fit(x, verbose=0)
    assert np.any(encoder.layers[3].moving_mean.numpy() != 0)  # batch norm ran in training mode
    vae.save(tmp_path / "vae.keras")
    np.testing.assert_array_equal(kvae.load(tmp_path / "vae.keras").predict(x, verbose=0), vae.predict(x, verbose=0))
    sequential = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(6)])
    kvae.VAE(encoder=sequential, latent_dim=3, image_shape=(8, 8, 1)).generate(2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("likelihood", "shape"),
    [
        (likelihoods.Bernoulli(), (8, 8, 1)),
        (likelihoods.Normal(learned=True), (8, 8, 1)),
        pytest.param(likelihoods.Normal(0.2), (9, 7, 3), marks=pytest.mark.slow),
        pytest.param(likelihoods.DiagonalNormal(), (9, 7, 3), marks=pytest.mark.slow),
    ],
    ids=["bernoulli", "normal-learned", "normal", "normal-pixel"],
)
def test_every_likelihood_trains_saves_and_gives_gradients_to_every_weight(likelihood, shape, tmp_path):
    images = np.random.default_rng(0).random((64, *shape)).astype("float32")
    vae = kvae.VAE(latent_dim=2, image_shape=shape, likelihood=type(likelihood).from_config(likelihood.get_config()))
    vae.compile(keras.optimizers.Adam(1e-3))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(vae.batch_values(tf.constant(images), vae.noise(0), True)["loss"])
    assert all(g is not None and np.all(np.isfinite(g)) for g in tape.gradient(loss, vae.trainable_weights))
    before = vae.evaluate(images, verbose=0, return_dict=True)["loss"]
    vae.fit(images, epochs=5, batch_size=16, verbose=0)
    assert vae.evaluate(images, verbose=0, return_dict=True)["loss"] < before
    vae.save(tmp_path / "vae.keras")
    np.testing.assert_array_equal(
        kvae.load(tmp_path / "vae.keras").predict(images, verbose=0), vae.predict(images, verbose=0)
    )


def test_elbo_is_a_bound_that_equals_its_definition():
    """Against SciPy in float64, with the model's own noise."""
    from scipy import stats

    vae = small_vae(likelihood=likelihoods.Normal(scale=0.5))
    images = np.random.default_rng(1).random((4, 8, 8, 1)).astype("float32")
    terms = vae.terms(tf.constant(images), vae.noise(3), num_samples=5)
    z = np.asarray(terms.z, "float64")
    mean, log_scale = (np.asarray(t, "float64") for t in vae.posterior.split(vae.encoder(images)))
    log_q = stats.norm(mean, np.exp(log_scale)).logpdf(z).sum(-1)
    log_p = stats.norm.logpdf(z).sum(-1)
    decoded = np.stack([np.asarray(vae.decode(z[k].astype("float32")), "float64") for k in range(5)])
    log_likelihood = stats.norm(decoded, 0.5).logpdf(images).sum((-1, -2, -3))
    np.testing.assert_allclose(terms.distortion, -log_likelihood, rtol=1e-4)
    np.testing.assert_allclose(terms.log_weight, log_likelihood + log_p - log_q, rtol=1e-4)
    kl = (0.5 * (mean**2 + np.exp(2 * log_scale) - 1) - log_scale).sum(-1)
    np.testing.assert_allclose(terms.rate, kl, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_xla(x):
    vae = small_vae()
    vae.compile(jit_compile=True)
    history = vae.fit(x, epochs=2, batch_size=64, verbose=0).history
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_with_sgd_too(policy, x):
    """With SGD, float16 trains only with a scaled loss."""
    keras.config.set_dtype_policy(policy)
    vae = small_vae()
    vae.compile(keras.optimizers.SGD(1e-2))
    assert isinstance(vae.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    history = vae.fit(x, epochs=20, batch_size=32, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    assert history["loss"][-1] < 0.85 * history["loss"][0]
    assert {w.dtype for w in vae.trainable_weights} == {"float32"}


@pytest.mark.slow
@pytest.mark.parametrize("count", [256, 219])  # the last batch has 64 images, or 27, which two replicas can't halve
def test_two_replicas_take_the_same_step_as_one(x, two_replicas, count):
    """Noise and gradient are the same; in particular, the gradient isn't doubled."""
    x = x[:count]
    assert len(x) == count
    single = small_vae()
    with two_replicas.scope():
        mirrored = small_vae()
        mirrored.compile(keras.optimizers.SGD(1e-3))
    mirrored.set_weights(single.get_weights())
    single.compile(keras.optimizers.SGD(1e-3))
    data = tf.data.Dataset.from_tensor_slices(x).batch(64)
    before = single.get_weights()
    h1 = single.fit(data, verbose=0).history
    h2 = mirrored.fit(data, verbose=0).history
    assert int(keras.ops.convert_to_numpy(mirrored.step)) == int(single.step) == 4
    for old, a, b in zip(before, single.get_weights(), mirrored.get_weights()):
        # Up to summation order: a step of 1e-3 · gradient, in float32.
        np.testing.assert_allclose(b - old, a - old, rtol=2e-3, atol=1e-6)
    for name in NAMES:
        assert h1[name] == pytest.approx(h2[name], rel=1e-4)


@pytest.mark.slow
def test_steps_per_execution_changes_nothing(x):
    weights = []
    for steps in (1, 3):
        keras.utils.set_random_seed(1)
        vae = small_vae()
        vae.compile(steps_per_execution=steps)
        vae.fit(x, epochs=2, batch_size=32, shuffle=False, verbose=0)
        weights.append(vae.get_weights())
    for a, b in zip(*weights):
        np.testing.assert_array_equal(a, b)


def test_sampling_with_the_decoder_alone():
    vae = small_vae()
    images = np.asarray(vae.generate(300, seed=7))
    assert images.shape == (300, 8, 8, 1)
    assert images.min() >= 0
    assert images.max() <= 1
    np.testing.assert_array_equal(images, vae.generate(300, seed=7))
    # Eigen adds up the last rows of a batch in another order, on some processors in eager mode alone.
    np.testing.assert_allclose(images, vae.decode(vae.prior.sample(300, seed=7)), atol=1e-6)
    assert np.any(images[:5] != np.asarray(vae.generate(5)))


def test_interpolation_ends_with_the_reconstructions(x):
    vae = small_vae()
    line = vae.interpolate_images(x[0], x[1], steps=5)
    assert line.shape == (5, 8, 8, 1)
    np.testing.assert_allclose(line[::4], vae.reconstruct(x[:2]), atol=1e-6)
    assert vae.interpolate_images(x[:3], x[3:6], steps=4).shape == (3, 4, 8, 8, 1)


def test_encode_gives_mean_and_covariance(x):
    vae = small_vae()
    mean, variance = vae.encode(x[:4])
    covariance = vae.posterior.covariance(vae.encoder(x[:4]))
    assert mean.shape == variance.shape == (4, 3)
    np.testing.assert_allclose(np.diagonal(covariance, axis1=1, axis2=2), variance)


def test_active_units_counts_latents_that_vary():
    metric = kvae.models.ActiveUnits(3)
    rng = np.random.default_rng(0)
    means = rng.normal(size=(500, 3)) * [1, 0.2, 0.01]
    for part in np.split(means, 5):
        metric.update_state(part)
    np.testing.assert_allclose(metric.variance(), means.var(0), rtol=1e-3, atol=1e-6)
    assert int(metric.result()) == 2


def test_autoencoder_reconstructs_saves_and_refuses_to_generate(x, tmp_path):
    autoencoder = kvae.Autoencoder(
        networks.Encoder(4, networks.MLP((32,))), networks.Decoder((8, 8, 1), networks.MLP((32,)))
    )
    autoencoder.compile()
    history = autoencoder.fit(x, epochs=5, validation_data=x[:64], verbose=0).history
    assert history["val_loss"][-1] < history["val_loss"][0]
    assert autoencoder.encode(x).mean.shape == (256, 4)
    autoencoder.save(tmp_path / "ae.keras")
    np.testing.assert_array_equal(
        kvae.load(tmp_path / "ae.keras").predict(x, verbose=0), autoencoder.predict(x, verbose=0)
    )
    with pytest.raises(TypeError, match="can't generate"):
        autoencoder.generate(3)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: kvae.VAE(), "`latent_dim` is missing"),
        (lambda: kvae.VAE(latent_dim=2), "`event_shape` is missing"),
        (
            lambda: kvae.VAE(networks.Encoder(3), latent_dim=2, image_shape=(8, 8, 1)),
            "contradicts the encoder",
        ),
        (
            lambda: kvae.VAE(keras.Sequential([keras.layers.Flatten()]), latent_dim=2, image_shape=(8, 8, 1)),
            r"into 4 numbers each.*output shape \(64,\)",
        ),
        (
            lambda: kvae.VAE(decoder=keras.Sequential([keras.layers.Dense(3)]), latent_dim=2, image_shape=(8, 8, 1)),
            "decoder must turn 2 latents",
        ),
        (lambda: small_vae().compile(loss="mse"), "computes its own loss.*loss=mse"),
        (lambda: small_vae().generate(0), "n=0"),
        (lambda: small_vae().encode(np.zeros((2, 64), "float32")), r"Received: shape \(2, 64\)"),
        (lambda: small_vae().interpolate(np.zeros(2), np.zeros(2), steps=1), "steps=1"),
    ],
)
def test_invalid_arguments_are_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act()


@pytest.mark.parametrize("bad", [255.0, -0.5, float("nan")])
def test_images_outside_0_1_are_refused(bad, x):
    vae = small_vae()
    vae.compile()
    x = x[:32].copy()
    x[3, 2, 1, 0] = bad
    for act in (vae.fit, vae.evaluate, vae.predict, vae.encode, vae.reconstruct, partial(kvae.features.extract, vae)):
        if act == vae.fit and np.isnan(bad):
            continue  # the step is skipped
        with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
            act(x)


@pytest.mark.parametrize("kind", ["array", "dataset", "pair"])
def test_images_of_another_shape_are_refused_before_and_after_a_pass(kind, x):
    vae = small_vae()
    vae.compile()
    given = {
        "array": lambda images: images,
        "dataset": lambda images: tf.data.Dataset.from_tensor_slices(images).batch(32),
        "pair": lambda images: tf.data.Dataset.from_tensor_slices((images, np.zeros(len(images)))).batch(32),
    }[kind]
    for bad in (x[:32, ..., 0], x[:32, :7], np.repeat(x[:32], 3, axis=-1)) * 2:
        for act in (vae.fit, vae.evaluate, vae.predict):
            with pytest.raises(ValueError, match=r"Expected a batch of images of shape \(batch, 8, 8, 1\)"):
                act(given(bad), verbose=0)
        with pytest.raises(ValueError, match="Expected a batch of images"):
            kvae.features.extract(vae, bad)
        vae.fit(given(x[:40]), verbose=0)  # the refusal leaves no state
    assert vae.step == 6 * 2
