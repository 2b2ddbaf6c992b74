"""`.npz` files: the entries that are read, selected by their names; no other entry is read."""

import re

import numpy as np
import pytest

import kvae
from kvae.data import DataError, DataWarning

from .pictures import numbered, numbers

IMAGES = numbered(40)
LABELS = np.arange(40) % 2

#: number of rows of each key; number of images in the splits; whether there are labels
KEYS = {
    "x_train": ({"x_train": 20, "y_train": 20, "x_test": 10, "y_test": 10}, (18, 2, 10), True),
    "without labels": ({"x_train": 20, "x_test": 10}, (18, 2, 10), False),
    "x_val": ({"x_train": 20, "x_val": 5, "x_test": 10}, (20, 5, 10), False),
    "x_valid": ({"x_train": 20, "x_valid": 5}, (18, 5, 2), False),
    "x_validation": ({"x_train": 20, "y_train": 20, "x_validation": 5, "y_validation": 5}, (18, 5, 2), True),
    "capitals": ({"X_train": 20, "y_train": 20, "X_test": 10, "y_test": 10}, (18, 2, 10), True),
    "all capitals": ({"X_TRAIN": 20, "Y_TRAIN": 20, "X_TEST": 10, "Y_TEST": 10}, (18, 2, 10), True),
    "camel case": ({"xTrain": 20, "yTrain": 20, "xTest": 10, "yTest": 10}, (18, 2, 10), True),
    "no separator": ({"Xtrain": 20, "ytrain": 20}, (16, 2, 2), True),
    "split first": ({"train_x": 20, "train_y": 20, "test_x": 10, "test_y": 10}, (18, 2, 10), True),
    "hyphens": ({"train-images": 20, "train-labels": 20, "test-images": 10, "test-labels": 10}, (18, 2, 10), True),
    "medmnist": (
        {"train_images": 20, "val_images": 5, "test_images": 10}
        | {"train_labels": 20, "val_labels": 5, "test_labels": 10},
        (20, 5, 10), True,
    ),
    "images_train": ({"images_train": 20, "labels_train": 20, "images_test": 10, "labels_test": 10}, (18, 2, 10), True),
    "splits alone": ({"train": 20, "test": 10}, (18, 2, 10), False),
    "data and target": ({"data_train": 20, "target_train": 20}, (16, 2, 2), True),
    "images": ({"images": 20, "labels": 20}, (16, 2, 2), True),
    "image": ({"image": 20, "label": 20}, (16, 2, 2), True),
    "Images": ({"Images": 20, "Labels": 20}, (16, 2, 2), True),
    "x": ({"x": 20, "y": 20}, (16, 2, 2), True),
    "imgs": ({"imgs": 20}, (16, 2, 2), False),
    "data": ({"data": 20}, (16, 2, 2), False),
    "arr_0": ({"arr_0": 20}, (16, 2, 2), False),
    "arr_0 and arr_1": ({"arr_0": 20, "arr_1": 20}, (16, 2, 2), True),
    "anything": ({"anything": 20}, (16, 2, 2), False),
    "anything and labels": ({"faces": 20, "labels": 20}, (16, 2, 2), True),
}  # fmt: skip


def is_label(key):
    return not re.search("x|im|data|arr_0|faces|anything|^train$|^test$", key.lower())


@pytest.mark.parametrize("case", KEYS)
def test_splits_and_labels_are_found_by_name(tmp_path, case):
    keys, counts, labels = KEYS[case]
    np.savez_compressed(tmp_path / "set.npz", **{k: (LABELS if is_label(k) else IMAGES)[:n] for k, n in keys.items()})
    data = kvae.data.load(tmp_path / "set.npz")
    assert data.name == "set"
    assert (data.num_train, data.num_validation, data.num_test) == counts
    assert data.has_labels == labels
    images, found = data.arrays("train")
    if labels:
        np.testing.assert_array_equal(found, LABELS[numbers(images)])


