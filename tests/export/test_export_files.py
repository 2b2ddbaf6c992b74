"""Tests of the files of an export, their contents and the report."""

import filecmp
import gzip
import hashlib
import json
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

import kvae.export
from kvae.distributions import IndexedNoise
from kvae.export import Budgets, flatbuffer, litert, runtime, web
from kvae.export.console import quiet

ROOT = Path(kvae.export.__file__).parent.parent
NAMES = {"decode", "encode", "reconstruct", "generate", "latents", "interpolate", "score"}
ARTIFACTS = [
    "saved_model", "vae_float32.tflite", "decoder_float32.tflite", "vae_int8.tflite", "decoder_int8.tflite",
]  # fmt: skip
GOLDEN = [path.replace(".tflite", ".golden.json") for path in ARTIFACTS[1:]]
FILES = sorted([*ARTIFACTS, *GOLDEN, "export.html", "kvae_runtime.py", "report.json"])
PRECISIONS = ("float32", "int8")
SEED_7 = {"seed": runtime.seed_words(7), "index": np.arange(4, dtype="int32"), "temperature": np.ones(1, "float32")}


def test_the_folder_has_what_the_report_lists(exported):
    report = json.loads((exported / "report.json").read_text())
    assert sorted(path.name for path in exported.iterdir()) == FILES
    assert [artifact["path"] for artifact in report["artifacts"]] == ARTIFACTS
    for artifact in report["artifacts"][1:]:
        data = (exported / artifact["path"]).read_bytes()
        assert artifact["bytes"] == len(data)
        assert artifact["sha256"] == hashlib.sha256(data).hexdigest()
        assert artifact["builtin_only"] is True
        assert set(artifact["signatures"]) == ({"decode"} if "decoder" in artifact["path"] else NAMES)
    assert report["model"]["image_shape"] == [8, 8, 1]
    assert report["model"]["prior"] == "StandardNormal"
    assert report["verification"]["images"] == "given"
    assert report["packages"]["tensorflow"].startswith("2.21")


def test_errors_in_the_report_are_within_the_stated_budgets(exported):
    for artifact in json.loads((exported / "report.json").read_text())["artifacts"]:
        for signature in artifact["signatures"].values():
            for output in signature["outputs"].values():
                assert output["shape"][0] == "B"
                assert output["dtype"] == "float32"
                assert 0 <= output["mean_abs_error"] <= output["max_abs_error"] <= output["budget"]["max"]
                assert output["max_abs_error"] <= signature["max_abs_error"]
            if artifact["precision"] == "float32":
                assert signature["max_abs_error"] < 1e-4


def test_int8_is_a_quarter_of_float32(exported):
    float32, int8 = ((exported / f"vae_{p}.tflite").stat().st_size for p in PRECISIONS)
    assert int8 < 0.5 * float32  # weights take a quarter, but graphs don't shrink


def test_the_default_decoder_has_fast_operators_for_any_batch_size(exported):
    for precision in PRECISIONS:
        contents = flatbuffer.read(exported / f"vae_{precision}.tflite")
        assert "DEPTH_TO_SPACE" in contents.operators
        assert "TRANSPOSE_CONV" not in contents.operators
    assert json.loads((exported / "report.json").read_text())["warnings"] == []


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes(vae, exported, images, directions, tmp_path):
    kvae.export.export(vae, tmp_path / "again", (images, np.arange(len(images)) % 2), directions=directions)
    for name in (f"vae_{precision}.tflite" for precision in PRECISIONS):
        assert filecmp.cmp(tmp_path / "again" / name, exported / name, shallow=False), name


@pytest.mark.slow
def test_steps_are_reported_and_nothing_is_printed(small, tmp_path, capfd):
    steps = []
    report = kvae.export.export(small, tmp_path, precisions=("float32",), batch_sizes=(1,), on_step=steps.append)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""
    assert len(steps) == 6
    assert report["verification"]["images"].startswith("noise")


