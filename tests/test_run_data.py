"""The data of a run whose source has changed since training: its splits are kept, and changes are reported."""

import re
import warnings

import numpy as np
import pytest

import kvae
from kvae.data import DataError, DataWarning
from kvae.networks import MLP, Decoder, Encoder
from kvae.run import SPLITS, RunError, RunFolder, write_splits
from kvae.training.job import _as_at_start

IMAGES = np.random.default_rng(0).integers(0, 256, (100, 8, 8), np.uint8)
LABELS = np.array(list("abcd"))[np.arange(100) % 4]
BEFORE = list(range(60))


@pytest.fixture(scope="module")
def models():
    """Untrained models; the second one is conditional."""

    def model(condition_dim=None):
        return kvae.VAE(Encoder(2, MLP((4,))), Decoder((8, 8, 1), MLP((4,))), condition_dim=condition_dim)

    return model(), model(4)


@pytest.fixture
def opened(tmp_path, models):
    """A run on the first sixty images of an .npz file, as after training."""
    run = tmp_path / "run"
    run.mkdir()
    source = write(tmp_path, BEFORE)
    config = {
        "source": str(source.resolve()), "data_seed": 5, "binarize": "none", "size": None, "grayscale": None,
        "label_names": list("abcd"),
    }  # fmt: skip
    write_splits(run, kvae.data.load(source, seed=5))
    return run_folder(run, config, models[0])


def run_folder(path, config, model):
    """Return a run whose configuration and model aren't read from files."""
    run = RunFolder(path)
    vars(run).update(config=config, model=model)
    return run


def write(folder, which, labels=LABELS):
    np.savez(folder / "images.npz", images=IMAGES[which], labels=labels[which])
    return folder / "images.npz"


def result_and_warnings(call):
    """Return the result of a call, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        result = call()
    return result, " ".join(str(warning.message) for warning in caught if warning.category is DataWarning)


def test_splits_are_small_and_hold_no_paths(opened, tmp_path):
    assert (opened.path / SPLITS).stat().st_size < 1600  # 8 bytes per image, and the overhead of three arrays in .npz
    assert str(tmp_path).encode() not in (opened.path / SPLITS).read_bytes()


#: images after the change, and the warning
CHANGED = {
    "nothing": (BEFORE, ""),
    "one more": ([*BEFORE, 60], r"1 new image is in no split \(--split new selects them\)$"),
    "more": (range(100), r"40 new images are in no split \(--split new selects them\)$"),
    "fewer": (BEFORE[:-10], r"of 48 train.* images are missing or have changed$"),
    "both": ([*range(10, 100)], "40 new images are in no split.*; .*are missing or have changed$"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_changes_are_reported_once_and_the_splits_are_kept(opened, tmp_path, case):
    first = run_folder(opened.path, opened.config, opened.model)
    before = {name: first.data().arrays(name)[0] for name in ("validation", "test")}
    which, message = CHANGED[case]
    write(tmp_path, which)
    opened = run_folder(opened.path, {**opened.config, "data_seed": 6}, opened.model)  # the seed has no effect
    data, warned = result_and_warnings(opened.data)
    assert re.search(message, warned)
    assert bool(message) == bool(warned)
    assert result_and_warnings(opened.data) == (data, "")
    for name, images in before.items():
        kept = data.arrays(name)[0]
        here = (IMAGES[list(which)] / np.float32(255))[..., None]
        np.testing.assert_array_equal(kept, [x for x in images if np.any(np.all(x == here, axis=(1, 2, 3)))])


def test_another_order_is_not_a_change(opened, tmp_path):
    test = opened.data().arrays("test")[0]
    write(tmp_path, BEFORE[::-1])
    data, warned = result_and_warnings(run_folder(opened.path, opened.config, opened.model).data)
    assert warned == ""
    np.testing.assert_array_equal(data.arrays("test")[0], test)


def test_replaced_images_are_refused(opened, tmp_path):
    np.savez(tmp_path / "images.npz", images=255 - IMAGES, labels=LABELS)
    with pytest.raises(
        DataError, match=r"images: expected the images of the saved splits.*none of the 60; restore them"
    ):
        opened.data()


def test_older_runs_are_split_as_before(opened, tmp_path):
    write(tmp_path, range(100))
    (opened.path / SPLITS).unlink()
    data, warned = result_and_warnings(opened.data)
    assert (data.num_train, data.num_test, warned) == (80, 10, "")


def test_a_damaged_file_is_refused(opened):
    (opened.path / SPLITS).write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(RunError, match=r"Expected the splits that `kvae train` wrote. Received: .*splits.npz"):
        opened.data()


def test_another_source_with_training_images(opened, tmp_path):
    (tmp_path / "copy").mkdir()
    copy = str(write(tmp_path / "copy", range(100)))
    data, warned = result_and_warnings(lambda: opened.data(copy))
    assert data.num_train == 80
    assert re.search(r"images that the run was trained on: \d of 10 validation and \d of 10 test images", warned)
    assert result_and_warnings(lambda: opened.data(copy, whole=True))[1] == ""
    others = tmp_path / "others.npz"
    np.savez(others, images=IMAGES[60:])
    assert result_and_warnings(lambda: opened.data(str(others)))[1] == ""


def test_a_conditional_run_requires_its_classes(opened, models, tmp_path):
    conditional = run_folder(opened.path, opened.config, models[1])
    assert conditional.data().label_names == tuple("abcd")
    write(tmp_path, range(100), np.array(list("abcx"))[np.arange(100) % 4])
    conditional = run_folder(opened.path, opened.config, models[1])
    with pytest.raises(RunError, match=r"was trained with: a, b, c, d. Received: images with a, b, c, x"):
        conditional.data()


def test_a_training_run_is_resumed_with_its_images(opened, tmp_path):
    run, source = opened.path, tmp_path / "images.npz"
    (run / "training").mkdir()
    (run / SPLITS).rename(run / "training" / SPLITS)
    train = kvae.data.load(source, seed=5).arrays("train")[0]
    write(tmp_path, range(100))
    data, warned = result_and_warnings(lambda: _as_at_start(kvae.data.load(source), run, "images.npz"))
    assert "40 new images" in warned
    np.testing.assert_array_equal(data.arrays("train")[0], train)
    write(tmp_path, range(7, 60))
    with pytest.raises(RunError, match=r"\d of the 54 images of this training run are missing from images.npz"):
        _as_at_start(kvae.data.load(source), run, "images.npz")
    (run / "training" / SPLITS).unlink()  # as in an older run
    (run / "training" / "config.json").write_text('{"training_images": 48, "size": null}')
    with pytest.raises(RunError, match=r"Expected the 48 training images of images.npz .* Received: 43"):
        _as_at_start(kvae.data.load(source), run, "images.npz")
