"""The rendered faces: what each factor changes, at every size."""

import numpy as np
import pytest

import kvae
from kvae.data import DataError, faces, render_faces

NAMES = faces(1, size=8).names
MOUTH, MIDDLE = (-0.3, 0.3, 0.08, 0.53), (-0.2, 0.2, -0.2, 0.5)  # left, right, top, bottom; from −1 to 1
EYES, BROWS = (-0.38, 0.38, -0.27, 0.04), (-0.42, 0.42, -0.5, -0.12)
SHIRT, ABOVE = (-1, 1, 0.9, 1), (-1, 1, -1, -0.86)

#: the only part of an image that a factor changes
INSIDE = {
    "smile": MOUTH, "mouth_open": MOUTH, "brow_height": BROWS, "brow_slant": BROWS, "eye_open": EYES, "gaze": EYES,
}  # fmt: skip
#: a part that it doesn't change
OUTSIDE = {
    "turn": SHIRT, "tilt": SHIRT, "face_width": SHIRT, "skin": ABOVE, "hair_color": MOUTH, "hair_length": MIDDLE,
    "fringe": MIDDLE, "background": MIDDLE,
}  # fmt: skip
MIRRORED = np.where(np.isin(NAMES, ["turn", "tilt", "gaze", "fringe", "light"]), -1, 1)


def within(box, size):
    """Return which pixels have their centre in a box."""
    left, right, top, bottom = box
    at = (np.arange(size) + 0.5) * 2 / size - 1
    return ((at >= top) & (at <= bottom))[:, np.newaxis] & ((at >= left) & (at <= right))


