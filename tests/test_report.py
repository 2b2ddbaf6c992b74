"""The report is one self-contained page with the run's numbers."""

import json
import re

import numpy as np
import pytest

import kvae
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
        "manifold" if latent_dim == 2 else "traversals",
    }  # fmt: skip
    html = write_report(run).read_text()
    assert html.count("data:image/png;base64,") == len(paths)
    for number in ("89.3 nats", "89.34", "24.1", "65.3", "85.07", "0.164", "15 of 16", "93.1 %", "2 epochs"):
        assert number in html
    # Self-contained: nothing is fetched. Safe: what a source is called isn't markup.
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_warning_is_shown(run):
    assert "Look here first" not in write_report(run).read_text()
    (run / "metrics.json").write_text(json.dumps({**METRICS, "warning": "Posterior collapse: 0 of 16"}))
    assert "Posterior collapse: 0 of 16" in write_report(run).read_text()


def test_densities_are_told_as_densities(run):
    (run / "config.json").write_text(json.dumps({"likelihood": "normal-learned"}))
    (run / "metrics.json").write_text(json.dumps({**METRICS, "elbo": 27.1}))
    html = write_report(run).read_text()
    assert "at least <b>27.1 nats</b>" in html
    assert "costs at most" not in html


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "history.csv"])
def test_missing_or_damaged_files_are_named_and_the_old_page_stays(run, name):
    page = write_report(run).read_text()
    (run / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}.*kvae train"):
        write_report(run)
    if name.endswith("json"):
        (run / name).write_text("{")
        with pytest.raises(ValueError, match="Expected JSON"):
            write_report(run)
    assert (run / "report.html").read_text() == page
