"""Splits are recovered after a source has changed, for every kind of source."""

import itertools
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

import kvae
from kvae.data import DataError
from kvae.data.catalogue import BLOCK, array_keys, file_keys

from .pictures import numbered, numbers, write_images, write_records
from .test_named import write_set

IMAGES = numbered(200)
SPLITS = ("train", "validation", "test")
BEFORE = list(range(100))


def write_npy(root, which):
    np.save(root / "a.npy", IMAGES[which])
    return root / "a.npy"


def write_npz(root, which):
    np.savez(root / "a.npz", images=IMAGES[which], labels=np.array(which) % 4)
    return root / "a.npz"


def write_parts(root, which):
    """Write an .npz file with its own splits: images 80 to 99 are the test split."""
    parts = {"train": [i for i in which if not 80 <= i < 100], "test": [i for i in which if 80 <= i < 100]}
    np.savez(root / "a.npz", **{f"x_{name}": IMAGES[part] for name, part in parts.items()})
    return root / "a.npz"


def write_folder(root, which):
    """Write consecutively numbered files: if one is removed, all later ones have another name."""
    write_images(root, IMAGES[which])
    return root


def write_classes(root, which):
    for label in range(4):
        write_images(root / f"class{label}", IMAGES[[i for i in which if i % 4 == label]])
    return root


def write_shards(root, which):
    write_records(root, IMAGES[which], files=3, labels=False)
    return root


#: how images are written, and options of `load`
KINDS = {
    "npy": (write_npy, {}),
    "npz": (write_npz, {}),
    "npz, resized": (write_npz, {"size": (9, 10), "grayscale": True}),
    "npz with splits": (write_parts, {}),
    "folder": (write_folder, {}),
    "folder, streamed": (write_folder, {"cache_bytes": 0}),
    "class folders": (write_classes, {}),
    "class folders, streamed": (write_classes, {"cache_bytes": 0}),
    "records": (write_shards, {}),
    "records, streamed": (write_shards, {"cache_bytes": 0}),
}
#: the images after the change
CHANGES = {
    "the same": BEFORE,
    "grown": [*range(100, 130), *BEFORE],
    "shrunk": [i for i in BEFORE if i % 7],
    "replaced": [i + 100 if i % 10 == 0 else i for i in BEFORE],
    "in another order": BEFORE[::-1],
    "copies": [*BEFORE, *BEFORE[::5]],
    "all changes": [*range(100, 130), *(i for i in BEFORE[::-1] if i % 7), *range(50)],
}


def load(write, root, which, options):
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    return kvae.data.load(write(root, which), batch_size=16, **options)


def found(data, names=SPLITS):
    return {name: numbers(data.arrays(name)[0]) for name in names}


@pytest.mark.parametrize("kind", KINDS)
def test_splits_are_recovered(tmp_path, kind):
    write, options = KINDS[kind]
    data = load(write, tmp_path / "data", BEFORE, {**options, "seed": 3})
    fingerprint, before = data.fingerprint(), found(data)
    assert sorted(itertools.chain(*before.values())) == BEFORE
    for change, which in CHANGES.items():
        again = load(write, tmp_path / "data", which, {**options, "seed": 4})  # which splits differently
        changes, again = again.changes(fingerprint), again.with_splits(fingerprint)
        here = {name: np.isin(part, which) for name, part in before.items()}
        new = sorted(set(which) - set(BEFORE))
        assert changes == ({name: int((~kept).sum()) for name, kept in here.items()}, len(new)), change
        assert (again.num_train, again.num_test) == (here["train"].sum(), here["test"].sum())
        for name, kept in here.items():
            np.testing.assert_array_equal(again.fingerprint()[name], fingerprint[name][kept])
    images, labels = again.arrays("test")
    assert numbers(images) == [i for i in before["test"] if i in which]
    if labels is not None:
        np.testing.assert_array_equal(labels, np.array(numbers(images)) % 4)
    assert sorted(found(again, ["new"])["new"]) == new


