"""Splits and classes from folder names, the files that are read, and the warning about files left out."""

import os
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kvae
from kvae import networks
from kvae.data import DataError, DataWarning
from kvae.data.files import COMPANIONS, find_images, holds, image_suffixes
from kvae.data.layout import lay_out, split_of
from kvae.features.listing import parquet_files

from .pictures import numbered, numbers, write_defects, write_images, write_records

NONE = None  # no label


def touch(root, files):
    """Create empty files: the given number in each folder."""
    for path, count in files.items():
        (root / path).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / path / f"{i}.png").touch()


def found_in(root):
    """Return the number of images by split and class, the names of the classes, and the warning."""
    layout = lay_out(root, "set")
    names = [*layout.label_names, NONE]
    labels = [-1] * len(layout.paths) if layout.labels is None else layout.labels.tolist()
    counts: dict = {}
    for split, label in zip(layout.splits.tolist(), labels):
        counts.setdefault(split, Counter())[names[label]] += 1
    return {split: dict(found) for split, found in counts.items()}, layout.label_names, layout.message


# number of images in each folder; number by split and class; part of the warning ("" for none)
LAYOUTS = {
    "flat": ({"": 3}, {"train": {NONE: 3}}, ""),
    "classes": ({"cat": 2, "dog/old": 3}, {"train": {"cat": 2, "dog": 3}}, ""),
    "classes in a folder": ({"zoo/cat": 2, "zoo/dog": 3}, {"train": {"cat": 2, "dog": 3}}, ""),
    "one folder is not a class": ({"cat": 2}, {"train": {NONE: 2}}, ""),
    "splits without classes": ({"train": 3, "val": 2, "test": 1},
                               {"train": {NONE: 3}, "validation": {NONE: 2}, "test": {NONE: 1}}, ""),
    "training and testing": ({"training/a": 2, "training/b": 3, "testing/a": 1, "testing/b": 1},
                             {"train": {"a": 2, "b": 3}, "test": {"a": 1, "b": 1}}, ""),
    "train_images": ({"train_images/a": 2, "train_images/b": 3, "test_images/a": 1},
                     {"train": {"a": 2, "b": 3}, "test": {"a": 1}}, ""),
    "years": ({"train2017": 3, "val2017": 2, "test2017": 1},
              {"train": {NONE: 3}, "validation": {NONE: 2}, "test": {NONE: 1}}, ""),
    "dev and eval": ({"train": 3, "dev": 2, "eval": 1},
                     {"train": {NONE: 3}, "validation": {NONE: 2}, "test": {NONE: 1}}, ""),
    "eval beside test": ({"train": 3, "eval": 2, "test": 1},
                         {"train": {NONE: 3}, "validation": {NONE: 2}, "test": {NONE: 1}}, ""),
    "trainval": ({"trainval": 3, "test": 1}, {"train": {NONE: 3}, "test": {NONE: 1}}, ""),
    "trainval beside train": ({"train": 2, "val": 1, "train_val": 3}, {"train": {NONE: 2}, "validation": {NONE: 1}},
                              "left out 3 images outside the train, validation and test folders (train_val/0.png"),
    "a prefix": ({"mnist_train/0": 2, "mnist_train/1": 2, "mnist_test/0": 1},
                 {"train": {"0": 2, "1": 2}, "test": {"0": 1}}, ""),
    "a prefix of one split": ({"train_v2": 3, "val": 2, "test": 1},
                              {"train": {NONE: 3}, "validation": {NONE: 2}, "test": {NONE: 1}}, ""),
    "splits of domains": ({"trainA": 2, "trainB": 3, "testA": 1, "testB": 1},
                          {"train": {"A": 2, "B": 3}, "test": {"A": 1, "B": 1}}, ""),
    "a folder around the splits": ({"set/train/a": 2, "set/train/b": 3, "set/test/a": 1},
                                   {"train": {"a": 2, "b": 3}, "test": {"a": 1}}, ""),
    "a folder around the splits beside another": (
        {"set/train/a": 2, "set/train/b": 3, "set/test/a": 1, "docs": 1, "": 1},
        {"train": {"a": 2, "b": 3}, "test": {"a": 1}},
        "left out 2 images outside the train, validation and test folders (0.png, docs/0.png)"),
    "a folder for each split's folder": (
        {"seg_train/seg_train/a": 2, "seg_train/seg_train/b": 3, "seg_test/seg_test/b": 1, "seg_pred/seg_pred": 2},
        {"train": {"a": 2, "b": 3}, "test": {"b": 1}}, "left out 2 images outside"),
    "images above the splits": ({"images/train": 3, "images/val": 1}, {"train": {NONE: 3}, "validation": {NONE: 1}},
                                ""),
    "images below the splits": ({"train/images": 3, "valid/images": 1},
                                {"train": {NONE: 3}, "validation": {NONE: 1}}, ""),
    "masks above the splits": ({"images/train": 3, "images/val": 1, "masks/train": 3, "masks/val": 1},
                               {"train": {NONE: 3}, "validation": {NONE: 1}}, "left out 4 images in mask folders"),
    "masks below the splits": ({"train/images": 3, "train/masks": 3, "test/images": 1, "test/masks": 1},
                               {"train": {NONE: 3}, "test": {NONE: 1}}, "left out 4 images in mask folders"),
    "masks without splits": ({"JPEGImages": 3, "SegmentationClass": 2}, {"train": {NONE: 3}}, "left out 2 images in"),
    "masks are classes without images": ({"masks": 3, "faces": 2}, {"train": {"masks": 3, "faces": 2}}, ""),
    "masks named as the splits": ({"train": 3, "test": 1, "train_masks": 3}, {"train": {NONE: 3}, "test": {NONE: 1}},
                                  "left out 3 images outside"),
    "classes above the splits": ({"cat/train": 2, "cat/test": 1, "dog/train": 3, "dog/test": 2},
                                 {"train": {"cat": 2, "dog": 3}, "test": {"cat": 1, "dog": 2}}, ""),
    "classes above some of the splits": (
        {"cat/train": 2, "cat/test": 1, "dog/train": 3, "emu/test": 2, "fox": 1},
        {"train": {"cat": 2, "dog": 3}, "test": {"cat": 1, "emu": 2}},
        "left out 1 image outside the train, validation and test folders (fox/0.png); "
        "no training image of the class emu"),
    "vehicles": ({"car": 2, "plane": 1, "train": 3}, {"train": {"car": 2, "plane": 1, "train": 3}},
                 "train is a class, like car, plane"),
    "vehicles with folders": ({f"{name}/{k}": 1 for name in ("car", "plane", "train") for k in "ab"},
                              {"train": {"car": 2, "plane": 2, "train": 2}}, "train is a class"),
    "a split beside others": ({"train/a": 2, "train/b": 3, "docs": 1, "logos": 1}, {"train": {"a": 2, "b": 3}},
                              "left out 2 images outside"),
    "a split beside another": ({"train": 3, "raw": 1}, {"train": {NONE: 3}}, "left out 1 image outside"),
    "names similar to splits": ({"trains": 1, "tests": 1, "testosterone": 1, "Training shoes": 1},
                                {"train": {"trains": 1, "tests": 1, "testosterone": 1, "Training shoes": 1}}, ""),
    "test and val alone": ({"test": 2, "val": 1}, {"train": {NONE: 3}}, "no train folder: the images in test, val"),
    "unlabelled test images": ({"train/a": 2, "train/b": 3, "test": 4},
                               {"train": {"a": 2, "b": 3}, "test": {NONE: 4}}, "no labels in the test split"),
    "unlabelled in a folder of this name": ({"train/a": 2, "train/b": 3, "test/test": 4},
                                            {"train": {"a": 2, "b": 3}, "test": {NONE: 4}}, "no labels in the test"),
    "unknown test images": ({"train/a": 2, "train/b": 3, "test/unknown": 4},
                            {"train": {"a": 2, "b": 3}, "test": {NONE: 4}}, "no labels in the test split"),
    "unknown test images beside classes": ({"train/a": 2, "train/b": 3, "test/a": 4, "test/unknown": 1},
                                           {"train": {"a": 2, "b": 3}, "test": {"a": 4}},
                                           "left out 1 image outside the class folders (test/unknown/0.png)"),
    "unlabelled validation": ({"train/a": 2, "train/b": 3, "val": 2, "test/b": 1},
                              {"train": {"a": 2, "b": 3}, "validation": {NONE: 2}, "test": {"b": 1}},
                              "no labels in the validation split"),
    "test folders of other names": ({"train/a": 2, "train/b": 3, "test/part1": 2, "test/part2": 1},
                                    {"train": {"a": 2, "b": 3}, "test": {NONE: 3}},
                                    "no labels in the test split: no training image is in a folder named part1, part2"),
    "a class without a training image": (
        {"train/b": 2, "train/c": 3, "test/b": 1, "test/a": 1},
        {"train": {"b": 2, "c": 3}, "test": {"b": 1, "a": 1}}, "no training image of the class a"),
    "a class without a test image": ({"train/a": 2, "train/b": 3, "test/b": 1},
                                     {"train": {"a": 2, "b": 3}, "test": {"b": 1}}, ""),
    "images beside classes": ({"a": 2, "b": 3, "": 1}, {"train": {"a": 2, "b": 3}},
                              "left out 1 image outside the class folders (0.png)"),
    "classes beside images": ({"a": 1, "b": 1, "": 3}, {"train": {NONE: 5}},
                              "no labels in the train split: 3 of 5 images are outside the class folders"),
    "anomalies": ({"train/good": 3, "test/good": 2, "test/crack": 1, "test/bent": 1, "ground_truth/crack": 1},
                  {"train": {"good": 3}, "test": {"good": 2, "crack": 1, "bent": 1}},
                  "left out 1 image outside the train, validation and test folders (ground_truth/crack/0.png)"),
    "anomalies with validation": ({"train/good": 3, "validation/good": 1, "test/good": 2, "test/logical": 1},
                                  {"train": {"good": 3}, "validation": {"good": 1}, "test": {"good": 2, "logical": 1}},
                                  ""),
    "anomalies of several objects": (
        {f"{thing}/{path}": 1 for thing in ("nut", "pill") for path in ("train/good", "test/good", "test/crack")},
        {"train": {"nut": 1, "pill": 1}, "test": {"nut": 2, "pill": 2}}, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts(tmp_path, case):
    folders, expected, message = LAYOUTS[case]
    touch(tmp_path, folders)
    found, _, warning = found_in(tmp_path)
    assert found == expected
    assert warning == "" if not message else message in warning


TRAIN = (
    "train Train TRAIN training TrainSet trainset training-set train_images images_train imgs.train train1 train-data"
)
VALIDATION = "val VAL valid Validation val_set dev validation.images valimages"
TEST = "test TESTING test-imgs Test_Set testdata test1"
CLASSES = (
    "trains tests testosterone trainer Training_shoes valley device contest restrain valid-ish_thing images 2017 cat"
)


@pytest.mark.parametrize(
    ("names", "expected"),
    [(TRAIN, ("train", "")), (VALIDATION, ("validation", "")), (TEST, ("test", ""))],
)
def test_names_of_splits(names, expected):
    assert {name: split_of(name) for name in [*names.split(), f"{names.split()[0]} images"]} == dict.fromkeys(
        [*names.split(), f"{names.split()[0]} images"], expected
    )


def test_names_of_classes(tmp_path):
    assert [name for name in CLASSES.split() if (split_of(name) or ("", "rest"))[1] == ""] == []
    touch(tmp_path, dict.fromkeys(CLASSES.split(), 1))
    assert found_in(tmp_path)[1] == tuple(sorted(CLASSES.split()))


def test_classes_with_training_images_come_first(tmp_path):
    touch(tmp_path, {"train/good": 3, "test/good": 1, "test/bent": 1, "test/crack": 1})
    assert found_in(tmp_path)[1:] == (("good", "bent", "crack"), "")
    touch(tmp_path, {"train/zebra": 1})
    assert found_in(tmp_path)[1] == ("good", "zebra", "bent", "crack")


# Links.


def a_class(root):
    os.symlink(root / "store/dogs", root / "set/dogs")
    return {"train": {"cats": 2, "dogs": 3}}, ""


def every_split(root):
    for split in ("train", "val", "test"):
        touch(root, {f"store/{split}/a": 2, f"store/{split}/b": 1})
        os.symlink(root / "store" / split, root / "set" / split)
    return {split: {"a": 2, "b": 1} for split in ("train", "validation", "test")}, "left out 2 images outside"


def files(root):
    (root / "set/dogs").mkdir()
    for i in range(3):
        os.symlink(root / f"store/dogs/{i}.png", root / f"set/dogs/linked {i}.png")
    return {"train": {"cats": 2, "dogs": 3}}, ""


def one_folder_for_two_classes(root):
    for name in ("dogs", "wolves"):
        os.symlink(root / "store/dogs", root / "set" / name)
    return {"train": {"cats": 2, "dogs": 3, "wolves": 3}}, ""


def a_loop(root):
    os.symlink(root / "store/dogs", root / "set/dogs")
    os.symlink("..", root / "set/cats/up")
    return {"train": {"cats": 2, "dogs": 3}}, "left out 1 link to a parent folder (cats/up)"


def a_loop_of_two(root):
    (root / "set/dogs").mkdir()
    touch(root, {"set/dogs": 1})
    os.symlink("../dogs", root / "set/cats/dogs")
    os.symlink("../cats", root / "set/dogs/cats")
    return {"train": {"cats": 3, "dogs": 3}}, "left out 2 links to parent folders (cats/dogs/cats, dogs/cats"


def links_to_each_other(root):
    os.symlink(root / "store/dogs", root / "set/dogs")
    os.symlink("y.png", root / "set/cats/x.png")
    os.symlink("x.png", root / "set/cats/y.png")
    return {"train": {"cats": 2, "dogs": 3}}, "left out 2 broken links (cats/x.png, cats/y.png)"


def broken_links(root):
    os.symlink(root / "store/dogs", root / "set/dogs")
    os.symlink(root / "gone.png", root / "set/cats/9.png")
    os.symlink(root / "gone", root / "set/birds")
    return {"train": {"cats": 2, "dogs": 3}}, "left out 2 broken links (birds, cats/9.png)"


def a_missing_test_folder(root):
    touch(root, {"set/train": 4})
    os.symlink(root / "gone", root / "set/test")
    return {"train": {NONE: 4}}, "1 broken link (test); no image in the test folder"


@pytest.mark.parametrize(
    "link",
    [a_class, every_split, files, one_folder_for_two_classes, a_loop, a_loop_of_two, links_to_each_other,
     broken_links, a_missing_test_folder],
)  # fmt: skip
def test_links(tmp_path, link):
    touch(tmp_path, {"store/dogs": 3, "set/cats": 2})
    expected, message = link(tmp_path)
    found, _, warning = found_in(tmp_path / "set")
    assert found == expected
    assert warning == "" if not message else message in warning


def test_linked_images_are_read(tmp_path):
    images = numbered(40)
    write_images(tmp_path / "store/dogs", images[:20])
    write_images(tmp_path / "set/cats", images[20:])
    (tmp_path / "set/dogs").symlink_to(tmp_path / "store/dogs")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    data = kvae.data.load(tmp_path / "link", validation_fraction=0, test_fraction=0.5)
    x, y = data.arrays("test")
    assert [data.label_names[label] for label in y] == [("dogs", "cats")[i // 20] for i in numbers(x)]
    assert data.files[0] == "cats/0000.png"
    assert data.files[-1] == "dogs/0019.png"


def test_linked_records_and_parquet_files_are_found(tmp_path):
    write_records(tmp_path / "store", numbered(30), files=2)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/Training").symlink_to(tmp_path / "store")
    (tmp_path / "set/Training/up").symlink_to(tmp_path / "set")
    assert kvae.data.load(tmp_path / "set").num_train == 24
    for name in ("b.parquet", "_c.parquet", ".d.parquet"):
        (tmp_path / "store" / name).touch()
    assert parquet_files(str(tmp_path / "set"))[1] == [str(tmp_path / "set/Training/b.parquet")]


# Files.

RAMP = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
EXACT = ".png .apng .bmp .dib .tif .TIFF .pgm .pnm .tga .pcx .sgi .bw .ico .webp .jp2 .j2k .qoi .dds .gif"
LOSSY = ".jpg .JPE .jfif .jpeg .mpo .avif"


def test_suffixes_that_pillow_opens(tmp_path):
    options = {".webp": {"lossless": True}, ".jp2": {"irreversible": False}, ".avif": {"quality": 95}}
    for suffix in (EXACT + " " + LOSSY).split():
        image = Image.fromarray(RAMP).convert("RGB" if suffix in (".qoi", ".dds", ".jpg", ".mpo", ".avif") else "L")
        image.save(tmp_path / f"x{suffix}", {".mpo": "jpeg"}.get(suffix), **options.get(suffix, {}))
    data = kvae.data.load(tmp_path, grayscale=True, validation_fraction=0, test_fraction=0)
    assert data.num_train == len((EXACT + " " + LOSSY).split())
    x = data.arrays("train")[0][..., 0] * 255
    np.testing.assert_allclose(x, np.broadcast_to(RAMP, x.shape), atol=12)


def test_suffixes_of_other_files():
    assert {".png", ".jpg", ".tif", ".webp", ".avif", ".mpo", ".psd"} <= image_suffixes()
    assert not {".pdf", ".eps", ".ps", ".mpg", ".h5", ".hdf", ".grib", ".wmf", ".txt", ""} & image_suffixes()
    assert not COMPANIONS & image_suffixes()


def test_images_without_a_suffix_are_found_by_their_contents(tmp_path):
    for name, kind in (("n01440764_10026", "jpeg"), ("frame.0001", "png"), ("2020-01-01 12.30.05", "gif")):
        Image.fromarray(RAMP).save(tmp_path / name, kind)
    image = Image.fromarray(RAMP)
    image.save(tmp_path / "stereo", "mpo", save_all=True, append_images=[image])
    for name in ("README", "LICENSE", "Makefile"):
        (tmp_path / name).write_text("P1 is no image, and GIF is a word\n")
    (tmp_path / "labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3]))
    found = find_images(tmp_path)
    assert [parts[-1] for parts in found.images] == ["2020-01-01 12.30.05", "frame.0001", "n01440764_10026", "stereo"]
    assert not found.left_out


def test_large_images_without_a_suffix_are_found(tmp_path, monkeypatch):
    Image.new("1", (300, 300)).save(tmp_path / "map", "png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_images(tmp_path).images == [("map",)]


def test_other_files_are_counted_by_type(tmp_path):
    touch(tmp_path, {"": 12})
    for i in range(6):
        (tmp_path / f"{i}.HEIC").touch()
    for name in ("a.npy", "b.dcm", "c.tfrecord-00000-of-00001", "labels.csv", "Thumbs.db", "desktop.ini", "LICENSE",
                 "0.json", "0.txt", ".DS_Store", ".hidden.heic", "README.md", "data.yaml"):  # fmt: skip
        (tmp_path / name).touch()
    assert lay_out(tmp_path, "set").message == (
        "left out 9 files of unsupported types (6 .heic, 1 .npy, 1 .dcm, 1 .tfrecord: "
        "0.HEIC, 1.HEIC, 2.HEIC, 3.HEIC, 4.HEIC, …)"
    )


def test_one_warning_has_all_reasons(tmp_path):
    for split, count in (("train", 30), ("test", 10)):
        for name in ("a", "b"):
            write_images(tmp_path / split / name, numbered(count))
    write_images(tmp_path / "extra", numbered(2))
    write_images(tmp_path / "train", numbered(1))
    (tmp_path / "train/a/x.heic").touch()
    (tmp_path / "train/b/y.png").symlink_to("nowhere")
    with pytest.warns(DataWarning) as caught:
        data = kvae.data.load(tmp_path, validation_fraction=0)
    assert [str(warning.message) for warning in caught] == [
        f"{tmp_path.name}: left out 2 images outside the train, validation and test folders "
        "(extra/0000.png, extra/0001.png), 1 image outside the class folders (train/0000.png), "
        "1 broken link (train/b/y.png), 1 file of an unsupported type (1 .heic: train/a/x.heic)"
    ]
    assert (data.num_train, data.num_test) == (60, 20)


NOTHING = {
    "empty": ([], "Received: no files"),
    "documents": ([*(f"{i}.txt" for i in range(10)), "a.heic", "b.HEIC"], "Received: 12 files: 10 .txt, 2 .heic"),
    "one": (["LICENSE"], "Received: 1 file: 1 without a suffix"),
    "hidden": ([".a.png", "__MACOSX/b.png"], "Received: no files"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_folders_without_images_are_refused(tmp_path, case):
    names, message = NOTHING[case]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=f"{message}$"):
        kvae.data.load(tmp_path)


def test_a_train_folder_without_images_is_refused(tmp_path):
    touch(tmp_path, {"test": 3})
    (tmp_path / "train").symlink_to("gone")
    with pytest.raises(DataError, match=r"in the train folder. Received: 1 broken link \(train\)"):
        lay_out(tmp_path, "set")
    os.remove(tmp_path / "train")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/x.heic").touch()
    with pytest.raises(DataError, match=r"Received: 1 file of an unsupported type \(1 .heic: train/x.heic\)"):
        lay_out(tmp_path, "set")


def test_a_folder_that_cannot_be_opened_is_left_out_with_a_warning(tmp_path, monkeypatch):
    touch(tmp_path, {"a": 2, "b": 2, "c": 2})
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("c"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert found_in(tmp_path)[::2] == ({"train": {"a": 2, "b": 2}}, "left out 1 folder that cannot be opened (c)")
    assert holds(tmp_path)


# Splits without labels.


@pytest.fixture(scope="module")
def unlabelled_test(tmp_path_factory):
    root = tmp_path_factory.mktemp("pets")
    for k, name in enumerate(("cats", "dogs")):
        write_images(root / "train" / name, numbered(60)[30 * k : 30 * k + 30])
    write_images(root / "test", numbered(70)[60:])
    return root


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
def test_a_split_without_labels(unlabelled_test, cache_bytes):
    with pytest.warns(DataWarning, match="no labels in the test split"):
        data = kvae.data.load(unlabelled_test, cache_bytes=cache_bytes)
    assert [data.is_labelled(split) for split in ("train", "validation", "test")] == [True, True, False]
    x, y = data.arrays("test")
    assert (sorted(numbers(x)), y) == (list(range(60, 70)), None)
    x, y = data.arrays("validation")
    assert [i // 30 for i in numbers(x)] == y.tolist()
    with pytest.raises(
        DataError, match=r"expected a split with labels, but the test split has none. Received: labels=True"
    ):
        data.split("test", labels=True)
    assert {label for _, pairs in data.numbered("test") for label in pairs[:, 0].numpy()} == {-1}


def test_records_without_labels_in_one_split(tmp_path):
    write_records(tmp_path, numbered(40), name="train")
    write_records(tmp_path, numbered(10), name="test", labels=False)
    for cache_bytes in (0, 1 << 30):
        data = kvae.data.load(tmp_path, cache_bytes=cache_bytes)
        assert (data.is_labelled("train"), data.is_labelled("test"), data.arrays("test")[1]) == (True, False, None)


def test_functions_that_require_labels_refuse_an_unlabelled_split(unlabelled_test):
    from kvae.evaluation import sample_quality
    from kvae.run import RunError
    from kvae.training import Settings
    from kvae.training.describe import probe_run
    from kvae.training.parts import model_of

    with pytest.warns(DataWarning, match="no labels"):
        data = kvae.data.load(unlabelled_test)
    vae = kvae.VAE(latent_dim=2, image_shape=data.image_shape)
    with pytest.raises(ValueError, match="whose test images have none"):
        probe_run(vae, data)
    with pytest.raises(ValueError, match="Expected data with labels"):
        sample_quality(vae, data)
    with pytest.raises(RunError, match="whose test split has none"):
        model_of(Settings(source="pets", conditional=True), data)


@pytest.mark.slow
def test_the_example_on_defects_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/features.md").read_text()
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "auroc[" in code]
    for old, new in (
        ("size=64", "size=16"),
        ("latent_dim=16", "latent_dim=4, model=small"),
        ("epochs=100", "epochs=60"),
    ):
        assert code.count(old) == 1
        code = code.replace(old, new)
    write_defects(tmp_path / "bottle")
    monkeypatch.chdir(tmp_path)
    names: dict = {"small": lambda shape, latent_dim: kvae.VAE(
        encoder=networks.Encoder(latent_dim, networks.MLP((32,))), decoder=networks.Decoder(shape, networks.MLP((32,)))
    )}  # fmt: skip
    exec(compile(code, "features.md", "exec"), names)  # without a warning of masks or classes
    assert (names["data"].label_names, names["data"].num_train) == (("good", "hole", "scratch"), 24)
    assert np.bincount(names["labels"]).tolist() == [6, 6, 6]
    assert {defect for _, defect in names["auroc"]} == {"hole", "scratch", "all"}
    assert min(names["auroc"]["distortion", defect] for defect in ("hole", "scratch")) > 0.8
