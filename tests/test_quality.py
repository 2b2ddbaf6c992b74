"""Fréchet distance compared with closed forms; sharpness and sample quality on images with a known order."""

import keras
import numpy as np
import pytest
from scipy import linalg, ndimage

import kvae
from kvae import evaluation, likelihoods, networks
from kvae.evaluation import frechet_distance, sharpness


@pytest.fixture(scope="module")
def data():
    return kvae.data.load("digits")


@pytest.fixture(scope="module")
def classifier(data):
    return evaluation.feature_classifier(data, epochs=8)


def with_moments(rng, n, mean, covariance):
    """Return n points with exactly this mean and covariance."""
    x = rng.normal(size=(n, len(mean)))
    x = np.linalg.qr(x - x.mean(axis=0))[0] * np.sqrt(n - 1)
    return mean + x @ linalg.sqrtm(covariance).real


@pytest.mark.parametrize("size", [1, 3, 20])
def test_frechet_distance_of_commuting_covariances(size):
    """For diagonal covariances it is |μ_a − μ_b|² + Σ (σ_a − σ_b)²."""
    rng = np.random.default_rng(size)
    (mean_a, mean_b), (scale_a, scale_b) = rng.normal(size=(2, size)), rng.uniform(0.1, 3, size=(2, size))
    a, b = (with_moments(rng, 50, m, np.diag(s**2)) for m, s in ((mean_a, scale_a), (mean_b, scale_b)))
    expected = np.sum((mean_a - mean_b) ** 2) + np.sum((scale_a - scale_b) ** 2)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_any_covariances():
    """Compare with the matrix root of SciPy."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(300, 6)) + 0.5
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(cov_a @ cov_b).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_singular_covariances():
    """There are fewer points than features, and some features are always 0, as often in classifiers."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10, 30)) * (rng.random(30) < 0.7) * 1e3
    assert frechet_distance(x, x) < 1e-6  # of terms of 1e7, in float64
    assert frechet_distance(x, x + 1) == pytest.approx(30, abs=1e-6)
    assert frechet_distance(x, 3 * x - 2 * x.mean(axis=0)) == pytest.approx(4 * x.var(axis=0, ddof=1).sum(), rel=1e-9)
    assert frechet_distance(np.zeros((2, 3)), np.ones((2, 3))) == 3.0


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((5, 2)), np.zeros((5, 3)), r"Received: \(5, 2\) and \(5, 3\)"),
        (np.zeros((1, 2)), np.zeros((5, 2)), "at least two"),
        (np.full((5, 2), np.nan), np.zeros((5, 2)), "NaN"),
    ],
)
def test_invalid_features_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)


def test_sharpness_falls_with_blur():
    images = kvae.data.shapes(400).images
    blurred = [sharpness(ndimage.gaussian_filter(images, (0, s, s, 0)), images) for s in (0.3, 0.5, 1.0, 2.0, 4.0)]
    assert sharpness(images, images) == 1
    assert all(a > b for a, b in zip([1, *blurred], blurred))
    assert blurred[-1] < 0.01
    assert sharpness(images.mean(axis=0, keepdims=True), images) < 0.01  # the mean of all 400


def test_sharpness_of_waves():
    """The Laplacian of sin ωx is −(2 sin ω/2)² sin ωx."""
    x = np.arange(400) * np.ones((3, 1))
    fast, slow = (np.sin(omega * x)[np.newaxis, :, :, np.newaxis] for omega in (0.5, 0.2))
    assert sharpness(fast, slow) == pytest.approx((np.sin(0.25) / np.sin(0.1)) ** 4, rel=0.01)  # whole waves, nearly


@pytest.mark.parametrize(
    ("images", "reference", "message"),
    [
        (np.zeros((2, 8, 8, 1)), np.zeros((2, 8, 8, 3)), "of one size"),
        (np.zeros((2, 2, 8, 1)), np.zeros((2, 2, 8, 1)), "at least 3×3"),
        (np.zeros((0, 8, 8, 1)), np.ones((2, 8, 8, 1)), "shapes"),
        (np.zeros((2, 8, 8, 1)), np.ones((2, 8, 8, 1)), "with edges"),
    ],
)
def test_invalid_images_are_refused(images, reference, message):
    with pytest.raises(ValueError, match=message):
        sharpness(images, reference)


@pytest.mark.slow
def test_features_classify_digits_and_distances_grow_with_noise(data, classifier):
    test, labels = data.arrays("test")
    accuracy = np.mean(classifier.predict(test, verbose=0).argmax(axis=1) == labels)
    assert accuracy > 0.9
    real = evaluation.classifier_features(classifier, data.arrays("train", limit=180)[0])
    noise = np.random.default_rng(0).normal(size=test.shape)
    distances = [
        frechet_distance(evaluation.classifier_features(classifier, np.clip(test + s * noise, 0, 1)), real)
        for s in (0.0, 0.2, 0.5)
    ]
    assert distances == sorted(distances)
    assert distances[-1] > 2 * distances[0]


@pytest.mark.slow
def test_the_classifier_is_seeded(data, classifier):
    test = data.arrays("test")[0]
    again = evaluation.feature_classifier(data, epochs=8)
    features, same = (evaluation.classifier_features(model, test) for model in (classifier, again))
    np.testing.assert_allclose(same, features, atol=0.01 * features.std())  # sums in parallel, in any order


@pytest.mark.slow
def test_a_trained_model_has_better_samples_than_an_untrained_one(data, classifier):
    untrained, trained = (
        kvae.VAE(
            kvae.Encoder(8, networks.MLP((128,))), kvae.Decoder((8, 8, 1), networks.MLP((128,))),
            likelihood=likelihoods.Normal(0.1),
        )
        for _ in range(2)
    )  # fmt: skip
    trained.compile(keras.optimizers.Adam(3e-3))
    trained.fit(data.train, epochs=20, verbose=0)
    before, after = (evaluation.sample_quality(model, data, classifier=classifier) for model in (untrained, trained))
    assert set(after) == {
        "frechet_means", "frechet_draws", "frechet_floor", "sharpness_samples", "sharpness_reconstructions",
        "classifier_accuracy", "measure", "n",
    }  # fmt: skip
    assert after["frechet_floor"] < after["frechet_means"] < 0.5 * before["frechet_means"]
    assert after["frechet_draws"] < before["frechet_draws"]
    assert before["frechet_floor"] == after["frechet_floor"]
    assert 0.1 < after["sharpness_samples"] < 1  # a VAE blurs
    assert 0.1 < after["sharpness_reconstructions"] < 1
    assert "not FID" in after["measure"]
    assert after["n"] == 180
    again = evaluation.sample_quality(trained, data, classifier=classifier)
    assert again["frechet_draws"] == pytest.approx(after["frechet_draws"], rel=1e-4)


@pytest.mark.slow
def test_quality_requires_labels(data, classifier):
    images = kvae.data.load(data.arrays("train")[0])
    model = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
    for measure in (lambda: evaluation.sample_quality(model, images), lambda: evaluation.feature_classifier(images)):
        with pytest.raises(ValueError, match="Expected data with labels"):
            measure()
    with pytest.raises(ValueError, match="n=1"):
        evaluation.sample_quality(model, data, n=1, classifier=classifier)
    with pytest.raises(ValueError, match="epochs=0"):
        evaluation.feature_classifier(data, epochs=0)
