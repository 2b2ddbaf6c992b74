"""The report is a self-contained page with the run's numbers."""

import html
import json
import re
import shlex

import numpy as np
import pytest

import kvae
from kvae import plotting, report
from kvae.report import write_figures, write_report

METRICS = {
    "elbo": -89.34, "rate": 24.06, "distortion": 65.28, "bits_per_dim": 0.1644, "active_units": 15, "nll": 85.07,
    "num_samples": 64, "split": "test", "examples": 10000, "train_seconds": 240.0, "images_per_second": 3400.0,
    "probe": [{"features": "z mean", "size": 16, "accuracy": 0.9312, "labels": 2000}],
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    run = tmp_path / "my run"
    run.mkdir()
    config = {
        "source": "<script>alert(1)</script>",
        "latent_dim": 16,
        "likelihood": "bernoulli",
        "image_shape": [8, 8, 1],
    }
    (run / "config.json").write_text(json.dumps(config))
    (run / "metrics.json").write_text(json.dumps(METRICS))
    (run / "history.csv").write_text("epoch,elbo\n0,-100\n1,-90\n")
    return run


@pytest.mark.slow
@pytest.mark.parametrize("latent_dim", [2, 3])
def test_figures_and_page(run, latent_dim):
    vae = kvae.VAE(latent_dim=latent_dim, image_shape=(8, 8, 1))
    rng = np.random.default_rng(0)
    images, labels = rng.random((20, 8, 8, 1)).astype("float32"), rng.integers(0, 3, 20)
    history = {"epoch": [0, 1], "distortion": [70.0, 60.0], "rate": [1.0, 2.0], "elbo": [-71.0, -62.0]}
    paths = write_figures(run, vae, images, labels, history, kl=np.arange(latent_dim, dtype=float))
    names = {path.stem for path in paths}
    assert names == {
        "learning_curves", "reconstructions", "samples", "latent_map", "kl_per_dimension",
        "manifold" if latent_dim == 2 else "traversals", "neighbours", "thumbnail_map", "thumbnail_map_pca",
        "direction", "arithmetic",
    }  # fmt: skip
    page = write_report(run).read_text()
    assert page.count("data:image/png;base64,") == len(paths)
    for number in ("89.3 nats", "89.34", "24.1", "65.3", "85.07", "0.164", "15 of 16", "93.1 %", "2 epochs"):
        assert number in page
    # Self-contained: nothing is fetched. Safe: the name of a source isn't interpreted as markup.
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert not re.findall(r"url\(|@import|https?://", page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_an_autoencoder_has_no_samples(run):
    model = kvae.Autoencoder(latent_dim=2, image_shape=(8, 8, 1))
    images = np.random.default_rng(0).random((5, 8, 8, 1)).astype("float32")
    paths = write_figures(run, model, images, None, {"distortion": [70.0, 60.0]})
    assert {path.stem for path in paths} == {
        "learning_curves", "reconstructions", "latent_map", "traversals", "neighbours", "thumbnail_map",
        "thumbnail_map_pca",
    }  # fmt: skip


@pytest.mark.slow
def test_classes_with_the_same_mean_have_no_direction(run, monkeypatch):
    vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
    images, labels = np.random.default_rng(0).random((6, 8, 8, 1)).astype("float32"), np.arange(6) % 2
    means = np.array([[1, 2], [0, 1], [3, 0], [4, 1], [-1, 1], [-1, 1]], "float32")  # of both classes (1, 1)
    monkeypatch.setattr(plotting, "thumbnail_map", lambda images, *rest, **method: plotting.image_grid(images))  # slow
    for latents in (means, np.zeros_like(means)):
        names = {path.stem for path in write_figures(run, vae, images, labels, {"rate": [1.0]}, means=latents)}
        assert "direction" not in names
        assert {"arithmetic", "latent_map", "thumbnail_map"} <= names
        assert ("thumbnail_map_pca" in names) == latents.any()


@pytest.mark.parametrize(
    ("labels", "means", "expected"),
    [
        ([0, 1, 0, 1, 0], [0, 0, 9, 1, 4], [(1, 4, 0), (4, 1, 3)]),  # the last image of class 0 is nearest to its mean
        ([5, 2, 5, 2, 9], [0, 0, 0, 0, 0], [(0, 1, 3), (4, 0, 2)]),  # class 9 has only one image
        ([3, 3, 3], [0, 1, 2], []),
        ([0, 1, 2], [0, 1, 2], []),
        (np.tile(np.arange(10), 3), np.repeat([0, 1, 2], 10), [(c + 11, c + 10, c) for c in range(5)]),
    ],
)
def test_arithmetic_uses_consecutive_classes(labels, means, expected):
    found = report._analogies(np.array(means, "float32")[:, None], np.array(labels))
    assert list(zip(*found)) == expected


@pytest.mark.slow
def test_a_conditional_model_has_neighbours_but_no_direction(run):
    model = kvae.VAE(latent_dim=3, image_shape=(8, 8, 3), condition_dim=2)
    images = np.random.default_rng(0).random((6, 8, 8, 3)).astype("float32")
    paths = write_figures(run, model, images, np.arange(6) % 2, {"distortion": [70.0, 60.0]})
    names = {path.stem for path in paths}
    assert {"neighbours", "thumbnail_map", "thumbnail_map_pca"} <= names
    assert not {"direction", "arithmetic"} & names


@pytest.mark.parametrize("metrics", [{}, {"elbo": -9.5}, {"elbo": None, "nll": "?", "split": None, "probe": [{}, 1]}])
def test_every_key_is_optional(run, metrics):
    (run / "config.json").write_text(json.dumps({"created": 7, "latent_dim": None, "extra": {"a": 1}}))
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "history.csv").write_text("")
    page = write_report(run).read_text()
    assert "my run" in page
    assert ("9.5 nats" in page) == ("elbo" in metrics and metrics["elbo"] is not None)
    assert "No figures yet" in page


def test_commands_are_quoted_for_a_shell(run):
    (run / "config.json").write_text(json.dumps({"source": "/photos/of mine; rm"}))
    page = html.unescape(write_report(run).read_text())
    commands = [shlex.split(command) for command in re.findall(r"<code>(.*?)</code>", page)]
    assert [command[1] for command in commands] == ["generate", "evaluate", "features", "export", "plot"]
    assert {command[2] for command in commands} == {"my run"}
    assert commands[2][3] == "path/to/of mine; rm"


SOURCES = {  # source in config.json: title, and argument of a command
    "mnist": ("mnist", "mnist"),
    "/secret/place/photos": ("photos", "path/to/photos"),
    "/secret/place/photos.npz": ("photos.npz", "path/to/photos.npz"),
    "C:\\secret\\place\\photos": ("photos", "path/to/photos"),
    "../secret/photos": ("photos", "path/to/photos"),
    "~/secret/photos": ("photos", "path/to/photos"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_report_has_no_private_paths(run, source):
    title, argument = SOURCES[source]
    config = {"source": source, "data_dir": "/secret/sets", "start": "/secret/runs/a", "list": ["/secret/b"]}
    (run / "config.json").write_text(json.dumps(config))
    page = html.unescape(write_report(run).read_text())
    assert f"<title>{title} · kvae</title>" in page
    assert f"features 'my run' {argument} --out" in page
    assert "secret" not in page


def test_unknown_figures_come_last_and_long_lists_of_files_are_cut(run):
    plotting.save(plotting.image_grid(np.zeros((1, 8, 8, 1))), run / "figures" / "interpolations.png")
    for i in range(60):
        (run / f"events.{i}").write_text("")
    page = write_report(run).read_text()
    assert "Interpolations" in page
    assert "and 24 more" in page  # 60 events, 3 files of the run and a figure; 40 are listed


def test_warning_is_shown(run):
    assert "Warning." not in write_report(run).read_text()
    (run / "metrics.json").write_text(json.dumps({**METRICS, "warning": "Posterior collapse: 0 of 16"}))
    assert "Posterior collapse: 0 of 16" in write_report(run).read_text()


def test_the_kept_epoch():
    config = {"kept_epoch": 3, "kept_because": "the last one"}
    assert report._kept_epoch(config, {"val_loss": ["9", "8", "nan", "8.5"]}) == (3, "the last one")
    before = "the best on validation images"  # the reason in older runs, which don't record it
    assert report._kept_epoch({}, {"val_loss": ["9", "8", "nan", "8.5"]}) == (2, before)
    assert report._kept_epoch({}, {"val_loss": ["9", "10"], "val_nll": ["8", "7"]}) == (2, before)
    assert report._kept_epoch({}, {}) is None


def test_the_page_shows_why_an_epoch_was_kept_and_a_missed_target(run):
    config = json.loads((run / "config.json").read_text())
    config |= {"kept_epoch": 2, "kept_because": "the lowest validation −ELBO, 90.00 nats"}
    (run / "config.json").write_text(json.dumps(config))
    (run / "metrics.json").write_text(json.dumps({**METRICS, "missed": "The rate is 3 nats"}))
    page = write_report(run).read_text()
    assert "Epoch 2 of 2 was kept: the lowest validation −ELBO, 90.00 nats." in page
    assert "The rate is 3 nats." in page


def test_densities_are_described_as_densities(run):
    (run / "config.json").write_text(json.dumps({"likelihood": "normal-learned"}))
    (run / "metrics.json").write_text(json.dumps({**METRICS, "elbo": 27.1}))
    page = write_report(run).read_text()
    assert "at least <b>27.1 nats</b>" in page
    assert "costs at most" not in page


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "history.csv"])
def test_missing_or_damaged_files_are_refused_and_the_old_page_stays(run, name):
    page = write_report(run).read_text()
    (run / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}.*kvae train"):
        write_report(run)
    if name.endswith("json"):
        (run / name).write_text("{")
        with pytest.raises(ValueError, match="Expected JSON"):
            write_report(run)
    assert (run / "report.html").read_text() == page
