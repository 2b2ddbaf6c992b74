"""The command, on a small trained run, and with invalid arguments."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kvae.cli import demo
from kvae.cli.main import main
from kvae.export.runtime import load


@pytest.fixture
def kvae_command(monkeypatch, capfd):
    """Run the command in this process: `kvae_command("train", "digits", …)` returns status, out and err."""

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["kvae", *map(str, arguments)])
        status: object = 0
        with warnings.catch_warnings():
            show = warnings.showwarning
            try:
                main()
            except SystemExit as stop:
                status = stop.code or 0
            finally:
                warnings.showwarning = show
        out, err = capfd.readouterr()
        if isinstance(status, str):  # sys.exit("message") prints it and gives 1 when the process ends
            status, err = 1, f"{err}{status}\n"
        return SimpleNamespace(status=status, out=out, err=err)

    return run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A small run, trained by the command in a separate process."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    command = ["train", "digits", "--out", run, "--epochs", 3, "--latent-dim", 4, "--network", "mlp", "--samples", 8]
    done = subprocess.run([sys.executable, "-m", "kvae", *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # none of TensorFlow's log
    assert "NLL, importance-weighted, K=8" in done.stdout
    assert "raw pixels (control)" in done.stdout
    return run


def test_run_folder_has_the_documented_files(run_folder):
    names = {str(path.relative_to(run_folder)) for path in run_folder.rglob("*") if path.is_file()}
    assert {"model.keras", "config.json", "history.csv", "metrics.json", "report.html"} <= names
    assert {"figures/learning_curves.png", "figures/samples.png", "figures/reconstructions.png"} <= names
    assert not [path for path in run_folder.parent.iterdir() if path.name.startswith(".")]
    config = json.loads((run_folder / "config.json").read_text())
    assert (config["epochs"], config["latent_dim"], config["likelihood"]) == (3, 4, "bernoulli")
    assert len((run_folder / "history.csv").read_text().splitlines()) == 4
    assert "http" not in (run_folder / "report.html").read_text().replace("http-equiv", "").split("<body")[0]


def test_evaluate_writes_the_documented_keys(kvae_command, run_folder, tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    for file in (first, second):
        assert kvae_command("evaluate", run_folder, "--samples", 4, "--limit", 50, "--json", file).status == 0
    scores = json.loads(first.read_text())
    assert set(scores) >= {
        "elbo", "rate", "distortion", "bits_per_dim", "active_units", "nll", "nll_error", "num_samples", "split",
        "examples", "kl_per_dimension", "ess_median", "marginal_kl",
    }  # fmt: skip
    assert (scores["num_samples"], scores["split"], scores["examples"]) == (4, "test", 50)
    assert scores["elbo"] == pytest.approx(-scores["rate"] - scores["distortion"])
    assert first.read_bytes() == second.read_bytes()


def test_evaluate_prints_units_and_findings(kvae_command, run_folder):
    done = kvae_command("evaluate", run_folder, "--samples", 4, "--limit", 50, "--compare-train")
    assert done.status == 0
    for words in ("test, 50 images", "K=4", "± over images", "grey values", "ContinuousBernoulli", "train, 50 images"):
        assert words in done.out
    assert done.err == ""


@pytest.mark.slow
def test_evaluate_refines_audits_and_scores_files(kvae_command, run_folder, tmp_path):
    scores = tmp_path / "scores.json"
    options = ["--samples", 16, "--limit", 40, "--audit", "--json", scores]
    assert kvae_command("export", run_folder, "--out", tmp_path / "out", "--precision", "int8").status == 0
    file = tmp_path / "out" / "decoder_int8.tflite"
    done = kvae_command("evaluate", run_folder, *options, "--proposal", "refined", "--file", file)
    for words in (
        "NLL, refined proposals",
        "with refined proposals: median",
        "40 images drawn",
        "decoder_int8.tflite: NLL",
    ):
        assert words in done.out.replace("200 images", "40 images")
    content = json.loads(scores.read_text())
    assert content["proposal"] == "refined"
    assert content["audit"]["refined"]["gap"] < content["audit"]["posterior"]["gap"]
    assert abs(content["file"]["nats_lost"]) < 0.5
    done = kvae_command("evaluate", run_folder, *options[:-3], "--file", tmp_path / "missing.tflite")
    assert done.status == 0
    assert "Not scored" in done.out


@pytest.mark.slow
def test_evaluate_gives_the_mean_of_several_runs(kvae_command, run_folder, tmp_path):
    import shutil

    copy = shutil.copytree(run_folder, tmp_path / "run")
    done = kvae_command("evaluate", run_folder, copy, "--samples", 2, "--limit", 9, "--json", tmp_path / "a.json")
    assert done.status == 0
    assert "± over runs" in done.out
    content = json.loads((tmp_path / "a.json").read_text())
    scores = content["runs"][str(copy)]
    assert (content["mean"]["nll"], content["mean"]["nll_error_runs"]) == (pytest.approx(scores["nll"]), 0.0)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "seed": 5, "beta": 4.0, "epochs": 9}))
    done = kvae_command("evaluate", run_folder, copy, "--samples", 2, "--limit", 9, "--json", tmp_path / "b.json")
    assert "No mean over the runs: they differ in beta, epochs." in done.out
    assert set(json.loads((tmp_path / "b.json").read_text())) == {"runs"}


@pytest.fixture
def without_description(monkeypatch):
    """Skip the description of a trained model (scores, probe, figures, report)."""
    monkeypatch.setattr("kvae.training.describe.describe_run", lambda *_, **__: None)


@pytest.mark.slow
def test_runs_with_other_seeds_are_scored_on_the_same_images(kvae_command, without_description, tmp_path):
    runs = [tmp_path / f"seed{seed}" for seed in (0, 1)]
    small = ["--binarize", "stochastic", "--network", "mlp", "--latent-dim", 2, "--epochs", 1, "--samples", 1]
    for seed, run in enumerate(runs):
        assert kvae_command("train", "digits", *small, "--seed", seed, "--out", run).status == 0
    scores = tmp_path / "scores.json"
    assert kvae_command("evaluate", *runs, "--samples", 2, "--json", scores).status == 0
    content = json.loads(scores.read_text())
    one, two = (content["runs"][str(run)] for run in runs)
    assert one["images"] == two["images"] == content["mean"]["images"]
    assert content["mean"]["binarisation"] == "stochastic, seed 0"
    assert one["nll"] != two["nll"]
    config = json.loads((runs[1] / "config.json").read_text())
    del config["data_seed"]  # an older run has none: the training seed is used
    (runs[1] / "config.json").write_text(json.dumps(config))
    done = kvae_command("evaluate", *runs, "--samples", 2, "--json", scores)
    assert "No mean over the runs: they differ in data_seed." in done.out
    assert len({result["images"] for result in json.loads(scores.read_text())["runs"].values()}) == 2


@pytest.mark.slow
def test_evaluate_resumes(kvae_command, run_folder, tmp_path, monkeypatch):
    import tqdm

    from kvae.evaluation import importance

    class Stops(tqdm.tqdm):
        images = 0

        def update(self, n=1):
            self.images += n
            if self.images >= 90:
                raise KeyboardInterrupt

    options = ["--samples", 3, "--json", tmp_path / "scores.json"]
    monkeypatch.setattr(importance, "MOST_LATENTS", 90)  # 30 images at once
    assert kvae_command("evaluate", run_folder, *options).status == 0
    unbroken = (tmp_path / "scores.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(tqdm, "tqdm", Stops)
        stopped = kvae_command("evaluate", run_folder, *options)
    assert stopped.status == 130  # the status of Ctrl-C in a shell
    (unfinished,) = run_folder.glob(".evaluation-*.npz")
    assert "Resuming" not in kvae_command("evaluate", run_folder, "--samples", 3, "--seed", 1).out
    assert unfinished.exists()
    with np.load(unfinished) as rows:
        others = {**rows, "image": rows["image"] + 1}
    done = kvae_command("evaluate", run_folder, *options)
    assert "Resuming after 90 images." in done.out
    assert "The dataset has changed" not in done.out
    assert (tmp_path / "scores.json").read_bytes() == unbroken
    np.savez(unfinished, **others)
    assert "The dataset has changed; restarting" in kvae_command("evaluate", run_folder, *options).out
    assert (tmp_path / "scores.json").read_bytes() == unbroken
    assert not list(run_folder.glob(".evaluation-*"))


@pytest.mark.slow
def test_images_added_after_training_are_scored_separately(kvae_command, run_folder, tmp_path):
    import shutil

    import kvae
    from kvae.run import write_splits

    copy, source = shutil.copytree(run_folder, tmp_path / "run"), tmp_path / "images.npy"
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    np.save(source, images[:40])
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "source": str(source)}))
    write_splits(copy, kvae.data.load(source))
    np.save(source, images)
    for split, count in (("test", 4), ("new", 20)):
        done = kvae_command("evaluate", copy, "--samples", 2, "--split", split, "--json", tmp_path / "scores.json")
        assert (done.status, f"{split}, {count} images" in done.out) == (0, True)
        assert done.err.count("20 new images are in no split (--split new selects them)") == 1
        assert json.loads((tmp_path / "scores.json").read_text())["examples"] == count
    features = tmp_path / "features.npz"
    assert kvae_command("features", copy, source, "--split", "new", "--out", features).status == 0
    assert read_features(features)["id"].tolist() == list(range(40, 60))
    assert "the new split is empty" in kvae_command("evaluate", run_folder, "--split", "new").err


def test_generated_images_are_a_function_of_the_seed(kvae_command, run_folder, tmp_path):
    for name, seed in (("a.npy", 7), ("b.npy", 7), ("c.npy", 8)):
        assert kvae_command("generate", run_folder, "-n", 9, "--seed", seed, "--out", tmp_path / name).status == 0
    a, b, c = (np.load(tmp_path / name) for name in ("a.npy", "b.npy", "c.npy"))
    assert a.shape == (9, 8, 8, 1)
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)
    cold = tmp_path / "cold.npy"
    assert kvae_command("generate", run_folder, "-n", 2, "--temperature", 0, "--out", cold).status == 0
    np.testing.assert_array_equal(*np.load(cold))
    assert kvae_command("generate", run_folder, "-n", 9, "--out", tmp_path / "grid.png").status == 0
    from PIL import Image

    assert Image.open(tmp_path / "grid.png").size > (50, 50)


def test_features_and_probe(kvae_command, run_folder, tmp_path):
    done = kvae_command("features", run_folder, "digits", "--split", "test", "--out", tmp_path / "features.npz")
    assert done.status == 0
    assert "z mean" in done.out
    with np.load(tmp_path / "features.npz") as features:
        assert features["mean"].shape == (180, 4)
        assert features["hidden"].shape == (180, 256)
        assert features["label"].shape == (180,)


def read_features(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as found:
        return {name: found[name] for name in found.files}


@pytest.mark.slow
def test_features_of_another_source_include_all_images(kvae_command, run_folder, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(60) % 3)
    out = tmp_path / "features.npz"
    assert kvae_command("features", run_folder, tmp_path / "x.npz", "--no-probe", "--out", out).status == 0
    found = read_features(out)
    assert found["id"].tolist() == list(range(60))
    assert found["label"].tolist() == [i % 3 for i in range(60)]
    options = ["--no-probe", "--split", "train", "--out", out]
    assert kvae_command("features", run_folder, tmp_path / "x.npz", *options).status == 0
    assert len(read_features(out)["id"]) == 48
    np.savez(tmp_path / "x.npz", images=images[:1], labels=[0])
    done = kvae_command("features", run_folder, tmp_path / "x.npz", "--out", out)
    assert done.status == 0, done.err
    assert "No linear probe: x: expected enough images" in done.out


@pytest.mark.slow
def test_the_probe_of_another_source_uses_a_test_split(kvae_command, run_folder, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(60) % 3)
    done = kvae_command("features", run_folder, tmp_path / "x.npz", "--out", tmp_path / "features.npz")
    assert done.status == 0, done.err
    assert "linear probe, 48 labels" in done.out
    assert len(read_features(tmp_path / "features.npz")["id"]) == 60


def test_features_of_the_own_source_use_the_training_split(kvae_command, run_folder, tmp_path):
    options = ["features", run_folder, "digits", "--no-probe", "--out", tmp_path / "features.npz"]
    assert kvae_command(*options).status == 0
    assert len(read_features(tmp_path / "features.npz")["id"]) == 1437
    assert kvae_command(*options, "--split", "all").status == 0
    assert read_features(tmp_path / "features.npz")["id"].tolist() == list(range(1797))


def test_features_on_ray_get_the_options(kvae_command, run_folder, tmp_path, monkeypatch):
    from kvae.features import ray as on_ray

    calls = []
    monkeypatch.setattr(on_ray, "write_features_on_ray", lambda *given, **options: calls.append((given, options)) or 7)
    out = "s3://bucket/folder/x.parquet"
    done = kvae_command("features", run_folder, "images", "--ray", "10.0.0.1:6379", "--out", out)
    assert done.status == 0, done.err
    assert f"Wrote {out}: 7 rows" in done.out
    ((given, options),) = calls
    assert given == (run_folder / "model.keras", "images", out, True, "none", "10.0.0.1:6379", 2, 0)
    assert options == {"size": None, "grayscale": None, "value_range": None, "background": "white"}


def test_features_without_ray_name_the_extra(kvae_command, run_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = kvae_command("features", run_folder, tmp_path, "--ray", "local", "--out", tmp_path / "x.parquet")
    assert done.status == 1
    assert done.err == "kvae: error: Features on Ray need the extra `ray`: pip install 'keras-vae[ray]'\n"


def test_plot_rewrites_the_report(kvae_command, run_folder):
    (run_folder / "report.html").unlink()
    done = kvae_command("plot", run_folder)
    assert done.status == 0
    assert (run_folder / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_export_verifies(kvae_command, run_folder, tmp_path):
    out = tmp_path / "phone"
    done = kvae_command("export", run_folder, "--out", out)
    assert done.status == 0, done.err
    report = json.loads((out / "report.json").read_text())
    files = {artifact["path"]: artifact for artifact in report["artifacts"]}
    whole, decoders = ["vae_float32.tflite", "vae_int8.tflite"], ["decoder_float32.tflite", "decoder_int8.tflite"]
    assert set(files) == {"saved_model", *whole, *decoders}
    for artifact in files.values():
        assert (out / artifact["path"]).exists()
        assert artifact["path"] in decoders or artifact["behaviour"]["probe_accuracy"] >= 0.1
        assert artifact["path"] in done.out
    assert files["vae_float32.tflite"]["builtin_only"] is True
    assert abs(files["vae_float32.tflite"]["behaviour"]["nats_lost"]) < 1e-3
    assert report["model"]["data"] == "digits"
    assert report["model"]["score"]["images"] == 180
    assert (out / "export.html").stat().st_size > 10_000


def test_a_direction_of_an_unknown_class_is_refused(kvae_command, run_folder, tmp_path):
    done = kvae_command("export", run_folder, "--out", tmp_path / "phone", "--direction", "smile=smiling")
    assert done.status == 1
    assert "Expected a class of the data: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9. Received: 'smiling'" in done.err
    assert not (tmp_path / "phone").exists()


@pytest.mark.slow
def test_the_demo_of_faces(kvae_command, tmp_path, monkeypatch):
    """Shortened: small faces, one epoch."""
    quick = demo.SETTINGS[demo.Demo.faces] | {"epochs": 1, "latent_dim": 4, "network": "mlp", "size": 16}
    monkeypatch.setitem(demo.SETTINGS, demo.Demo.faces, quick)
    monkeypatch.setattr(demo, "SIDE", 16)
    done = kvae_command("demo", "faces", "--out", tmp_path / "demo")
    assert done.status == 0, done.err
    assert re.search(r"Fitted: −ELBO|The prior of training is kept", done.out)
    paths = [Path(line.split()[-1]) for line in done.out.splitlines() if line.startswith(("New", "Decoder", "Whole"))]
    assert len(paths) == 3
    assert all(path.is_file() for path in paths)
    assert (tmp_path / "demo" / "directions.png").is_file()
    assert list(load(paths[-1]).directions) == ["smile", "tilt", "turn"]


@pytest.mark.slow
def test_export_with_every_option(kvae_command, run_folder, tmp_path):
    out, web = tmp_path / "phone", tmp_path / "page"
    licence = tmp_path / "LICENCE.txt"
    licence.write_text("Do as you like.")
    options = ["--precision", "auto", "--budget-nats", "100", "--batch-size", "3", "--any-batch", "--license", licence]
    options += ["--direction", "a ring=0", "--direction", "six=6"]
    done = kvae_command("export", run_folder, "--out", out, *options, "--onnx", "--web", web)
    if done.status and "LiteRT.js" in done.err:
        pytest.skip(f"no LiteRT.js here: {done.err}")
    assert done.status == 0, done.err
    (path,) = out.glob("vae_*.tflite")
    model = load(path)
    assert (model.batch_sizes, model.info["dynamic_batch"], model.info["license"]) == ((3,), True, "Do as you like.")
    assert list(model.directions) == ["a ring", "six"]
    assert model.directions["six"]["majority"] == 0.9
    assert "The direction 'six' doesn't predict its label better" in done.err  # after three epochs
    assert "a ring" in done.out
    assert (out / "onnx" / "generate.onnx").exists()
    assert (web / "model.tflite").read_bytes() == path.read_bytes()
    assert f"http.server -d {web}" in done.out


def test_train_does_not_replace_without_overwrite(kvae_command, run_folder, tmp_path):
    done = kvae_command("train", "digits", "--out", run_folder)
    assert done.status == 1
    assert "--overwrite" in done.err
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("years of work")
    done = kvae_command("train", "digits", "--out", tmp_path / "papers", "--overwrite")
    assert done.status == 1
    assert (tmp_path / "papers" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("flags", "devices", "emulated"),
    [
        ("fpu avx512f", ["CPU"], True),
        ("fpu avx512f avx512_bf16 amx_bf16", ["CPU"], False),
        ("fpu avx512f", ["CPU", "GPU"], False),
        (None, ["CPU"], False),  # unknown
    ],
)
def test_emulated_bfloat16_is_detected(flags, devices, emulated, tmp_path, monkeypatch):
    import tensorflow as tf

    from kvae.cli import console

    devices = [tf.config.PhysicalDevice(device, device) for device in devices]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda: devices)
    monkeypatch.setattr(console, "CPUINFO", tmp_path / "cpuinfo")
    if flags is not None:
        console.CPUINFO.write_text(f"flags : {flags}\n")
    assert console.emulates_bfloat16() is emulated


@pytest.mark.slow
def test_emulated_bfloat16_is_warned_about(kvae_command, tmp_path, monkeypatch):
    from kvae.cli import console

    monkeypatch.setattr(console, "emulates_bfloat16", lambda: True)
    run, scores = tmp_path / "run", tmp_path / "scores.json"
    options = ["--precision", "bfloat16", "--epochs", 1, "--samples", 2, "--latent-dim", 3]
    done = kvae_command("train", "digits", *options, "--out", run)
    assert (done.status, "--precision float32 is faster" in done.out) == (0, True)
    for option, precision in ((), "bfloat16"), (["--float32"], "float32"):
        done = kvae_command("evaluate", run, "--samples", 2, *option, "--json", scores)
        warned = "--float32 is faster" in done.out
        assert (done.status, warned) == (0, not option)
        assert json.loads(scores.read_text())["precision"] == precision


@pytest.mark.slow
def test_recipes_are_listed_trained_and_continued(kvae_command, tmp_path):
    listed = kvae_command("recipes").out
    assert "beta_vae" in listed
    assert "https://" not in listed
    small = ["--epochs", 1, "--samples", 2, "--latent-dim", 3]
    first, second = tmp_path / "first", tmp_path / "second"
    assert kvae_command("train", "digits", "--recipe", "gated_vae", *small, "--out", first).status == 0
    config = json.loads((first / "config.json").read_text())
    assert (config["batch_size"], config["learning_rate"], config["epochs"]) == (100, 5e-4, 1)  # epochs are given
    assert (config["parts"]["prior"], config["prior"], config["beta"]) == ("StandardNormal", None, None)
    from kvae import load as load_model

    warm = ["train", "digits", "--recipe", "gated_vae", "--from", first, "--learning-rate", 1e-9, "--out", second]
    assert kvae_command(*warm, *small).status == 0
    for old, new in zip(load_model(first / "model.keras").weights, load_model(second / "model.keras").weights):
        if "kernel" in old.path:
            np.testing.assert_allclose(new, old, atol=1e-6)  # Adam's steps have the length of the learning rate
    other = kvae_command("train", "digits", "--from", first, *small, "--out", tmp_path / "third")
    assert "Expected --from to be a run with the same encoder" in other.err


#: options, objective and its attributes, prior and its attributes, size of the condition
TRAINED_RECIPES = {
    "conditional_vae": (["--conditional"], "ELBO", {}, "ConditionalNormal", {}, 10),
    "vamp": ([], "ELBO", {}, "VampPrior", {"pseudo_inputs": 160}, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED_RECIPES)
def test_a_recipe_is_trained_saved_and_loaded(name, kvae_command, tmp_path, digits):
    images, labels = (array[:200] for array in digits)  # fewer images make the figures faster
    np.savez(tmp_path / "few.npz", images=images, labels=labels)
    options, objective, goal, prior, density, condition_dim = TRAINED_RECIPES[name]
    small = ["--epochs", 1, "--samples", 2, "--latent-dim", 3]
    run = tmp_path / "run"
    done = kvae_command("train", tmp_path / "few.npz", "--recipe", name, *options, *small, "--out", run)
    assert done.status == 0, done.err
    from kvae import load as load_model

    model = load_model(run / "model.keras")
    assert (model.latent_dim, model.condition_dim) == (3, condition_dim)
    for part, kind, numbers in ((model.objective, objective, goal), (model.prior, prior, density)):
        assert type(part).__name__ == kind
        assert {key: getattr(part, key) for key in numbers} == numbers
    drawn = model.generate(2, seed=0, condition=None if condition_dim is None else 7).numpy()
    assert drawn.shape == (2, 8, 8, 1)
    assert np.all((drawn >= 0) & (drawn <= 1))
    scores = json.loads((run / "metrics.json").read_text())
    assert scores["num_samples"] == 2
    assert np.isfinite([scores["elbo"], scores["nll"]]).all()


@pytest.mark.slow
def test_a_failed_training_run_keeps_the_old_run(kvae_command, run_folder, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run_folder, copy)
    before = (copy / "model.keras").read_bytes()
    done = kvae_command(
        "train", "digits", "--out", copy, "--overwrite", "--network", "mlp", "--epochs", 1, "--learning-rate", 1e30
    )
    assert done.status == 1
    assert "Lower the learning rate (it was 1e+30)" in done.err
    assert (copy / "model.keras").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_train_on_a_folder_of_colour_images_of_prime_size(kvae_command, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for i in range(30):
            Image.fromarray(rng.integers(0, 256, (13, 17, 3), np.uint8)).save(tmp_path / "pets" / label / f"{i}.png")
    (tmp_path / "pets" / "cats" / "broken.png").write_bytes(b"not an image")
    run = tmp_path / "run"
    done = kvae_command("train", tmp_path / "pets", "--out", run, "--epochs", 1, "--batch-size", 8, "--samples", 2)
    assert done.status == 0, done.err
    assert "broken.png" in done.err
    config = json.loads((run / "config.json").read_text())
    assert (config["likelihood"], config["event_shape"]) == ("normal-learned", [13, 17, 3])
    assert config["source"] == str((tmp_path / "pets").resolve())
    assert kvae_command("evaluate", run, "--samples", 2).status == 0


MISTAKES = {
    "an unknown recipe": (
        ["train", "digits", "--recipe", "nonsense", "--out", "run"],
        1,
        "Expected --recipe to be one of",
    ),
    "a recipe and an option that it sets": (
        ["train", "digits", "--recipe", "vae", "--beta", "2", "--out", "run"],
        1,
        "--beta is set by the recipe",
    ),
    "patience without a validation value": (
        ["train", "digits", "--recipe", "wae_mmd", "--patience", "3", "--out", "run"],
        1,
        "keeps the last epoch, because the MMD of the latents is not a validation value",
    ),
    "importance samples without a recipe": (
        ["train", "digits", "--importance-samples", "5", "--out", "run"],
        1,
        "--importance-samples requires a recipe",
    ),
    "training images compared with themselves": (
        ["evaluate", "run", "--split", "train", "--compare-train"],
        1,
        "Received: --split train; leave it out",
    ),
    "--from without a run": (
        ["train", "digits", "--from", "nowhere", "--out", "run"],
        1,
        "Expected --from to be a folder made by `kvae train`",
    ),
    "missing run": (["evaluate", "nowhere"], 1, "no such folder"),
    "not a run": (["generate", "."], 1, "Expected a folder made by `kvae train`"),
    "unknown source": (["train", "mnits", "--out", "run"], 1, "mnist"),
    "missing file": (["train", "./images", "--out", "run"], 1, "images"),
    "bad size": (["train", "digits", "--size", "big", "--out", "run"], 1, "--size to be N or HxW"),
    "bad image name": (["generate", "run", "--out", "grid.bmp"], 1, ".png, .npy, .csv or .parquet"),
    "bad features name": (["features", "run", "digits", "--out", "x.csv"], 1, ".npz"),
    "an address without Ray": (["features", "run", "images", "--out", "s3://bucket/x.parquet"], 1, "require --ray"),
    "an unknown split": (["features", "run", "digits", "--split", "tset"], 1, "all, train, validation, test or new"),
    "a split on Ray": (
        ["features", "run", "images", "--ray", "local", "--split", "test", "--out", "x.parquet"],
        1,
        "On Ray the whole SOURCE",
    ),
    "npz on Ray": (["features", "run", "images", "--ray", "local", "--out", "x.npz"], 1, "On Ray"),
    "bad option": (["train", "digits", "--epochs", "0"], 2, "--epochs"),
    "unknown choice": (["train", "digits", "--likelihood", "gauss"], 2, "normal-learned"),
    "unknown precision": (["export", "run", "--out", "x", "--precision", "int3"], 2, "int8"),
    "auto and another precision": (
        ["export", "run", "--out", "x", "--precision", "auto", "--precision", "int8"],
        1,
        "auto alone",
    ),
    "batch 0": (["export", "run", "--out", "x", "--batch-size", "0"], 2, "greater than or equal to 1"),
    "a direction without a class": (["export", "run", "--out", "x", "--direction", "smile"], 1, "NAME=CLASS"),
    "two directions of a name": (
        ["export", "run", "--out", "x", "--direction", "a=1", "--direction", "a=2"],
        1,
        "Received: a twice",
    ),
    "missing licence": (["export", "run", "--out", "x", "--license", "nowhere"], 1, "nowhere"),
    "unknown command": (["trian"], 2, "trian"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_invalid_arguments_are_one_line_and_a_status(case, kvae_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    arguments, status, message = MISTAKES[case]
    done = kvae_command(*arguments)
    assert done.status == status
    assert message in done.err
    assert "Traceback" not in done.err
    if status == 1:
        assert done.err.startswith("kvae: error: ")
        assert done.err.count("\n") == 1


def test_damaged_runs_are_refused(kvae_command, run_folder, tmp_path):
    import shutil

    for name, content in (("model.keras", b"PK\x03\x04 broken"), ("config.json", b"{")):
        copy = tmp_path / name
        shutil.copytree(run_folder, copy)
        (copy / name).write_bytes(content)
        done = kvae_command("evaluate", copy)
        assert done.status == 1
        assert name in done.err
        assert done.err.count("\n") == 1
    done = kvae_command("features", run_folder, array_file(tmp_path), "--out", tmp_path / "f.npz")
    assert done.status == 1
    assert "(28, 28, 1)" in done.err


def array_file(folder: Path) -> Path:
    np.save(folder / "x.npy", np.zeros((40, 28, 28), np.uint8))
    return folder / "x.npy"


def test_debug_shows_the_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "kvae", "--debug", "evaluate", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
