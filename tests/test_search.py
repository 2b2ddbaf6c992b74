"""Neighbours, directions and planes of latents, compared with NumPy and planted answers."""

import keras
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.decomposition import PCA

import kvae
from kvae import features
from kvae.likelihoods import Normal


@pytest.fixture(scope="module")
def linear():
    """An autoencoder whose code is the image itself: four pixels, four latents."""
    decoder = keras.layers.Reshape((2, 2, 1))
    return kvae.Autoencoder(
        keras.layers.Flatten(), decoder, likelihood=Normal(), latent_dim=4, image_shape=(2, 2, 1), bounded=False
    )


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, 4)).astype("float32")


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbours_equal_those_of_brute_force(linear, rows, metric):
    images, queries = rows.reshape(-1, 2, 2, 1), rows[:7].reshape(-1, 2, 2, 1) + 0.1
    found = features.nearest(linear, images, queries, k=5, metric=metric)
    a, b = queries.reshape(7, 1, 4).astype("float64"), rows[None].astype("float64")
    if metric == "euclidean":
        distances = np.linalg.norm(a - b, axis=-1)
    else:
        distances = 1 - (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    np.testing.assert_array_equal(found.indices, np.argsort(distances, axis=1)[:, :5])
    np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :5], atol=1e-5)
    by_latents = features.nearest(None, rows, queries.reshape(7, 4), k=5, metric=metric)
    np.testing.assert_array_equal(by_latents.indices, found.indices)


def test_a_planted_direction_is_found(linear):
    rng = np.random.default_rng(1)
    apart = np.array([0.0, 3.0, 0.0, 4.0])
    scale = np.array([8.0, 1.0, 1.0, 1.0])  # a lot of variance that doesn't depend on the groups
    first, second = rng.normal(size=(2, 300, 4)) * scale + np.stack([0 * apart, apart])[:, None]
    for method in ("mean", "logistic"):
        found = features.direction(linear, first, second, method)
        assert np.linalg.norm(found.vector) == pytest.approx(1)
        assert found.distance == pytest.approx(5, abs=0.8)
    assert found.vector @ apart / 5 > 0.97  # the logistic direction ignores properties that the groups share
    images = first[:3].astype("float32").reshape(-1, 2, 2, 1)
    moved = features.move(linear, images, features.Direction(apart / 5, 5.0), [0, 1, 2])
    np.testing.assert_allclose(moved[:, 0], images, atol=1e-5)
    np.testing.assert_allclose(
        moved[:, 2] - moved[:, 1], np.broadcast_to(apart.reshape(2, 2, 1), (3, 2, 2, 1)), atol=1e-5
    )


