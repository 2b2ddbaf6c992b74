"""The rendered shapes, compared with their geometry."""

import numpy as np
import pytest

import kvae


@pytest.fixture(scope="module")
def data():
    return kvae.data.shapes()


def of(data, **values):
    """Return the images with these values of the factors."""
    chosen = np.ones(len(data.images), bool)
    for name, value in values.items():
        chosen &= data.factors[:, data.names.index(name)] == value
    return data.images[chosen, ..., 0]


def centres(images):
    """Return the centres of mass, (N, 2): column and row, in pixels."""
    at = np.arange(32) + 0.5
    mass = images.sum(axis=(1, 2))
    return np.stack([images.sum(axis=1) @ at / mass, images.sum(axis=2) @ at / mass], axis=1)


def test_all_combinations_once_and_all_images_different(data):
    assert data.images.shape == (36_864, 32, 32, 1)
    assert data.images.dtype == np.float32
    assert np.array_equal(np.unique(data.factors, axis=0), data.factors)  # in order, without duplicates
    assert tuple(data.factors.max(axis=0) + 1) == data.sizes
    assert len({image.tobytes() for image in data.images}) == len(data.images)


#: square of side R√2, ellipse of semi-axes R and R/2; R from 4 to 8
AREAS = {0: lambda r: 2 * r**2, 1: lambda r: np.pi * r**2 / 2}


@pytest.mark.parametrize("shape", AREAS)
@pytest.mark.parametrize("scale", [0, 3, 5])
def test_area_and_position(data, shape, scale):
    images = of(data, shape=shape, scale=scale)
    radius = 4 + 0.8 * scale
    # Eight sample points along a pixel: an edge parallel to the pixels, 4√2 R long in all, is off by at most 1/16.
    assert np.abs(images.sum(axis=(1, 2)) - AREAS[shape](radius)).max() < 4 * np.sqrt(2) * radius / 16
    factors = data.factors[(data.factors[:, 0] == shape) & (data.factors[:, 1] == scale)]
    np.testing.assert_allclose(centres(images), 8.5 + factors[:, 3:], atol=0.02)


def test_x_and_y_only_move_the_shape(data):
    here, right, below = (of(data, x=x, y=y) for x, y in ((4, 7), (5, 7), (4, 8)))
    np.testing.assert_array_equal(here[:, :, :-1], right[:, :, 1:])
    np.testing.assert_array_equal(here[:, :-1], below[:, 1:])


def test_orientation_turns_counter_clockwise(data):
    """The angle of the ellipse's long axis is half that of its second moment as a complex number."""
    ellipses = of(data, shape=1, scale=5, x=8, y=8)
    rows, columns = np.mgrid[:32, :32] - 16.0  # from the centre, pixel (16, 16)
    moment = np.einsum("nij,ij->n", ellipses, (columns - 1j * rows) ** 2)
    np.testing.assert_allclose(np.angle(moment) / 2, np.arange(8) * np.pi / 16, atol=0.01)  # about half a degree


def test_edges_are_smooth_and_nothing_is_cut_off(data):
    for orientation in range(1, 8):  # an upright square may have its edges between pixels
        images = of(data, orientation=orientation)
        assert np.count_nonzero((images > 0) & (images < 1), axis=(1, 2)).min() >= 12
    for scale in range(6):
        mass = of(data, shape=2, scale=scale, orientation=0).sum(axis=(1, 2))
        assert np.ptp(mass) < 1e-3  # the same at every position


def test_a_sample_is_seeded():
    one, two, other = (kvae.data.shapes(50, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.images, two.images)
    assert not np.array_equal(one.factors, other.factors)
    assert len(np.unique(one.factors, axis=0)) == 50
    whole = kvae.data.shapes(36_864, seed=3)
    assert len(np.unique(whole.factors, axis=0)) == 36_864


@pytest.mark.parametrize("n", [0, 36_865])
def test_an_n_out_of_range_is_refused(n):
    with pytest.raises(kvae.data.DataError, match=rf"1 … 36,864. Received: {n}"):
        kvae.data.shapes(n)


def test_the_named_source_has_the_same_images_and_the_shape_as_label(data):
    loaded = kvae.data.load("shapes")
    assert loaded.label_names == ("square", "ellipse", "heart")
    assert (loaded.num_train, loaded.num_validation, loaded.num_test) == (29_492, 3_686, 3_686)
    images, labels = loaded.arrays("test", limit=200)
    index = {image.tobytes(): i for i, image in enumerate(data.images)}
    found = [index[image.tobytes()] for image in images]
    np.testing.assert_array_equal(data.factors[found, 0], labels)
