"""Tests of precisions="auto", and of the arguments of `export`."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import kvae
from kvae.export import ExportError, checks, reference
from kvae.export.choice import Budgets, Choice

IMAGES, OTHERS, LABELS = np.zeros((4, 8, 8, 1)), np.ones((3, 8, 8, 1)), [0, 1, 1, 0]
MODELS = {
    "VAE": {"prior": 1},
    "classifier": {"num_classes": 2},
    "both": {"prior": 1, "num_classes": 2},
    "autoencoder": {},
}
#: model, images, labels and validation; expected images and losses of the choice
CASES = {
    "validation images": ("VAE", IMAGES, None, OTHERS, "validation", ["nats_lost"]),
    "validation alone": ("VAE", None, None, OTHERS, "validation", ["nats_lost"]),
    "no validation": ("VAE", IMAGES, None, None, "test", ["nats_lost"]),
    "labels of a VAE have no effect": ("VAE", IMAGES, LABELS, OTHERS, "validation", ["nats_lost"]),
    "a pair for a model without labels": ("VAE", IMAGES, LABELS, (OTHERS, [0, 1, 1]), "validation", ["nats_lost"]),
    "labels": ("classifier", IMAGES, LABELS, (OTHERS, [0, 1, 1]), "validation", ["accuracy_lost"]),
    "no labels for validation": ("classifier", IMAGES, LABELS, OTHERS, "test", ["accuracy_lost"]),
    "labels for validation alone": ("classifier", IMAGES, None, (OTHERS, [0, 1, 1]), "validation", ["accuracy_lost"]),
    "both": ("both", IMAGES, LABELS, (OTHERS, [0, 1, 1]), "validation", ["accuracy_lost", "nats_lost"]),
    "more losses on the test images": ("both", IMAGES, LABELS, OTHERS, "test", ["accuracy_lost", "nats_lost"]),
    "nothing": ("VAE", None, None, None, None, None),
    "an autoencoder": ("autoencoder", IMAGES, None, OTHERS, None, None),
    "a classifier without labels": ("classifier", IMAGES, None, OTHERS, None, None),
}


def choose(model, images, labels, validation):
    model = SimpleNamespace(event_shape=(8, 8, 1), bounded=True, condition_dim=None, **MODELS[model])
    test = checks.Images.checked("images", model, images, labels, None, None)
    return Choice.by(Budgets(), checks.validation_images(model, validation, None), test)


@pytest.mark.parametrize("case", CASES)
def test_the_images_of_the_choice(case):
    *arguments, of, by = CASES[case]
    if of is None:
        with pytest.raises(ValueError, match="precisions='auto' compares ELBOs or accuracies"):
            choose(*arguments)
        return
    choice = choose(*arguments)
    assert (choice.as_dict()["of"], sorted(choice.budgets)) == (of, by)
    assert choice.as_dict()["images"] == (3 if of == "validation" else 4)
    warned = [warning for warning in choice.warnings() if "chosen on the test images" in warning]
    assert len(warned) == len(choice.warnings()) == (of == "test")
    assert ("as a pair" in "".join(warned)) == (of == "test" and "accuracy_lost" in by)


def test_the_smallest_file_within_the_budgets_and_not_too_slow_is_chosen():
    choice = choose(*CASES["both"][:4])
    losses = {"a": (0.6, 0.0), "b": (0.1, 0.006), "c": (0.5, 0.005), "d": (-0.1, 0.0)}
    choice.lost = {name: dict(zip(("nats_lost", "accuracy_lost"), lost)) for name, lost in losses.items()}
    choice.bytes = {"a": 1, "b": 2, "c": 3, "d": 4}
    choice.latency_us = {"a": 10, "b": 10, "c": 150, "d": 100}
    assert choice.best() == "c"
    choice.latency_us["c"] = 151  # more than 1.5 times as long as the fastest
    assert choice.best() == "d"
    assert choice.endpoints == ["classify", "score"]
    choice.lost = {name: choice.lost[name] for name in ("a", "b")}
    with pytest.raises(ExportError, match=r"at most 0.005 of accuracy and 0.5 nats. Received: a loses 0.6 nats"):
        choice.best()
    with pytest.raises(ExportError, match="Received: none"):
        Choice(choice.budgets, choice.images, True).best()


WRONG = {
    "batch sizes of True": ({"batch_sizes": (True,)}, r"positive integers.*Received: \(True,\)"),
    "batch sizes of 1.0": ({"batch_sizes": (1.0,)}, r"positive integers.*Received: \(1.0,\)"),
    "a batch size": ({"batch_sizes": 1}, "positive integers.*Received: 1"),
    "batch sizes of text": ({"batch_sizes": "16"}, "positive integers.*Received: 16"),
    "precisions of a number": ({"precisions": 8}, "`precisions` must be one or more of .*Received: 8"),
    "precisions of None": ({"precisions": None}, "Received: None"),
    "precisions of lists": ({"precisions": [["int8"]]}, r"Received: \[\['int8'\]\]"),
    "auto and another": ({"precisions": ("auto", "int8")}, "Received: .'auto', 'int8'."),
    "a name of a number": ({"dataset_name": 5}, "`dataset_name` must be text. Received: dataset_name=5"),
    "a licence that is a path": ({"license": Path("LICENSE")}, "`license` must be text"),
    "a directory of a number": ({"directory": 5}, "`directory` must be a path. Received: directory=5"),
    "no directory": ({"directory": None}, "`directory` must be a path. Received: directory=None"),
    "validation of three": (
        {"validation": (IMAGES, LABELS, LABELS)},
        "`validation` must be images, or a pair.*of 3",
    ),
    "images of text": (
        {"data": "x.npy"},
        "`data` must be one or more images, an array of shape .*Received: 'x.npy'",
    ),
    "images of objects": ({"data": np.full((2, 8, 8, 1), None)}, "`data` .*Received: dtype object"),
    "ragged images": ({"data": [[1], [1, 2]]}, "`data` .*Received: rows of different lengths"),
    "class names of text": ({"class_names": "ab"}, "`class_names` must be a list of names. Received: class_names='ab'"),
    "class names of a number": ({"class_names": 3}, "class_names=3"),
    "condition names of a number": ({"condition_names": 3}, "condition_names=3"),
    "conditions for an unconditional model": (
        {"data": IMAGES, "conditions": LABELS},
        "`conditions` is for a conditional model",
    ),
    "labels of a number": ({"data": (IMAGES, 5)}, "`data` must have one label per image.*0 labels, 4 images"),
    "a path of a model": ({"model": "model.keras"}, "`model` must be a `kvae.VAE`.*Received: str"),
    "validation of another shape": ({"validation": np.zeros((2, 9, 9, 1))}, "`validation` must be one or more images"),
    "a little above 1": ({"data": np.full((2, 8, 8, 1), 1.00001)}, "values from 1.00001001 to 1.00001001"),
    "validation in bytes": ({"validation": np.full((2, 8, 8, 1), 255)}, "`validation` must have values in"),
}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"nats": np.nan}, "`nats` must be a finite number.*nats=nan"),
        ({"nats": "1"}, "nats='1'"),
        ({"accuracy": None}, "accuracy=None"),
    ],
)
def test_budgets_are_numbers(limits, message):
    with pytest.raises(ValueError, match=message):
        kvae.export.Budgets(**limits)


@pytest.mark.parametrize("case", WRONG)
def test_invalid_arguments_are_refused(case, vae, tmp_path):
    arguments, message = WRONG[case]
    arguments = {"model": vae, "directory": tmp_path / "a" / "b", **arguments}
    with pytest.raises(ValueError, match=message) as caught:
        kvae.export.export(**arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_rounding_errors_beyond_the_range_are_clipped(vae):
    images = reference.check_images(np.full((1, 8, 8, 1), 1.0000005), vae)
    assert images.dtype == np.float32
    assert images.max() == 1


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
def test_a_quantised_model_is_refused(tmp_path):
    model = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
    model.quantize("int8")
    with pytest.raises(ValueError, match=r"before `model.quantize`.*quantised layer 'head"):
        kvae.export.export(model, tmp_path / "out")


@pytest.mark.parametrize("sizes", [(np.int64(1), None), [np.uint8(1), np.array(1), None], (1, None, 1)])
def test_batch_sizes_of_numpy(sizes):
    assert checks.batch_sizes_of(sizes) == (1, None)


def test_an_unwritable_folder_is_refused(vae, tmp_path, monkeypatch):
    """The error is raised before any computation."""
    monkeypatch.setattr("kvae.export.pipeline._Export", None)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match=r"a folder that can be written to. Received: '.*file/out' \(Not a directory"):
        kvae.export.export(vae, tmp_path / "file" / "out")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr("kvae.export.place.temporary_folder", denied)
    with pytest.raises(ExportError, match=r"Received: '.*b' \(Permission denied\)"):
        kvae.export.export(vae, tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