class Explosive:
    """Raises when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_dsprites(tmp_path):
    """The published layout with fewer images: unused entries are not read, and nothing is unpickled."""
    binary = np.random.default_rng(0).integers(0, 2, (50, 64, 64), np.uint8)
    factors = np.random.default_rng(1).integers(0, 3, (50, 6))
    np.savez_compressed(
        tmp_path / "dsprites.npz",
        metadata=np.array({"title": Explosive()}, object), imgs=binary, latents_classes=factors,
        latents_values=factors.astype(float),
    )  # fmt: skip
    data = kvae.data.load(tmp_path / "dsprites.npz")
    assert (data.image_shape, data.num_train, data.has_labels) == ((64, 64, 1), 40, False)
    x = data.arrays("train")[0]
    assert {image.tobytes() for image in x} <= {image.astype(np.float32).tobytes() for image in binary}


def test_medmnist_with_one_label_each(tmp_path):
    parts = {"train": IMAGES[:20], "val": IMAGES[20:30], "test": IMAGES[30:]}
    entries = {f"{name}_images": images for name, images in parts.items()}
    entries |= {f"{name}_labels": (np.array(numbers(images / 255)) % 3)[:, None] for name, images in parts.items()}
    np.savez(tmp_path / "pneumonia.npz", **entries)
    data = kvae.data.load(tmp_path / "pneumonia.npz")
    images, labels = data.arrays("validation")
    assert numbers(images) == list(range(20, 30))
    np.testing.assert_array_equal(labels, np.arange(20, 30) % 3)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (np.zeros((40, 14), int), r"labels \(40, 14\) int64 has several labels per image"),
        (np.eye(40), r"labels \(40, 40\) float64 has several labels per image"),
        (np.linspace(0, 1, 40), r"labels \(40,\) float64 is not one class per image"),
        (np.array([{}] * 40, object), r"labels \(40,\) object is not one class per image"),
        (np.zeros((40, 2, 2)), r"labels \(40, 2, 2\) float64 is not one class per image"),
    ],
)
def test_invalid_labels_are_left_out_with_a_warning(tmp_path, labels, problem):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=labels)
    with pytest.warns(DataWarning, match=f"a.npz: labels left out, because {problem}"):
        data = kvae.data.load(tmp_path / "a.npz")
    assert not data.has_labels
    assert data.num_train == 32


def test_labels_without_training_labels_are_left_out_with_a_warning(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=IMAGES[:30], x_test=IMAGES[30:], y_test=LABELS[30:])
    with pytest.warns(DataWarning, match="a: labels left out, because the training images have none"):
        assert not kvae.data.load(tmp_path / "a.npz").has_labels


def test_key_selects_another_entry(tmp_path):
    small = numbered(40, 8, 8)
    np.savez(tmp_path / "a.npz", x_train=IMAGES, y_train=LABELS, small=small, y=LABELS)
    data = kvae.data.load(tmp_path / "a.npz", key="small")
    images, labels = data.arrays("train")
    assert images.shape == (32, 8, 8, 1)
    np.testing.assert_array_equal(labels, LABELS[numbers(images)])


NOTHING = {"weights": np.zeros(3), "bias": np.zeros(3)}


@pytest.mark.parametrize(
    ("entries", "options", "message"),
    [
        (
            NOTHING,
            {},
            r"with key= \(--key on the command line\)\. Received: bias \(3,\) float64, weights \(3,\) float64",
        ),
        (NOTHING, {"key": "images"}, r"of the file \(bias \(3,\) float64, weights .*\)\. Received: 'images'"),
        (NOTHING, {"key": "bias"}, r"expected an array \(N, H, W\).*Received: shape \(3,\)"),
        ({"a": IMAGES, "b": IMAGES}, {}, r"Received: a \(40, 9, 10, 1\) uint8, b \(40, 9, 10, 1\) uint8"),
        ({"x_test": IMAGES, "y_test": LABELS, "b": IMAGES}, {}, "expected arrays x_train"),
        ({"images": IMAGES, "labels": LABELS[:30]}, {}, "as many labels as images. Received: 30 for 40 images"),
        ({"x_train": np.moveaxis(np.zeros((40, 32, 32, 3)), -1, 1)}, {}, r"np.moveaxis\(images, 1, -1\)"),
        ({"images": np.array([{}, {}], object)}, {}, "expected a readable array of numbers. Received: Object arrays"),
    ],
)
def test_invalid_files_are_refused(tmp_path, entries, options, message):
    np.savez(tmp_path / "a.npz", **entries)
    with pytest.raises(DataError, match=message) as caught:
        kvae.data.load(tmp_path / "a.npz", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["digits", IMAGES, "./faces", "a.npy"])
def test_key_requires_an_npz_file(source):
    with pytest.raises(DataError, match=r"'key' requires an \.npz file\. Received: key='images' for"):
        kvae.data.load(source, key="images")
