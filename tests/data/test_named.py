"""Datasets of TensorFlow Datasets: reading prepared ones, and messages about missing ones."""

import os
import re
import time
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import kvae

from .pictures import numbered, numbers, write_images


@pytest.mark.slow
def test_mnist_in_memory_and_streamed_agree(tfds_dir):
    loaded = kvae.data.load("mnist", data_dir=tfds_dir)
    streamed = kvae.data.load("mnist", data_dir=tfds_dir, cache_bytes=0)
    assert (loaded.num_train, loaded.num_validation, loaded.num_test) == (54_000, 6_000, 10_000)
    assert loaded.label_names == tuple("0123456789")
    images, labels = loaded.arrays("test")
    assert abs(images.mean() * 255 - 33.7912) < 1e-3  # the published mean pixel
    some, some_labels = streamed.arrays("test", limit=100)
    np.testing.assert_array_equal(some, images[:100])
    np.testing.assert_array_equal(some_labels, labels[:100])


def test_the_data_folder_is_set_by_the_environment(tfds_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", tfds_dir)
    data = kvae.data.load("cifar10_small", validation_fraction=0.25, cache_bytes=0, size=16, grayscale=True)
    assert (data.num_train, data.num_validation, data.num_test) == (15_000, 5_000, 10_000)
    assert data.label_names[:2] == ("airplane", "automobile")
    x, y = next(iter(data.split("validation", labels=True, limit=40)))
    assert x.shape == (40, 16, 16, 1)
    assert len(np.unique(y)) > 4
    assert 0.3 < x.numpy().mean() < 0.6


def test_resized_binary_images_have_grey_levels(tfds_dir):
    data = kvae.data.load("binarized_mnist", data_dir=tfds_dir, cache_bytes=0, size=20)
    x = data.arrays("test", limit=50)[0]
    assert x.max() == 1
    assert len(np.unique(x)) > 50


def test_dataset_without_labels_with_16_bit_values(tmp_path):
    images = np.random.default_rng(0).integers(0, 65536, (40, 10, 12, 1), np.uint16)
    write_set(tmp_path, "deep", {"image": tfds.features.Image(shape=(10, 12, 1), dtype=np.uint16)}, images)
    data = kvae.data.load("deep", data_dir=tmp_path, value_range=(0, 65535))
    assert (data.num_train, data.num_validation, data.num_test, data.has_labels) == (32, 4, 4, False)
    order = np.concatenate([data.arrays(name)[0] for name in ("train", "validation", "test")])
    np.testing.assert_allclose(order * 65535, images, atol=0.01)  # all images


def test_images_of_several_sizes_require_a_size(tmp_path):
    images = [np.full((h, 30, 3), h, np.uint8) for h in range(20, 60)]
    write_set(tmp_path, "mixed", {"image": tfds.features.Image(shape=(None, None, 3))}, images)
    with pytest.raises(kvae.data.DataError, match=r"mixed: expected images of one size; pass size= \(--size"):
        kvae.data.load("mixed", data_dir=tmp_path)
    data = kvae.data.load("mixed", data_dir=tmp_path, size=(16, 24))
    x = data.arrays("train")[0]
    assert x.shape == (32, 16, 24, 3)
    assert len(np.unique(x)) == 32


def test_a_dataset_without_images_is_refused(tmp_path):
    write_set(tmp_path, "sounds", {"audio": tfds.features.Scalar(np.int64)}, range(9), key="audio")
    with pytest.raises(kvae.data.DataError, match=r"expected a dataset with an 'image' feature. Received: audio"):
        kvae.data.load("sounds", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mnits", "mnist"),
        ("digit", "digits"),
        ("shape", "shapes"),
        ("face", "faces"),
        ("my_own_st", "my_own_set"),
        ("cifar1", "cifar10"),
    ],
)
def test_an_unknown_name_lists_similar_ones(tmp_path, name, near):
    write_set(
        tmp_path,
        "my_own_set",
        {"image": tfds.features.Image(shape=(8, 8, 1))},
        np.zeros((9, 8, 8, 1), np.uint8),
    )
    with pytest.raises(kvae.data.DataError, match=f"did you mean.*{near}.*Received: '{name}'"):
        kvae.data.load(name, data_dir=tmp_path)


def test_an_unknown_name_without_similar_ones():
    with pytest.raises(kvae.data.DataError, match=r"see the TensorFlow Datasets catalogue.*Received: 'qqqqqqqq'"):
        kvae.data.load("qqqqqqqq")


