"""The runtime: what Keras says, clear errors, and no TensorFlow."""

import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import kvae.export
from kvae.export import runtime, sampling

ROOT = Path(kvae.export.__file__).parent.parent
NO_TENSORFLOW = "import sys; assert not {'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules), sys.modules"


@pytest.fixture(scope="module")
def model(exported):
    return runtime.load(exported / "vae_float32.tflite")


def test_it_says_what_keras_says(model, vae, images):
    z = np.random.default_rng(2).standard_normal((5, 2))
    posterior, encoded = vae.encode(images), model.encode(images)
    np.testing.assert_allclose(model.decode(z), vae.decode(z.astype("float32")), atol=1e-5)
    np.testing.assert_allclose(encoded["mean"], posterior.mean, atol=1e-5)
    np.testing.assert_allclose(encoded["variance"], posterior.variance, atol=1e-5)
    np.testing.assert_allclose(model.reconstruct(images), vae.reconstruct(images), atol=1e-5)


def test_facts(model):
    assert model.image_shape == (8, 8, 1)
    assert model.latent_dim == 2
    assert model.facts["prior"] == "StandardNormal"
    assert model.facts["kind"] == "vae"
    assert model.signatures["decode"] == {"inputs": {"z": (None, 2)}, "outputs": {"image": (None, 8, 8, 1)}}


def test_samples_depend_on_the_seed_alone(model, exported):
    first = model.sample(70, seed=7)
    assert first.shape == (70, 8, 8, 1)
    np.testing.assert_array_equal(first, model.sample(70, seed=7))
    np.testing.assert_array_equal(
        first, runtime.load(exported / "vae_float32.tflite", num_threads=2).sample(70, seed=7)
    )
    assert not np.array_equal(first, model.sample(70, seed=8))
    assert not np.array_equal(model.sample(3), model.sample(3))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_row_does_not_depend_on_its_batch(exported, precision):
    model = runtime.load(exported / f"vae_{precision}.tflite")
    z = np.random.default_rng(3).standard_normal((2 * runtime.BATCH + 5, 2), dtype=np.float32)
    one_by_one = np.concatenate([model.decode(row[None]) for row in z])
    np.testing.assert_allclose(model.decode(z), one_by_one, atol=1e-6)


NAN = np.full((1, 2), np.nan)
WRONG_INPUTS = {
    "a single latent": (lambda m: m.decode(np.zeros(2)), r"\(batch, 2\).*; a single one is z\[None\]"),
    "a single image": (lambda m: m.encode(np.zeros((8, 8, 1))), r"a single one is image\[None\]"),
    "too wide": (lambda m: m.decode(np.zeros((1, 3))), r"Received: shape \(1, 3\)"),
    "rank 3": (lambda m: m.decode(np.zeros((1, 1, 2))), r"Received: shape \(1, 1, 2\)"),
    "no channel": (lambda m: m.encode(np.zeros((1, 8, 8))), r"Received: shape \(1, 8, 8\)"),
    "empty batch": (lambda m: m.decode(np.zeros((0, 2))), "batch >= 1"),
    "a list of different lengths": (lambda m: m.decode([[0.0], [0.0, 1.0]]), "rows of different lengths"),
    "text": (lambda m: m.decode([["a", "b"]]), "real numbers. Received: dtype <U1"),
    "complex": (lambda m: m.decode(np.zeros((1, 2), complex)), "Received: dtype complex128"),
    "objects": (lambda m: m.decode(np.array([[None, 1.0]])), "Received: dtype object"),
    "NaN": (lambda m: m.decode(NAN), "finite numbers. Received: NaN"),
    "beyond float32": (lambda m: m.decode(np.full((1, 2), 1e300)), "finite numbers"),
    "pixels up to 255": (lambda m: m.encode(np.full((1, 8, 8, 1), 255, "uint8")), r"\[0, 1\].*to 255"),
    "pixels below 0": (lambda m: m.reconstruct(np.full((1, 8, 8, 1), -1.0)), r"\[0, 1\].*from -1"),
    "no samples": (lambda m: m.sample(0), "n=0"),
    "unknown signature": (lambda m: m.run("score", z=NAN), "Received: signature 'score'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_wrong_inputs(case, model):
    call, message = WRONG_INPUTS[case]
    with pytest.raises(ValueError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)
    assert model.decode(np.zeros((1, 2))).shape == (1, 8, 8, 1)  # and goes on working


@pytest.mark.parametrize("value", [[[0, 1]], np.zeros((1, 2), "float16"), np.zeros((2, 1)).T, ((False, True),)])
def test_any_real_numbers_will_do(value, model):
    assert model.decode(value).dtype == np.float32


def foreign(good):
    """A LiteRT file of someone else's."""
    import tensorflow as tf

    module = tf.Module()
    function = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec((2,), name="x")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], module)
    return converter.convert()


