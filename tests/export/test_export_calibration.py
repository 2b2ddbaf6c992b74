"""The scores in a file, and the p-values of the runtime, compared with their definition and with SciPy."""

import json
import re
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from scipy import stats

import kvae.export
from kvae.export import ExportError, command, info, runtime

PRECISIONS = ("float32", "int8", "full_int8")
KNOWN, FRESH = 300, 2000
DOCS = Path(__file__).parents[2] / "docs" / "on_device.md"


def ordinary(seed: int, count: int) -> np.ndarray:
    """Images of random brightness and contrast."""
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.random((2, count, 1, 1, 1)), axis=0)
    return (low + (high - low) * rng.random((count, 8, 8, 1))).astype("float32")


@pytest.fixture(scope="module")
def validation():
    return ordinary(0, KNOWN)


@pytest.fixture(scope="module")
def folder(make_small, validation, tmp_path_factory):
    keras.utils.set_random_seed(0)
    out = tmp_path_factory.mktemp("calibration")
    settings = {"precisions": PRECISIONS, "batch_sizes": (1, 16), "signatures": ["score", "decode"]}
    report = kvae.export.export(make_small(), out, validation=validation, **settings)
    assert report["refused"] == {}
    return out


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_file_has_its_own_scores_of_the_validation_images(folder, validation, precision):
    model = runtime.load(folder / f"vae_{precision}.tflite")
    known, nats = model.info["score"]["calibration"], np.sort(model.score(validation)["negative_elbo"])
    assert len(known) == model.info["score"]["images"] == KNOWN
    above = np.array(known) - nats.astype("float64")
    assert 0 <= above.min()  # rounded up
    assert above.max() < 1e-3
    json_of_signature = model.call("info", {})["json"].tobytes()  # what other languages read
    assert json.loads(json_of_signature) == model.info
    report = json.loads((folder / "report.json").read_text())
    (artifact,) = [file for file in report["artifacts"] if file["path"] == model.path.name]
    assert artifact["bytes"] == model.path.stat().st_size  # `load` compares the checksum
    assert model.self_test().keys() == {"score_1", "decode_1"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_client_without_signatures_scores(folder, validation, precision):
    """A file whose first signature is `score_1`, read as `docs/on_device.md` describes for `tflite_flutter`."""
    path = folder / f"vae_{precision}.tflite"
    opened = Interpreter(str(path))
    opened.allocate_tensors()
    inputs = {detail["name"]: detail["index"] for detail in opened.get_input_details()}
    outputs = {detail["name"]: detail["index"] for detail in opened.get_output_details()}
    image = validation[:1]
    for name, value in {"image": image, "seed": np.zeros(2, "int32"), "index": np.zeros(1, "int32")}.items():
        opened.set_tensor(inputs[name], value)
    opened.invoke()
    nats = opened.get_tensor(outputs["negative_elbo"])
    with zipfile.ZipFile(path) as archive:
        known = np.array(json.loads(archive.read("info.json"))["score"]["calibration"])
    model = runtime.load(path)
    np.testing.assert_array_equal(nats, model.run("score", 1, image=image, seed=[0, 0], index=[0])["negative_elbo"])
    np.testing.assert_array_equal((1 + np.sum(known >= nats)) / (len(known) + 1), model.p_value(nats)[0])


def test_each_precision_has_other_scores(folder):
    known = [runtime.load(folder / f"vae_{name}.tflite").info["score"]["calibration"] for name in PRECISIONS]
    assert known[0] != known[1] != known[2]


@pytest.mark.parametrize("precision", ["int8", "full_int8"])
def test_p_values_of_ordinary_images_are_uniform(folder, precision):
    model = runtime.load(folder / f"vae_{precision}.tflite")
    p = model.p_value(model.score(ordinary(1, FRESH))["negative_elbo"])
    assert p.shape == (FRESH,)
    for alpha in (0.01, 0.05, 0.2, 0.5):
        k = int(alpha * (KNOWN + 1) + 1e-9)
        low, high = stats.betabinom(FRESH, k, KNOWN + 1 - k).ppf([5e-5, 1 - 5e-5])  # fails in 1 of 10,000 cases
        assert low <= np.sum(p <= alpha) <= high, alpha


def test_p_values_equal_their_definition(folder):
    model = runtime.load(folder / "vae_int8.tflite")
    known = np.array(model.info["score"]["calibration"])
    given = np.array([-np.inf, known[0], known[7] + 1e-6, known[-1], np.nextafter(known[-1], np.inf), np.inf])
    expected = (1 + np.sum(known >= given[:, None], axis=1)) / (KNOWN + 1)
    np.testing.assert_array_equal(model.p_value(given), expected)
    np.testing.assert_array_equal(model.p_value(given.reshape(2, 3)), expected.reshape(2, 3))
    assert expected[[0, 1, 3, 4, 5]].tolist() == [1, 1, 2 / 301, 1 / 301, 1 / 301]
    assert model.p_value(float(given[2])) == expected[2]
    assert model.p_value(10**9) == 1 / 301


@pytest.mark.parametrize("case", ["decoder", pytest.param("no images", marks=pytest.mark.slow)])
def test_files_without_scores_have_no_p_values(case, folder, make_small, tmp_path):
    path = folder / "decoder_int8.tflite"
    if case == "no images":
        kvae.export.export(make_small(), tmp_path, precisions="int8", batch_sizes=(1,), networks=())
        path = tmp_path / "vae_int8.tflite"
    with pytest.raises(ValueError, match=r"file with calibration scores\. Received: .*the signature 'score' with"):
        runtime.load(path).p_value(1.0)


def test_a_file_has_evenly_spaced_images_if_there_are_many(monkeypatch):
    """Images are often sorted by class: the first ones aren't exchangeable with new ones."""
    monkeypatch.setattr(info, "CALIBRATION", 5)
    images = np.arange(9, dtype="float32").reshape(9, 1, 1, 1)
    conditions = np.eye(9, dtype="float32")
    seen = []

    def run(name, inputs):
        seen.append(inputs)
        return {"negative_elbo": -inputs["image"].ravel()}

    assert info.calibration("a.tflite", run, {"image": images, "condition": conditions}) == [-8, -6, -4, -2, 0]
    np.testing.assert_array_equal(seen[0]["condition"], conditions[::2])
    np.testing.assert_array_equal(seen[0]["seed"], [0, 0])
    np.testing.assert_array_equal(seen[0]["index"], np.zeros(5))
    images[4] = np.nan
    with pytest.raises(ExportError, match=r"finite scores .* 'a\.tflite'\. Received: NaN"):
        info.calibration("a.tflite", run, {"image": images})


def test_the_command_scores_images(folder, tmp_path, capsys):
    images, path = ordinary(2, 3), folder / "vae_int8.tflite"
    np.save(tmp_path / "images.npy", images)
    assert command.main([str(path), "--score", str(tmp_path / "images.npy")]) == 0
    model = runtime.load(path)
    nats = model.score(images)["negative_elbo"]
    shown = [
        [float(number) for number in re.findall(r"-?\d+\.?\d*", line)] for line in capsys.readouterr().out.splitlines()
    ]
    expected = np.stack([range(3), nats, model.percentile(nats), model.p_value(nats)], axis=1)
    np.testing.assert_allclose(shown, expected, atol=0.0501)
    np.testing.assert_allclose(np.array(shown)[:, 3], model.p_value(nats), atol=5e-5)
    assert command.main([str(folder / "decoder_int8.tflite"), "--score", str(tmp_path / "images.npy")]) == 1
    assert "with the signature 'score'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([str(path), "--score", "images.npy", "--generate", "1"])


def test_the_programs_of_the_documentation(exported, monkeypatch, capsys):
    """Both give the first image that seed 7 draws, its score and its p-value."""
    section = DOCS.read_text(encoding="utf-8").split("\n## Python, on a board\n")[1].split("\n## ")[0]
    monkeypatch.chdir(exported)
    with_kvae, without = ({}, {})
    for program, scope in zip(
        re.findall(r"```python\n(.*?)```", section, re.DOTALL), (with_kvae, without), strict=True
    ):
        exec(program, scope)
    model = runtime.load("vae_int8.tflite")
    score = model.score(model.generate(1, seed=7))["negative_elbo"][0]
    np.testing.assert_allclose([with_kvae["scores"][0], without["score"]], score, rtol=1e-5)
    assert without["p"] == model.p_value(without["score"])
    np.testing.assert_array_equal(with_kvae["alarm"], model.p_value(with_kvae["scores"]) <= 0.01)
    assert f"p {without['p']:.4f}" in capsys.readouterr().out