def planted(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return latents and labels; "with" is 5 latent units away from the others, with a spread of 0.8 in between."""
    rng = np.random.default_rng(seed)
    label = np.where(np.arange(count) < share * count, "with", "without")
    z = rng.normal(size=(count, 4)) * [2.0, 0.8, 1.0, 0.8] + 1.0
    return z + np.where(label == "with", 1.0, 0.0)[:, None] * [0.0, 3.0, 0.0, 4.0], label


def test_the_direction_of_a_label(linear):
    (z, label), held_out = planted(4000, 0.3, seed=2), planted(2000, 0.3, seed=3)
    found = features.attribute_direction(linear, (z, label), "with", "smile", held_out=held_out)
    assert found.name == "smile"
    np.testing.assert_allclose(found.vector, [0, 0.6, 0, 0.8], atol=0.06)
    assert found.distance == pytest.approx(5, abs=0.1)
    position = found.position(z)
    assert [position[label == name].mean() for name in ("without", "with")] == pytest.approx([-0.5, 0.5])
    # The groups are normal with a spread of 0.8 / 5, 1 apart.
    reach = norm.ppf(0.975) * 0.8 / 5
    assert (found.low, found.high) == pytest.approx((-0.5 - reach, 0.5 + reach), abs=0.03)
    assert found.majority == 0.7
    assert found.accuracy == pytest.approx(norm.cdf(0.5 * 5 / 0.8), abs=0.005)
    assert found.auroc > 0.999
    assert found.flips > 0.99  # the code of this model is the image itself
    moved = features.move(linear, z[:2], found, [0.0, 1.5]).reshape(2, 2, 4)
    np.testing.assert_allclose(found.position(moved[:, 1]) - found.position(moved[:, 0]), 1.5, atol=1e-5)


def test_an_image_that_does_not_follow_its_latents_does_not_flip():
    decoder = keras.Sequential([keras.layers.Rescaling(0.0), keras.layers.Reshape((2, 2, 1))])
    constant = kvae.Autoencoder(
        keras.layers.Flatten(), decoder, likelihood=Normal(), latent_dim=4, image_shape=(2, 2, 1), bounded=False
    )
    found = features.attribute_direction(constant, planted(400, 0.5, seed=2), "with")
    assert found.flips == 0.5  # all images of one side, none of the other
    assert (found.name, found.accuracy) == ("with", 1.0)


def test_a_label_without_a_direction_gives_a_warning(linear):
    z, label = planted(2000, 0.5, seed=4)
    shuffled = np.random.default_rng(0).permutation(label)
    with pytest.warns(kvae.evaluation.EvaluationWarning, match="'with' doesn't predict .* better"):
        found = features.attribute_direction(linear, (z, shuffled), "with")
    assert abs(found.accuracy - 0.5) < 0.1


@pytest.fixture(scope="module")
def pixels():
    """An autoencoder of 8×8 images, whose code is the image itself."""
    return kvae.Autoencoder(
        keras.layers.Flatten(),
        keras.layers.Reshape((8, 8, 1)),
        likelihood=Normal(),
        latent_dim=64,
        image_shape=(8, 8, 1),
    )


def test_the_direction_of_a_class_of_data(pixels):
    """By name, by number and from arrays: found on the training images, checked on the test images."""
    data = kvae.data.load("digits")
    found = features.attribute_direction(pixels, data, "3")
    same = features.attribute_direction(pixels, data.arrays("train"), 3, held_out=data.arrays("test"))
    np.testing.assert_array_equal(found.vector, same.vector)
    assert found[1:] == same[1:]
    assert found.accuracy > found.majority == np.mean(data.arrays("test")[1] != 3)


def test_a_class_that_can_not_have_a_direction_is_refused(pixels, digits):
    data, (images, labels) = kvae.data.load("digits"), digits
    conditional = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1), condition_dim=10)
    for model, given, label, message in [
        (pixels, data, "smile", r"class of the data: 0, 1, .*, 9\. Received: 'smile'"),
        (pixels, (images, labels), -1, r"class of the data: 0, 1, .*, 9\. Received: -1"),
        (pixels, (images[:2], [3, 3]), 3, "class '3' and of others. Received: 2 of the class among 2"),
        (pixels, kvae.data.load(images), 3, "labelled train images"),
        (pixels, images, 3, "pair of images and labels. Received: ndarray"),
        (pixels, (images, labels[:5]), 3, "one label per image"),
        (conditional, data, 3, "without conditions.* 10 conditions"),
    ]:
        with pytest.raises(ValueError, match=message):
            features.attribute_direction(model, given, label)


def test_arithmetic(linear, rows):
    a, b, c = rows[:10], rows[10:30], rows[30:33]
    expected = c + a.mean(axis=0) - b.mean(axis=0)
    np.testing.assert_allclose(features.arithmetic(linear, a, b, c).reshape(3, 4), expected, atol=1e-5)


def test_planes(rows):
    plane = features.latent_plane(rows, "pca")
    expected = PCA(2).fit_transform(rows)
    np.testing.assert_allclose(np.abs(plane), np.abs(expected), atol=1e-5)
    groups = np.concatenate([rows, rows + 30])
    plane = features.latent_plane(groups, seed=3)
    np.testing.assert_array_equal(plane, features.latent_plane(groups, seed=3))
    within = np.linalg.norm(plane[:60, None] - plane[None, :60], axis=-1).mean()
    between = np.linalg.norm(plane[:60, None] - plane[None, 60:], axis=-1).mean()
    assert between > 2 * within
    assert features.latent_plane(rows[:, :1]).shape == (60, 2)
    assert features.latent_plane(rows[:3]).shape == (3, 2)
    assert np.isfinite(features.latent_plane(np.zeros((5, 4)))).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, z: features.nearest(model, z, z, k=0), "`k`"),
        (lambda model, z: features.nearest(model, z, z, k=61), "from 1 to 60"),
        (lambda model, z: features.nearest(None, z.reshape(-1, 2, 2, 1), z), "latents"),
        (lambda model, z: features.direction(model, z, z), "same mean"),
        (lambda model, z: features.direction(model, z, z + 1, "svm"), "method"),
        (lambda model, z: features.move(model, z, np.ones(3), [1.0]), "4 latents"),
        (lambda model, z: features.latent_plane(z, "umap"), "method"),
        (lambda model, z: features.latent_plane(z[:2]), "three latents"),
    ],
)
def test_invalid_arguments_are_refused(linear, rows, call, message):
    with pytest.raises(ValueError, match=message):
        call(linear, rows)
