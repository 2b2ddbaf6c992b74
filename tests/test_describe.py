"""The description of a trained run: a failing step is reported, also in the report, and the others run."""

import html
import json
import shutil

import numpy as np
import pytest

import kvae
from kvae import plotting, report
from kvae.cli.main import main
from kvae.cli.tables import describe as described_by_the_command
from kvae.networks import MLP, Decoder, Encoder
from kvae.run import RunFolder
from kvae.steps import Steps
from kvae.training import describe

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
IMAGES = RNG.random((60, 8, 8, 1)).astype("float32")
THIRDS = np.arange(60) % 3
CONFIG = {"source": "digits", "binarize": "none", "size": None, "grayscale": None, "seed": 0, "latent_dim": 2}


def small(shape=(8, 8, 1), **parts) -> kvae.VAE:
    return kvae.VAE(Encoder(2, MLP((8,))), Decoder(shape, MLP((8,))), **parts)


@pytest.fixture(scope="module")
def model() -> kvae.VAE:
    return small()


@pytest.fixture
def run(tmp_path, model):
    """The folder of a trained run, before its description."""
    (tmp_path / "run").mkdir()
    model.save(tmp_path / "run" / "model.keras")
    write(tmp_path / "run" / "config.json", CONFIG)
    write(tmp_path / "run" / "metrics.json", {"train_seconds": 1.0, "epochs": 1})
    (tmp_path / "run" / "history.csv").write_text("epoch,distortion,elbo\n0,9.5,-10\n", encoding="utf-8")
    return tmp_path / "run"


def write(path, content) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def few(train: int, test: int, labels=THIRDS) -> kvae.data.Data:
    """Return data with these numbers of training and test images."""
    rows = train + 1 + test
    data = kvae.data.load(
        (IMAGES[:rows], None if labels is None else labels[:rows]),
        validation_fraction=1 / rows, test_fraction=test / rows, batch_size=8,
    )  # fmt: skip
    assert (data.num_train, data.num_test) == (train, test)
    return data


#: data, and the messages about steps that fail with it, in order
DATA = {
    "enough of everything": (lambda: few(40, 12), []),
    "no labels": (lambda: few(40, 12, None), []),
    "one class": (
        lambda: few(40, 12, np.zeros(60, int)),
        ["Not made: linear probe — Expected at least 10 labelled", "Not drawn: direction", "Not drawn: arithmetic"],
    ),
    "too few to train a probe on": (
        lambda: few(6, 12),
        ["Not made: linear probe — Expected at least 10 labelled training examples"],
    ),
    "two test images": (lambda: few(40, 2), ["Not drawn: thumbnail map — Expected three latents", "Not drawn: th", ""]),
    "one test image": (
        lambda: few(40, 1),
        ["Not drawn: neighbours — Expected two images or more. Received: 1", "Not drawn: thumbnail map", "", ""],
    ),
    "some without a label": (lambda: few(40, 12, np.where(np.arange(60) % 4, THIRDS, -1)), []),
    "none with a label": (
        lambda: few(40, 12, np.full(60, -1)),
        ["Not made: linear probe — Expected labels to probe for. Received: array, whose training images have none"],
    ),
}


SLOW = ("enough of everything", "no labels", "too few to train a probe on", "two test images", "none with a label")


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in DATA])
def test_steps_that_the_data_do_not_allow_are_reported_and_the_others_run(case, run, capsys):
    made, expected = DATA[case]
    described_by_the_command(run, made(), 2, False)
    reported = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Not ")]
    assert len(reported) >= len([line for line in expected if line])
    for line in filter(None, expected):
        assert any(one.startswith(line) for one in reported), (line, reported)
    assert bool(reported) == bool(expected), reported
    metrics, figures = read(run / "metrics.json"), read(run / "figures" / "figures.json")
    assert np.isfinite([metrics["elbo"], metrics["train_seconds"]]).all()
    assert ("probe" in metrics) == (case not in ("no labels", "one class", "too few to train a probe on",
                                                 "none with a label"))  # fmt: skip
    noted = {**metrics.get("not_made", {}), **figures["failed"]}
    assert reported == [f"{failure} — {reason}" for failure, reason in noted.items()]
    page = html.unescape((run / "report.html").read_text(encoding="utf-8"))
    assert all(line in page for line in reported)
    assert ("<h2>Failures</h2>" in page) == bool(reported)
    assert {"reconstructions", "samples", "latent_map", "manifold", "learning_curves"} <= set(figures["drawn"])
    assert sorted(path.stem for path in (run / "figures").glob("*.png")) == sorted(figures["drawn"])
    assert RunFolder(run).is_described


