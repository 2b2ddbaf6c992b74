"""Splits: disjoint, complete, stratified; and the results of `split` and `arrays`."""

import numpy as np
import pytest
import tensorflow as tf

import kvae

from .pictures import numbered, numbers, write_images

IMAGES, LABELS = numbered(300), np.arange(300) // 100  # sorted by class


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize(("validation", "test"), [(0.25, 0.05), (0.0, 0.2)])
def test_splits_are_disjoint_and_complete(labels, validation, test):
    source = IMAGES if labels is None else (IMAGES, labels)
    data = kvae.data.load(source, validation_fraction=validation, test_fraction=test)
    assert (data.num_validation, data.num_test) == (round(300 * validation), round(300 * test))
    names = [n for n in ("train", "validation", "test") if getattr(data, f"num_{n}")]
    assert sorted(i for name in names for i in numbers(data.arrays(name)[0])) == list(range(300))


def test_a_training_pass_has_every_image_once():
    data = kvae.data.load(IMAGES, batch_size=32)
    batches = list(data.train)
    assert [len(x) for x in batches] == [32] * 7 + [16]
    assert sorted(numbers(np.concatenate(batches))) == sorted(numbers(data.arrays("train")[0]))


def test_each_class_is_held_out_in_proportion():
    data = kvae.data.load((IMAGES, LABELS))
    for name, each in (("train", 80), ("validation", 10), ("test", 10)):
        assert np.bincount(data.arrays(name)[1]).tolist() == [each] * 3


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
def test_labels_stay_with_their_images(tmp_path, cache_bytes):
    for k in range(3):
        write_images(tmp_path / f"class{k}", IMAGES[k == LABELS])
    for data in (kvae.data.load((IMAGES, LABELS)), kvae.data.load(tmp_path, cache_bytes=cache_bytes)):
        for x, y in data.split("train", labels=True, shuffle=True, limit=100, batch_size=30):
            assert y.dtype == tf.int64
            assert [i // 100 for i in numbers(x)] == y.numpy().tolist()
        images, labels = data.arrays("test", limit=12)
        assert [i // 100 for i in numbers(images)] == labels.tolist()
        assert set(labels.tolist()) == {0, 1, 2}  # the first images have all classes


def test_limit_and_batch_size():
    data = kvae.data.load(IMAGES)
    everything = numbers(data.arrays("train")[0])
    some = list(data.split("train", limit=50, batch_size=20))
    assert [len(x) for x in some] == [20, 20, 10]
    assert numbers(np.concatenate(some)) == everything[:50]
    shuffled = numbers(np.concatenate(list(data.split("train", limit=50, shuffle=True))))
    assert shuffled != everything[:50]
    assert sorted(shuffled) == sorted(everything[:50])
    assert len(data.arrays("test", limit=10_000)[0]) == 30


def test_the_splits_of_a_source_are_kept(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=IMAGES[:200], x_test=IMAGES[200:220], x_valid=IMAGES[220:])
    data = kvae.data.load(tmp_path / "a.npz")
    for name, expected in (("train", range(200)), ("test", range(200, 220)), ("validation", range(220, 300))):
        assert numbers(data.arrays(name)[0]) == list(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.split("dev"), "Unknown split: expected one of train, validation, test. Received: 'dev'"),
        (lambda d: d.arrays("all"), "Received: 'all'"),
        (lambda d: d.split("test", labels=True), "expected a split with labels.*Received: labels=True"),
        (lambda d: d.split("test", limit=0), "'limit' must be >= 1. Received: 0"),
        (lambda d: d.split("test", batch_size=0), "'batch_size' must be >= 1. Received: 0"),
        (lambda d: d.validation, "the validation split is empty.*Received: validation_fraction=0"),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    data = kvae.data.load(IMAGES, validation_fraction=0)
    with pytest.raises(kvae.data.DataError, match=message):
        call(data)