def test_suppressed_output_can_be_read(capfd):
    with quiet() as log:
        print("from Python")
        subprocess.run([sys.executable, "-c", "print('from a process')"], check=True)
        log.flush()
        log.seek(0)
        assert "from a process" in log.read()
    print("afterwards")
    assert capfd.readouterr().out == "afterwards\n"


def test_plain_import_is_refused_with_a_hint():
    result = subprocess.run(
        [sys.executable, "-c", "import export"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "ImportError: This package is `kvae.export`" in result.stderr


@pytest.mark.parametrize("name", kvae.export.__all__)
def test_every_public_name_has_a_docstring(name):
    assert getattr(kvae.export, name).__doc__
    assert name in dir(kvae.export)


@pytest.fixture(scope="module")
def every_precision(digits_vae, tmp_path_factory):
    """Folder and report of a trained model's export in every precision."""
    vae, data = digits_vae
    (images, labels), (validation, _) = data.arrays("test"), data.arrays("validation")
    out = tmp_path_factory.mktemp("precisions")
    settings = {
        "precisions": litert.PRECISIONS, "batch_sizes": (1,), "networks": (),
        "dataset_name": "digits", "license": "CC0",
    }  # fmt: skip
    return out, kvae.export.export(vae, out, (images, labels), validation=validation, **settings)


@pytest.mark.slow
def test_measurements_of_every_precision(digits_vae, every_precision):
    """Check sizes, losses in nats and other measurements."""
    (vae, data), (out, report) = digits_vae, every_precision
    images, _ = data.arrays("test")
    saved_model, *files = report["artifacts"]
    assert [file["precision"] for file in files] == list(litert.PRECISIONS)
    size = {file["precision"]: file["bytes"] for file in files}
    assert size["float32"] > size["float16"] > size["int8"]
    does = {file["precision"]: file["behaviour"] for file in files}
    terms = vae.terms(images, IndexedNoise(runtime.seed_words(0), np.arange(len(images))))
    elbo = -float(np.mean(terms.distortion[0] + terms.rate))
    for name, limit in {"float32": 1e-3, "float16": 0.05, "int8": 1.0, "full_int8": 3.0}.items():
        assert abs(does[name]["elbo"] - elbo) < limit
        assert does[name]["nats_lost"] == pytest.approx(elbo - does[name]["elbo"], abs=1e-4)
        assert does[name]["score_rank_correlation"] > (0.9999 if "float" in name else 0.98)
        assert does[name]["probe_accuracy"] == pytest.approx(does["float32"]["probe_accuracy"], abs=0.05)
        assert does[name]["probe_accuracy"] > 0.4
        assert does[name]["latency_us"]["decode_1"]["1"] > 0
        assert 0 < does[name]["cold_start_ms"] < 10_000
        assert 10 < does[name]["peak_memory_mb"] < 500
    assert does["float32"]["psnr"] > does["float16"]["psnr"] > does["int8"]["psnr"] > 25
    assert saved_model["behaviour"]["nats_lost"] == pytest.approx(0, abs=1e-3)
    model = runtime.load(out / "vae_full_int8.tflite")
    assert (model.info["data"], model.info["license"]) == ("digits", "CC0")
    drawn = model.run("generate", **SEED_7)["z"]
    np.testing.assert_array_equal(drawn, vae.prior.sample(4, seed=7))  # random numbers are never quantised


@pytest.mark.slow
def test_auto_keeps_the_smallest_file_within_the_budget_on_validation_images(
    digits_vae, every_precision, tmp_path, monkeypatch
):
    monkeypatch.setattr("kvae.export.choice.SLOWER", 1000)  # other tests may run at the same time
    (vae, data), (out, report) = digits_vae, every_precision
    (images, _), (validation, _) = data.arrays("test"), data.arrays("validation")
    files = {file["precision"]: file for file in report["artifacts"][1:]}
    terms = vae.terms(validation, IndexedNoise(runtime.seed_words(0), np.arange(len(validation))))
    right = float(np.mean(terms.distortion[0] + terms.rate))
    index = np.arange(len(validation), dtype="int32")
    lost = {}
    for precision, file in files.items():
        scores = runtime.load(out / file["path"]).run("score", image=validation, seed=[0, 0], index=index)
        lost[precision] = float(np.mean(scores["negative_elbo"])) - right
    budget = sorted(lost.values())[1] + 1e-4  # two of the four precisions are within the budget
    smallest = min((name for name in files if lost[name] <= budget), key=lambda name: files[name]["bytes"])
    settings = {"precisions": "auto", "batch_sizes": (1,)}
    report = kvae.export.export(vae, tmp_path, images, validation=validation, budgets=Budgets(nats=budget), **settings)
    kept, decoder = report["artifacts"][1:]
    assert kept["precision"] == decoder["precision"] == smallest
    choice = report["choice"]
    assert (choice["images"], choice["of"], choice["refused"]) == (len(validation), "validation", {})
    assert choice["latency_us"].keys() == files.keys()
    assert min(choice["latency_us"].values()) > 1
    found = {precision: loss["nats_lost"] for precision, loss in choice["lost"].items()}
    assert found == pytest.approx(lost, abs=1e-3)
    assert kept["behaviour"]["nats_lost"] == pytest.approx(files[smallest]["behaviour"]["nats_lost"], abs=1e-3)
    assert not report["warnings"]
    left = sorted(path.name for path in tmp_path.glob("vae_*"))
    assert left == [f"vae_{smallest}.golden.json", f"vae_{smallest}.tflite"]


@pytest.mark.slow
def test_nothing_within_the_budget(small, images, tmp_path, monkeypatch):
    monkeypatch.setattr(litert, "PRECISIONS", ("float32",))
    with pytest.raises(kvae.export.ExportError, match="at most -100"):
        kvae.export.export(
            small, tmp_path / "out", images, precisions="auto", budgets=Budgets(nats=-100.0), batch_sizes=(1,)
        )
    assert not (tmp_path / "out").exists()


def contents(folder):
    """Yield every file below a folder with its bytes, including files in archives and compressed files."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        data = path.read_bytes()
        yield path.name, path.name.encode() + data
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from ((f"{path.name}/{name}", name.encode() + archive.read(name)) for name in archive.namelist())
        if data[:2] == b"\x1f\x8b":
            yield path.name, gzip.decompress(data)


@pytest.mark.slow
def test_published_files_contain_no_local_paths(tmp_path, monkeypatch):
    from PIL import Image

    from kvae.cli.main import app

    mine, rng = tmp_path / "Geheimnis" / "mine", np.random.default_rng(0)
    for i in range(60):
        (mine / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(mine / "ab"[i % 2] / f"{i}.png")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "Geheimnis" / "sets"))
    monkeypatch.setattr(web, "_cached", lambda: {file.name: b"" for file in web.FILES})
    run, out, page, features = (tmp_path / name for name in ("run", "out", "page", "features"))
    features.mkdir()
    for arguments in (
        ["train", mine, "--out", run, "--epochs", 1, "--latent-dim", 2, "--network", "mlp", "--samples", 2],
        ["export", run, "--out", out, "--web", page, "--precision", "float32", "--batch-size", 1],
        ["features", run, mine, "--out", features / "features.npz"],
    ):
        with warnings.catch_warnings():
            app([str(argument) for argument in arguments], standalone_mode=False)
    assert json.loads((run / "config.json").read_text())["source"] == str(mine)  # the training run is private
    assert "A VAE of mine" in (page / "index.html").read_text()
    found = [
        name
        for folder in (run, out, page, features)
        for name, data in contents(folder)
        if any(word in data for word in (b"Geheimnis", str(tmp_path).encode(), bytes(str(Path.home()), "ascii") + b"/"))
    ]
    assert found == ["config.json"]
