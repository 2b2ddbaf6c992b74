"""Tests of exported classifiers: the same classes and accuracy as Keras at every precision."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import kvae
import kvae.export
from kvae import networks
from kvae.export import Budgets, ExportError, accuracy, budgets, command, litert, runtime, web
from kvae.export.behaviour import Behaviour
from kvae.export.report.page import render
from kvae.features.classifiers import Classifier, classifier
from kvae.features.linear import from_linear

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAINED = 1200
# For probabilities. Measured: 1e-6, 6e-4, 0.02, 0.04.
TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "int8": 0.1, "full_int8": 0.15}


def small_vae():
    return kvae.VAE(
        kvae.Encoder(6, networks.MLP((64, 32))), kvae.Decoder((8, 8, 1), networks.MLP((64,))), image_shape=(8, 8, 1)
    )


@pytest.fixture(scope="module")
def net(digits) -> Classifier:
    """A convolutional classifier of digits that returns logits."""
    keras.utils.set_random_seed(0)
    net = classifier(kvae.VAE(latent_dim=2, image_shape=(8, 8, 1)), 10, activation=None, trunk_rate=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.Adam(2e-3), loss, steps_per_execution=19)
    net.fit(digits[0][:TRAINED], digits[1][:TRAINED], batch_size=64, epochs=12, verbose=0)
    return net


@pytest.fixture(scope="module")
def tested(digits):
    return digits[0][TRAINED:1500], digits[1][TRAINED:1500]


@pytest.fixture(scope="module")
def exported(net, tested, digits, tmp_path_factory):
    """Folder and report of an export at every precision; read-only."""
    out = tmp_path_factory.mktemp("classifier")
    settings = {"precisions": litert.PRECISIONS, "class_names": NAMES, "dataset_name": "digits"}
    return out, kvae.export.export(net, out, tested, validation=digits[0][:200], **settings)


@pytest.fixture(scope="module")
def semi(digits, tested, tmp_path_factory):
    """A semi-supervised VAE, and folder and report of its export."""
    keras.utils.set_random_seed(0)
    model = kvae.SemiSupervisedVAE(
        kvae.Encoder(2, networks.MLP((32,))),
        kvae.Decoder((8, 8, 1), networks.MLP((32,))),
        classifier=kvae.Encoder(10, networks.MLP((64,)), param_size=10),
        num_classes=10,
    )
    model.compile(keras.optimizers.Adam(3e-3), steps_per_execution=19)
    model.fit(digits[0][:TRAINED], digits[1][:TRAINED], batch_size=64, epochs=1, verbose=0)
    out = tmp_path_factory.mktemp("semi")
    settings = {
        "validation": (digits[0][:200], digits[1][:200]),
        "precisions": litert.PRECISIONS,
        "batch_sizes": (1,),
        "condition_names": NAMES,
    }
    return model, out, kvae.export.export(model, out, tested, **settings)


def softmax(logits):
    exponents = np.exp(np.asarray(logits, "float64") - np.max(logits, axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def litert_files(report):
    return {
        file["precision"]: file for file in report["artifacts"] if file["format"] == "litert" and not file["network"]
    }


def test_the_folder(exported):
    out, report = exported
    files = [f"classifier_{p}{end}" for p in litert.PRECISIONS for end in (".tflite", ".golden.json")]
    assert {path.name for path in out.iterdir()} == {
        *files, "saved_model", "report.json", "export.html", "kvae_runtime.py",
    }  # fmt: skip
    for file in litert_files(report).values():
        assert file["builtin_only"]
        assert set(file["signatures"]) == {"classify"}
        assert set(file["behaviour"]["latency_us"]) == {"classify_1", "classify_16"}
        assert 0 < file["behaviour"]["cold_start_ms"] < 10_000
        assert 10 < file["behaviour"]["peak_memory_mb"] < 500
    sizes = {precision: file["bytes"] for precision, file in litert_files(report).items()}
    assert sizes["float32"] > 1.8 * sizes["float16"] > 3 * sizes["int8"]


@pytest.mark.parametrize("precision", litert.PRECISIONS)
def test_probabilities_and_accuracy_through_the_file(precision, exported, net, tested):
    (out, report), (x, y) = exported, tested
    model = runtime.load(out / f"classifier_{precision}.tflite")
    right = softmax(net.predict(x, verbose=0))  # the net returns logits, its files probabilities
    got = model.classify(x)
    assert (got.shape, got.dtype) == ((300, 10), np.float32)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(got, right, atol=TOLERANCES[precision])
    does = litert_files(report)[precision]["behaviour"]
    ours, keras_s = got.argmax(1) == y, right.argmax(1) == y
    assert does["accuracy"] == pytest.approx(ours.mean())
    assert does["accuracy"] > 0.8
    assert does["accuracy_lost"] == pytest.approx(keras_s.mean() - ours.mean(), abs=1e-12)
    assert does["agreement"] == pytest.approx((got.argmax(1) == right.argmax(1)).mean())
    lost, gained = (keras_s & ~ours).sum(), (ours & ~keras_s).sum()
    variance = (lost + gained - (lost - gained) ** 2 / 300) / 299  # of counts of +1, −1 and 0
    assert does["accuracy_lost_error"] == pytest.approx(np.sqrt(variance / 300), abs=1e-12)
    assert model.labels(x[:40]) == [NAMES[i] for i in got[:40].argmax(1)]
    assert set(model.self_test()) == {"classify_1"}
    assert max(model.self_test().values()) == 0


def test_the_golden_pair_has_a_real_image(exported, net, tested):
    out, _ = exported
    pair = json.loads((out / "classifier_float32.golden.json").read_text())["signatures"]["classify_1"]
    image = np.array(pair["inputs"]["image"]["data"], "float32").reshape(1, 8, 8, 1)
    assert image[0].tolist() in tested[0].tolist()
    np.testing.assert_allclose(pair["outputs"]["probability"]["data"], softmax(net(image))[0], atol=1e-5)


def test_info(exported):
    model = runtime.load(exported[0] / "classifier_int8.tflite")
    info = model.info
    assert (info["kind"], info["latent_dim"], info["prior"], info["latents"], info["score"]) == (
        "classifier", None, None, None, None,
    )  # fmt: skip
    assert info["classes"] == {"size": 10, "names": list(NAMES)}
    assert info["signatures"] == {
        "classify": {
            "batch_sizes": [1, 16],
            "dynamic_batch": False,
            "inputs": {"image": {"shape": ["B", 8, 8, 1], "dtype": "float32"}},
            "outputs": {"probability": {"shape": ["B", 10], "dtype": "float32"}},
        }
    }
    assert (model.latent_dim, model.condition_dim, model.class_names) == (None, None, NAMES)


REFUSED = {
    "decode": lambda model: model.decode(np.zeros((1, 2))),
    "encode": lambda model: model.encode(np.zeros((1, 8, 8, 1))),
    "reconstruct": lambda model: model.reconstruct(np.zeros((1, 8, 8, 1))),
    "interpolate": lambda model: model.interpolate(np.zeros(2), np.ones(2)),
    "generate": lambda model: model.generate(3),
    "score": lambda model: model.score(np.zeros((1, 8, 8, 1))),
}


@pytest.mark.parametrize("method", REFUSED)
def test_other_methods_of_a_classifier_are_refused(method, exported):
    model = runtime.load(exported[0] / "classifier_int8.tflite")
    with pytest.raises(ValueError, match=f"with the signature '{method}'. Received: .*, classifier with classify"):
        REFUSED[method](model)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 8, 8, 3)), r"Received: shape \(2, 8, 8, 3\)"),
        (np.full((2, 8, 8, 1), 255.0), r"in \[0, 1\].*from 255 to 255"),
        (np.full((2, 8, 8, 1), np.nan), "Received: NaN"),
    ],
)
def test_wrong_images(image, message, exported):
    with pytest.raises(ValueError, match=message):
        runtime.load(exported[0] / "classifier_int8.tflite").classify(image)


def test_the_command(exported, tested, tmp_path, capsys):
    file, images = str(exported[0] / "classifier_int8.tflite"), tmp_path / "images.npy"
    np.save(images, tested[0][:3])
    probability = runtime.load(file).classify(tested[0][:3])
    assert command.main([file, "--classify", str(images)]) == 0
    lines = [f"{i}: {NAMES[row.argmax()]} {row.max():.4f}" for i, row in enumerate(probability)]
    assert capsys.readouterr().out.splitlines() == lines
    assert command.main([file, "--classify", str(images), "--out", str(tmp_path / "p.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), probability)
    assert command.main([file]) == 0
    assert f"10 classes: {', '.join(NAMES)}" in capsys.readouterr().out
    images.write_text("not an array")
    for arguments, message in (
        ([file, "--classify", str(images)], "Expected a .npy array"),
        ([file, "--generate", "2"], "signature 'generate'"),
    ):
        assert command.main(arguments) == 1
        assert message in (error := capsys.readouterr().err)
        assert error.count("\n") == 1


def test_the_page(exported, monkeypatch):
    html = (exported[0] / "export.html").read_text(encoding="utf-8")
    for text in ("A classifier of digits, exported", "10: zero, one", "points lost", "of the test images correctly"):
        assert text in html
    for absent in ("None", "latents,", "nats lost", "decode", "PSNR", "<img"):
        assert absent not in html.partition("<h1>")[2]
    snippet = html.partition('<pre id="python">')[2].partition("</pre>")[0].replace("&#34;", '"')
    monkeypatch.chdir(exported[0])
    exec(snippet, scope := {})
    assert scope["probability"].shape == (1, 10)
    assert scope["names"][0] in NAMES


def test_a_page_without_labels_has_the_agreement(exported):
    _, report = exported
    does = {"agreement": 0.97}
    files = [{**file, "behaviour": does if file["precision"] == "int8" else None} for file in report["artifacts"]]
    html = render({**report, "artifacts": [file for file in files if file["precision"] == "int8"]}, [])
    assert "<b>97.0 %</b> of the test images to the same class as Keras" in html
    html = render({**report, "artifacts": files[:2]}, [])  # nothing measured
    assert "accuracy lost" not in html


@pytest.mark.slow
def test_a_semi_supervised_vae_classifies_too(semi, tested, capsys):
    (model, out, report), (x, y) = semi, tested
    right = np.asarray(model.classify(x))
    for precision, tolerance in TOLERANCES.items():
        file = runtime.load(out / f"vae_{precision}.tflite")
        assert list(file.info["signatures"]) == [
            "decode", "encode", "reconstruct", "generate", "latents", "interpolate", "score", "classify",
        ]  # fmt: skip
        assert file.info["classes"] == file.info["condition"] == {"size": 10, "names": list(NAMES)}
        np.testing.assert_allclose(file.classify(x), right, atol=tolerance)
        does = litert_files(report)[precision]["behaviour"]
        ours = np.mean(file.classify(x).argmax(1) == y)
        assert does["accuracy"] == pytest.approx(ours)
        assert ours > 0.5  # chance is 0.1
        assert does["accuracy_lost"] == pytest.approx(np.mean(right.argmax(1) == y) - ours, abs=1e-12)
        assert {"elbo", "nats_lost", "psnr"} < set(does)
        assert len(file.self_test()) == 8
    np.testing.assert_allclose(
        runtime.load(out / "vae_float32.tflite").generate(2, seed=7, condition="three"),
        model.generate(2, seed=7, condition=3),
        atol=1e-5,
    )
    html = (out / "export.html").read_text(encoding="utf-8")
    for text in ("nats lost", "points lost", "The same 16 new images", "model.classify(images)"):
        assert text in html
    assert command.main([str(out / "vae_int8.tflite")]) == 0
    assert "10 classes: zero" in capsys.readouterr().out
    with pytest.raises(ValueError, match="Expected a file with names"):
        nameless = runtime.load(out / "vae_float32.tflite")
        nameless.class_names = None
        nameless.labels(x)


@pytest.mark.slow
def test_a_linear_probe_on_the_device(digits, tested, tmp_path):
    """The file gives the probabilities and labels of scikit-learn on the encoder's means."""
    keras.utils.set_random_seed(0)
    vae, words = small_vae(), np.array(NAMES)
    head = vae.encoder.head  # a random projection, of means of the usual size
    head.kernel.assign(head.kernel / np.std(vae.encode_mean(digits[0])))
    probe = LogisticRegression(max_iter=300).fit(vae.encode_mean(digits[0][:TRAINED]), words[digits[1][:TRAINED]])
    (x, y), net = tested, from_linear(vae, probe)
    # Labels by name, whose order differs from the numbers.
    settings = {"precisions": litert.PRECISIONS, "batch_sizes": (16,)}
    report = kvae.export.export(net, tmp_path, (x, words[y]), validation=digits[0][:200], **settings)
    right = probe.predict_proba(vae.encode_mean(x))
    for precision, tolerance in TOLERANCES.items():
        model = runtime.load(tmp_path / f"classifier_{precision}.tflite")
        assert model.class_names == tuple(sorted(NAMES)) == tuple(probe.classes_)
        np.testing.assert_allclose(model.classify(x), right, atol=tolerance)
        right_labels = np.mean(np.array(model.labels(x)) == words[y])
        does = litert_files(report)[precision]["behaviour"]
        assert does["accuracy"] == pytest.approx(right_labels)
        lost = np.mean(probe.predict(vae.encode_mean(x)) == words[y]) - right_labels
        assert does["accuracy_lost"] == pytest.approx(lost, abs=1e-12)
        assert right_labels > 0.5


