"""Tests of the runtime: the same results as Keras, clear errors, and no TensorFlow."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import kvae.export
from kvae import features
from kvae.export import command, runtime
from kvae.networks import MLP

ROOT = Path(kvae.export.__file__).parent.parent
NO_TENSORFLOW = "import sys; assert not {'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules), sys.modules"


@pytest.fixture(scope="module")
def model(exported):
    return runtime.load(exported / "vae_float32.tflite")


def test_the_runtime_equals_keras(model, vae, images):
    z = np.random.default_rng(2).standard_normal((5, 2))
    posterior, encoded = vae.encode(images), model.encode(images)
    np.testing.assert_allclose(model.decode(z), vae.decode(z.astype("float32")), atol=1e-5)
    np.testing.assert_allclose(encoded.mean, posterior.mean, atol=1e-5)
    np.testing.assert_allclose(encoded.variance, posterior.variance, atol=1e-5)
    np.testing.assert_allclose(model.reconstruct(images), vae.reconstruct(images), atol=1e-5)


def test_info(model, images):
    info = model.info
    assert model.image_shape == (8, 8, 1)
    assert model.latent_dim == 2
    assert (info["format"], info["format_version"], info["kind"]) == ("kvae", 1, "vae")
    assert (info["prior"], info["posterior"], info["likelihood"]) == ("StandardNormal", "DiagonalNormal", "Bernoulli")
    assert info["value_range"] == [0, 1]
    assert info["batch_sizes"] == [1, 16]
    assert set(info["signatures"]) == {
        "decode", "encode", "reconstruct", "generate", "latents", "interpolate", "score",
    }  # fmt: skip
    assert info["signatures"]["decode"]["outputs"] == {"image": {"shape": ["B", 8, 8, 1], "dtype": "float32"}}
    assert info["signatures"]["generate"]["inputs"]["seed"] == {"shape": [2], "dtype": "int32"}
    assert info["score"]["images"] == len(images)
    assert len(info["latents"]["mean"]) == 2


def test_generate_equals_keras(model, vae, exported):
    """Latents are equal bit for bit, 8-bit images within one level, for any batch size."""
    images = model.generate(37, seed=7)
    levels = np.abs(np.round(255 * images) - np.round(255 * np.asarray(vae.generate(37, seed=7))))
    assert levels.max() <= 1
    np.testing.assert_allclose(images[5:9], model.generate(4, seed=7, start=5), atol=1e-6)
    cool = model.generate(3, seed=-1, temperature=0.5)
    np.testing.assert_allclose(cool, vae.generate(3, seed=-1, temperature=0.5), atol=1e-5)
    two_threads = runtime.load(exported / "vae_float32.tflite", num_threads=2)
    np.testing.assert_allclose(images, two_threads.generate(37, seed=7), atol=1e-6)
    assert not np.array_equal(images, model.generate(37, seed=8))
    assert not np.array_equal(model.generate(3), model.generate(3))


def test_interpolate(model, vae):
    a, b = np.array([-1.0, 2.0], "float32"), np.array([1.5, 0.0], "float32")
    t = np.linspace(0, 1, 5, dtype="float32")[:, None]
    np.testing.assert_allclose(model.interpolate(a, b, steps=5), vae.decode((1 - t) * a + t * b), atol=1e-5)


@pytest.mark.slow
def test_score_is_an_unbiased_estimate_of_the_negative_elbo(model, vae, images):
    one = model.score(images)
    np.testing.assert_allclose(one["negative_elbo"], one["distortion"] + one["rate"], rtol=1e-6)
    for i in (0, 7):  # an image's score doesn't depend on its batch
        np.testing.assert_allclose(
            model.score(images[i : i + 1])["negative_elbo"][0], one["negative_elbo"][i], rtol=1e-5
        )
    many = model.score(images, num_samples=400)
    elbo = vae.terms(images, kvae.distributions.Noise(3), 4000)
    distortion = np.asarray(elbo.distortion)
    error = distortion.std(axis=0) * np.sqrt(1 / 400 + 1 / 4000)
    assert (np.abs(many["distortion"] - distortion.mean(axis=0)) < 5 * error).all()
    np.testing.assert_allclose(many["rate"], elbo.rate, rtol=1e-4, atol=1e-6)


def test_percentile(model, images):
    scores = model.score(images)["negative_elbo"]
    percentile = model.percentile(scores)
    assert percentile.min() < 0.1
    assert percentile.max() > 99.9
    assert abs(np.median(percentile) - 50) < 3
    assert model.percentile(1e9) == 100


@pytest.mark.parametrize("file", ["vae_int8.tflite", "decoder_float32.tflite"])
def test_directions(file, exported, vae, directions, monkeypatch):
    """They are in every file, to the last bit of a float32; `move` equals that of `kvae.features`."""
    model, smile = runtime.load(exported / file), directions[0]
    assert list(model.directions) == ["a smile", "<b>"]
    found = model.directions["a smile"]
    np.testing.assert_array_equal(found["vector"], smile.vector)
    for field in ("distance", "middle", "low", "high", "accuracy", "majority", "auroc", "flips"):
        assert np.float32(found[field]) == np.float32(getattr(smile, field)), field
    z = np.random.default_rng(2).normal(size=(3, 2)).astype("float32")
    moved = model.move(z, "a smile", [0, 1.5, -2])
    wanted = [features.move(vae, z[i : i + 1], smile, [steps])[0, 0] for i, steps in enumerate([0, 1.5, -2])]
    np.testing.assert_allclose(model.decode(moved), wanted, atol=1e-5 if "float32" in file else 0.1)
    np.testing.assert_allclose(model.position(z, "a smile"), smile.position(z), atol=1e-5)
    np.testing.assert_allclose(smile.position(moved) - smile.position(z), [0, 1.5, -2], atol=1e-5)
    np.testing.assert_array_equal(model.move(z, "a smile"), model.move(z, "a smile", [1, 1, 1]))
    with pytest.raises(ValueError, match=r"directions of .*: a smile, <b>\. Received: 'frown'"):
        model.move(z, "frown")
    for steps in ([1, 2], np.nan):
        with pytest.raises(ValueError, match="3, one per row"):
            model.move(z, "<b>", steps)
    monkeypatch.setattr(model, "directions", {})
    with pytest.raises(ValueError, match="it has none; export with `directions`"):
        model.position(z, "a smile")


def test_self_test(exported, tmp_path):
    for precision in ("float32", "int8"):
        model = runtime.load(exported / f"vae_{precision}.tflite")
        assert set(model.self_test()) == {f"{name}_1" for name in model.info["signatures"]}
        assert max(model.self_test().values()) == 0
    golden = json.loads((exported / "vae_int8.golden.json").read_text())
    golden["signatures"]["generate_1"]["outputs"]["z"]["data"][0] += 1e-6  # `z` must be equal bit for bit
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(ValueError, match="'z' of 'generate_1' within 0 of the golden"):
        model.self_test(tmp_path / "golden.json")
    with pytest.raises(ValueError, match="golden pairs"):
        model.self_test(tmp_path / "nothing.json")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_row_does_not_depend_on_its_batch(exported, precision):
    model = runtime.load(exported / f"vae_{precision}.tflite")
    z = np.random.default_rng(3).standard_normal((37, 2), dtype=np.float32)  # 2 · 16 + 5 · 1
    one_by_one = np.concatenate([model.decode(row[None]) for row in z])
    np.testing.assert_allclose(model.decode(z), one_by_one, atol=1e-6)
    np.testing.assert_allclose(model.run("decode", batch=16, z=z)["image"], one_by_one, atol=1e-6)  # padded


def test_a_changed_file_is_refused_by_its_checksum(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "copy")
    path = tmp_path / "copy" / "vae_int8.tflite"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="changed or damaged"):
        runtime.load(path)
    (tmp_path / "copy" / "report.json").unlink()
    with pytest.raises(ValueError, match="changed or damaged"):  # checksum at the end of the file
        runtime.load(path)
    good = (exported / path.name).read_bytes()
    path.write_bytes(good)
    with pytest.raises(ValueError, match="changed or damaged"):
        runtime.load(path, sha256=hashlib.sha256(b"").hexdigest())
    assert runtime.load(path, sha256=hashlib.sha256(good).hexdigest()).latent_dim == 2


@pytest.mark.slow
def test_a_signature_for_any_batch_size(small, tmp_path):
    kvae.export.export(small, tmp_path, precisions=("float32",), batch_sizes=(4, None))
    model = runtime.load(tmp_path / "vae_float32.tflite")
    assert model.info["dynamic_batch"]
    assert model.batch_sizes == (4,)
    np.testing.assert_allclose(model.generate(70, seed=1), small.generate(70, seed=1), atol=1e-5)
    np.testing.assert_allclose(model.run("decode", batch=4, z=np.ones((6, 2), "float32"))["image"][5:],
                               small.decode(np.ones((1, 2), "float32")), atol=1e-5)  # fmt: skip


NAN = np.full((1, 2), np.nan)
WRONG_INPUTS = {
    "a single latent": (lambda m: m.decode(np.zeros(2)), r"\(batch, 2\).*; for a single one, use z\[None\]"),
    "a single image": (lambda m: m.encode(np.zeros((8, 8, 1))), r"for a single one, use image\[None\]"),
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
    "no images": (lambda m: m.generate(0), "n=0"),
    "more than memory": (lambda m: m.generate(10**9), r"2 GiB.*n=1000000000"),
    "an index beyond int32": (lambda m: m.generate(2, start=2**31 - 1), "start=2147483647"),
    "a seed beyond 64 bits": (lambda m: m.generate(1, seed=2**64), "64 bits"),
    "a negative temperature": (lambda m: m.generate(1, temperature=-1), "temperature=-1"),
    "temperature NaN": (lambda m: m.generate(1, temperature=float("nan")), "temperature=nan"),
    "one step": (lambda m: m.interpolate(np.zeros(2), np.ones(2), steps=1), "steps=1"),
    "a short end": (lambda m: m.interpolate(np.zeros(2), np.ones(1)), "`end`.*2"),
    "no posterior sample": (lambda m: m.score(np.zeros((1, 8, 8, 1)), num_samples=0), "num_samples=0"),
    "NaN to score": (lambda m: m.score(np.full((1, 8, 8, 1), np.nan)), "finite numbers"),
    "unknown signature": (lambda m: m.run("encodes", z=NAN), "Received: signature 'encodes'"),
    "missing input": (lambda m: m.run("decode", x=NAN), r"the inputs \['z'\] of 'decode'"),
    "unknown batch": (lambda m: m.run("decode", batch=3, z=NAN), "batch=3"),
    "n of 1.5": (lambda m: m.generate(1.5), "`n` must be an integer >= 1. Received: n=1.5"),
    "n of 2.0": (lambda m: m.generate(2.0), "n=2.0"),
    "n of True": (lambda m: m.generate(True), "n=True"),
    "n of None": (lambda m: m.generate(None), "n=None"),
    "n of text": (lambda m: m.generate("3"), "n='3'"),
    "n of a list": (lambda m: m.generate([3]), r"n=\[3\]"),
    "seed of 1.7": (lambda m: m.generate(1, seed=1.7), "`seed` must be an integer. Received: seed=1.7"),
    "seed of text": (lambda m: m.generate(1, seed="7"), "seed='7'"),
    "seed of NumPy's True": (lambda m: m.generate(1, seed=np.True_), "seed=True"),
    "start of 0.5": (lambda m: m.generate(1, start=0.5), "`start` must be an integer >= 0. Received: start=0.5"),
    "start below 0": (lambda m: m.generate(1, start=-1), "start=-1"),
    "temperature of None": (lambda m: m.generate(1, temperature=None), "a finite number >= 0. Received: .*=None"),
    "temperature of text": (lambda m: m.generate(1, temperature="1"), "temperature='1'"),
    "temperature of True": (lambda m: m.generate(1, temperature=True), "temperature=True"),
    "temperature of a list": (lambda m: m.generate(1, temperature=[1.0]), r"temperature=\[1.0\]"),
    "a condition for an unconditional model": (
        lambda m: m.decode(np.zeros((1, 2)), 1.0), "has no conditions.*condition=1.0"
    ),
    "steps of 2.5": (lambda m: m.interpolate([0, 0], [1, 1], 2.5), "`steps` must be an integer >= 2.*steps=2.5"),
    "a ragged start": (lambda m: m.interpolate([0, [0]], [1, 1]), r"`start` .* \(2,\).*different lengths"),
    "a batch of starts": (lambda m: m.interpolate([[0, 0]], [1, 1]), r"`start` .*Received: shape \(1, 2\)"),
    "no end": (lambda m: m.interpolate([0, 0], None), "`end` .*Received: None"),
    "score of seed None": (lambda m: m.score(np.zeros((1, 8, 8, 1)), seed=None), "seed=None"),
    "num_samples of 1.0": (lambda m: m.score(np.zeros((1, 8, 8, 1)), num_samples=1.0), "num_samples=1.0"),
    "percentile of None": (lambda m: m.percentile(None), r"number.*score\(image\).*Received: None"),
    "p-value of None": (lambda m: m.p_value(None), r"number.*score\(image\).*Received: None"),
    "percentile of NaN": (lambda m: m.percentile([1.0, np.nan]), r"Received: \[1.0, nan\]"),
    "percentile of the whole score": (lambda m: m.percentile({"rate": 1.0}), r"score\(image\).*Received: {'rate'"),
    "percentile of ragged rows": (lambda m: m.percentile([[1], [1, 2]]), "number or an array"),
    "golden of a number": (lambda m: m.self_test(5), "`golden` must be a path. Received: golden=5"),
    "images of None": (lambda m: m.encode(None), r"`image` .*\(batch, 8, 8, 1\).*Received: None"),
    "images of text": (lambda m: m.encode("x.png"), "Received: 'x.png'"),
    "an index of floats": (lambda m: m.run("generate", **DRAW | {"index": np.arange(3.0)}), "`index` .*int32.*float64"),
    "an index beyond its dtype": (lambda m: m.run("generate", **DRAW | {"index": [2**40]}), "`index` .*int32.*int64"),
    "rows of different number": (
        lambda m: m.run("score", image=np.zeros((1, 8, 8, 1)), seed=[0, 0], index=[0, 1]),
        "1 of `image`, 2 of `index`",
    ),
    "no rows": (lambda m: m.run("decode", z=np.zeros((0, 2))), "at least one. Received: 0 of `z`"),
    "batch of 1.0": (lambda m: m.run("decode", batch=1.0, z=np.zeros((1, 2))), "batch=1.0"),
    "a signature of a list": (lambda m: m.run(["decode"], z=NAN), "signature .'decode'."),
    "no path": (lambda m: runtime.load(None), "`path` must be a path. Received: path=None"),
    "threads of text": (lambda m: runtime.load(m.path, num_threads="2"), "integer from 1 to 1024.*num_threads='2'"),
    "threads of True": (lambda m: runtime.load(m.path, num_threads=True), "num_threads=True"),
    "too many threads": (lambda m: runtime.load(m.path, num_threads=10**5), "num_threads=100000"),
    "an empty checksum": (lambda m: runtime.load(m.path, sha256=""), "64 hexadecimal digits. Received: sha256=''"),
    "a checksum of a number": (lambda m: runtime.load(m.path, sha256=5), "sha256=5"),
}  # fmt: skip
DRAW = {"seed": [0, 7], "index": [0, 1, 2], "temperature": [1]}


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_invalid_inputs_are_refused(case, model):
    call, message = WRONG_INPUTS[case]
    with pytest.raises(ValueError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)
    assert model.decode(np.zeros((1, 2))).shape == (1, 8, 8, 1)  # the model still works


SAME = {
    "NumPy's integers": lambda m: m.generate(
        np.int64(3), seed=np.uint8(7), start=np.int32(0), temperature=np.float16(1)
    ),
    "arrays without axes": lambda m: m.generate(np.array(3), seed=np.array(7), temperature=np.array(1)),
    "the inputs of a signature": lambda m: m.run("generate", **DRAW)["image"],
    "unsigned inputs": lambda m: m.run("generate", **DRAW | {"index": np.arange(3, dtype="uint8")})["image"],
    "NumPy's threads": lambda m: runtime.load(m.path, num_threads=np.int64(1)).generate(3, seed=7),
    "a path as text": lambda m: runtime.load(str(m.path)).generate(3, seed=7),
}


@pytest.mark.parametrize("case", SAME)
def test_numpy_numbers_are_accepted(case, model):
    np.testing.assert_allclose(SAME[case](model), model.generate(3, seed=7), atol=1e-6)


def test_rounding_errors_beyond_the_range_are_clipped(model):
    ends = np.tile(np.array([0, 1], "float32"), 32).reshape(1, 8, 8, 1)
    beyond = ends + np.where(ends, 5e-7, -5e-7)
    np.testing.assert_array_equal(model.score(beyond)["distortion"], model.score(ends)["distortion"])
    with pytest.raises(ValueError, match=r"to 1\.00000203"):
        model.encode(ends * np.float32(1.000002))


@pytest.mark.parametrize("value", [[[0, 1]], np.zeros((1, 2), "float16"), np.zeros((2, 1)).T, ((False, True),)])
def test_any_real_dtype_is_accepted(value, model):
    assert model.decode(value).dtype == np.float32


def foreign(good):
    """Return a LiteRT file that kvae didn't make."""
    import tensorflow as tf

    module = tf.Module()
    function = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec((2,), name="x")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], module)
    return converter.convert()


