"""Binary images: thresholded, redrawn for training, drawn once for evaluation."""

import numpy as np
import pytest

import kvae
from kvae.data.pipeline import BINARIZE

from .pictures import numbered, write_images

GREY = np.repeat(np.arange(256, dtype=np.uint8), 4).reshape(1, 32, 32).repeat(400, 0)  # each level, 4 times each


def collect(dataset):
    return np.concatenate([x.numpy() for x in dataset])


def test_threshold():
    x = kvae.data.load(GREY, binarize="threshold").arrays("train", limit=1)[0]
    np.testing.assert_array_equal(x[0, ..., 0], (GREY[0] >= 128).astype(np.float32))  # 127.5 / 255 = 0.5


def test_binarisation_is_described():
    found = {name: kvae.data.load(GREY, binarize=name, seed=3).binarisation for name in BINARIZE}
    assert found == {"none": None, "threshold": "thresholded at 0.5", "stochastic": "stochastic, seed 3"}


def test_training_draws_are_redrawn_with_the_probability_of_the_pixel():
    data = kvae.data.load(GREY, binarize="stochastic", validation_fraction=0, test_fraction=0.1)
    train = data.train
    passes = [collect(train) for _ in range(2)]
    assert set(np.unique(passes)) == {0.0, 1.0}
    assert 0.3 < np.mean(passes[0] != passes[1]) < 0.37  # E[2p(1-p)] = 1/3 for p uniform
    draws = np.concatenate(passes).reshape(-1, 256, 4)  # 720 images, each level 4 times
    mean, p = draws.mean((0, 2)), np.arange(256) / 255
    error = np.sqrt(p * (1 - p) / (720 * 4))
    assert np.all(np.abs(mean - p) <= 5 * error)  # 256 tests at 5 standard errors: false alarm 1.5e-4
    assert mean[0] == 0
    assert mean[255] == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_evaluation_draws_do_not_depend_on_batch_size_and_limit(tmp_path, streamed):
    images = numbered(500)
    write_images(tmp_path, images)
    cache_bytes = 0 if streamed else 1 << 30
    options = {"binarize": "stochastic", "test_fraction": 0.4, "cache_bytes": cache_bytes}
    data = kvae.data.load(tmp_path, **options)
    everything = data.arrays("test")[0]
    plain = kvae.data.load(tmp_path, **{**options, "binarize": "none"}).arrays("test")[0]
    error = np.sqrt(np.mean(plain * (1 - plain)) / plain.size)
    assert abs(everything.mean() - plain.mean()) < 5 * error
    assert np.all(everything[plain == 0] == 0)
    assert np.all(everything[plain == 1] == 1)
    for batch_size in (1, 64, 77):
        np.testing.assert_array_equal(collect(data.split("test", batch_size=batch_size)), everything)
    np.testing.assert_array_equal(data.arrays("test", limit=70)[0], everything[:70])
    in_memory = kvae.data.load(tmp_path, **{**options, "cache_bytes": 1 << 30})
    np.testing.assert_array_equal(in_memory.arrays("test")[0], everything)
    other = kvae.data.load(tmp_path, **{**options, "seed": 1}).arrays("test")[0]
    assert not np.array_equal(other, everything)


def test_splits_have_different_draws():
    same = np.full((60, 8, 8), 128, np.uint8)
    data = kvae.data.load(same, binarize="stochastic", validation_fraction=0.3, test_fraction=0.3)
    draws = [data.arrays(name, limit=18)[0] for name in ("train", "validation", "test")]
    assert not np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[1], draws[2])


def test_zero_one_integers_are_zero_and_one():
    images = (numbered(50) > 127).astype(np.int32)
    x = kvae.data.load(images).arrays("train")[0]
    assert set(np.unique(x)) == {0.0, 1.0}
    resized = kvae.data.load(images, size=16).arrays("train")[0]
    assert resized.max() == 1
    assert len(np.unique(resized)) > 100  # grey levels at edges


def test_binarized_mnist_is_zero_and_one(tfds_dir):
    data = kvae.data.load("binarized_mnist", data_dir=tfds_dir)
    assert (data.num_train, data.num_validation, data.num_test) == (50_000, 10_000, 10_000)
    assert not data.has_labels
    assert data.binarisation == "fixed binarisation of Larochelle & Murray"
    x = data.arrays("test")[0]
    assert set(np.unique(x)) == {0.0, 1.0}
    assert abs(x.mean() - 0.1325) < 1e-4  # the published mean pixel