#: failing function: its module, and the message
BROKEN = {
    "evaluate": (describe, "Not scored: test split — RuntimeError: broken"),
    "probe_run": (describe, "Not made: linear probe — RuntimeError: broken"),
    "thumbnail_map": (plotting, "Not drawn: thumbnail map — RuntimeError: broken"),
    "neighbours": (plotting, "Not drawn: neighbours — RuntimeError: broken"),
    "learning_curves": (plotting, "Not drawn: learning curves — RuntimeError: broken"),
    "reconstructions": (plotting, "Not drawn: reconstructions — RuntimeError: broken"),
    "save": (plotting, "Not drawn: samples — RuntimeError: broken"),
    "write_figures": (describe, "Not drawn: figures — RuntimeError: broken"),
    "write_report": (describe, "Not made: report — RuntimeError: broken"),
}


@pytest.fixture(scope="module")
def scores(model):
    return kvae.evaluation.evaluate(model, IMAGES[:4], 1)


@pytest.fixture
def quick(monkeypatch, model, scores):
    """Replace the slow parts of a description: scores, probe, codes and figures."""
    probed, codes = [{"features": "z mean", "size": 2, "accuracy": 0.5, "labels": 40}], RNG.normal(size=(60, 2))
    moments = {"mean": codes, "variance": np.ones_like(codes)}
    monkeypatch.setattr(kvae, "load", lambda path: model)
    monkeypatch.setattr(describe, "evaluate", lambda *given, **options: scores)
    monkeypatch.setattr(describe, "probe_run", lambda *given: probed)
    monkeypatch.setattr(
        describe, "extract", lambda _, x, **options: {name: values[: len(x[0])] for name, values in moments.items()}
    )
    for name in set(plotting.__all__) - {"FAINT", "INK", "PALETTE", "TRAIN", "VALIDATION", "image_grid", "save"}:
        monkeypatch.setattr(plotting, name, lambda *given, **options: plotting.image_grid(IMAGES[:1]))


@pytest.mark.parametrize("name", BROKEN)
def test_a_failing_step_does_not_end_the_description(name, run, quick, capsys, monkeypatch):
    def breaks(*given, **options):
        raise RuntimeError("broken\n by   somebody")

    where, line = BROKEN[name]
    monkeypatch.setattr(where, name, breaks)
    described_by_the_command(run, few(40, 12), 1, False)
    assert f"{line} by somebody\n" in capsys.readouterr().out
    if name == "write_report":
        assert not (run / "report.html").exists()
    else:
        assert f"{line} by somebody" in html.unescape((run / "report.html").read_text(encoding="utf-8"))
    assert ("elbo" in read(run / "metrics.json")) == (name != "evaluate")
    assert RunFolder(run).is_described == (name not in ("evaluate", "write_report", "write_figures", "save"))


def test_a_model_that_cannot_be_loaded_is_an_error(run):
    (run / "model.keras").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(Exception, match=r"model|zip|file"):
        described_by_the_command(run, few(40, 12), 1, False)


def test_a_collapsed_model_gets_its_report(run):
    collapsed = small()
    for weight in collapsed.encoder.weights:
        weight.assign(0 * weight)
    collapsed.save(run / "model.keras")
    described_by_the_command(run, few(40, 12), 2, False)
    page = html.unescape((run / "report.html").read_text(encoding="utf-8"))
    assert "Posterior collapse: 0 of 2 latents" in page
    assert "Not drawn: direction — Expected two groups that differ" in page
    assert "thumbnail_map" in read(run / "figures" / "figures.json")["drawn"]


