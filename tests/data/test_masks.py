"""Masks of defective pixels in the layout of MVTec AD, aligned with the images of a split."""

import shutil

import numpy as np
import pytest
from PIL import Image

import kvae
from kvae.data import DataError, DataWarning

from .pictures import write_defects


@pytest.fixture(scope="module")
def bottle(tmp_path_factory):
    root = tmp_path_factory.mktemp("defects") / "bottle"
    write_defects(root)
    return root


def stored(root, data, name):
    """Return the file of each image of a split and its stored mask."""
    numbers = np.concatenate([pairs[:, 1] for _, pairs in data.numbered(name).as_numpy_iterator()])
    files = [data.files[number] for number in numbers]
    masks = []
    for file in files:
        _, kind, image = file.split("/")
        path = root / "ground_truth" / kind / image.replace(".png", "_mask.png")
        masks.append(np.asarray(Image.open(path)) == 255 if path.is_file() else np.zeros((16, 16), bool))
    return files, np.array(masks)


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])  # decoded once, or on every pass
def test_masks_are_in_the_order_of_the_images(bottle, cache_bytes):
    data = kvae.data.load(bottle, cache_bytes=cache_bytes)
    files, expected = stored(bottle, data, "test")
    masks = data.masks()
    assert (masks.dtype, masks.shape) == (bool, (18, 16, 16))
    np.testing.assert_array_equal(masks, expected)
    labels = data.arrays("test")[1]
    assert [file.split("/")[1] for file in files] == [data.label_names[label] for label in labels]
    np.testing.assert_array_equal(masks.any(axis=(1, 2)), labels > 0)
    np.testing.assert_array_equal(data.masks("test", limit=5), masks[:5])
    assert not data.masks("train").any()
    assert not data.masks("validation").any()


@pytest.mark.parametrize("inside", ["", "data/bottle"])
def test_masks_after_recovered_splits_and_below_other_folders(bottle, tmp_path, inside):
    root = tmp_path / "set"
    shutil.copytree(bottle, root / inside)
    before = kvae.data.load(root)
    masks = before.masks()
    (root / inside / "test" / "hole" / "000.png").unlink()
    after = kvae.data.load(root).with_splits(before.fingerprint())
    keep = [file != "test/hole/000.png" for file in stored(bottle, kvae.data.load(bottle), "test")[0]]
    np.testing.assert_array_equal(after.masks(), masks[keep])


def test_masks_are_cropped_and_resized_as_the_images(tmp_path):
    """An image of 32×48 with a white square: its mask is white where the resized image is mostly white."""
    rng = np.random.default_rng(0)
    for i, file in enumerate(["train/good/0", "train/good/1", "train/good/2", "test/good/0", "test/hole/0"]):
        pixels = np.full((32, 48), 20 + i, np.uint8)
        if "hole" in file:
            pixels[4:20, 14:30] = 255
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"{file}.png")
    (tmp_path / "ground_truth/hole").mkdir(parents=True)
    Image.fromarray(np.where(pixels == 255, rng.integers(1, 256, pixels.shape), 0).astype(np.uint8)).save(
        tmp_path / "ground_truth/hole/0_mask.png"
    )
    data = kvae.data.load(tmp_path, size=16)
    images, labels = data.arrays("test")
    masks = data.masks()
    assert masks[labels == 0].sum() == 0
    np.testing.assert_array_equal(masks, images[..., 0] > 0.5)
    assert masks.sum() == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "ground_truth/hole/002_mask.png").unlink(), "1 of 18 masks missing: .*hole/002_mask.png"),
        (lambda root: shutil.rmtree(root / "ground_truth"), "12 of 18 masks missing"),
        (
            lambda root: (root / "ground_truth/hole/002_mask.png").write_bytes(b"no image"),
            r"^bottle: expected readable masks. Received: ground_truth/hole/002_mask.png \(unknown image format\)",
        ),
        (
            lambda root: Image.new("L", (8, 16)).save(root / "ground_truth/hole/002_mask.png"),
            r"^bottle: expected .* size of its image, 16x16. Received: ground_truth/hole/002_mask.png 16x8 \(H x W\)",
        ),
    ],
)
def test_masks_that_dont_fit(bottle, tmp_path, change, message):
    shutil.copytree(bottle, tmp_path / "bottle")
    change(tmp_path / "bottle")
    data = kvae.data.load(tmp_path / "bottle")
    with pytest.raises(DataError, match=message):
        data.masks()


def test_other_files_beside_the_masks_are_left_out_with_a_warning(bottle, tmp_path):
    shutil.copytree(bottle, tmp_path / "bottle")
    for file in ("hole/000.png", "dent/000_mask.png"):  # no mask by its name; of a class without images
        (tmp_path / "bottle/ground_truth" / file).parent.mkdir(exist_ok=True)
        shutil.copy(bottle / "test/hole/000.png", tmp_path / "bottle/ground_truth" / file)
    with pytest.warns(DataWarning, match=r"left out 2 images outside .*dent/000_mask.png, ground_truth/hole/000.png"):
        kvae.data.load(tmp_path / "bottle")


def test_sources_without_masks():
    with pytest.raises(DataError, match="not files of a folder"):
        kvae.data.load("digits").masks()
    with pytest.raises(DataError, match="Unknown split"):
        kvae.data.load("digits").masks("all")
