"""M2 (Kingma et al. 2014): its bound against numerical integration, missing labels, files, errors."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import kvae
from kvae import features, likelihoods, networks
from kvae.distributions import Noise


def small(alpha: float = 1.0, **settings) -> kvae.SemiSupervisedVAE:
    return kvae.SemiSupervisedVAE(
        networks.Encoder(1, networks.MLP((8,))),
        networks.Decoder((2, 2, 1), networks.MLP((8,))),
        classifier=networks.Encoder(3, networks.MLP((8,)), param_size=3),
        num_classes=3,
        alpha=alpha,
        **settings,
    )


@pytest.fixture(scope="module")
def model() -> kvae.SemiSupervisedVAE:
    keras.utils.set_random_seed(0)
    return small()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (5, 2, 2, 1)).astype("float32")


def log_joint(model: kvae.SemiSupervisedVAE, images: np.ndarray) -> np.ndarray:
    """Return log p(x, y) of every image and label, `(B, C)`, by quadrature over the single latent."""
    z, weights = np.polynomial.hermite_e.hermegauss(80)
    table = np.empty((len(images), 3))
    for y in range(3):
        logits = np.asarray(model.decoder(np.column_stack([z, np.tile(np.eye(3)[y], (80, 1))]).astype("float32")))
        p = 1 / (1 + np.exp(-logits.astype("float64")))  # (80, 2, 2, 1)
        likelihood = np.prod(np.where(images[:, None] > 0.5, p, 1 - p), axis=(2, 3, 4))  # (B, 80)
        table[:, y] = np.log(likelihood @ weights / np.sqrt(2 * np.pi) / 3)
    return table


def mean_values(model: kvae.SemiSupervisedVAE, x: np.ndarray, y: np.ndarray | None, draws: int = 400) -> np.ndarray:
    """Return −`elbo` of each image, as a mean over many draws of the noise, and its standard error."""
    many = np.repeat(x, draws, axis=0)
    labels = None if y is None else np.repeat(y, draws)
    values = model.batch_values(many, Noise(1, 0), False, labels)
    elbo = np.asarray(values["elbo"]).reshape(len(x), draws)
    return np.stack([elbo.mean(axis=1), elbo.std(axis=1) / np.sqrt(draws)])


def test_the_elbo_is_a_lower_bound(model, images):
    joint = log_joint(model, images)
    for y in range(3):
        elbo, error = mean_values(model, images, np.full(5, y))
        assert np.all(elbo - 4 * error <= joint[:, y])
    evidence = np.log(np.exp(joint).sum(axis=1))
    elbo, error = mean_values(model, images, None)
    assert np.all(elbo - 4 * error <= evidence)
    assert np.all(evidence - elbo < 3.0)  # the gap is small even without training; a sign error would make it large


def test_the_bound_without_a_label_is_the_mean_over_labels_and_an_entropy(model, images):
    q = np.asarray(model.classify(images), "float64")
    by_label = np.stack([mean_values(model, images, np.full(5, y)) for y in range(3)])  # (C, 2, B)
    elbo, error = mean_values(model, images, None)
    expected = np.sum(q.T * by_label[:, 0], axis=0) - np.sum(q * np.log(q), axis=1)
    assert np.all(np.abs(elbo - expected) < 5 * (error + by_label[:, 1].max(axis=0)))


def test_alpha_weighs_the_classification_of_labelled_images_only(images):
    losses = {}
    for alpha in (0.0, 2.0):
        keras.utils.set_random_seed(1)
        net = small(alpha)
        for name, y in (("labelled", np.arange(5) % 3), ("unlabelled", np.full(5, -1))):
            losses[alpha, name] = np.asarray(net.batch_values(images, Noise(0, 0), True, y)["loss"])
        q = np.asarray(net.classify(images), "float64")
    cross_entropy = -np.log(q[np.arange(5), np.arange(5) % 3])
    np.testing.assert_allclose(losses[2.0, "labelled"] - losses[0.0, "labelled"], 2 * cross_entropy, atol=1e-5)
    np.testing.assert_array_equal(losses[2.0, "unlabelled"], losses[0.0, "unlabelled"])


@pytest.mark.slow
def test_unlabelled_images_help_and_the_model_is_saved(tmp_path):
    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 8, 8, 1).astype("float32")
    few = np.where(np.arange(1400) < 60, y[:1400], -1)
    keras.utils.set_random_seed(0)
    net = kvae.SemiSupervisedVAE(
        networks.Encoder(8, networks.MLP((128,))),
        networks.Decoder((8, 8, 1), networks.MLP((128,))),
        classifier=networks.Encoder(10, networks.MLP((128,)), param_size=10),
        num_classes=10,
        alpha=20.0,
    )
    net.compile(keras.optimizers.Adam(2e-3))
    history = net.fit(x[:1400], few, epochs=20, batch_size=100, verbose=0)
    assert history.history["accuracy"][-1] > 0.95  # accuracy on labelled images
    scores = net.evaluate(x[1400:], y[1400:], verbose=0, return_dict=True)
    right = np.mean(np.argmax(net.classify(x[1400:]), axis=-1) == y[1400:])
    assert scores["accuracy"] == pytest.approx(right, abs=1e-6)
    assert right > 0.7  # chance is 0.1
    net.save(tmp_path / "m2.keras")
    again = kvae.load(tmp_path / "m2.keras")
    np.testing.assert_array_equal(again.classify(x[:9]), net.classify(x[:9]))
    np.testing.assert_array_equal(again.generate(3, seed=1, condition=7), net.generate(3, seed=1, condition=7))
    assert again.alpha == 20.0
    assert net.predict(x[:5], verbose=0).shape == (5, 8, 8, 1)
    assert type(net.with_prior(kvae.priors.StandardNormal())) is kvae.SemiSupervisedVAE


def test_features_of_unlabelled_images_use_the_most_probable_label(model):
    x = np.random.default_rng(1).integers(0, 2, (300, 2, 2, 1)).astype("float32")  # more than one batch of the encoder
    probable = np.argmax(model.classify(x), axis=-1)
    assert len(set(probable.tolist())) > 1
    right = features.extract(model, (x, probable))
    without = features.extract(model, x)
    assert set(right) == {*without, "label"}
    wrong = features.extract(model, (x, (probable + 1) % 3))
    known = np.arange(300) % 2 == 0
    labels = np.where(known, (probable + 1) % 3, -1)
    partly = features.extract(model, (x, labels))
    np.testing.assert_array_equal(partly["label"], labels)
    for name, values in without.items():
        np.testing.assert_array_equal(values, right[name])
        np.testing.assert_array_equal(partly[name], np.where(known[:, None], wrong[name], right[name]))
        np.testing.assert_array_equal(features.extract(model, x[299:])[name], values[299:])
    assert np.any(wrong["mean"] != right["mean"])
    np.testing.assert_allclose(model.decode(without["mean"], probable), model(x), atol=1e-6)  # as in `call`
    with pytest.raises(ValueError, match="integers below 3"):
        features.extract(model, (x, np.where(known, -2, -1)))


def test_unbounded_data():
    x = np.random.default_rng(0).normal(size=(32, 1, 6, 1)).astype("float32") * 10
    net = kvae.SemiSupervisedVAE(
        networks.Encoder(2, networks.MLP((8,))),
        networks.Decoder((1, 6, 1), networks.MLP((8,))),
        likelihood=likelihoods.Normal(learned=True),
        classifier=keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)]),
        num_classes=2,
        bounded=False,
    )
    net.compile()
    history = net.fit(x, np.arange(32) % 3 - 1, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    with pytest.raises(ValueError, match="finite"):
        net.fit(np.full_like(x, np.inf), np.full(32, -1), verbose=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 3, "alpha": -1.0}, "alpha"),
        ({"num_classes": 3, "objective": kvae.objectives.IWAE(5)}, "one sample"),
        ({"num_classes": 3, "classifier": keras.Sequential([keras.layers.Flatten()])}, "3 logits"),
    ],
)
def test_errors_of_the_constructor(settings, message):
    with pytest.raises(ValueError, match=message):
        kvae.SemiSupervisedVAE(latent_dim=2, image_shape=(8, 8, 1), **settings)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 0], [-2, 0, 0, 0, 0]])
def test_labels_out_of_range_are_refused(model, images, labels):
    net = small()
    net.compile()
    with pytest.raises(ValueError, match="−1 for none"):
        net.fit(images, np.array(labels), verbose=0)