def shrunk(images, k):
    n, h, w, c = images.shape
    return images.reshape(n, h // k, k, w // k, k, c).mean(axis=(2, 4))


@pytest.fixture(scope="module")
def data():
    return faces(100, seed=1)


def test_a_face_depends_on_the_seed_and_its_number_only(data):
    fewer = faces(41, seed=1)  # in other blocks
    np.testing.assert_array_equal(fewer.factors, data.factors[:41])
    np.testing.assert_array_equal(fewer.images, data.images[:41])
    np.testing.assert_array_equal(render_faces(data.factors[7]), data.images[7:8])
    assert not np.isin(faces(100, size=8, seed=2).factors, data.factors).any()


def test_images_and_factors(data):
    assert (data.images.shape, data.images.dtype) == ((100, 64, 64, 3), np.float32)
    assert 0 <= data.images.min() < 0.1
    assert 0.95 < data.images.max() <= 1
    assert (data.factors.shape, data.factors.dtype) == ((100, len(NAMES)), np.float32)
    assert (data.sizes, data.categorical) == ((), ())
    factors = faces(3000, size=8).factors
    # Uniform in [−1, 1]: a mean of 0 with a standard error of 0.011, and some 30 values beyond each of ±0.98.
    assert np.abs(factors).max() <= 1
    assert np.abs(factors.mean(axis=0)).max() < 0.05
    assert factors.min(axis=0).max() < -0.98
    assert factors.max(axis=0).min() > 0.98


@pytest.mark.parametrize(("size", "k", "tolerance"), [(64, 2, 0.02), (33, 4, 0.04)])  # the edges are a larger part
def test_a_size_shows_the_same_faces_with_smooth_edges(data, size, k, tolerance):
    """An image is near the mean of its pixels at a larger size, unlike one that takes every k-th pixel."""
    factors = data.factors[:20]
    large, small = render_faces(factors, size * k), render_faces(factors, size)
    error = np.sqrt(np.mean((shrunk(large, k) - small) ** 2))
    without = np.sqrt(np.mean((shrunk(large, k) - large[:, ::k, ::k]) ** 2))
    assert error < tolerance
    assert error < without / 2.5


@pytest.mark.parametrize("name", NAMES)
def test_a_factor_changes_its_part_of_the_image(name):
    low, high = render_faces(**{name: [-1, 1]})
    changed = (low != high).any(axis=-1)
    assert changed.mean() > 0.005
    if name in INSIDE:
        assert not changed[~within(INSIDE[name], 64)].any()
    elif name in OUTSIDE:
        assert not changed[within(OUTSIDE[name], 64)].any()


def test_a_mirrored_face(data):
    mirrored = render_faces(data.factors * MIRRORED)
    # The arithmetic has another order: a value between two levels may go to the other one.
    np.testing.assert_allclose(mirrored[:, :, ::-1], data.images, atol=1.01 / 255)


def centre_of_change(name, **others):
    """Return where a factor changes the image, (x, y)."""
    low, high = render_faces(**{name: [-1, 1]}, **others)
    change = np.abs(low - high).sum(axis=-1)
    return np.array([change.sum(axis=0) @ np.arange(64), change.sum(axis=1) @ np.arange(64)]) / change.sum()


def test_the_head_turns_and_tilts_to_the_right():
    (turned, _), (still, _) = centre_of_change("smile", turn=1), centre_of_change("smile")
    assert 4 < turned - still < 10  # pixels
    brow, mouth = (centre_of_change(k, tilt=1) - centre_of_change(k) for k in ("brow_height", "smile"))
    assert brow[0] > mouth[0] + 2 > 4  # about the neck: the brows are farther from it


def test_a_smile_raises_the_corners_of_the_mouth():
    """The mouth is darker than the skin: where are its dark pixels in the middle, and near the corners?"""
    for smile in (-1, 1):
        grey = render_faces(smile=smile, mouth_open=-1)[0].mean(axis=-1)
        rows = [38 + grey[38:50, columns].mean(axis=1).argmin() for columns in (slice(31, 33), slice(25, 27))]
        assert np.sign(rows[0] - rows[1]) == smile


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: faces(0), r"'n' must be an integer >= 1. Received: 0"),
        (lambda: faces(4, size=7), r"'size' must be an integer >= 8. Received: 7"),
        (lambda: faces(4, size=(64, 64)), r"'size' must be an integer >= 8. Received: \(64, 64\)"),
        (lambda: faces(4, seed=-1), r"'seed' must be an integer >= 0. Received: -1"),
        (lambda: render_faces(smiles=1), r"factors among smile, .*, background. Received: smiles"),
        (lambda: render_faces(smile=1.5), r"factors in \[-1, 1\]. Received: smile=1.5"),
        (lambda: render_faces(tilt=[0, np.nan]), r"factors in \[-1, 1\]. Received: tilt=nan"),
        (lambda: render_faces(np.zeros((2, 3))), r"shape \(N, 15\). Received: \(2, 3\)"),
        (lambda: render_faces(np.zeros((2, 15)), smile=[0, 1, 0]), r"each of 2 faces.*Received: smile \(3,\)"),
        (lambda: render_faces(smile=[[0], [1]]), r"numbers or arrays \(N,\). Received: factors of shape \(2, 1\)"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_the_named_source_has_the_same_images_labelled_by_the_smile():
    """At the size that is asked for; another aspect ratio is cut from the middle."""
    loaded = kvae.data.load("faces", size=(12, 16))
    assert loaded.image_shape == (12, 16, 3)
    assert loaded.label_names == ("frown", "smile")
    assert (loaded.num_train, loaded.num_validation, loaded.num_test) == (9600, 1200, 1200)
    images, labels = loaded.arrays("test")
    assert 560 < labels.sum() < 640  # standard error 17, less for the split has the proportions of the whole
    some = faces(2000, size=16)
    index = {image[2:-2].tobytes(): i for i, image in enumerate(some.images)}
    found = {index[image.tobytes()]: label for image, label in zip(images, labels) if image.tobytes() in index}
    assert len(found) > 150  # a tenth of 2,000
    assert all((some.factors[i, 0] > 0) == label for i, label in found.items())