BROKEN_FILES = {
    "empty": (lambda good: b"", "is empty"),
    "short": (lambda good: good[:6], "isn't a LiteRT file"),
    "text": (lambda good: b"<html>404 Not Found</html>", "isn't a LiteRT file"),
    "cut in half": (lambda good: good[: len(good) // 2], "can't open"),
    "last byte cut": (lambda good: good[:-1], "can't open"),
    "foreign": (foreign, "made by kvae.export"),
}


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_files(case, precision, exported, tmp_path):
    damage, message = BROKEN_FILES[case]
    path = tmp_path / "broken.tflite"
    path.write_bytes(damage((exported / f"vae_{precision}.tflite").read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        runtime.load(path)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path, exported):
    with pytest.raises(FileNotFoundError, match="doesn't exist"):
        runtime.load(tmp_path / "nothing.tflite")
    with pytest.raises(ValueError, match="a folder"):
        runtime.load(tmp_path)
    with pytest.raises(ValueError, match="num_threads=0"):
        runtime.load(exported / "vae_int8.tflite", num_threads=0)


def test_an_autoencoder_has_no_samples(tmp_path):
    autoencoder = kvae.Autoencoder(latent_dim=2, image_shape=(8, 8, 1))
    kvae.export.export(autoencoder, tmp_path, precisions=("float32",))
    model = runtime.load(tmp_path / "autoencoder_float32.tflite")
    assert set(model.encode(np.zeros((1, 8, 8, 1)))) == {"mean"}
    with pytest.raises(ValueError, match="prior none"):
        model.sample(1)


class Shifted(kvae.priors.StandardNormal):
    """N(3, I)."""

    def sample(self, n, seed):
        return 3 + super().sample(n, seed)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_another_prior_is_not_sampled_as_if_it_were_standard(precision, tmp_path):
    vae = kvae.VAE(prior=Shifted(), latent_dim=2, image_shape=(8, 8, 1))
    kvae.export.export(vae, tmp_path, precisions=(precision,))
    model = runtime.load(tmp_path / f"vae_{precision}.tflite")
    with pytest.raises(ValueError, match="prior Shifted"):
        model.sample(1)
    assert model.decode(np.full((1, 2), 3.0)).shape == (1, 8, 8, 1)


def test_the_command(exported, tmp_path, capsys):
    from PIL import Image

    path = str(exported / "vae_int8.tflite")
    assert sampling.main([path]) == 0
    assert "decode: z (B, 2) -> image (B, 8, 8, 1)" in capsys.readouterr().out
    assert sampling.main([path, "--sample", "5", "--seed", "7", "--out", str(tmp_path / "grid.png")]) == 0
    assert Image.open(tmp_path / "grid.png").size == (24, 16)
    assert sampling.main([path, "--sample", "5", "--seed", "7", "--out", str(tmp_path / "x.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), runtime.load(path).sample(5, seed=7))


def test_the_command_reports_an_error_in_one_line(exported, tmp_path, capsys):
    assert sampling.main([str(tmp_path / "nothing.tflite")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert sampling.main([str(exported / "vae_int8.tflite"), "--sample", "0"]) == 1
    assert "n=0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sampling.main([str(exported / "vae_int8.tflite"), "--out", "grid.png"])


def test_importing_it_imports_neither_tensorflow_nor_keras(exported):
    code = f"from kvae.export.runtime import load; import sys;load(sys.argv[1]).sample(2, seed=1); {NO_TENSORFLOW}"
    path = str(exported / "vae_int8.tflite")
    subprocess.run([sys.executable, "-c", code, path], check=True, cwd=ROOT)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python that has NumPy and ai-edge-litert, and nothing else that was asked for."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wanted = [f"{name}=={version(name)}" for name in ("numpy", "ai-edge-litert")]
    result = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        pytest.skip(f"pip can't install {wanted}: {(result.stderr.strip().splitlines() or ['?'])[-1]}")
    return python


def test_it_runs_where_there_is_no_tensorflow(bare_python, exported, tmp_path, vae):
    path, out = str(exported / "vae_float32.tflite"), tmp_path / "x.npy"
    command = [bare_python, "-m", "kvae.export.runtime", path, "--sample", "4", "--seed", "7"]
    environment = {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "--out", str(out)], check=True, env=environment)
    z = np.random.default_rng(7).standard_normal((4, 2), dtype=np.float32)
    np.testing.assert_allclose(np.load(out), vae.decode(z), atol=1e-5)
    picture = subprocess.run(
        [*command, "--out", str(tmp_path / "x.png")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert picture.returncode == 1
    assert "pip install pillow" in picture.stderr
