"""Runs of series: `kvae train`, and the commands that follow it, on one small run."""

import contextlib
import io
import json
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

import kvae
from kvae.cli.main import main
from kvae.data import DataWarning
from kvae.run import RunFolder, write_splits
from kvae.training import Settings
from kvae.training.job import _config
from kvae.training.loop import Progress
from kvae.training.parts import LIKELIHOODS, OF_IMAGES, model_of
from kvae.training.unfinished import FOLDER

SMALL = ["--network", "mlp", "--latent-dim", 3, "--epochs", 2, "--samples", 4]
TABLE = kvae.data.machine(4).table.assign(unit="A7")


def command(*arguments):
    """Run the command in this process; return its status, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        show, status = warnings.showwarning, 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code or 0
        finally:
            warnings.showwarning = show
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a table in a file: the folder, the file, and what the command printed."""
    folder = tmp_path_factory.mktemp("series")
    TABLE.to_csv(folder / "pump.csv", index=False)
    options = ["--time", "time", "--window", 32, "--stride", 24, "--columns", "load,current, temperature"]
    done = command("train", folder / "pump.csv", *options, *SMALL, "--out", folder / "run")
    assert done.status == 0, done.err
    return SimpleNamespace(run=folder / "run", file=folder / "pump.csv", out=done.out)


