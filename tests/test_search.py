"""Neighbours, directions and planes of latents, compared with NumPy and planted answers."""

import keras
import numpy as np
import pytest
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
