"""Untrusted and damaged files: an error in one line, never a crash, a traceback or a write elsewhere."""

import contextlib
import io
import json
import os
import shutil
import sys
import tracemalloc
import warnings
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import kvae
from kvae.callbacks import Resume
from kvae.cli.main import main
from kvae.features import streaming
from kvae.models.loading import CONFIG, WEIGHTS


@pytest.fixture(scope="module")
def vae():
    vae = kvae.VAE(
        kvae.Encoder(2, kvae.networks.MLP((8,))), kvae.Decoder((8, 8, 1), kvae.networks.MLP((8,))),
        prior=kvae.priors.RealNVP(num_layers=2, units=(4,)),
    )  # fmt: skip
    vae.compile("adam")
    vae.fit(np.zeros((4, 8, 8, 1)), verbose=0)
    return vae


@pytest.fixture(scope="module")
def content(vae, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "vae.keras"
    vae.save(path)
    return path.read_bytes()


def rebuilt(content, change=lambda name, data: data, **others):
    """Return the archive with changed members, and with additional ones."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        for name, data in others.items():
            new.writestr(name, data)
    return out.getvalue()


def with_config(content, change):
    def changed(name, data):
        if name != CONFIG:
            return data
        config = json.loads(data)
        change(config)
        return json.dumps(config).encode()

    return rebuilt(content, changed)


def with_weights(content, change):
    def changed(name, data):
        if name != WEIGHTS:
            return data
        file = io.BytesIO(data)
        with h5py.File(file, "r+") as weights:
            change(weights)
        return file.getvalue()

    return rebuilt(content, changed)


def bomb(weights):
    weights.create_dataset("bomb", shape=(10**6, 10**6), dtype="float32", chunks=True, compression="gzip")


def elsewhere(weights):
    weights.create_dataset("elsewhere", shape=(4,), dtype="float32", external=[("/etc/passwd", 0, 16)])


def sizes(*units):
    def change(config):
        config["config"]["encoder"]["config"]["body"]["config"]["units"] = list(units)

    return change


def layers(config):
    config["config"]["prior"]["config"]["num_layers"] = 10**9


def foreign(module, name):
    def change(config):
        config["config"]["prior"] = {"module": module, "class_name": name, "config": {}, "registered_name": None}

    return change


def a_lambda(config):
    function = {"class_name": "__lambda__", "config": {"value": ["4wAAAAAAAA==", None, None]}}
    config["config"]["encoder"] = {
        "module": "keras.layers", "class_name": "Lambda", "config": {"function": function}, "registered_name": None,
    }  # fmt: skip


ATTACKS = {
    "not a zip": lambda content: b"pickle" + content[6:],
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "a damaged byte": lambda content: content[:2000] + bytes([content[2000] ^ 1]) + content[2001:],
    "no config": lambda content: rebuilt(b"PK\x05\x06" + 18 * b"\0"),
    "path traversal": lambda content: rebuilt(content, **{"../../outside.txt": b"x"}),
    "absolute path": lambda content: rebuilt(content, **{"/tmp/outside.txt": b"x"}),
    "duplicate name": lambda content: rebuilt(content, **{CONFIG: b"{}"}),
    "config isn't JSON": lambda content: rebuilt(content, lambda name, data: b"{" if name == CONFIG else data),
    "config is a list": lambda content: rebuilt(content, lambda name, data: b"[1]" if name == CONFIG else data),
    "deep config": lambda content: rebuilt(content, lambda name, data: b"[" * 10**5 if name == CONFIG else data),
    "weights aren't HDF5": lambda content: rebuilt(content, lambda name, data: data[::-1] if name == WEIGHTS else data),
    "weights of huge shape": lambda content: with_weights(content, bomb),
    "weights of another file": lambda content: with_weights(content, elsewhere),
    "huge layers": lambda content: with_config(content, sizes(10**7, 10**7)),
    "huge layer": lambda content: with_config(content, sizes(10**12)),
    "many layers": lambda content: with_config(content, layers),
    "another module": lambda content: with_config(content, foreign("os", "system")),
    "another class": lambda content: with_config(content, foreign("subprocess", "Popen")),
    "a lambda": lambda content: with_config(content, a_lambda),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_attacks_on_a_model_are_refused(attack, content, tmp_path, monkeypatch):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    path = folder / "model.keras"
    path.write_bytes(ATTACKS[attack](content))
    monkeypatch.chdir(folder)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"Expected an undamaged, safe \.keras file") as refused:
        kvae.load(path)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert "\n" not in str(refused.value)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["model.keras"]


def test_an_undamaged_file_is_loaded(vae, content, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(rebuilt(content))
    for a, b in zip(vae.weights, kvae.load(path).weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    with pytest.raises(FileNotFoundError, match="doesn't exist"):
        kvae.load(tmp_path / "other.keras")


# Fuzzing through the command; KVAE_FUZZ=2500 runs 10,000 cases and more.

FUZZ = settings(
    max_examples=int(os.environ.get("KVAE_FUZZ", 80)), deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


def content_of(save):
    """Return the bytes that `save` writes to a file."""
    file = io.BytesIO()
    save(file)
    return file.getvalue()


@st.composite
def damage(draw):
    """Return a function that changes some bytes, or cuts, doubles or overwrites a piece."""
    kind = draw(st.sampled_from(["flip", "cut", "double", "overwrite", "zero"]))
    place, length = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 64))
    filling = draw(st.binary(min_size=1, max_size=16))

    def apply(content):
        i = int(place * len(content))
        return {
            "flip": content[:i] + bytes([content[i] ^ (length % 255 + 1)]) + content[i + 1 :],
            "cut": content[:i] + content[i + length :] if length % 2 else content[:i],
            "double": content[: i + length] + content[i:],
            "overwrite": content[:i] + filling + content[i + len(filling) :],
            "zero": content[:i] + bytes(length) + content[i + length :],
        }[kind]

    return apply


def run(*arguments):
    """Return the last line of the command's output; raise an AssertionError unless it ends cleanly."""
    before, sys.argv = sys.argv, ["kvae", *map(str, arguments)]
    show = warnings.showwarning
    try:
        with warnings.catch_warnings():
            main()
    except SystemExit as stop:
        output = str(stop.code or "")
        assert "unexpected" not in output, output
        assert "\n" not in output
        return output
    finally:
        sys.argv, warnings.showwarning = before, show
    return ""


@pytest.fixture(scope="module")
def run_folder(vae, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    vae.save(run / "model.keras")
    nothing = dict.fromkeys(("recipe", "start", "data_dir", "size", "grayscale"))
    config = {"source": "digits", "name": "digits", "seed": 0, "binarize": "none", "image_shape": [8, 8, 1], **nothing}
    (run / "config.json").write_text(json.dumps(config, indent=2))
    return run


@pytest.mark.slow
@FUZZ
@given(damage())
def test_fuzz_keras_files(run_folder, tmp_path, change):
    copy = tmp_path / "run"
    shutil.copytree(run_folder, copy, dirs_exist_ok=True)
    content = change((run_folder / "model.keras").read_bytes())
    (copy / "model.keras").write_bytes(content)
    run("generate", copy, "-n", 1, "--seed", 0, "--out", tmp_path / "grid.png")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def quick(monkeypatch, vae):
    """Make the steps after reading fast: a ready model, and features of two images."""
    monkeypatch.setattr(kvae, "load", lambda path: vae)
    monkeypatch.setattr(streaming, "write_features", lambda model, data, *_, **__: len(data.arrays("train", 2)[0]))


@pytest.mark.slow
@FUZZ
@given(st.data())
def test_fuzz_config_json(run_folder, tmp_path, quick, data):
    copy = tmp_path / "run"
    shutil.copytree(run_folder, copy, dirs_exist_ok=True)
    content = (run_folder / "config.json").read_bytes()
    if data.draw(st.booleans()):
        content = data.draw(damage())(content)
    else:
        config = json.loads(content)
        config[data.draw(st.sampled_from(sorted(config)))] = data.draw(VALUES)
        content = json.dumps(config).encode()
    (copy / "config.json").write_bytes(content)
    run("features", copy, "digits", "--out", tmp_path / "f.npz", "--no-probe")


@pytest.fixture(scope="module")
def arrays():
    ways = {".npy": np.save, ".npz": np.savez, "_compressed.npz": np.savez_compressed}
    zeros = np.zeros((20, 8, 8, 1), np.uint8)
    return {suffix: content_of(lambda file, save=save: save(file, zeros)) for suffix, save in ways.items()}


@pytest.mark.slow
@FUZZ
@given(damage(), st.sampled_from([".npy", ".npz", "_compressed.npz"]))
def test_fuzz_arrays(run_folder, arrays, tmp_path, quick, change, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(change(arrays[suffix]))
    run("features", run_folder, path, "--out", tmp_path / "f.npz", "--no-probe")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8))
    formats = {"png": "png", "jpg": "jpeg", "bmp": "bmp"}
    return {suffix: content_of(lambda file, name=name: image.save(file, name)) for suffix, name in formats.items()}


@pytest.mark.slow
@FUZZ
@given(damage(), st.sampled_from(["png", "jpg", "bmp"]))
def test_fuzz_images(run_folder, images, tmp_path, quick, change, suffix):
    folder = tmp_path / "images"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.{suffix}").write_bytes(images[suffix])
    (folder / f"damaged.{suffix}").write_bytes(change(images[suffix]))
    run("features", run_folder, folder, "--out", tmp_path / "f.npz", "--no-probe")


@pytest.mark.slow
@FUZZ
@given(damage())
def test_fuzz_the_state_of_a_training_run(vae, tmp_path_factory, change):
    path = tmp_path_factory.getbasetemp() / "state.npz"
    if not hasattr(vae, "state_content"):
        path.unlink(missing_ok=True)
        vae.fit(np.zeros((4, 8, 8, 1)), callbacks=[Resume(path)], verbose=0)
        vae.__dict__["state_content"] = path.read_bytes()
    path.write_bytes(change(vae.__dict__["state_content"]))
    with contextlib.suppress(ValueError):  # no other error
        resume = Resume(path)
        vae.fit(np.zeros((4, 8, 8, 1)), epochs=resume.epoch, initial_epoch=resume.epoch, callbacks=[resume], verbose=0)
    assert path.exists()