def test_the_settings_and_the_schema_are_in_the_configuration(trained):
    config = json.loads((trained.run / "config.json").read_text())
    wanted = {"time": "time", "window": 32, "stride": 24, "columns": ["load", "current", "temperature"]}
    assert {name: config[name] for name in wanted} == wanted
    assert (config["event_shape"], config["likelihood"], config["parts"]["likelihood"]) == ([32, 3], "auto", "Scaled")
    rows = TABLE[["load", "current", "temperature"]].to_numpy()[: 24 * ((4608 - 32) // 24) + 32]
    np.testing.assert_allclose(config["schema"]["location"], rows.mean(axis=0))
    model = RunFolder(trained.run).model
    np.testing.assert_allclose(model.likelihood.scale, rows.std(axis=0))
    assert not model.bounded


def test_messages_name_series(trained):
    for words in (
        "pump.csv: 191 training, 12 validation and 12 test series of 32×3", "DiagonalNormal likelihood",
        "test, 12 series", "nats per series", "a density of x in its units",
    ):  # fmt: skip
        assert words in trained.out
    assert "test images" not in trained.out
    assert "over images" not in trained.out


def test_scores_are_those_of_the_values_in_their_units(trained):
    data, model = RunFolder(trained.run).data(), RunFolder(trained.run).model
    x, _ = data.arrays("test")
    scores = json.loads((trained.run / "metrics.json").read_text())
    standard = kvae.VAE(
        model.encoder, model.decoder, likelihood=model.likelihood.base, prior=model.prior, bounded=False,
        event_shape=model.event_shape, latent_dim=model.latent_dim,
    )  # fmt: skip
    z = (x - np.float32(model.likelihood.location)) / np.float32(model.likelihood.scale)
    same = kvae.evaluation.evaluate(standard, z, num_samples=4)
    volume = 32 * np.log(model.likelihood.scale).sum()
    assert scores["distortion"] == pytest.approx(same["distortion"] + volume, rel=1e-4)
    assert scores["rate"] == pytest.approx(same["rate"], rel=1e-4)
    assert isinstance(model.likelihood, kvae.likelihoods.Scaled)


def test_evaluate_and_features_work_on_the_run(trained, tmp_path):
    scores = tmp_path / "scores.json"
    done = command("evaluate", trained.run, "--samples", 4, "--json", scores)
    assert done.status == 0, done.err
    assert json.loads(scores.read_text())["elbo"] == pytest.approx(
        json.loads((trained.run / "metrics.json").read_text())["elbo"], rel=1e-5
    )
    done = command("features", trained.run, trained.file, "--out", tmp_path / "a.parquet", "--split", "all")
    assert done.status == 0, done.err
    features = parquet.read_table(tmp_path / "a.parquet").to_pandas()
    starts = range(0, len(TABLE) - 31, 24)
    assert features["time"].tolist() == TABLE["time"].iloc[starts].tolist()
    values = TABLE[["load", "current", "temperature"]].to_numpy("float32")
    expected = RunFolder(trained.run).model.encode_mean(np.stack([values[i : i + 32] for i in starts]))
    np.testing.assert_allclose(np.stack(features["mean"]), expected, atol=1e-4)


def test_a_run_keeps_its_splits_when_rows_are_added(trained, tmp_path):
    before = RunFolder(trained.run).data()
    text = trained.file.read_text()
    added = kvae.data.machine(5).table.assign(unit="A7").iloc[len(TABLE) :]
    try:
        added.to_csv(trained.file, mode="a", header=False, index=False)
        with pytest.warns(DataWarning, match="30 new series are in no split"):
            data = RunFolder(trained.run).data()
        for split in ("train", "validation", "test"):
            np.testing.assert_array_equal(data.arrays(split)[0], before.arrays(split)[0])
        done = command("evaluate", trained.run, "--samples", 1, "--split", "new")
        assert "new, 30 series" in done.out
    finally:
        trained.file.write_text(text)


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_to_the_same_scores(trained, tmp_path, monkeypatch):
    """Also if rows were added in the meantime: the scales of the start are kept."""
    file = tmp_path / "pump.csv"
    file.write_text(trained.file.read_text())
    config = json.loads((trained.run / "config.json").read_text())
    options = ["--time", "time", "--window", 32, "--stride", 24, "--columns", "load,current,temperature"]

    begin = Progress.on_epoch_begin

    def stop(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        begin(self, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_epoch_begin", stop)
        assert command("train", file, *options, *SMALL, "--out", tmp_path / "run").status == 130
    assert json.loads((tmp_path / "run" / FOLDER / "config.json").read_text())["schema"] == config["schema"]
    kvae.data.machine(5).table.assign(unit="A7").iloc[len(TABLE) :].to_csv(file, mode="a", header=False, index=False)
    assert command("train", "--resume", tmp_path / "run", "--samples", 4).status == 0
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (trained.run, tmp_path / "run")]
    assert metrics[0]["elbo"] == metrics[1]["elbo"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["schema"] == config["schema"]


def settings_and_data(**options):
    settings = Settings("machine", window=16, **options)
    data = settings.load()
    return settings.for_data(data), data


@pytest.mark.parametrize("network", ["conv", "mlp", "residual"])
def test_networks_are_built_for_series(network):
    model = model_of(*settings_and_data(network=network))
    x = np.zeros((2, 16, 6), "float32")
    assert model.reconstruct(x).shape == (2, 16, 6)
    assert network != "conv" or any("conv1d" in weight.path for weight in model.encoder.weights)


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name not in OF_IMAGES])
def test_likelihoods_of_real_numbers_are_scaled(name):
    settings, data = settings_and_data(likelihood=name, network="mlp")
    model = model_of(settings, data)
    assert type(model.likelihood.base) is type(LIKELIHOODS[name]())
    assert model.likelihood.location == data.schema.location
    x = data.arrays("test", limit=3)[0]
    assert np.isfinite(kvae.evaluation.score_images(model, x, 2)["nll"]).all()


#: options of `kvae train`, and words of its error
REFUSED = {
    "likelihood": (["--likelihood", "bernoulli"], "Expected --likelihood to be one of auto, normal, .*for series"),
    "levels": (["--likelihood", "logistic-mixture"], "Received: logistic-mixture"),
    "recipe": (["--recipe", "beta_vae"], "--recipe is for images: leave it out for series"),
    "binarize": (["--binarize", "threshold"], "'binarize' is for images"),
    "size": (["--size", "16"], "'size' is for images"),
    "value range": (["--value-range", "0", "1"], "'value_range' is for images"),
    "grayscale": (["--grayscale"], "'grayscale' is for images"),
    "column": (["--columns", "load,heat"], "'columns' to name columns of the table.*'heat'"),
    "conditional": (["--conditional"], "requires labels"),
    "series": (["--series", "plant"], "'series' to name columns"),
    "kind": (["--kind", "table"], "'window' is for series"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_do_not_fit_series_are_one_line(case, tmp_path):
    options, words = REFUSED[case]
    done = command("train", "machine", "--window", 16, *options, "--out", tmp_path / "run")
    assert done.status == 1
    assert len(done.err.strip().splitlines()) == 1
    assert pd.Series([done.err]).str.contains(words).all(), done.err
    assert not (tmp_path / "run" / "model.keras").exists()


def test_a_window_of_images_is_refused(tmp_path):
    done = command("train", "digits", "--window", 16, "--out", tmp_path / "run")
    assert "expected the kind of this dataset, images" in done.err


def test_a_run_of_separate_windows_has_its_splits_and_labels(tmp_path):
    x, y = np.random.default_rng(0).standard_normal((60, 8, 2)), np.arange(60) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    settings = Settings(str(tmp_path / "a.npz"), kind="series", conditional=True, network="mlp", latent_dim=2)
    data = settings.load()
    settings = settings.for_data(data)
    model = model_of(settings, data)
    config = json.loads(json.dumps(_config(settings, data, model)))
    write_splits(tmp_path, data)
    run = RunFolder(tmp_path)
    vars(run).update(config=config, model=model)
    again = run.data()
    for split in ("train", "validation", "test"):
        for found, expected in zip(again.arrays(split), data.arrays(split)):
            np.testing.assert_array_equal(found, expected)
    assert again.schema == data.schema
    assert Settings.from_config(config).load().schema == data.schema
    assert model.reconstruct(*data.arrays("test")).shape == (6, 8, 2)
