"""TFRecord files: reading, splits, and damaged records."""

import itertools
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import tensorflow as tf

import kvae
from kvae.data import DataError, DataWarning, records

from .pictures import numbered, numbers, write_records

IMAGES = numbered(200)
EVERYTHING = list(range(200))


def all_numbers(data):
    return {split: numbers(data.arrays(split)[0]) for split in ("train", "validation", "test")}


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_images_labels_and_numbers(tmp_path, cache_bytes):
    write_records(tmp_path, IMAGES, files=3)
    data = kvae.data.load(tmp_path, cache_bytes=cache_bytes, batch_size=32)
    assert data.image_shape == (9, 10, 1)
    assert (data.num_train, data.num_validation, data.num_test) == (160, 20, 20)
    assert sorted(itertools.chain(*all_numbers(data).values())) == EVERYTHING
    for split in ("train", "test"):
        for x, pairs in data.numbered(split):
            np.testing.assert_array_equal(pairs[:, 1], numbers(x))
            np.testing.assert_array_equal(pairs[:, 0], np.array(numbers(x)) % 4)
    assert sorted(n for x in data.train for n in numbers(x)) == sorted(all_numbers(data)["train"])


def test_held_out_images_come_from_every_file(tmp_path):
    write_records(tmp_path, IMAGES, files=4)
    held_out = all_numbers(kvae.data.load(tmp_path))["test"]
    assert [sum(k * 50 <= n < (k + 1) * 50 for n in held_out) for k in range(4)] == [5, 5, 5, 5]


@pytest.mark.parametrize("names", [("train", "test"), ("digits-train", "digits-test"), ("train/part", "test/part")])
def test_splits_by_name(tmp_path, names):
    for name, part in zip(names, (IMAGES[:150], IMAGES[150:])):
        write_records((tmp_path / name).parent, part, files=2, name=(tmp_path / name).name)
    found = all_numbers(kvae.data.load(tmp_path))
    assert sorted(found["test"]) == list(range(150, 200))
    assert sorted(found["train"] + found["validation"]) == list(range(150))


def test_one_file_without_labels(tmp_path):
    (path,) = write_records(tmp_path, IMAGES, labels=False)
    data = kvae.data.load(path, size=8)
    assert data.image_shape == (8, 8, 1)
    assert not data.has_labels


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_damaged_records_are_left_out_with_a_warning(tmp_path, cache_bytes):
    first, second = write_records(tmp_path, IMAGES, files=2)
    content = bytearray(first.read_bytes())
    place = content.index(b"IHDR", content.index(b"IHDR") + 1)  # in the second record
    content[place] ^= 1
    first.write_bytes(bytes(content))
    second.write_bytes(second.read_bytes()[:-10])  # in the last one
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        data = kvae.data.load(tmp_path, cache_bytes=cache_bytes, validation_fraction=0, test_fraction=0)
        found = numbers(data.arrays("train")[0])
    messages = [str(warning.message) for warning in caught]
    assert "part-1.tfrecord is damaged after 99 records: left out the last" in messages[0]
    assert (
        "left out 1 records that are damaged or have no image of 9x10x1 (part-0.tfrecord: 1); 1 so far" in messages[1]
    )
    assert len(messages) == 2
    assert sorted(found) == [0, *range(2, 199)]


def test_images_of_another_size_are_left_out(tmp_path):
    write_records(tmp_path, IMAGES[:100], name="a")
    write_records(tmp_path, numbered(3, height=12), name="b")
    with pytest.warns(DataWarning, match=r"left out 3 records .*9x10x1 \(b-0\.tfrecord: 0, 1, 2\)"):
        assert len(kvae.data.load(tmp_path, test_fraction=0, validation_fraction=0).arrays("train")[0]) == 100


def test_files_without_records_are_refused(tmp_path):
    file = tmp_path / "x.tfrecord"
    file.write_bytes(b"")
    with pytest.raises(DataError, match="expected enough images"):
        kvae.data.load(tmp_path)
    file.write_bytes(b"not a record at all")
    with (
        pytest.raises(DataError, match="expected enough images"),
        pytest.warns(DataWarning, match=r"x\.tfrecord is damaged after 0 records: left out the last 19 of 19"),
    ):
        kvae.data.load(tmp_path)


