"""Arrays and array files: valid and refused ones."""

import re

import numpy as np
import pytest

import kvae

from .pictures import numbered, numbers

IMAGES = numbered(40)


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (IMAGES, (9, 10, 1)),
        (IMAGES[..., 0], (9, 10, 1)),
        (IMAGES.astype(np.int64), (9, 10, 1)),
        (IMAGES / 255, (9, 10, 1)),
        ((IMAGES / 255).astype(np.float32), (9, 10, 1)),
        (np.repeat(IMAGES, 3, -1), (9, 10, 3)),
        (np.repeat(IMAGES, 2, -1), (9, 10, 2)),
        (np.repeat(IMAGES, 4, -1), (9, 10, 4)),
        (np.repeat(IMAGES / 255, 13, -1), (9, 10, 13)),
        (np.asfortranarray(IMAGES), (9, 10, 1)),
    ],
)
def test_values_are_scaled_to_the_unit_interval(images, shape):
    data = kvae.data.load(images)
    assert data.image_shape == shape
    x = np.concatenate([data.arrays(name)[0] for name in ("train", "validation", "test")])
    order = numbers(x)
    assert sorted(order) == list(range(40))
    np.testing.assert_allclose(x[..., :1], (IMAGES / 255)[order], atol=1e-7)


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (np.arange(40) % 3, (), np.arange(40) % 3),
        ((np.arange(40) % 3)[:, None], (), np.arange(40) % 3),
        ((np.arange(40) % 3).astype(float), (), np.arange(40) % 3),
        (["ant", "bee"] * 20, ("ant", "bee"), np.arange(40) % 2),
    ],
)
def test_labels(labels, names, expected):
    data = kvae.data.load((IMAGES, labels))
    images, found = data.arrays("train")
    assert data.label_names == names
    np.testing.assert_array_equal(found, expected[numbers(images)])


