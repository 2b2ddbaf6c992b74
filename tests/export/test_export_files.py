"""What an export leaves behind: files, their contents, the report; and what it doesn't print."""

import doctest
import hashlib
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import kvae.export
from kvae.export import flatbuffer, litert
from kvae.export.console import quiet

ROOT = Path(kvae.export.__file__).parent.parent
FILES = ["report.json", "saved_model", "vae_float32.tflite", "vae_int8.tflite"]


def test_the_folder_has_what_the_report_lists(exported):
    report = json.loads((exported / "report.json").read_text())
    assert sorted(path.name for path in exported.iterdir()) == FILES
    assert [artifact["path"] for artifact in report["artifacts"]] == FILES[1:]
    for artifact in report["artifacts"][1:]:
        data = (exported / artifact["path"]).read_bytes()
        assert artifact["bytes"] == len(data)
        assert artifact["sha256"] == hashlib.sha256(data).hexdigest()
        assert artifact["builtin_only"] is True
        assert set(artifact["signatures"]) == {"decode", "encode", "reconstruct"}
    assert report["model"]["image_shape"] == [8, 8, 1]
    assert report["model"]["prior"] == "StandardNormal"
    assert report["verification"]["images"] == "given"
    assert report["packages"]["tensorflow"].startswith("2.21")


def test_errors_in_the_report_are_within_the_stated_budgets(exported):
    for artifact in json.loads((exported / "report.json").read_text())["artifacts"]:
        for signature in artifact["signatures"].values():
            assert signature["inputs"].keys() <= {"z", "image"}
            for output in signature["outputs"].values():
                assert output["shape"][0] is None
                assert output["dtype"] == "float32"
                assert 0 <= output["mean_abs_error"] <= output["max_abs_error"] <= output["budget"]["max"]
                assert output["max_abs_error"] <= signature["max_abs_error"]
            if artifact["precision"] == "float32":
                assert signature["max_abs_error"] < 1e-5


def test_int8_is_a_quarter_of_float32(exported):
    float32, int8 = ((exported / f"vae_{p}.tflite").stat().st_size for p in litert.PRECISIONS)
    assert int8 < 0.3 * float32


def test_the_default_decoder_upsamples_with_operators_that_are_fast_at_any_batch_size(exported):
    for precision in litert.PRECISIONS:
        contents = flatbuffer.read(exported / f"vae_{precision}.tflite")
        assert "DEPTH_TO_SPACE" in contents.operators
        assert "TRANSPOSE_CONV" not in contents.operators
    assert json.loads((exported / "report.json").read_text())["warnings"] == []


def test_the_same_model_gives_the_same_bytes(vae, exported, tmp_path):
    kvae.export.export(vae, tmp_path / "again")
    for precision in litert.PRECISIONS:
        name = f"vae_{precision}.tflite"
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()


def test_steps_are_told_and_nothing_is_printed(vae, tmp_path, capfd):
    steps = []
    report = kvae.export.export(vae, tmp_path, precisions=("float32",), on_step=steps.append)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""
    assert len(steps) == 4
    assert report["verification"]["images"].startswith("noise")


def test_what_was_kept_quiet_can_be_read(capfd):
    with quiet() as log:
        print("from Python")
        subprocess.run([sys.executable, "-c", "print('from a process')"], check=True)
        log.flush()
        log.seek(0)
        assert "from a process" in log.read()
    print("afterwards")
    assert capfd.readouterr().out == "afterwards\n"


def test_plain_import_says_how_to_import():
    result = subprocess.run(
        [sys.executable, "-c", "import export"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "ImportError: This package is `kvae.export`" in result.stderr


@pytest.mark.parametrize("name", kvae.export.__all__)
def test_every_public_name_is_there(name):
    assert getattr(kvae.export, name).__doc__
    assert name in dir(kvae.export)


@pytest.mark.parametrize("path", sorted((ROOT / "export").glob("*.py")), ids=lambda path: path.stem)
def test_docstring_examples(path):
    module = importlib.import_module("kvae.export" if path.stem == "__init__" else f"kvae.export.{path.stem}")
    assert doctest.testmod(module).failed == 0
