"""The conditional VAE: accepted and refused conditions, and their effect."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

import kvae
from kvae import networks, plotting, report
from kvae.cli.main import app
from kvae.features import extract, feature_model

CLASSES = 10


def conditional_vae(**kwargs):
    return kvae.VAE(
        networks.Encoder(3, networks.MLP((64,))),
        networks.Decoder((8, 8, 1), networks.MLP((64,))),
        image_shape=(8, 8, 1),
        condition_dim=CLASSES,
        **kwargs,
    )


@pytest.fixture
def x(digits):
    return digits[0][:200]


@pytest.fixture
def y(digits):
    return digits[1][:200]


@pytest.fixture(scope="module")
def trained(digits):
    """A model trained on digits for a few seconds; tests must not change it."""
    keras.utils.set_random_seed(0)
    vae = conditional_vae()
    vae.compile(keras.optimizers.Adam(5e-3), steps_per_execution=28)
    vae.fit(*digits, batch_size=64, epochs=25, verbose=0)
    return vae


def test_generated_images_show_the_requested_digit(trained, digits):
    """A nearest-neighbour classifier of real digits recognises the images; chance is 10 %."""
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(3).fit(digits[0].reshape(-1, 64), digits[1])
    requested = np.arange(500) % CLASSES
    images = np.asarray(trained.generate(500, seed=1, condition=requested))
    assert np.mean(classifier.predict(images.reshape(-1, 64)) == requested) > 0.8
    sevens = np.asarray(trained.generate(20, seed=2, condition=7))
    assert np.mean(classifier.predict(sevens.reshape(-1, 64)) == 7) > 0.8


def test_a_condition_is_an_integer_or_its_vector(trained, x, y):
    one_hot = np.eye(CLASSES, dtype="float32")
    calls = {
        "decode": lambda c: trained.decode(np.ones((200, 3), "float32"), c),
        "encode": lambda c: trained.encode(x, c).variance,
        "encode_mean": lambda c: trained.encode_mean(x, c),
        "reconstruct": lambda c: trained.reconstruct(x, c),
        "generate": lambda c: trained.generate(200, seed=3, condition=c),
        "interpolate": lambda c: trained.interpolate_images(x[0], x[1], 3, c),
    }
    for name, call in calls.items():
        for same in (np.uint8(7), one_hot[7], one_hot[7].astype("float64"), tf.constant(7)):
            np.testing.assert_allclose(call(7), call(same), atol=1e-6, err_msg=name)
        if name != "interpolate":
            np.testing.assert_allclose(call(7), call(np.full(200, 7)), atol=1e-6, err_msg=name)
            for same in (y.astype("uint8"), y.tolist(), one_hot[y], one_hot[y].astype("int32")):
                np.testing.assert_allclose(call(y), call(same), atol=1e-6, err_msg=name)
        assert np.abs(np.asarray(call(7)) - np.asarray(call(1))).max() > 0.01


def test_the_same_seed_gives_the_same_style(trained):
    latents = [trained.prior.sample(4, seed=5) for _ in range(2)]
    np.testing.assert_array_equal(*latents)
    np.testing.assert_allclose(trained.generate(4, seed=5, condition=3), trained.decode(latents[0], 3), atol=1e-6)
    noisy = np.asarray(trained.generate(300, seed=5, condition=3, pixel_noise=True))
    assert set(np.unique(noisy)) == {0.0, 1.0}
    np.testing.assert_array_equal(noisy[:5], trained.generate(5, seed=5, condition=3, pixel_noise=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        pytest.param("arrays", "uint8", marks=pytest.mark.slow),
        pytest.param("(x, y)", "vectors", marks=pytest.mark.slow),
        ("(x, y, sample_weight)", "int64"),
    ],
)
def test_inputs_of_fit_evaluate_and_predict(kind, labels, x, y):
    y = np.eye(CLASSES)[y] if labels == "vectors" else y.astype(labels)
    vae, weight = conditional_vae(), np.ones(len(x), "float32")
    vae.compile()
    if kind == "arrays":
        vae.fit(x, y, sample_weight=weight, validation_data=(x, y), verbose=0)
        score = vae.evaluate(x, y, verbose=0, return_dict=True)
        prediction = vae.predict((x, y), verbose=0)
    else:
        data = tf.data.Dataset.from_tensor_slices((x, y, weight)[: kind.count(",") + 1]).batch(32)
        vae.fit(data, validation_data=data, verbose=0)
        score, prediction = vae.evaluate(data, verbose=0, return_dict=True), vae.predict(data, verbose=0)
        pairs = data.map(lambda x, y, *_: ((x, y),))
        np.testing.assert_array_equal(vae.predict(pairs, verbose=0), prediction)
    np.testing.assert_allclose(prediction, vae.reconstruct(x, y), atol=1e-6)
    terms = vae.terms(vae.check_images(x), vae.noise(0), c=vae.condition(y))
    assert score["rate"] == pytest.approx(float(np.mean(terms.rate)), rel=1e-3)


@pytest.mark.slow
def test_sample_weight_does_not_replace_the_condition(x, y):
    vae = conditional_vae()
    vae.compile(keras.optimizers.SGD(1e-3))
    weight = np.concatenate([np.ones(100), np.zeros(100)]).astype("float32")
    values = vae.batch_values(tf.constant(x), vae.noise(0), True, y)
    history = vae.fit(x, y, sample_weight=weight, batch_size=200, shuffle=False, verbose=0).history
    assert history["distortion"][0] == pytest.approx(float(np.mean(values["distortion"][:100])), rel=1e-4)
    with pytest.raises(ValueError, match="Received: none"):
        vae.fit(x, sample_weight=weight, verbose=0)


def test_keras_file(trained, x, y, tmp_path):
    trained.save(tmp_path / "vae.keras")
    again = kvae.load(tmp_path / "vae.keras")
    assert again.condition_dim == CLASSES
    np.testing.assert_array_equal(again.predict((x, y), verbose=0), trained.predict((x, y), verbose=0))
    np.testing.assert_array_equal(again.generate(3, seed=1, condition=2), trained.generate(3, seed=1, condition=2))
    assert "condition_dim" not in kvae.VAE(latent_dim=2, image_shape=(8, 8, 1)).get_config()


@pytest.mark.slow
def test_two_replicas_take_the_same_step_as_one(x, y, two_replicas):
    single = conditional_vae()
    with two_replicas.scope():
        mirrored = conditional_vae()
        mirrored.compile(keras.optimizers.SGD(1e-3))
    mirrored.set_weights(single.get_weights())
    single.compile(keras.optimizers.SGD(1e-3))
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(50)
    before = single.get_weights()
    for model in (single, mirrored):
        model.fit(data, verbose=0)
    for old, a, b in zip(before, single.get_weights(), mirrored.get_weights()):
        # Up to summation order: a step of 1e-3 · gradient, in float32.
        np.testing.assert_allclose(b - old, a - old, rtol=2e-3, atol=1e-6)


def test_features(trained, x, y):
    features = extract(trained, (x, y))
    np.testing.assert_allclose(features["mean"], trained.encode(x, y).mean, atol=1e-5)
    np.testing.assert_array_equal(features["label"], y)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(64)
    np.testing.assert_allclose(extract(trained, data)["hidden"], features["hidden"], atol=1e-5)
    for output in ("mean", "hidden"):
        model = feature_model(trained, output)
        assert [tensor.name for tensor in model.inputs] == ["image", "condition"]
        got = model.predict([x, np.eye(CLASSES)[y]], verbose=0)
        np.testing.assert_allclose(got, features[output], atol=1e-5)
    with pytest.raises(ValueError, match="Received: none"):
        extract(trained, x)


@pytest.mark.slow
def test_autoencoder(x, y, tmp_path):
    autoencoder = kvae.Autoencoder(
        networks.Encoder(2, networks.MLP((32,))),
        networks.Decoder((8, 8, 1), networks.MLP((32,))),
        condition_dim=CLASSES,
    )
    autoencoder.compile()
    autoencoder.fit(x, y, verbose=0)
    assert autoencoder.encode(x, y).mean.shape == (200, 2)
    autoencoder.save(tmp_path / "ae.keras")
    again = kvae.load(tmp_path / "ae.keras")
    np.testing.assert_array_equal(again.reconstruct(x, y), autoencoder.reconstruct(x, y))


@pytest.mark.parametrize(
    ("c", "received"),
    [
        (None, "none"),
        (10, "10"),
        (-1, "-1"),
        (7.0, r"shape \(\)"),
        ([1, 2], r"shape \(2,\) for 4"),
        ([1.0] * 4, r"shape \(4,\) for 4"),
        ([1, 2, 3, 10], r"\[ ?1 +2 +3 +10\]"),
        (np.ones((4, 9)), r"shape \(4, 9\) for 4"),
        (np.ones((4, 1), int), r"shape \(4, 1\) for 4"),
        (np.ones((3, 10)), r"shape \(3, 10\) for 4"),
        (np.full((4, 10), np.nan), "nan"),
        ("seven", "'seven'"),
        ([[1], [2, 3]], r"\[\[1\], \[2, 3\]\]"),
    ],
    ids=str,
)
def test_invalid_conditions_are_refused(c, received, x):
    vae = conditional_vae()
    for call in (
        lambda: vae.encode(x[:4], c),
        lambda: vae.decode(np.zeros((4, 3), "float32"), c),
        lambda: vae.reconstruct(x[:4], c),
        lambda: vae.generate(4, condition=c),
    ):
        with pytest.raises(ValueError, match=f"integers below 10, or vectors of 10.*Received: .*{received}"):
            call()


def test_invalid_conditions_in_data_are_refused(x, y):
    vae = conditional_vae()
    vae.compile()
    vectors = np.eye(CLASSES)[y]
    vectors[5, 5] = np.nan
    for call, bad in ((vae.fit, y + 1), (vae.evaluate, vectors)):
        with pytest.raises(ValueError, match="from 0 to condition_dim − 1, or finite"):
            call(x, bad, verbose=0)
    for call, bad in ((vae.fit, None), (vae.fit, y[:, None]), (vae.evaluate, vectors[:, :9])):
        with pytest.raises(ValueError, match="integers below 10, or vectors of 10"):
            call(x, bad, verbose=0)
    with pytest.raises(ValueError, match="Received: none"):
        vae.predict(x, verbose=0)
    plain = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
    with pytest.raises(ValueError, match=r"takes no condition.*condition=7"):
        plain.generate(2, condition=7)
    with pytest.raises(ValueError, match="condition_dim=0"):
        kvae.VAE(latent_dim=2, image_shape=(8, 8, 1), condition_dim=0)


@pytest.mark.slow
def test_figures(trained, x, y, tmp_path):
    grid = plotting.class_samples(trained, columns=3, seed=1, names=("zero", "one")).axes[0]
    assert [label.get_text() for label in grid.get_yticklabels()] == ["zero", "one", *map(str, range(2, 10))]
    pixels = np.asarray(grid.images[0].get_array())
    wanted = 1 - np.asarray(trained.generate(3, seed=1, condition=9))  # dark on light
    np.testing.assert_allclose(pixels[-8:, :8, 0], np.clip(wanted[0, ..., 0], 0, 1), atol=1e-6)
    assert np.asarray(plotting.interpolations(trained, x[:2], x[2:4], condition=3).axes[0].images[0].get_array()).size
    history = {"distortion": [9.0, 8.0], "rate": [1.0, 2.0]}
    paths = report.write_figures(tmp_path, trained, x, y, history, kl=np.ones(3))
    assert {"class_samples", "reconstructions", "traversals", "latent_map"} <= {path.stem for path in paths}
    assert "samples" not in {path.stem for path in paths}
    with pytest.raises(ValueError, match="conditional model"):
        plotting.class_samples(kvae.VAE(latent_dim=2, image_shape=(8, 8, 1)))


def test_a_manifold_shows_one_class():
    decoder = networks.Decoder((8, 8, 1), networks.MLP((32,)))
    vae = kvae.VAE(networks.Encoder(2, networks.MLP((32,))), decoder, condition_dim=2)
    first, second = (np.asarray(plotting.manifold(vae, 4, c).axes[0].images[0].get_array()) for c in (0, 1))
    assert first.shape == second.shape == (32, 32, 3)
    assert np.any(first != second)


@pytest.fixture
def run(trained, tmp_path):
    """A RUN folder of the trained model."""
    run = tmp_path / "run"
    run.mkdir()
    trained.save(run / "model.keras")
    settings = {"source": "digits", "seed": 0, "binarize": "none", "size": None, "grayscale": None}
    (run / "config.json").write_text(json.dumps({**settings, "conditional": True, "label_names": list("0123456789")}))
    (run / "metrics.json").write_text("{}")
    (run / "history.csv").write_text("epoch,distortion,rate\n0,9.0,1.0\n1,8.0,2.0\n")
    return run


@pytest.mark.slow
def test_the_command(run, trained, tmp_path):
    runner = CliRunner()

    def command(*arguments):
        return runner.invoke(app, [str(argument) for argument in arguments])

    out = tmp_path / "x.npy"
    for option, condition in ((["--condition", "7"], 7), ([], np.arange(12) % 10)):
        assert command("generate", run, "-n", 12, "--seed", 3, *option, "--out", out).exit_code == 0
        np.testing.assert_allclose(np.load(out), trained.generate(12, seed=3, condition=condition), atol=1e-6)
    assert command("generate", run, "-n", 5, "--pixel-noise", "--out", out).exit_code == 0
    assert set(np.unique(np.load(out))) == {0.0, 1.0}
    assert command("generate", run, "--out", tmp_path / "grid.png").exit_code == 0
    wrong = command("generate", run, "--condition", "seven", "--out", out).exception
    assert "or one of 0, 1" in str(wrong)
    assert command("plot", run).exit_code == 0
    assert (run / "figures" / "class_samples.png").exists()
    assert "Samples of each class" in (run / "report.html").read_text()
    done = command("features", run, "digits", "--split", "test", "--out", tmp_path / "f.npz")
    assert (done.exit_code, "No linear probe" in done.output) == (0, True)


@pytest.mark.slow
def test_the_command_exports(run, tmp_path):
    from kvae.export.runtime import load

    assert CliRunner().invoke(app, ["export", str(run), "--out", str(tmp_path / "phone")]).exit_code == 0
    model = load(tmp_path / "phone" / "vae_int8.tflite")
    assert model.info["condition"] == {"size": 10, "names": list("0123456789")}
    assert model.generate(2, seed=1, condition="7").shape == (2, 8, 8, 1)