def test_records_without_images_are_refused(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        for _ in range(20):
            writer.write(b"something else")
    with pytest.raises(DataError, match=r"expected tf\.train\.Example records with an encoded image"):
        kvae.data.load(tmp_path)


def test_a_prepared_dataset_given_by_its_folder(tfds_dir, tmp_path):
    (version,) = sorted(path.parent for path in (tmp_path.__class__(tfds_dir) / "mnist").glob("*/dataset_info.json"))
    data = kvae.data.load(version)
    assert (data.num_train, data.num_test, data.image_shape) == (54_000, 10_000, (28, 28, 1))
    assert data.name == "mnist"


@pytest.mark.parametrize(("memory", "expected"), [(records.MEMORY, 2_048), (100 * 90, 100), (90, 64)])
def test_the_shuffle_buffer_is_limited_in_bytes(tmp_path, monkeypatch, memory, expected):
    write_records(tmp_path, IMAGES)
    monkeypatch.setattr(records, "MEMORY", memory)
    sizes, shuffle = [], tf.data.Dataset.shuffle
    monkeypatch.setattr(
        tf.data.Dataset,
        "shuffle",
        lambda self, size, *args, **kw: sizes.append(size) or shuffle(self, size, *args, **kw),
    )
    data = kvae.data.load(tmp_path, cache_bytes=0)
    assert sorted(n for x in data.train for n in numbers(x)) == sorted(all_numbers(data)["train"])
    assert set(sizes) == {expected}


# Several workers.


@pytest.mark.parametrize("binarize", ["none", "stochastic"])
@pytest.mark.parametrize("source", ["memory", "folder streamed"])
def test_parts_of_workers_make_the_batches_of_one_process(tmp_path, source, binarize):
    from .pictures import write_images

    source_, options = IMAGES, {}
    if source == "folder streamed":
        write_images(tmp_path, IMAGES)
        source_, options = tmp_path, {"cache_bytes": 0}
    data = kvae.data.load(source_, batch_size=32, binarize=binarize, **options)
    whole = list(data.split("train", shuffle=True, epoch=2).as_numpy_iterator())
    parts = [list(data.split("train", shuffle=True, epoch=2, worker=(w, 4)).as_numpy_iterator()) for w in range(4)]
    for batch, *shares in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(shares), batch)
        assert {len(share) for share in shares} == {len(batch) // 4}


def test_workers_read_each_record_once(tmp_path):
    write_records(tmp_path, IMAGES, files=3)
    data = kvae.data.load(tmp_path, batch_size=8, cache_bytes=0)
    read = [[n for x in data.split("train", shuffle=True, worker=(w, 2)) for n in numbers(x)] for w in range(2)]
    assert sorted(itertools.chain(*read)) == sorted(all_numbers(data)["train"])
    assert all(len(part) > 30 for part in read)


def test_a_batch_size_that_does_not_fit_the_workers_is_refused():
    data = kvae.data.load("digits", batch_size=32)
    with pytest.raises(DataError, match="a batch size that is a multiple of the 3 workers"):
        data.split("train", shuffle=True, worker=(0, 3))
    with pytest.raises(DataError, match="expected a shuffled split"):
        data.split("train", worker=(0, 2))


# Larger than memory.

STREAM = """
import json, resource, sys
import kvae
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
data = kvae.data.load(sys.argv[1], batch_size=256, cache_bytes=0)
count, most = 0, 0.0
while count < 20_000:
    for batch in data.split("train", shuffle=True, epoch=count):
        count += len(batch)
        most = max(most, resident())
        if count >= 20_000:
            break
print(json.dumps({"megabytes": most, "images": data.num_train}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_memory_does_not_grow_from_ten_thousand_to_two_hundred_thousand_images(tmp_path):
    """Twenty hard links to each of ten files."""
    images = np.random.default_rng(0).integers(0, 256, (10_000, 28, 28, 1), np.uint8)
    few = tmp_path / "few"
    write_records(few, images, files=10, labels=False)
    many = tmp_path / "many"
    many.mkdir()
    for copy in range(20):
        for path in few.iterdir():
            (many / f"{copy}-{path.name}").hardlink_to(path)
    found = {}
    for folder in (few, many):
        command = [sys.executable, "-c", STREAM, str(folder)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True)
        found[folder.name] = json.loads(printed.stdout)
    assert (found["few"]["images"], found["many"]["images"]) == (8_000, 160_000)
    assert found["many"]["megabytes"] < 1.1 * found["few"]["megabytes"], found