def floats(value):
    images = np.full((10, 8, 8), 0.5)
    images[3, 2, 1:3] = value
    return images


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 64)), "reshape flat images. Received: shape (4, 64)"),
        (np.zeros((0, 8, 8)), "expected at least one image. Received: shape (0, 8, 8)"),
        (np.zeros((4, 8, 8, 0)), "Received: images of shape (8, 8, 0)"),
        (np.zeros((4, 13, 64, 64)), "for channels-first arrays. Received: images of shape (13, 64, 64)"),
        (np.zeros((4, 5, 32, 48)), "for channels-first arrays. Received: images of shape (5, 32, 48)"),
        (np.zeros((4, 3, 32, 32)), "for channels-first arrays. Received: images of shape (3, 32, 32)"),
        (np.zeros((4, 7, 8)), "at least 8x8"),
        (np.zeros((28, 28, 3)), "enlarge them with size=. Received: images of shape (28, 3, 1)"),
        (floats(np.nan), "expected finite values; repair or drop the images. Received: 2 NaN or infinite"),
        (floats(np.inf), "Received: 2 NaN or infinite"),
        (
            np.full((4, 8, 8), 256),
            "expected 64-bit training images with more than one value, or value_range=(LOW, HIGH) ",
        ),
        (np.full((4, 8, 8), -1), "Received: -1 for all pixels"),
        (np.full((4, 8, 8), "a"), "expected numbers"),
        (np.zeros((4, 8, 8), complex), "Received: dtype complex128"),
        (np.array([np.zeros((8, 8)), None], object), "into a folder instead of an array. Received: dtype object"),
        (np.zeros((1, 8, 8)), "(at least 3). Received: 1 image"),
        (np.zeros((2, 8, 8)), "Received: 2 images"),
        ((IMAGES, np.zeros(39)), "expected as many labels as images. Received: 39 for 40 images"),
        ((IMAGES, np.eye(40)), "use np.argmax(labels, -1) for one-hot labels. Received: shape (40, 40)"),
        ((IMAGES, np.full(40, 0.5)), "expected integer or string labels. Received: dtype float64"),
        ((IMAGES, None, None), "Expected a pair (images, labels). Received: tuple of 3"),
        (42, "must be a name, a path, an array, a pair (images, labels) or a DataFrame. Received: int"),
        ("no/such/folder", "no such file or folder. Received: no/such/folder"),
        ("faces.npz", "no such file or folder. Received: faces.npz"),
        ("./faces", "no such file or folder"),
    ],
)
def test_invalid_sources_are_refused(source, message):
    with pytest.raises(kvae.data.DataError, match=re.escape(message)) as caught:
        kvae.data.load(source)
    assert "\n" not in str(caught.value)
    assert "Received: " in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "'batch_size' must be an integer >= 1. Received: 0"),
        ({"seed": -1}, "'seed' must be an integer >= 0. Received: -1"),
        ({"binarize": "dither"}, "must be one of none, threshold, stochastic. Received: 'dither'"),
        ({"size": 4}, "'size' must be an integer or (H, W), each >= 8. Received: 4"),
        ({"size": (8, 8, 8)}, "Received: (8, 8, 8)"),
        ({"size": "big"}, "Received: 'big'"),
        ({"validation_fraction": 1.0}, "'validation_fraction' must be in [0, 1). Received: 1.0"),
        ({"test_fraction": -0.1}, "'test_fraction' must be in [0, 1). Received: -0.1"),
        ({"test_fraction": 0.5, "validation_fraction": 0.5}, "must add up to less than 1"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(kvae.data.DataError, match=re.escape(message)):
        kvae.data.load(IMAGES, **options)


@pytest.mark.parametrize("content", ["object", "cut npy", "cut npz", "text", "empty"])
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / ("a.npz" if content == "cut npz" else "a.npy")
    if content == "object":
        np.save(path, np.array([{}, {}], object), allow_pickle=True)
    elif content == "cut npy":
        np.save(path, IMAGES)
    elif content == "cut npz":
        np.savez(path, images=IMAGES)
    if content.startswith("cut"):
        path.write_bytes(path.read_bytes()[:-100])
    elif content != "object":
        path.write_text("hello" if content == "text" else "")
    with pytest.raises(kvae.data.DataError, match=r"^a\.np[yz]: expected a readable array of numbers. Received: ."):
        kvae.data.load(path)


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "b.npz", x_train=IMAGES, x_test=IMAGES[:, :8])
    with pytest.raises(kvae.data.DataError, match="same image shape and type in every split"):
        kvae.data.load(tmp_path / "b.npz")
    (tmp_path / "c.txt").write_text("hello")
    with pytest.raises(kvae.data.DataError, match=r"Expected an image folder or a .npy, .npz, .csv or .parquet.*c.txt"):
        kvae.data.load(tmp_path / "c.txt")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_size_and_channels(dtype):
    images = numbered(40, 12, 20, 3)
    images = images if dtype == np.uint8 else (images / 255).astype(np.float32)
    x = kvae.data.load(images, size=(8, 10), grayscale=True).arrays("train")[0]
    assert x.shape == (32, 8, 10, 1)
    assert 0 <= x.min() < x.max() <= 1
    assert kvae.data.load(IMAGES, grayscale=False).image_shape == (9, 10, 3)
    grey = kvae.data.load(images, grayscale=True, validation_fraction=0, test_fraction=0).arrays("train")[0]
    luma = images @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    with pytest.raises(kvae.data.DataError, match=r"1 or 3 channels.*Received: 4 channels, grayscale=True"):
        kvae.data.load(np.zeros((40, 8, 8, 4)), grayscale=True)
    assert kvae.data.load(np.zeros((40, 8, 8, 4)), size=9).image_shape == (9, 9, 4)
    np.testing.assert_allclose(grey[..., 0] * (255 if dtype == np.uint8 else 1), luma, atol=0.51)


def test_a_split_of_an_npz_file_without_labels(tmp_path):
    np.savez(tmp_path / "set.npz", x_train=IMAGES[:20], y_train=np.array(["b", "a"] * 10), x_test=IMAGES[:10])
    with pytest.warns(kvae.data.DataWarning, match="^set: no labels in the test split$"):
        data = kvae.data.load(tmp_path / "set.npz")
    assert [data.is_labelled(split) for split in ("train", "validation", "test")] == [True, True, False]
    assert (data.label_names, data.arrays("test")[1]) == (("a", "b"), None)
    images, labels = data.arrays("train")
    assert labels.tolist() == [1 - i % 2 for i in numbers(images)]