@pytest.mark.slow
def test_auto_keeps_the_smallest_file_with_the_same_accuracy(net, tested, exported, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("kvae.export.choice.SLOWER", 1000)  # other tests may run at the same time
    files = litert_files(exported[1])
    made = {name: file["behaviour"]["accuracy_lost"] for name, file in files.items()}
    wanted = min((name for name in made if made[name] <= 0.005), key=lambda name: files[name]["bytes"])
    report = kvae.export.export(net, tmp_path, tested, validation=digits[0][:200], precisions="auto", class_names=NAMES)
    assert [file["precision"] for file in report["artifacts"][1:]] == [wanted]
    assert {path.name for path in tmp_path.glob("classifier_*")} == {
        f"classifier_{wanted}.tflite", f"classifier_{wanted}.golden.json",
    }  # fmt: skip
    monkeypatch.setattr(litert, "PRECISIONS", ("float32",))
    with pytest.raises(ExportError, match=r"at most -1 of accuracy. Received: float32 loses 0 of"):
        kvae.export.export(net, tmp_path, tested, precisions="auto", budgets=Budgets(accuracy=-1.0), batch_sizes=(1,))


@pytest.fixture(scope="module")
def damaged(net, tmp_path_factory):
    """A file whose head returns the probability of the next class for every class."""
    wrong = Classifier.from_config(net.get_config())
    *trunk, kernel, bias = net.get_weights()
    wrong.set_weights([*trunk, np.roll(kernel, 1, axis=1), np.roll(bias, 1)])
    out = tmp_path_factory.mktemp("damaged")
    kvae.export.export(wrong, out, precisions="float32", batch_sizes=(1,))
    return (out / "classifier_float32.tflite").read_bytes()


@pytest.mark.slow
def test_a_damaged_head_is_refused(net, tested, damaged, tmp_path, monkeypatch):
    monkeypatch.setattr(litert, "quantize", lambda right, precision, *_: right if precision == "float32" else damaged)

    def export(**settings):
        return kvae.export.export(net, tmp_path / "out", tested, batch_sizes=(1,), **settings)

    with pytest.raises(ExportError, match=r"'probability' from 'classify' of 'classifier_int8.tflite' within 0.5"):
        export(precisions="int8")
    # The accuracy on labels also finds it, without limits on errors.
    monkeypatch.setitem(budgets._INT8, "probability", budgets.Budget(2.0, 2.0))
    with pytest.raises(ExportError, match=r"lose at most 2 points.*points below Keras; export prec") as caught:
        export(precisions="int8")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(litert, "PRECISIONS", ("float32", "int8"))
    assert list(litert_files(export(precisions="auto"))) == ["float32"]
    assert not list((tmp_path / "out").glob("*int8*"))


@pytest.mark.parametrize(
    ("lost", "error", "refused"),
    [
        (0.05, 0.01, True),
        (0.05, 0.02, False),  # within three standard errors
        (0.019, 0.001, False),  # below the limit
        (-0.5, 0.01, False),
        (1.0, 0.0, True),  # all images
        (1.0, None, False),  # a single image
        (None, None, False),
    ],
)
def test_which_losses_are_refused(lost, error, refused):
    behaviour = Behaviour(accuracy=0.5, accuracy_lost=lost, accuracy_lost_error=error)
    for precision, remedy in (("int8", "float16"), ("full_int8", "'int8',.* calibrate")):
        if refused:
            with pytest.raises(ExportError, match=remedy):
                accuracy.check("a.tflite", precision, behaviour)
        else:
            accuracy.check("a.tflite", precision, behaviour)


@pytest.mark.slow
def test_onnx_and_any_batch_size(net, tested, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` isn't installed")
    x, y = tested
    right = softmax(net.predict(x, verbose=0))
    kvae.export.export(net, tmp_path, (x, y), precisions="float32", batch_sizes=(1, None), with_onnx=True)
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "classify.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["probability"], {"image": x})[0], right, atol=1e-5)
    file = runtime.load(tmp_path / "classifier_float32.tflite")
    np.testing.assert_allclose(file.run("classify", image=x[:7])["probability"], right[:7], atol=1e-5)


@pytest.mark.slow
def test_a_classifier_trained_in_mixed_precision(digits, tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    net = classifier(small_vae(), 3)
    keras.config.set_dtype_policy("float32")
    kvae.export.export(net, tmp_path, digits[0][:50], precisions="float32", batch_sizes=(1,))
    got = runtime.load(tmp_path / "classifier_float32.tflite").classify(digits[0][:50])
    np.testing.assert_allclose(got, net.predict(digits[0][:50], verbose=0), atol=0.01)  # float16 has 11 bits


WRONG_ARGUMENTS = {
    "a label too large": ([0, 10], {}, r"integers from 0 to 9.*Received: shape \(2,\), 0, 10"),
    "an unknown name": (["zero", "ten"], {"class_names": NAMES}, "or names: zero, one.*zero, ten"),
    "one-hot labels": (np.eye(10)[:2], {}, r"Received: shape \(2, 10\)"),
    "too few names": ([0, 1], {"class_names": NAMES[1:]}, "one for each of the model's 10 classes. Received: one, two"),
    "a name twice": ([0, 1], {"class_names": [*NAMES[1:], "one"]}, "different names"),
    "auto without labels": (None, {"precisions": "auto"}, "a classifier and a pair of images and labels"),
    "fewer labels than images": ([1], {}, "1 labels, 2 images"),
}


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_wrong_arguments(case, net, tmp_path):
    labels, arguments, message = WRONG_ARGUMENTS[case]
    with pytest.raises(ValueError, match=message) as caught:
        kvae.export.export(net, tmp_path / "out", (np.zeros((2, 8, 8, 1)), labels), **arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`class_names` must be .* 0 classes"):
        kvae.export.export(small_vae(), tmp_path / "out", class_names=NAMES)
    with pytest.raises(ValueError, match=r"kvae.features.Classifier`. Received: Sequential"):
        kvae.export.export(keras.Sequential(), tmp_path / "out")


def test_a_classifier_has_no_page(exported, tmp_path):
    with pytest.raises(ExportError, match=r"draws images. Received: .*, classifier"):
        web.write(exported[0] / "classifier_int8.tflite", tmp_path / "site")


def test_the_file_runs_without_tensorflow(exported, tested, tmp_path):
    np.save(tmp_path / "images.npy", tested[0][:2])
    code = (
        "import sys, numpy as np; from kvae.export.runtime import load; "
        f"print(load({str(exported[0] / 'classifier_int8.tflite')!r}).labels(np.load(sys.argv[1]))); "
        "assert not {'tensorflow', 'keras', 'sklearn'} & set(sys.modules)"
    )
    root = kvae.__path__[-1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "images.npy")], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("'") == 4
