"""The contract of every source: shape, type, range, every image in one split, determinism under the seed."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import kvae

from .pictures import numbered, write_images, write_records

SOURCES = [
    "digits",
    "shapes",
    "faces",
    "uint8",
    "bool",
    "float",
    "rgb",
    "npy",
    "npz",
    "folder",
    "folder streamed",
    "records",
    "records streamed",
    "tfds streamed",
]


@pytest.fixture(params=SOURCES)
def case(request, tmp_path):
    """(source, options, number of images, largest value)."""
    name, options = request.param, {"batch_size": 16}
    images = numbered(100, channels=3 if name == "rgb" else 1)
    if name == "tfds streamed":
        return "mnist", {**options, "cache_bytes": 0, "data_dir": request.getfixturevalue("tfds_dir")}, 70_000
    if name == "faces":
        return name, {**options, "size": 16}, 12_000
    if name in ("digits", "shapes"):
        return name, options, 1797 if name == "digits" else 36_864
    if name == "npy":
        np.save(tmp_path / "a.npy", images)
        return tmp_path / "a.npy", options, 100
    if name == "npz":
        np.savez(tmp_path / "a.npz", images=images, labels=np.arange(100) % 4)
        return str(tmp_path / "a.npz"), options, 100
    if name.startswith("folder"):
        write_images(tmp_path / "pictures", images)
        return tmp_path / "pictures", {**options, "cache_bytes": 1 << 30 if name == "folder" else 0}, 100
    if name.startswith("records"):
        write_records(tmp_path / "shards", images, files=3)
        return tmp_path / "shards", {**options, "cache_bytes": 1 << 30 if name == "records" else 0}, 100
    arrays = {"bool": images > 127, "float": images / 255.0}
    return arrays.get(name, images), options, 100


def first(dataset, batches=3):
    return np.concatenate([x.numpy() for x in itertools.islice(dataset, batches)])


def test_every_source_keeps_the_contract(case):
    source, options, total = case
    data = kvae.data.load(source, **options)
    assert data.num_train + data.num_validation + data.num_test == total
    assert data.batches_per_epoch == -(-data.num_train // 16)
    for dataset in (data.train, data.validation, data.test):
        assert dataset.element_spec == tf.TensorSpec((None, *data.image_shape), tf.float32)
        x = first(dataset)
        assert x.dtype == np.float32
        assert (
            x.min() < 0.1 if isinstance(source, str) and source == "faces" else x.min() == 0
        )  # all other images have black pixels
        assert 0.9 < x.max() <= 1
    if data.counts_are_exact:
        assert data.train.cardinality() == data.batches_per_epoch


@pytest.mark.parametrize(
    "case", ["digits", "shapes", "uint8", "folder streamed", "records streamed", "tfds streamed"], indirect=True
)
def test_passes_are_deterministic_and_differ(case):
    source, options, _ = case
    one, two, other = (kvae.data.load(source, seed=seed, **options) for seed in (3, 3, 4))
    train, again = one.train, two.train
    first_pass, second_pass = first(train), first(train)
    np.testing.assert_array_equal(first(again), first_pass)
    np.testing.assert_array_equal(first(again), second_pass)
    np.testing.assert_array_equal(first(one.train), first_pass)  # each access begins with epoch 0
    assert not np.array_equal(first_pass, second_pass)
    assert not np.array_equal(first(other.train), first_pass)
    np.testing.assert_array_equal(first(two.split("train", shuffle=True, epoch=1)), second_pass)
    np.testing.assert_array_equal(first(one.test), first(one.test))
    np.testing.assert_array_equal(one.arrays("test", limit=20)[0], first(two.test, 2)[:20])


def test_the_seed_of_the_order_does_not_change_the_images():
    data = kvae.data.load("digits", binarize="stochastic", batch_size=2000)
    orders = [first(data.split("train", shuffle=True, seed=seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(*orders[:2])
    assert not np.array_equal(orders[0], orders[2])
    labels = [
        np.concatenate([label for _, label in data.split("train", labels=True, shuffle=True, seed=seed)])
        for seed in (0, 1)
    ]
    assert not np.array_equal(*labels)
    np.testing.assert_array_equal(*map(np.bincount, labels))


def test_order_does_not_depend_on_the_global_seed():
    passes = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        passes.append(first(kvae.data.load("digits", binarize="stochastic").train))
    np.testing.assert_array_equal(*passes)