@pytest.mark.parametrize("kind", ["npz", "folder, streamed", "records"])
def test_resumed_training_has_the_same_batches(tmp_path, kind):
    write, options = KINDS[kind]
    data = load(write, tmp_path / "data", BEFORE, options)
    fingerprint, batch = data.fingerprint(), numbers(next(iter(data.split("train", shuffle=True, epoch=2))))
    again = load(write, tmp_path / "data", CHANGES["grown"], options).with_splits(fingerprint)
    assert numbers(next(iter(again.split("train", shuffle=True, epoch=2)))) == batch


def test_images_may_move_between_the_arrays_of_a_file(tmp_path):
    data = load(write_parts, tmp_path / "data", BEFORE, {})
    np.savez(tmp_path / "b.npz", x_train=IMAGES[50:90], x_test=np.concatenate([IMAGES[:50], IMAGES[90:110]]))
    again = kvae.data.load(tmp_path / "b.npz").with_splits(data.fingerprint())
    assert found(again) == found(data)
    assert found(again, ["new"])["new"] == list(range(100, 110))
    with pytest.raises(DataError, match="the new split is empty; all images are in the saved splits"):
        data.arrays("new")


@pytest.mark.parametrize("kind", ["npy", "folder", "records"])
def test_other_images_are_refused(tmp_path, kind):
    write, options = KINDS[kind]
    fingerprint = load(write, tmp_path / "data", BEFORE, options).fingerprint()
    data = load(write, tmp_path / "data", [i + 100 for i in BEFORE], options)
    assert data.changes(fingerprint) == ({"train": 80, "validation": 10, "test": 10}, 100)
    with pytest.raises(DataError, match="Received: other images, none of the 100; restore them"):
        data.with_splits(fingerprint)


def test_a_missing_split_is_refused(tmp_path):
    data = kvae.data.load(IMAGES[:100])
    test = found(data, ["test"])["test"]
    rest = [i for i in BEFORE if i not in test]
    again = kvae.data.load(IMAGES[rest]).with_splits(data.fingerprint())
    assert found(again, ["train"]) == found(data, ["train"])
    with pytest.raises(DataError, match="the test split is empty; all its images are missing"):
        again.arrays("test")


def test_prepared_datasets_are_identified_by_version(tmp_path):
    features = {"image": tfds.features.Image(shape=(9, 10, 1))}
    for folder, count in (("a", 100), ("b", 100), ("c", 120)):
        write_set(tmp_path / folder, "mine", features, IMAGES[:count])
    a, b, c = (kvae.data.load("mine", data_dir=tmp_path / folder) for folder in "abc")
    assert b.changes(a.fingerprint()) == ({"train": 0, "validation": 0, "test": 0}, 0)
    assert found(b.with_splits(a.fingerprint())) == found(a)
    assert len({key for keys in a.fingerprint().values() for key in keys.tolist()}) == 100
    assert c.changes(a.fingerprint()).new == 20
    with pytest.raises(DataError, match=r"Received: another version.*prepare the original version"):
        c.with_splits(a.fingerprint())
    whole = kvae.data.load("mine", data_dir=tmp_path / "a", validation_fraction=0, test_fraction=0)
    assert set(whole.fingerprint()["train"]) == {key for keys in a.fingerprint().values() for key in keys}


def test_keys_depend_on_the_whole_content(tmp_path):
    content = np.random.default_rng(0).integers(0, 256, 10 * BLOCK, np.uint8)
    for name, change in {"a": None, "b": None, "first": 0, "middle": 5 * BLOCK, "last": 10 * BLOCK - 1}.items():
        bytes_ = content.copy()
        if change is not None:
            bytes_[change] ^= 1
        (tmp_path / name).write_bytes(bytes_.tobytes())
    (tmp_path / "longer").write_bytes(content.tobytes() + b"\0")
    (tmp_path / "short").write_bytes(b"short")
    names = ["a", "b", "first", "middle", "last", "longer", "short", "not there"]
    keys = file_keys([tmp_path / name for name in names]).tolist()
    assert keys[0] == keys[1]
    assert len(set(keys)) == len(names) - 1
    floats = np.zeros((3000, 2, 2), np.float32)
    floats[2999, 1, 1] = 1e-9
    assert len(set(array_keys(floats).tolist())) == 2
    assert array_keys(floats[:, ::-1])[0] == array_keys(floats)[0]  # an array that isn't contiguous