BROKEN_FILES = {
    "empty": (lambda good: b"", "is empty"),
    "short": (lambda good: good[:6], "isn't a LiteRT file"),
    "text": (lambda good: b"<html>404 Not Found</html>", "isn't a LiteRT file"),
    "cut in half": (lambda good: good[: len(good) // 2], "damaged"),
    "the end cut": (lambda good: good[:-100], "damaged"),
    "a bit of the end": (lambda good: good[:-1] + bytes([good[-1] ^ 1]), "changed or damaged"),
    "bytes after the end": (lambda good: good + b"\n", "truncated, damaged"),
    "foreign": (foreign, "not made by kvae"),
    "foreign, with a checksum": (
        lambda good: runtime.sealed(foreign(good), {}),
        "made by kvae.export, with metadata",
    ),
}


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_files_are_refused(case, precision, exported, tmp_path):
    damage, message = BROKEN_FILES[case]
    path = tmp_path / "broken.tflite"
    path.write_bytes(damage((exported / f"vae_{precision}.tflite").read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        runtime.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path, exported):
    with pytest.raises(FileNotFoundError, match="doesn't exist"):
        runtime.load(tmp_path / "nothing.tflite")
    with pytest.raises(ValueError, match="a folder"):
        runtime.load(tmp_path)
    with pytest.raises(ValueError, match="num_threads=0"):
        runtime.load(exported / "vae_int8.tflite", num_threads=0)


def test_an_autoencoder_has_no_prior(tmp_path):
    autoencoder = kvae.Autoencoder(kvae.Encoder(2, MLP((16,))), kvae.Decoder((8, 8, 1), MLP((16,))))
    kvae.export.export(autoencoder, tmp_path, precisions=("float32",), batch_sizes=(1,))
    model = runtime.load(tmp_path / "autoencoder_float32.tflite")
    assert model.encode(np.zeros((1, 8, 8, 1))).variance is None
    assert model.interpolate(np.zeros(2), np.ones(2)).shape == (8, 8, 8, 1)
    with pytest.raises(ValueError, match="an autoencoder has no prior"):
        model.generate(1)
    with pytest.raises(ValueError, match="has no likelihood"):
        model.score(np.zeros((1, 8, 8, 1)))
    with pytest.raises(ValueError, match="validation images"):
        model.percentile(1.0)


class Shifted(kvae.priors.StandardNormal):
    """N(3, I)."""

    def from_words(self, words, temperature=1.0, condition=None):
        return 3 + super().from_words(words, temperature)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_custom_prior_is_sampled_in_the_file(precision, make_small, tmp_path):
    vae = make_small(prior=Shifted())
    kvae.export.export(vae, tmp_path, precisions=(precision,), batch_sizes=(1,))
    model = runtime.load(tmp_path / f"vae_{precision}.tflite")
    assert model.info["prior"] == "Shifted"
    inputs = {
        "seed": runtime.seed_words(7),
        "index": np.arange(20, dtype="int32"),
        "temperature": np.ones(1, "float32"),
    }
    z = model.run("generate", **inputs)["z"]
    np.testing.assert_array_equal(z, vae.prior.sample(20, seed=7))
    assert abs(z.mean() - 3) < 0.5


def test_the_command(exported, tmp_path, capsys):
    from PIL import Image

    path = str(exported / "vae_int8.tflite")
    assert command.main([path]) == 0
    assert "decode: z float32 (B, 2) -> image float32 (B, 8, 8, 1)" in capsys.readouterr().out
    assert command.main([path, "--generate", "5", "--seed", "7", "--out", str(tmp_path / "grid.png")]) == 0
    assert Image.open(tmp_path / "grid.png").size == (24, 16)
    assert command.main([path, "--generate", "5", "--seed", "7", "--out", str(tmp_path / "x.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), runtime.load(path).generate(5, seed=7))


def test_the_command_reports_an_error_in_one_line(exported, tmp_path, capsys):
    path = str(exported / "vae_int8.tflite")
    assert command.main([str(tmp_path / "nothing.tflite")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert command.main([str(exported / "vae_int8.tflite"), "--generate", "0"]) == 1
    assert "n=0" in capsys.readouterr().err
    assert command.main([path, "--self-test"]) == 0
    assert "generate_1: passed" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main([str(exported / "vae_int8.tflite"), "--out", "grid.png"])


NOT_ARRAYS = {
    "objects": lambda path: np.save(path, np.array([{"a": 1}]), allow_pickle=True),
    "a pickle": lambda path: path.write_bytes(b"\x80\x04N."),
    "text": lambda path: path.write_text("<html>"),
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: (np.save(path, np.zeros((9, 8, 8, 1))), path.write_bytes(path.read_bytes()[:200])),
    "an archive": lambda path: np.savez(path.open("wb"), images=np.zeros((1, 8, 8, 1))),
}


@pytest.mark.parametrize("case", NOT_ARRAYS)
def test_the_error_of_an_invalid_array_never_suggests_a_pickle(case, exported, tmp_path, capsys):
    NOT_ARRAYS[case](tmp_path / "images.npy")
    assert command.main([str(exported / "vae_int8.tflite"), "--classify", str(tmp_path / "images.npy")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "images.npy" in error
    assert ".npy array" in error
    assert "pickle" not in error


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_the_command_writes_to_any_stream(encoding, exported, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    assert command.main([str(exported / "vae_int8.tflite")]) == 0
    out.flush()
    shape = b"8?8?1" if encoding == "ascii" else "8×8×1".encode(encoding)
    assert shape in out.buffer.getvalue()
    assert out.errors == "strict"


def test_the_runtime_imports_neither_tensorflow_nor_keras(exported):
    code = f"from kvae.export.runtime import load; import sys;load(sys.argv[1]).generate(2, seed=1); {NO_TENSORFLOW}"
    path = str(exported / "vae_int8.tflite")
    subprocess.run([sys.executable, "-c", code, path], check=True, cwd=ROOT)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python environment with only NumPy and ai-edge-litert."""
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


def test_the_runtime_runs_without_tensorflow(bare_python, exported, tmp_path, vae):
    path, out = str(exported / "vae_float32.tflite"), tmp_path / "x.npy"
    line = [bare_python, "-m", "kvae.export.runtime", path, "--generate", "4", "--seed", "7"]
    environment = {"PYTHONPATH": str(ROOT)}
    subprocess.run([*line, "--out", str(out)], check=True, env=environment)
    np.testing.assert_allclose(np.load(out), vae.generate(4, seed=7), atol=1e-5)
    picture = subprocess.run(
        [*line, "--out", str(tmp_path / "x.png")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert picture.returncode == 1
    assert "pip install pillow" in picture.stderr
