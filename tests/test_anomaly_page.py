"""The programs and commands of docs/anomaly.md run in their order, with fewer epochs."""

import contextlib
import io
import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest

import kvae
from kvae.cli.main import main
from kvae.export import command

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "anomaly.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```", PAGE, flags=re.DOTALL)
SHORTER = {
    "latent_dim=8, alpha": "latent_dim=8, epochs=2, alpha",
    "epochs 30": "epochs 2",
    "epochs=30": "epochs=2",
    "epochs=60": "epochs=2",
}


def run_line(line: str) -> tuple[int, str]:
    """Run a command in this process; return its status and what it printed."""
    words, out = shlex.split(line), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        if words[0] == "kvae":
            show = warnings.showwarning
            try:
                main(words[1:])
            except SystemExit as stop:
                return int(stop.code or 0), out.getvalue()
            finally:
                warnings.showwarning = show
            return 0, out.getvalue()
        assert words[:3] == ["python", "-m", "kvae.export.runtime"]
        return command.main(words[3:]), out.getvalue()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::kvae.evaluation.EvaluationWarning")  # two epochs are too few
def test_the_programs_and_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    found = set()
    for language, code in BLOCKS:
        for old, new in SHORTER.items():
            found |= {old} if old in code else set()
            code = code.replace(old, new)
        if language == "python":
            exec(compile(code, "anomaly.md", "exec"), names)
            continue
        for line in code.splitlines():
            status, printed = run_line(line)
            assert status == (3 if "--watch" in line else 0), line
        assert {re.search(r"p 0\.\d+  ALARM$", row) is not None for row in printed.splitlines()} == {True}
        assert (tmp_path / "RUN" / "report.html").is_file()
    assert found == {*SHORTER}
    assert names["excess"].shape == names["window"].shape == (64, 6)
    assert len(names["readings"]) == 10 * 24 * 60
    due = [reading for reading in names["readings"] if reading]
    faults = np.array(names["faults"])
    assert len(due) == len(faults) == (10 * 24 * 60 - 64) // 16 + 1
    low = np.array([reading.p_value for reading in due]) <= names["watch"].alpha
    assert low.any()
    assert low[~faults].mean() < 0.1
    assert [reading.alarm for reading in due] == (low & ~np.append(False, low[:-1])).tolist()  # where one begins
    assert (tmp_path / "alarms.png").is_file()
    labels, maps, masks = (names[name] for name in ("labels", "maps", "masks"))
    assert names["data"].label_names == ("good", "scratch", "spots")
    assert (np.bincount(labels).tolist(), maps.shape, masks.shape) == ([40] * 3, (120, 32, 32), (120, 32, 32))
    np.testing.assert_array_equal(masks.any(axis=(1, 2)), labels > 0)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), -names["detector"].score_samples(names["images"]), rtol=1e-5)
    assert len(names["held_out"]) == 80
    # Two epochs know the mean image of the fabric. Chance is 0.5 for pixels and 0.15 for regions.
    assert kvae.evaluation.pixel_auroc(maps, masks) > 0.7
    assert kvae.evaluation.per_region_overlap(maps, masks) > 0.3
    again = kvae.plotting.save(names["figure"], tmp_path / "again.png")
    assert (tmp_path / "maps.png").read_bytes() == again.read_bytes()


@pytest.mark.parametrize("path", ["README.md", "docs/index.md", "docs/guide.md", "docs/gallery.md"])
def test_the_page_is_linked(path):
    text = (Path(__file__).resolve().parent.parent / path).read_text(encoding="utf-8")
    assert re.search(r"anomaly\.md|:link: anomaly|^anomaly$", text, flags=re.MULTILINE)


def test_the_least_numbers_of_calibration_windows():
    """The table of the page, against the definition: n is the smallest with 1 / (n + 1) <= alpha."""
    rows = re.findall(r"^\| (\d+) rows? \| ([\d.]+) \| ([\d,]+) \| (\d+) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 3
    for every, alpha, least, days in rows:
        exact, n = int(every) / (24 * 60), int(least.replace(",", ""))
        assert float(alpha) == pytest.approx(exact, rel=0.02)
        assert 1 / (n + 1) <= exact < 1 / n
        assert n * 64 / (24 * 60) == pytest.approx(int(days), abs=0.5)