#: unusual shapes of images
SHAPES = {"a row": (1, 6, 1), "a long row": (1, 784, 1), "a column": (300, 2, 1), "two channels": (8, 8, 2),
          "four channels": (8, 8, 4), "five channels": (8, 8, 5), "a pixel": (1, 1, 1)}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", SHAPES)
def test_figures_of_every_shape_of_images(shape, tmp_path, monkeypatch):
    images = RNG.random((12, *SHAPES[shape])).astype("float32")
    means, labels = RNG.normal(size=(12, 2)), np.arange(12) % 2
    steps, history = Steps(), {"distortion": [2.0, 1.0]}
    model = small(SHAPES[shape], likelihood=kvae.likelihoods.Normal(0.1), bounded=False)
    paths = report.write_figures(tmp_path, model, images, labels, history, means=means, kl=means[0] ** 2, steps=steps)
    assert steps.failed == {}
    assert len(paths) == 11


# --resume for a trained run.


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A run with its description, trained by the command on a few images."""
    folder = tmp_path_factory.mktemp("described")
    np.savez(folder / "few.npz", images=IMAGES, labels=THIRDS)
    options = ["--epochs", "1", "--network", "mlp", "--latent-dim", "2", "--samples", "1"]
    with pytest.raises(SystemExit) as stop:
        main(["train", str(folder / "few.npz"), *options, "--out", str(folder / "run")])
    assert not stop.value.code
    return folder / "run"


def resume(run) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--resume", str(run), "--samples", "1"])
    return stop.value.code or 0


def test_resuming_a_finished_run_does_nothing(described, capsys):
    def states():
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in described.rglob("*") if path.is_file()}

    before = states()
    assert resume(described) == 0
    assert capsys.readouterr().out.startswith(f"{described} is finished.")
    assert states() == before


#: missing part of a run, and the function that removes it
MISSING = {
    "the report": lambda run: (run / "report.html").unlink(),
    "a figure": lambda run: (run / "figures" / "samples.png").unlink(),
    "the figures": lambda run: shutil.rmtree(run / "figures"),
    "the scores": lambda run: write(run / "metrics.json", {"train_seconds": 1.0}),
    "all the numbers": lambda run: (run / "metrics.json").unlink(),
    "half of the numbers": lambda run: (run / "metrics.json").write_text("{", encoding="utf-8"),
}


@pytest.mark.parametrize("case", MISSING)
def test_resuming_adds_missing_results(case, described, quick, tmp_path):
    run = shutil.copytree(described, tmp_path / "run")
    model = (run / "model.keras").read_bytes()
    MISSING[case](run)
    assert not RunFolder(run).is_described
    assert resume(run) == 0
    assert RunFolder(run).is_described
    assert (run / "model.keras").read_bytes() == model


def test_a_run_without_a_list_of_figures_is_finished(described, tmp_path):
    run = shutil.copytree(described, tmp_path / "run")
    (run / "figures" / "figures.json").unlink()
    assert RunFolder(run).is_described


def test_evaluate_reports_failing_steps(described, capsys, tmp_path, monkeypatch):
    from kvae import evaluation

    def breaks(*given, **options):
        raise ValueError("Expected images of 1 or 3 channels. Received: 2")

    monkeypatch.setattr(evaluation, "compression_table", breaks)
    monkeypatch.setattr(evaluation, "aggregate_posterior", breaks)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(described), "--samples", "1", "--compression", "--json", str(tmp_path / "scores.json")])
    out, scores = capsys.readouterr().out, read(tmp_path / "scores.json")
    assert not stop.value.code
    assert "Not made: compression table — Expected images of 1 or 3 channels. Received: 2" in out
    assert list(scores["not_made"]) == ["Not estimated: KL(q(z) ‖ p)", "Not made: compression table"]
    assert np.isfinite(scores["elbo"])
    assert "compression" not in scores


def test_debug_shows_the_traceback_of_a_failing_step(capsys):
    from kvae.cli.console import optional_steps

    for debug in (False, True):
        with optional_steps(debug)("Not made: anything"):
            raise KeyError("x")
        shown = capsys.readouterr()
        assert shown.out == "Not made: anything — KeyError: 'x'\n"
        assert ("Traceback" in shown.err) == debug
