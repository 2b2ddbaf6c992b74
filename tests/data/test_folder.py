"""Folders of image files: file formats, subfolders, and unreadable files."""

import numpy as np
import pytest
from PIL import Image, ImageOps

import kvae

from .pictures import numbered, numbers, truncate, write_images

IMAGES = numbered(60)
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [
        ("1", ".png", 1),
        ("L", ".png", 1),
        ("LA", ".png", 1),
        ("I;16", ".png", 1),
        ("I;16", ".tif", 1),
        ("P", ".png", 3),
        ("RGB", ".png", 3),
        ("RGBA", ".png", 3),
        ("RGB", ".bmp", 3),
        ("L", ".JPEG", 1),
        ("RGB", ".webp", 3),
        ("CMYK", ".jpg", 3),
        ("L", ".gif", 1),
    ],
)
def test_file_formats(tmp_path, mode, suffix, channels):
    if mode == "I;16":
        image = Image.fromarray(RAMP.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(RAMP).convert(mode)
    for i in range(4):
        image.save(tmp_path / f"{i}{suffix}")
    data = kvae.data.load(tmp_path)
    assert data.image_shape == (16, 16, channels)
    x = data.arrays("train")[0]
    expected = RAMP if mode != "1" else np.asarray(image) * 255
    tolerance = {".jpeg": 4, ".jpg": 4, ".webp": 40, ".gif": 4}.get(suffix.lower(), 0)  # lossy; 0 is exact
    np.testing.assert_allclose(x[0, ..., 0] * 255, expected, atol=tolerance + 1e-4)


def test_mixed_grey_and_colour_becomes_colour(tmp_path):
    write_images(tmp_path / "a", IMAGES[:3])
    write_images(tmp_path / "a" / "b", np.repeat(IMAGES[3:6], 3, -1))
    data = kvae.data.load(tmp_path)
    assert data.image_shape == (9, 10, 3)
    assert not data.has_labels  # images lie beside the only subfolder
    assert kvae.data.load(tmp_path, grayscale=True).image_shape == (9, 10, 1)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(3):
        Image.fromarray(np.tile(RAMP, (1, 2))).save(tmp_path / f"{i}.png", exif=exif)
    assert kvae.data.load(tmp_path).image_shape == (32, 16, 1)


def test_classes_are_sorted_subfolders(tmp_path):
    for k, name in enumerate(["cat", "ant", "bee"]):
        write_images(tmp_path / name / "deeper", IMAGES[20 * k : 20 * k + 20])
    data = kvae.data.load(tmp_path)
    assert data.label_names == ("ant", "bee", "cat")
    images, labels = data.arrays("train")
    assert [data.label_names[y] for y in labels] == [["cat", "ant", "bee"][i // 20] for i in numbers(images)]


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
@pytest.mark.parametrize("validation", [None, "val", "valid", "Validation"])
def test_folders_named_as_splits(tmp_path, validation, cache_bytes):
    names = {"train": (0, 40), "test": (40, 50), **({validation: (50, 60)} if validation else {})}
    for name, (start, end) in names.items():
        middle = (start + end) // 2
        write_images(tmp_path / name / "a", IMAGES[start:middle])
        write_images(tmp_path / name / "b", IMAGES[middle:end])
    data = kvae.data.load(tmp_path, cache_bytes=cache_bytes)
    assert data.label_names == ("a", "b")
    assert (data.num_train, data.num_validation, data.num_test) == ((40, 10, 10) if validation else (36, 4, 10))
    assert sorted(numbers(data.arrays("test")[0])) == list(range(40, 50))
    found = sorted(numbers(data.arrays("train")[0]) + numbers(data.arrays("validation")[0]))
    assert found == [i for i in range(60 if validation else 40) if i not in range(40, 50)]
    write_images(tmp_path / "other", IMAGES[:2])
    with pytest.warns(kvae.data.DataWarning, match="left out 2 images outside the train"):
        kvae.data.load(tmp_path)


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
def test_unreadable_images_are_skipped_with_a_warning(tmp_path, cache_bytes):
    paths = write_images(tmp_path, IMAGES)
    paths[7].write_text("not an image")
    truncate(paths[11])
    (tmp_path / ".hidden.png").write_text("ignored")
    options = {"validation_fraction": 0, "test_fraction": 0, "cache_bytes": cache_bytes}
    with pytest.warns(kvae.data.DataWarning) as caught:
        data = kvae.data.load(tmp_path, **options)
    assert len(caught) == 1
    expected = (
        "skipped 2 of 60 images (unreadable): 0007.png (unknown image format), 0011.png (image file is truncated)"
    )
    assert str(caught[0].message) == f"{tmp_path.name}: {expected}"
    assert data.num_train == 58
    for found in (data.arrays("train")[0], np.concatenate(list(data.train))):
        assert sorted(numbers(found)) == [i for i in range(60) if i not in (7, 11)]


def test_images_found_unreadable_while_streaming_are_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr("kvae.data.folder.PROBE", 5)
    truncate(write_images(tmp_path, IMAGES)[30])
    data = kvae.data.load(tmp_path, validation_fraction=0, test_fraction=0, cache_bytes=0)
    assert (data.num_train, data.counts_are_exact) == (60, False)
    with pytest.warns(kvae.data.DataWarning, match=r"skipped 1 of 60 images \(unreadable\): 0030.png") as caught:
        found = [data.arrays("train")[0], np.concatenate(list(data.train)), np.concatenate(list(data.train))]
    assert len(caught) == 1
    assert [sorted(numbers(x)) for x in found] == [[i for i in range(60) if i != 30]] * 3


def test_the_warning_names_five_files_and_counts_all(tmp_path):
    for path in write_images(tmp_path, IMAGES)[10:18]:
        truncate(path)
    with pytest.warns(kvae.data.DataWarning, match=r"skipped 8 of 60 .*: 0010.png \(.*\), .*0014.png \(.*\), …$"):
        kvae.data.load(tmp_path)


def test_folders_without_images_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(kvae.data.DataError, match=r"expected a folder with images.*Received: 1 file: 1 \.txt"):
        kvae.data.load(tmp_path)
    for suffix in (".png", ".jpg"):
        (tmp_path / f"broken{suffix}").write_text("hello")
    for size in (None, 16):
        with (
            pytest.warns(kvae.data.DataWarning, match="skipped 2 of 2 images"),
            pytest.raises(kvae.data.DataError, match="Received: 2 image files, none readable"),
        ):
            kvae.data.load(tmp_path, size=size)


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
def test_images_of_several_sizes_require_a_size(tmp_path, cache_bytes):
    sides = [(30, 50), (50, 30), (33, 33), (100, 9)]
    images = [np.random.default_rng(i).integers(0, 256, (*side, 3), np.uint8) for i, side in enumerate(sides)]
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    message = r"pass size= \(--size on the command line\). Received: 0.png 30x50 and 1.png 50x30"
    with pytest.raises(kvae.data.DataError, match=message):
        kvae.data.load(tmp_path)
    data = kvae.data.load(tmp_path, size=(16, 24), cache_bytes=cache_bytes, validation_fraction=0, test_fraction=0)
    found = {x.tobytes() for x in np.rint(data.arrays("train")[0] * 255).astype(np.uint8)}
    fitted = {np.asarray(ImageOps.fit(Image.fromarray(image), (24, 16))).tobytes() for image in images}
    assert found == fitted


def test_small_images_are_refused_unless_enlarged(tmp_path):
    write_images(tmp_path, IMAGES[:9, :4, :4])
    with pytest.raises(kvae.data.DataError, match=r"at least 8x8.*Received: images of shape \(4, 4, 1\)"):
        kvae.data.load(tmp_path)
    assert kvae.data.load(tmp_path, size=8).image_shape == (8, 8, 1)
