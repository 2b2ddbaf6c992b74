"""Sample quality without downloads: a Fréchet distance and sharpness."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

MEASURE = "Fréchet distance in the features of a classifier trained on the same data; not FID"
FEATURES = 64
BATCH = 256


def sample_quality(model: Any, data: Any, n: int = 2000, classifier: Any = None, seed: int = 0) -> dict[str, Any]:
    """Compare samples of a VAE with test images: the distance of their distributions, and their sharpness.

    Fréchet distances are measured between the features (`frechet_distance`, `feature_classifier`) of the first n test
    images and of n other images; 0 is best. Their bias falls with n: compare only distances with the same n and
    classifier. The floor is the distance of training images; no model is expected to be below it.

    Args:
        model: a `kvae.VAE`; a conditional model generates images with the labels of the test images.
        data: the result of `kvae.data.load`, with labels; a conditional model uses only the labelled test images.
        n: largest number of images on either side (there may be fewer test images).
        classifier: the result of `feature_classifier`, so that models are compared in the same features; or any
            `keras.Sequential` whose last layer gives logits. None trains one.
        seed: seed of the samples and of the classifier.

    Returns:
        Dict with

        * `frechet_means`, `frechet_draws`: distances of samples, as means of x given z and as draws of x given z; with
          a simple likelihood the draws have pixel noise and the means don't;
        * `frechet_floor`: distance of training images;
        * `sharpness_samples`, `sharpness_reconstructions`: sharpness of means of x, see `sharpness`; NaN if the test
          images have no edges, or are smaller than 3×3;
        * `classifier_accuracy`: accuracy on the labelled test images (NaN without any); features of an inaccurate
          classifier have little meaning;
        * `measure`: description of the Fréchet distance; `n`.

    Raises:
        ValueError: if labels are missing, or n < 2.

    Example:

        >>> import kvae
        >>> data = kvae.data.load("digits")
        >>> vae = kvae.VAE(latent_dim=2, image_shape=data.event_shape)
        >>> untrained = keras.Sequential([keras.Input(data.event_shape), layers.Flatten(), layers.Dense(10)])
        >>> quality = sample_quality(vae, data, n=50, classifier=untrained)
        >>> quality["frechet_floor"] < quality["frechet_means"], quality["n"]
        (True, 50)
    """
    _check_labels(data, "train", "test")
    if n < 2:
        raise ValueError(f"Argument `n` must be >= 2. Received: n={n}")
    test, labels = data.arrays("test", limit=n)
    known = labels >= 0
    if model.condition_dim is not None:
        test, labels, known = test[known], labels[known], known[known]
    train, _ = data.arrays("train", limit=len(test))
    condition = None if model.condition_dim is None else labels
    means = np.clip(model.generate(len(test), seed, condition=condition), 0, 1)
    draws = np.clip(model.generate(len(test), seed, condition=condition, pixel_noise=True), 0, 1)
    classifier = classifier or feature_classifier(data, seed=seed)
    real = classifier_features(classifier, test)
    to_test = {
        f"frechet_{name}": frechet_distance(classifier_features(classifier, images), real)
        for name, images in (("means", means), ("draws", draws), ("floor", train))
    }
    given = (test,) if condition is None else (test, condition)
    reconstructions = np.clip(_in_batches(model.reconstruct, *given), 0, 1)
    has_edges = min(test.shape[1:3]) >= 3 and _laplacian_energy(test) > 0
    correct = (_in_batches(classifier, test).argmax(axis=1) == labels)[known]
    return {
        **to_test,
        "sharpness_samples": sharpness(means, test) if has_edges else math.nan,
        "sharpness_reconstructions": sharpness(reconstructions, test) if has_edges else math.nan,
        "classifier_accuracy": float(np.mean(correct)) if len(correct) else math.nan,
        "measure": MEASURE,
        "n": len(test),
    }


def frechet_distance(features_a: Any, features_b: Any) -> float:
    """Return the squared Fréchet (2-Wasserstein) distance between normal distributions fitted to two sets of features.

    It is |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) (Heusel et al. 2017, https://arxiv.org/abs/1706.08500, eq. 6).
    With Σ = RᵀR from a QR decomposition, the trace of the root is the sum of the singular values of R_a R_bᵀ. This is
    exact for singular covariances, too, unlike a matrix root of the product.

    Args:
        features_a, features_b: `(N, D)` and `(M, D)`, at least two of each.

    Raises:
        ValueError: if an array has another shape, or values are not finite.

    Example:

        >>> x = np.random.default_rng(0).normal(size=(100, 5))
        >>> round(frechet_distance(x, x + 2), 9), round(frechet_distance(x, x), 9)
        (20.0, 0.0)
    """
    a, b = (np.asarray(x, np.float64) for x in (features_a, features_b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"Expected features (N, D) and (M, D) of at least two images each. Received: {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("Expected finite features. Received: NaN or infinity")
    root_a, root_b = (np.linalg.qr(x - x.mean(axis=0), mode="r") / np.sqrt(len(x) - 1) for x in (a, b))
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    squares = np.sum(root_a**2) + np.sum(root_b**2) + np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    return float(max(squares - 2 * cross, 0.0))  # rounding may make it negative for equal sets


def sharpness(images: Any, reference: Any) -> float:
    """Return the mean energy of the Laplacian of images divided by that of a reference: 1 is as sharp, 0 is flat.

    The Laplacian, the four neighbours minus four times the pixel, weights a spatial frequency ω by about |ω|², and its
    energy by |ω|⁴. It measures edges and texture, which an average over possible images loses, and hardly the low
    frequencies that blur leaves. Pixel noise counts as sharp, too: use means of x, not draws.

    Args:
        images, reference: `(N, H, W, C)` and `(M, H, W, C)`, at least 3×3.

    Raises:
        ValueError: if images have another shape, or the reference is flat.

    Example:

        >>> x = np.random.default_rng(0).random((10, 8, 8, 1))
        >>> sharpness(x, x), sharpness(x / 2, x)
        (1.0, 0.25)
    """
    images, reference = np.asarray(images, np.float64), np.asarray(reference, np.float64)
    shapes = images.shape, reference.shape
    if (
        images.ndim != 4
        or shapes[0][1:] != shapes[1][1:]
        or 0 in (len(images), len(reference))
        or min(shapes[0][1:3]) < 3
    ):
        raise ValueError(f"Expected images (N, H, W, C) of one size, at least 3×3. Received: shapes {shapes}")
    energy = _laplacian_energy(reference)
    if not energy > 0:
        raise ValueError(f"Expected a reference with edges. Received: energy of the Laplacian {energy}")
    return _laplacian_energy(images) / energy


def feature_classifier(data: Any, epochs: int = 5, seed: int = 0) -> keras.Model:
    """Train a small convolutional network to classify the images of `data`; images to logits.

    `sample_quality` compares images in its last hidden layer (64 numbers). These features distinguish the classes of
    the data and may ignore other properties.

    Args:
        data: the result of `kvae.data.load`, with labels; images without a label (−1) have no weight.
        epochs: passes over the training images.
        seed: seed of the initial weights. The data determines the order of the images.

    Raises:
        ValueError: if the data has no labels, or epochs < 1.

    Example:

        >>> import kvae
        >>> images, labels = np.indices((20, 8, 8))[0][..., np.newaxis] % 2, np.arange(20) % 2
        >>> classifier = feature_classifier(kvae.data.load((images, labels)), epochs=1)
        >>> classifier_features(classifier, images).shape
        (20, 64)
    """
    _check_labels(data, "train")
    if epochs < 1:
        raise ValueError(f"Argument `epochs` must be >= 1. Received: epochs={epochs}")
    train = data.split("train", labels=True, shuffle=True).map(_weighted)
    classes = len(data.label_names) or 1 + int(data.arrays("train")[1].max())
    seeds = iter(range(seed, seed + 5))

    def initial() -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(seed=next(seeds))

    def conv(filters: int) -> layers.Layer:
        return layers.Conv2D(filters, 3, 2, padding="same", activation="relu", kernel_initializer=initial())

    classifier = keras.Sequential(
        [
            keras.Input(data.event_shape),
            *map(conv, (32, 64, 64)),
            layers.Flatten(),
            layers.Dense(FEATURES, activation="relu", kernel_initializer=initial()),
            layers.Dense(classes, kernel_initializer=initial()),
        ]
    )
    classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    classifier.fit(train, epochs=epochs, shuffle=False, verbose=0)  # the data is shuffled already
    return classifier


def _weighted(x: Any, label: Any) -> tuple[Any, Any, Any]:
    """Return images, labels and weights; an image without a label has weight 0."""
    return x, ops.maximum(label, 0), ops.cast(label >= 0, "float32")


def classifier_features(classifier: keras.Model, images: Any) -> np.ndarray:
    """Return the output of the classifier's last hidden layer, images `(N, H, W, C)` to features `(N, 64)`.

    Example:

        >>> classifier = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])
        >>> classifier_features(classifier, np.zeros((7, 8, 8, 1))).shape
        (7, 64)
    """
    return _in_batches(keras.Model(classifier.inputs[0], classifier.layers[-1].input), np.asarray(images))


def _in_batches(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    starts = range(0, len(arrays[0]), BATCH)
    return np.concatenate([np.asarray(function(*(x[i : i + BATCH] for x in arrays))) for i in starts])


def _laplacian_energy(x: np.ndarray) -> float:
    """Return the mean square of the discrete Laplacian, without the border."""
    neighbours = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return float(np.mean(np.square(neighbours - 4 * x[:, 1:-1, 1:-1])))


def _check_labels(data: Any, *splits: str) -> None:
    if not getattr(data, "has_labels", False) or not all(map(data.is_labelled, splits)):
        raise ValueError(
            "Expected data with labels, for the classifier that measures sample quality. "
            f"Received: {data!r:.200}; load labels, for example with kvae.data.load((images, labels))"
        )
