"""The data of a run whose source has changed since training: its splits are kept, and what has changed is told."""

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
    """Without training, which is nothing to the data; the second one is conditional."""

    def model(condition_dim=None):
        return kvae.VAE(Encoder(2, MLP((4,))), Decoder((8, 8, 1), MLP((4,))), condition_dim=condition_dim)

    return model(), model(4)


@pytest.fixture
def opened(tmp_path, models):
    """A run on the first sixty images of an .npz file, as if it had been trained just now."""
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
    """A run of which neither is read from a file."""
    run = RunFolder(path)
    vars(run).update(config=config, model=model)
    return run


def write(folder, which, labels=LABELS):
    np.savez(folder / "images.npz", images=IMAGES[which], labels=labels[which])
    return folder / "images.npz"


def told(call):
    """What it returns, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        result = call()
    return result, " ".join(str(warning.message) for warning in caught if warning.category is DataWarning)


def test_splits_are_small_and_say_nothing_of_places(opened, tmp_path):
    assert (opened.path / SPLITS).stat().st_size < 1600  # 8 bytes an image, and what .npz takes for three arrays
    assert str(tmp_path).encode() not in (opened.path / SPLITS).read_bytes()


#: images after the change, and what is said
CHANGED = {
    "nothing": (BEFORE, ""),
    "one more": ([*BEFORE, 60], r"1 new image is in no split \(--split new has them\)$"),
    "more": (range(100), r"40 new images are in no split \(--split new has them\)$"),
    "fewer": (BEFORE[:-10], r"of 48 train.* images are missing or have changed$"),
    "both": ([*range(10, 100)], "40 new images are in no split.*; .*are missing or have changed$"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_what_has_changed_is_told_once_and_the_splits_are_kept(opened, tmp_path, case):
    first = run_folder(opened.path, opened.config, opened.model)
    before = {name: first.data().arrays(name)[0] for name in ("validation", "test")}
    which, message = CHANGED[case]
    write(tmp_path, which)
    opened = run_folder(opened.path, {**opened.config, "data_seed": 6}, opened.model)  # no seed cuts them another way
    data, warned = told(opened.data)
    assert re.search(message, warned)
    assert bool(message) == bool(warned)
    assert told(opened.data) == (data, "")
    for name, images in before.items():
        kept = data.arrays(name)[0]
        here = (IMAGES[list(which)] / np.float32(255))[..., None]
        np.testing.assert_array_equal(kept, [x for x in images if np.any(np.all(x == here, axis=(1, 2, 3)))])


def test_an_order_is_no_change(opened, tmp_path):
    test = opened.data().arrays("test")[0]
    write(tmp_path, BEFORE[::-1])
    data, warned = told(run_folder(opened.path, opened.config, opened.model).data)
    assert warned == ""
    np.testing.assert_array_equal(data.arrays("test")[0], test)


def test_other_images_are_an_error_that_says_what_to_do(opened, tmp_path):
    np.savez(tmp_path / "images.npz", images=255 - IMAGES, labels=LABELS)
    with pytest.raises(DataError, match=r"images: expected the images of the splits.*Put them back.*Received: 0 of 60"):
        opened.data()


def test_runs_of_before_are_cut_as_they_were(opened, tmp_path):
    write(tmp_path, range(100))
    (opened.path / SPLITS).unlink()
    data, warned = told(opened.data)
    assert (data.num_train, data.num_test, warned) == (80, 10, "")


def test_a_damaged_file_is_named(opened):
    (opened.path / SPLITS).write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(RunError, match=r"Expected the splits that `kvae train` wrote. Received: .*splits.npz"):
        opened.data()


def test_another_source_with_images_that_were_trained_on(opened, tmp_path):
    (tmp_path / "copy").mkdir()
    copy = str(write(tmp_path / "copy", range(100)))
    data, warned = told(lambda: opened.data(copy))
    assert data.num_train == 80
    assert re.search(r"the run was trained on \d of 10 validation and \d of 10 test images of the split", warned)
    assert told(lambda: opened.data(copy, whole=True))[1] == ""
    others = tmp_path / "others.npz"
    np.savez(others, images=IMAGES[60:])
    assert told(lambda: opened.data(str(others)))[1] == ""


def test_a_conditional_run_keeps_the_numbers_of_its_classes(opened, models, tmp_path):
    conditional = run_folder(opened.path, opened.config, models[1])
    assert conditional.data().label_names == tuple("abcd")
    write(tmp_path, range(100), np.array(list("abcx"))[np.arange(100) % 4])
    conditional = run_folder(opened.path, opened.config, models[1])
    with pytest.raises(RunError, match=r"was trained with: a, b, c, d. Received: images with a, b, c, x"):
        conditional.data()


def test_a_training_is_resumed_with_the_images_that_it_began_with(opened, tmp_path):
    run, source = opened.path, tmp_path / "images.npz"
    (run / "training").mkdir()
    (run / SPLITS).rename(run / "training" / SPLITS)
    train = kvae.data.load(source, seed=5).arrays("train")[0]
    write(tmp_path, range(100))
    data, warned = told(lambda: _as_at_start(kvae.data.load(source), run, "images.npz"))
    assert "40 new images" in warned
    np.testing.assert_array_equal(data.arrays("train")[0], train)
    write(tmp_path, range(7, 60))
    with pytest.raises(RunError, match=r"\d of the 54 images that the training began with are missing from images.npz"):
        _as_at_start(kvae.data.load(source), run, "images.npz")
    (run / "training" / SPLITS).unlink()  # as before there were such files
    (run / "training" / "config.json").write_text('{"training_images": 48, "size": null}')
    with pytest.raises(RunError, match=r"images.npz had 48 training images, and has 43 now"):
        _as_at_start(kvae.data.load(source), run, "images.npz")