@pytest.mark.parametrize(
    ("options", "failure", "message"),
    [
        (
            {"download": False},
            None,
            "expected a prepared dataset with download=False; put a prepared copy into data_dir",
        ),
        (
            {},
            ConnectionError("no\nroute"),
            "could not be downloaded.*TFDS_DATA_DIR.*ConnectionError: no route",
        ),
        ({}, RuntimeError("x" * 500), "Received: RuntimeError: x{160}…$"),
    ],
)
def test_a_missing_dataset_is_refused(tmp_path, monkeypatch, options, failure, message):
    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    monkeypatch.setattr("socket.getaddrinfo", lambda *args: [])
    with pytest.raises(kvae.data.DataError, match=message) as caught:
        kvae.data.load("mnist", data_dir=tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_a_missing_network_is_reported_at_once(tmp_path, monkeypatch):
    def unknown(*args):
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    start = time.monotonic()
    with pytest.raises(kvae.data.DataError, match=r"no connection to storage.googleapis.com \(Name or service"):
        kvae.data.load("mnist", data_dir=tmp_path)
    assert time.monotonic() - start < 5


def test_a_folder_of_the_same_name_is_reported(tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    with (
        pytest.warns(
            kvae.data.DataWarning, match=r"^mnist: loading the named dataset instead of the folder of the same name"
        ),
        pytest.raises(kvae.data.DataError, match=re.escape("write ./mnist for the folder")),
    ):
        kvae.data.load("mnist", data_dir=tmp_path / "none", download=False)


@pytest.mark.parametrize("name", ["digits", "own"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_named_dataset_takes_precedence_over_a_path(tmp_path, monkeypatch, name, kind):
    if name == "own":
        write_set(tmp_path / "sets", "own", {"image": tfds.features.Image(shape=(9, 10, 1))}, numbered(20))
    monkeypatch.chdir(tmp_path)
    if kind == "folder":
        write_images(tmp_path / name, numbered(10, height=12))
    else:
        np.save("x.npy", numbered(10, height=12))
        os.rename("x.npy", name)
    message = f"{name}: loading the named dataset instead of the {kind} of the same name; write ./{name} for the {kind}"
    with pytest.warns(kvae.data.DataWarning, match=f"^{re.escape(message)}$") as caught:
        assert kvae.data.load(name, data_dir=tmp_path / "sets").image_shape == {"digits": (8, 8, 1)}.get(
            name, (9, 10, 1)
        )
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if kind == "folder":
            assert kvae.data.load(f"./{name}").image_shape == (12, 10, 1)
        monkeypatch.chdir(tmp_path / "sets" if name == "own" else tmp_path.parent)
        kvae.data.load(name, data_dir=tmp_path / "sets")  # the folder `own` is the dataset


def write_set(root, name, features, values, key="image", files=1):
    """Write a prepared dataset of one split, as TFDS does, which has no builder."""
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True, exist_ok=True)
    features = tfds.features.FeaturesDict(features)
    parts = np.array_split(np.arange(len(values)), files)
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=[len(part) for part in parts],
        num_bytes=0,
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split="train", filetype_suffix="tfrecord"
        ),
    )
    for i, part in enumerate(parts):
        path = folder / f"{name}-train.tfrecord-{i:05d}-of-{files:05d}"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for row in part:
                writer.write(features.serialize_example(features.encode_example({key: values[row]})))
    tfds.folder_dataset.write_metadata(data_dir=folder, features=features, split_infos=[split], check_data=False)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
@pytest.mark.parametrize("place", ["probed", "later", "missing"])
def test_a_damaged_file_is_refused(tmp_path, cache_bytes, place):
    """A damaged in-memory dataset must not return uninitialised images."""
    write_set(tmp_path, "torn", {"image": tfds.features.Image(shape=(9, 10, 1))}, numbered(600), files=2)
    first, second = sorted((tmp_path / "torn" / "1.0.0").glob("*.tfrecord-*"))
    path = first if place == "probed" else second
    content = bytearray(path.read_bytes())
    content[len(content) // 8] ^= 1
    path.write_bytes(bytes(content))
    if place == "missing":
        path.unlink()
    with pytest.raises(kvae.data.DataError, match=r"^torn: .*(corrupted record at|No such file)"):
        kvae.data.load("torn", data_dir=tmp_path, cache_bytes=cache_bytes).arrays("train")
    if place == "later" and not cache_bytes:
        with pytest.raises(tf.errors.DataLossError, match="corrupted record"):
            list(kvae.data.load("torn", data_dir=tmp_path, cache_bytes=0).train)


def test_workers_read_their_own_files(tmp_path):
    images = numbered(90, channels=1)
    write_set(tmp_path, "sharded", {"image": tfds.features.Image(shape=(9, 10, 1))}, images, files=3)
    data = kvae.data.load("sharded", data_dir=tmp_path, cache_bytes=0, batch_size=6, test_fraction=0)
    parts = [[n for x in data.split("train", shuffle=True, worker=(w, 3)) for n in numbers(x)] for w in range(3)]
    assert [sorted(part) for part in parts] == [list(range(30)), list(range(30, 60)), list(range(60, 81))]
    with pytest.raises(kvae.data.DataError, match=r"at least as many files as workers.* Received: 3 files, 6 workers"):
        next(iter(data.split("train", shuffle=True, worker=(0, 6))))
    by_folder = kvae.data.load(tmp_path / "sharded" / "1.0.0", test_fraction=0)
    assert by_folder.num_train == data.num_train
    assert by_folder.name == "sharded"
