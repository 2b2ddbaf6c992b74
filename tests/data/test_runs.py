"""A run saves how its pixels were read, and later commands read them in the same way."""

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import kvae
from kvae.cli.main import app
from kvae.data import DataWarning
from kvae.run import RunFolder
from kvae.training import Settings, job

DEEP = np.random.default_rng(0).integers(300, 4096, (40, 8, 9), np.uint16)
DEEP[:, 0, 0], DEEP[:, 0, 1] = 300, 4095  # each image has the whole range


def config_of(settings: Settings) -> dict:
    """Return the configuration that a run saves, after saving and loading."""
    images = settings.load()
    model = SimpleNamespace(
        latent_dim=2,
        likelihood=0,
        posterior=0,
        prior=0,
        objective=0,
        count_params=lambda: 1,
        image_shape=images.image_shape,
    )
    return json.loads(json.dumps(job._config(settings.for_data(images), images, model)))


def run_of(tmp_path, config: dict) -> RunFolder:
    run = RunFolder(tmp_path)
    vars(run).update(config=config, model=SimpleNamespace(event_shape=tuple(config["event_shape"]), condition_dim=None))
    return run


@pytest.fixture
def settings_of(monkeypatch):
    """Return the settings of a `kvae train` command without training."""
    found = []
    monkeypatch.setattr(job, "train_run", lambda settings, *args, **kwargs: found.append(settings))
    monkeypatch.setattr("kvae.cli.train.describe", lambda *args: None)

    def ask(*arguments: object) -> Settings:
        result = CliRunner().invoke(app, ["train", *map(str, arguments)], obj=False, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return found[-1]

    return ask


def test_the_found_value_range_is_saved(tmp_path):
    folder = tmp_path / "deep"
    folder.mkdir()
    for i, image in enumerate(DEEP):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    with pytest.warns(DataWarning, match="by the range of the training images"):
        config = config_of(Settings(str(folder)))
    low, high = config["value_range"]
    assert (low, high) == (300, 4095)
    (folder / "00.png").unlink()
    Image.fromarray(DEEP[0] * 0 + 60_000).save(folder / "z.png")  # a new image
    run = run_of(tmp_path, config)
    with pytest.warns(DataWarning, match=rf"values outside {low:.0f}..{high:.0f} are clipped, in \d+ of"):
        again = run.data()
    assert again.value_range == (low, high)
    other = tmp_path / "other.npy"
    np.save(other, DEEP[:10] // 2 + 300)
    x = run.data(str(other), whole=True).arrays("train")[0]
    np.testing.assert_allclose(x[..., 0], np.clip((DEEP[:10] // 2 + 300 - low) / (high - low), 0, 1), atol=1e-6)
    resumed = Settings.from_config(config)
    with pytest.warns(DataWarning, match="are clipped"):
        assert resumed.load().value_range == (low, high)


def test_command_line_options_are_saved(tmp_path, settings_of):
    np.savez(tmp_path / "a.npz", small=DEEP, other=np.zeros((40, 8, 9)))
    settings = settings_of(
        tmp_path / "a.npz", "--key", "small", "--value-range", "-100", "5e3", "--out", tmp_path / "run"
    )
    config = config_of(settings)
    assert (config["key"], config["value_range"], config["background"]) == ("small", [-100, 5000], None)
    data = run_of(tmp_path, config).data()
    x = np.concatenate([data.arrays(split)[0] for split in ("train", "validation", "test")])
    np.testing.assert_allclose(np.sort(x.ravel()), np.sort((DEEP.ravel() + 100) / 5100), atol=1e-6)
    np.save(tmp_path / "b.npy", DEEP)
    assert run_of(tmp_path, config).data(str(tmp_path / "b.npy")).num_train == 32  # a .npy file has no key

    sprite = Image.new("RGBA", (8, 9))
    folder = tmp_path / "sprites"
    folder.mkdir()
    for i in range(10):
        sprite.save(folder / f"{i}.png")
    config = config_of_transparent(settings_of(folder, "--background", "#ff0000", "--out", tmp_path / "run"))
    with pytest.warns(DataWarning, match="replaced by #ff0000"):
        x = run_of(tmp_path, config).data().arrays("test")[0]
    np.testing.assert_array_equal(x[0, 0, 0], [1, 0, 0])


def config_of_transparent(settings: Settings) -> dict:
    with pytest.warns(DataWarning, match="replaced by #ff0000"):
        return config_of(settings)


def test_older_configurations_still_load(tmp_path):
    config = config_of(Settings("digits"))
    for name in ("value_range", "background", "key"):
        assert config.pop(name) is None
    assert run_of(tmp_path, config).data().num_test == 180
    assert Settings.from_config(config).load().num_test == 180


def test_invalid_options_are_refused_before_training(tmp_path):
    np.savez(tmp_path / "a.npz", a=DEEP, b=DEEP)
    for options, message in {
        ("--value-range", "5", "5"): "low < high",
        ("--background", "nothing"): "'background' must be a colour",
        ("--key", "c"): "(a (40, 8, 9) uint16, b (40, 8, 9) uint16). Received: 'c'",
        (): "on the command line). Received: a (40, 8, 9)",
    }.items():
        command = ["train", str(tmp_path / "a.npz"), "--out", str(tmp_path / "run"), *options]
        result = CliRunner().invoke(app, command, obj=False)
        assert isinstance(result.exception, kvae.data.DataError)
        assert message in str(result.exception)
        assert not (tmp_path / "run" / "config.json").exists()


def test_a_command_that_loads_its_data_twice_warns_once(capsys):
    from kvae.cli.console import our_warnings, show_only_our_warnings

    show = warnings.showwarning
    with warnings.catch_warnings():
        show_only_our_warnings()
        our_warnings()
        for text in ("a: skipped", "a: skipped", "b: skipped"):
            warnings.warn(text, DataWarning, stacklevel=1)
        for _ in range(2):
            warnings.warn("epoch", kvae.callbacks.TrainingWarning, stacklevel=1)
    warnings.showwarning = show
    lines = [line.removeprefix("kvae: warning: ") for line in capsys.readouterr().err.splitlines()]
    assert lines == ["a: skipped", "b: skipped", "epoch", "epoch"]


@pytest.mark.parametrize(
    ("settings", "size"),
    [({}, 64), ({"recipe": "ladder"}, 50), ({"batch_size": 100}, 100), ({"size": 64}, 128), ({"size": 256}, 8)],
)
def test_batches_of_large_images_are_smaller(settings, size, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((1700, 128, 64), np.uint8))
    wanted = Settings(str(tmp_path / "images.npy"), **settings)
    wanted = wanted.with_recipe(set(settings)) if wanted.recipe else wanted
    assert config_of(wanted)["batch_size"] == wanted.load().batch_size == size
