"""Tests of conditional models: their files take the condition and give the same results as Keras."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

import kvae
import kvae.export
from kvae import networks
from kvae.distributions import IndexedNoise
from kvae.export import Reference, command, onnx, runtime

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(conditional):
    return runtime.load(conditional[-1] / "vae_float32.tflite")


def test_info(model, exported):
    assert model.condition_dim == 10
    assert model.info["condition"]["size"] == 10
    assert model.info["condition"]["names"][7] == "seven"
    assert (model.info["prior"], model.info["posterior"]) == ("ConditionalNormal", "FullCovarianceNormal")
    for signature in model.info["signatures"].values():
        assert signature["inputs"]["condition"] == {"shape": ["B", 10], "dtype": "float32"}
    plain = runtime.load(exported / "vae_float32.tflite")
    assert plain.condition_dim is None
    assert "condition" not in plain.info
    assert not any("condition" in signature["inputs"] for signature in plain.info["signatures"].values())


def test_files_equal_keras(model, conditional):
    vae, x, y, _ = conditional
    z = np.random.default_rng(0).standard_normal((21, 2), dtype=np.float32)
    posterior = vae.encode(x, y)
    noise = IndexedNoise(runtime.seed_words(3), np.zeros(60, "int32"))
    terms = vae.terms(x, noise, c=vae.condition(y))
    a, b = posterior.mean.numpy()[:2]
    pairs = [
        (model.decode(z, 7), vae.decode(z, 7)),
        (model.encode(x, y).mean, posterior.mean),
        (model.encode(x, y).variance, posterior.variance),
        (model.reconstruct(x, y), vae.reconstruct(x, y)),
        (model.generate(21, seed=7, condition=y[:21]), vae.generate(21, seed=7, condition=y[:21])),
        (model.generate(5, seed=7, temperature=0.5, condition=7), vae.generate(5, 7, 0.5, 7)),
        (model.interpolate(a, b, 5, condition=3), vae.decode(np.linspace(a, b, 5), 3)),
        (model.score(x, seed=3, condition=y)["rate"], terms.rate),
        (model.score(x, seed=3, condition=y)["distortion"], terms.distortion[0]),
    ]
    for got, right in pairs:
        right = np.asarray(right)
        # The same arithmetic in another order (`kvae.export.budgets`).
        assert np.abs(got - right).max() < 1e-5 * max(1, np.abs(right).max())


def test_latents_equal_keras_bit_for_bit(model, conditional):
    vae, _, y, _ = conditional
    inputs = {
        "seed": runtime.seed_words(7),
        "index": np.arange(60, dtype="int32"),
        "temperature": np.ones(1, "float32"),
    }
    z = model.run("generate", **inputs, condition=np.eye(10, dtype="float32")[y])["z"]
    np.testing.assert_array_equal(z, vae.prior.sample(60, 7, condition=vae.condition(y)))


def test_valid_conditions(model):
    wanted = model.generate(3, seed=1, condition=7)
    one_hot = np.eye(10)[7]
    for same in (
        "seven",
        "7",
        np.uint8(7),
        [7, 7, 7],
        one_hot,
        np.tile(one_hot, (3, 1)),
        one_hot.astype(int)[None].repeat(3, 0),
    ):
        np.testing.assert_array_equal(model.generate(3, seed=1, condition=same), wanted)
    assert not np.array_equal(model.generate(3, seed=1, condition=1), wanted)


WRONG = {
    "none": (None, "condition=None|Received: None"),
    "too large": (10, "Received: 10"),
    "negative": (-1, "Received: -1"),
    "unknown name": ("eleven", "one of zero, one.*Received: 'eleven'"),
    "as many as rows, or one": ([1, 2], r"Received: shape \(2,\)"),
    "a short vector": (np.ones((3, 9)), r"Received: shape \(3, 9\)"),
    "NaN": (np.full(10, np.nan), "finite"),
    "a fraction": (0.5, r"Received: shape \(\)"),
    "rows of different lengths": ([[1.0], [1.0, 2.0]], "different lengths"),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_conditions_are_refused(case, model):
    condition, message = WRONG[case]
    calls = (
        lambda: model.generate(3, seed=1, condition=condition),
        lambda: model.decode(np.zeros((3, 2)), condition),
        lambda: model.score(np.zeros((3, 8, 8, 1)), condition=condition),
        lambda: model.interpolate(np.zeros(2), np.ones(2), 3, condition),
    )
    for call in calls:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_model_without_conditions_refuses_one(exported):
    with pytest.raises(ValueError, match=r"has no conditions.*condition=7"):
        runtime.load(exported / "vae_float32.tflite").generate(1, condition=7)


def test_report_golden_and_page(conditional):
    _, x, y, out = conditional
    report = json.loads((out / "report.json").read_text())
    by_path = {artifact["path"]: artifact["behaviour"] for artifact in report["artifacts"]}
    scores = runtime.load(out / "vae_float32.tflite").run(
        "score", image=x, seed=runtime.seed_words(0), index=np.arange(60, dtype="int32"),
        condition=np.eye(10, dtype="float32")[y],
    )  # fmt: skip
    assert by_path["vae_float32.tflite"]["elbo"] == pytest.approx(-scores["negative_elbo"].mean(), rel=1e-5)
    assert all("probe_accuracy" not in behaviour for behaviour in by_path.values())
    assert report["model"]["score"]["images"] == 40
    file = runtime.load(out / "vae_int8.tflite")
    nats = file.score(x[:40], condition=y[:40])["negative_elbo"]  # of the validation images, with their classes
    np.testing.assert_allclose(file.info["score"]["calibration"], np.sort(nats), atol=1.1e-3)
    for precision in ("float32", "int8"):
        assert max(runtime.load(out / f"vae_{precision}.tflite").self_test().values()) == 0
    page = (out / "export.html").read_text()
    assert "10 conditions" in page
    code = re.search(r'<pre id="python">(.*?)</pre>', page, re.S)[1].replace("&#34;", '"')
    assert "model.encode(images, condition=0)" in code
    assert "--seed 7 --condition 0" in page


def test_saved_model(conditional):
    vae, x, y, out = conditional
    encode = tf.saved_model.load(str(out / "saved_model")).signatures["encode"]
    np.testing.assert_allclose(encode(image=x, condition=tf.one_hot(y, 10))["mean"], vae.encode(x, y).mean, atol=1e-5)


def test_the_command(conditional, capsys, tmp_path):
    path = str(conditional[-1] / "vae_int8.tflite")
    assert command.main([path]) == 0
    assert "conditional: 10 conditions, zero, one" in capsys.readouterr().out
    for condition in ("7", "seven"):
        arguments = ["--generate", "4", "--seed", "7", "--condition", condition]
        assert command.main([path, *arguments, "--out", str(tmp_path / "x.npy")]) == 0
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), runtime.load(path).generate(4, seed=7, condition=7))
    assert command.main([path, "--generate", "4", "--condition", "eleven"]) == 1
    assert "one of zero, one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "images"}, "Received: none"),
        ({"data": "pair", "validation": "images"}, "Received: none"),
        ({"data": "images", "conditions": np.arange(60)}, "integers below 10"),
        ({"condition_names": ["one"]}, "`condition_names` must name the 10.*Received: 1 names"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message, conditional, tmp_path):
    vae, x, y, _ = conditional
    given = {"images": x, "pair": (x, y)}
    arguments = {name: given[value] if isinstance(value, str) else value for name, value in arguments.items()}
    with pytest.raises(ValueError, match=message):
        kvae.export.export(vae, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_full_int8_and_onnx(conditional, tmp_path):
    vae, x, y, _ = conditional
    kvae.export.export(
        vae, tmp_path, x, conditions=np.eye(10)[y], validation=(x, y), precisions="full_int8", with_onnx=True
    )
    got = onnx.open_onnx(tmp_path / "onnx")("encode", {"image": x, "condition": np.eye(10, dtype="float32")[y]})
    np.testing.assert_allclose(got["mean"], vae.encode(x, y).mean, atol=1e-5)
    model = runtime.load(tmp_path / "vae_full_int8.tflite")
    assert np.abs(model.generate(4, seed=1, condition=2) - vae.generate(4, seed=1, condition=2)).mean() < 0.02


@pytest.mark.slow
def test_a_vamp_prior_is_exported_without_a_second_encoder(tmp_path):
    vae = kvae.VAE(
        kvae.Encoder(2, networks.MLP((32,))), kvae.Decoder((8, 8, 1), networks.MLP((32,))),
        prior=kvae.priors.VampPrior(pseudo_inputs=50),
    )  # fmt: skip
    reference = Reference(vae)
    np.testing.assert_array_equal(reference.outputs["generate"]["z"][:1], vae.prior.fixed().draw(
        reference.inputs["generate"]["seed"], reference.inputs["generate"]["index"][:1], 0.8))  # fmt: skip
    kvae.export.export(vae, tmp_path, precisions=("float32",), batch_sizes=(1,))
    model = runtime.load(tmp_path / "vae_float32.tflite")
    assert model.info["prior"] == "VampPrior"
    np.testing.assert_allclose(model.generate(5, seed=7), vae.generate(5, seed=7), atol=1e-5)
    assert (tmp_path / "vae_float32.tflite").stat().st_size < 200_000  # no pseudo-inputs, and the encoder once
