"""Tests of files with one network or selected signatures, in new and old runtimes."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import kvae
import kvae.export
from kvae import networks
from kvae.export import ExportError, endpoints, flatbuffer, metadata, runtime, web
from kvae.export.versions import oldest_runtime

ROOT = Path(kvae.export.__file__).parent.parent
PRECISIONS = ("float32", "float16", "int8", "full_int8")
FILES = [f"{name}_{precision}.tflite" for name in ("decoder", "encoder") for precision in (*PRECISIONS, "integer")]


@pytest.fixture(scope="module")
def model():
    """A conditional model of colour images: three channels, two inputs."""
    keras.utils.set_random_seed(0)
    return kvae.VAE(
        kvae.Encoder(3, networks.ConvDown((8,), units=16)), kvae.Decoder((8, 12, 3), networks.ConvUp((8,))),
        condition_dim=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """Folder of its files of one network in every precision, and a file with three signatures."""
    out = tmp_path_factory.mktemp("networks")
    images = np.random.default_rng(0).random((30, 8, 12, 3), dtype=np.float32)
    kvae.export.export(
        model, out, images, conditions=np.arange(30) % 2, precisions=(*PRECISIONS, "integer"),
        networks=("encoder", "decoder"), signatures=["generate_4", "decode"], batch_sizes=(1, 3),
        condition_names=["cat", "dog"], dataset_name="pets",
    )  # fmt: skip
    return out


def interpreter(path, **settings):
    opened = Interpreter(str(path), **settings)
    opened.allocate_tensors()
    return opened


def by_position(opened, *inputs):
    """Return the outputs for a client that only uses positions and subgraph 0."""
    for detail, value in zip(opened.get_input_details(), inputs, strict=True):
        opened.set_tensor(detail["index"], value)
    opened.invoke()
    return [opened.get_tensor(detail["index"]) for detail in opened.get_output_details()]


def names(details):
    return [detail["name"] for detail in details]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_client_without_signatures_decodes_and_encodes(model, folder, precision):
    z, condition = np.array([[0.5, -1.0, 0.2]], "float32"), np.array([[0.0, 1.0]], "float32")
    decoder, encoder = (interpreter(folder / f"{name}_{precision}.tflite") for name in ("decoder", "encoder"))
    assert decoder.get_signature_list() == {"serving_default": {"inputs": ["condition", "z"], "outputs": ["image"]}}
    assert (names(decoder.get_input_details()), names(decoder.get_output_details())) == (["z", "condition"], ["image"])
    close = {"float32": 1e-5, "float16": 1e-2}.get(precision, 0.1)
    (image,) = by_position(decoder, z, condition)
    np.testing.assert_allclose(image, model.decode(z, condition), atol=close)
    assert names(encoder.get_input_details()) == ["image", "condition"]
    assert names(encoder.get_output_details()) == ["mean", "variance"]
    mean, variance = by_position(encoder, image, condition)
    posterior = model.encode(image, condition)
    np.testing.assert_allclose(mean, posterior.mean, atol=5 * close)
    np.testing.assert_allclose(variance, posterior.variance, atol=5 * close)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_subgraph_0_is_the_first_requested_signature(folder, precision):
    opened = interpreter(folder / f"vae_{precision}.tflite")
    assert list(opened.get_signature_list()) == ["generate_4", "decode_1", "decode_3", "info"]
    assert names(opened.get_input_details()) == ["seed", "index", "temperature", "condition"]
    assert names(opened.get_output_details()) == ["image", "z"]
    drawn = runtime.load(folder / f"vae_{precision}.tflite")
    assert set(drawn.info["signatures"]) == {"generate", "decode"}
    assert drawn.generate(6, seed=1, condition=0).shape == (6, 8, 12, 3)
    with pytest.raises(ValueError, match=r"signature 'encode'.*vae with generate, decode"):
        drawn.encode(np.zeros((1, 8, 12, 3)), 0)


@pytest.mark.parametrize("path", [f"{name}_{p}.tflite" for name in ("vae", "decoder") for p in ("float32", "int8")])
def test_weights_are_in_the_flatbuffer(folder, path):
    data = (folder / path).read_bytes()
    model = flatbuffer.schema.Model.GetRootAs(data, 0)
    assert all(model.Buffers(i).Offset() <= 1 for i in range(model.BuffersLength()))
    assert max(model.Buffers(i).DataLength() for i in range(model.BuffersLength())) > 500


def test_a_decoder_file_is_small_and_equals_the_full_file(model, folder):
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.tflite")}
    assert sizes["decoder_int8.tflite"] < sizes["decoder_float16.tflite"] < sizes["decoder_float32.tflite"]
    z = np.random.default_rng(0).standard_normal((5, 3), dtype=np.float32)
    for precision in PRECISIONS:
        whole, alone = (runtime.load(folder / f"{name}_{precision}.tflite") for name in ("vae", "decoder"))
        assert (alone.info["serving_default"], alone.batch_sizes) == ("decode", (1,))
        assert alone.info["condition"]["names"] == ["cat", "dog"]
        one_by_one = np.concatenate([whole.run("decode", 1, z=row[None], condition=np.eye(2, dtype="f4")[1:])["image"]
                                     for row in z])  # fmt: skip
        np.testing.assert_array_equal(alone.decode(z, "dog"), one_by_one)
        assert max(alone.self_test().values()) == 0


def test_files_of_integers(model, folder):
    """Inputs and outputs are integers; the runtime converts them to floats."""
    decoder, encoder = (folder / f"{name}_integer.tflite" for name in ("decoder", "encoder"))
    for path in (decoder, encoder):
        opened = interpreter(path)
        assert not [each["name"] for each in opened.get_tensor_details() if np.dtype(each["dtype"]).kind == "f"]
        for detail in (*opened.get_input_details(), *opened.get_output_details()):
            assert (detail["dtype"], detail["quantization"][0] > 0) == (np.int8, True)
    z = np.random.default_rng(0).standard_normal((5, 3), dtype=np.float32)
    image = runtime.load(decoder).decode(z, "dog")
    np.testing.assert_allclose(image, model.decode(z, np.ones(5, int)), atol=0.1)
    got, posterior = runtime.load(encoder).encode(image, "dog"), model.encode(image, np.ones(5, int))
    np.testing.assert_allclose(got.mean, posterior.mean, atol=0.3)
    np.testing.assert_allclose(got.variance, posterior.variance, atol=0.3, rtol=0.15)
    assert not (folder / "vae_integer.tflite").exists()


@pytest.fixture(scope="module")
def bytes_folder(tmp_path_factory):
    """A model, its images, and the folder of its files with images as bytes."""
    keras.utils.set_random_seed(0)
    vae, out = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1)), tmp_path_factory.mktemp("bytes")
    images = np.random.default_rng(0).random((30, 8, 8, 1), dtype=np.float32)
    kvae.export.export(
        vae, out, images, precisions=("float32", "full_int8", "integer"), networks=("decoder", "encoder"), io="uint8",
        signatures=["reconstruct", "score", "decode"], batch_sizes=(1, 2),
    )  # fmt: skip
    return vae, images, out


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "full_int8", "integer"])
def test_images_as_bytes(bytes_folder, precision):
    vae, images, out = bytes_folder
    assert json.loads((out / "report.json").read_text())["refused"] == {}
    decoder, encoder = (interpreter(out / f"{name}_{precision}.tflite") for name in ("decoder", "encoder"))
    (image,), (given,) = decoder.get_output_details(), encoder.get_input_details()
    assert image["dtype"] == given["dtype"] == np.uint8
    z = np.array([[0.3, -0.7]], "float32")
    levels = 1 if precision == "float32" else 25
    right = runtime.to_bytes(vae.decode(z)).astype(int)
    if precision == "integer":
        got = runtime.to_bytes(runtime.load(out / "decoder_integer.tflite").decode(z))
    else:
        (got,) = by_position(decoder, z)
        mean, _ = by_position(encoder, runtime.to_bytes(images[:1]))
        np.testing.assert_allclose(mean, vae.encode_mean(images[:1]), atol=0.02 if precision == "float32" else 0.3)
    assert np.abs(got.astype(int) - right).max() <= levels


@pytest.mark.slow
def test_the_runtime_converts_bytes_to_floats(bytes_folder):
    vae, images, out = bytes_folder
    model = runtime.load(out / "vae_float32.tflite")
    assert model.info["signatures"]["reconstruct"]["inputs"]["image"]["dtype"] == "uint8"
    assert model.info["signatures"]["score"]["inputs"]["image"]["dtype"] == "float32"
    np.testing.assert_allclose(model.reconstruct(images), vae.reconstruct(images), atol=0.01)
    assert np.isfinite(model.score(images)["negative_elbo"]).all()
    assert max(model.self_test().values()) < 0.01
    with pytest.raises(ExportError, match="floats"):
        web.write(out / "vae_float32.tflite", out / "page")


@pytest.mark.parametrize("path", ["decoder_int8.tflite", "vae_float32.tflite", "encoder_integer.tflite"])
def test_the_runtime_beside_an_export_needs_no_kvae(folder, path):
    line = [sys.executable, "-I", str(folder / "kvae_runtime.py"), str(folder / path)]
    done = subprocess.run([*line, "--self-test"], capture_output=True, text=True, cwd="/")
    assert (done.returncode, "passed" in done.stdout) == (0, True), done.stderr
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import kvae_runtime; print({'kvae', 'keras'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.slow
def test_the_program_of_the_documentation(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "on_device.md").read_text(encoding="utf-8").split("## The decoder in an app")[1]
    code = text.split("```python\n")[1].split("```")[0]
    plain = kvae.VAE(latent_dim=3, image_shape=(8, 8, 1))
    kvae.export.export(plain, tmp_path, signatures=[], precisions="int8")
    monkeypatch.chdir(tmp_path)
    exec(code, scope := {})
    np.testing.assert_allclose(scope["image"], plain.decode(scope["z"])[0], atol=0.1)


WRONG = {
    "another dtype": ({"io": "int16"}, r"`io` must be one of \('float32', 'uint8'\). Received: io='int16'"),
    "integers without images": ({"precisions": "integer"}, "integer requires images to set the ranges"),
    "another endpoint": ({"signatures": ["classify"]}, "`signatures` must be some of decode, .*score, .*'classify'"),
    "batch 0": ({"signatures": ["decode_0"]}, "`signatures` .*'decode_0'"),
    "no number": ({"signatures": "decode_"}, "`signatures` .*'decode_'"),
    "a number": ({"signatures": [3]}, "`signatures` .*Received: 3"),
    "another network": (
        {"networks": ["prior"]},
        r"`networks` must be some of decoder and encoder. Received: \['prior'",
    ),
    "nothing": ({"signatures": [], "networks": ()}, "one or more of `signatures`, or of `networks`"),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_arguments_are_refused(case, model, tmp_path):
    arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        kvae.export.export(model, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_signatures_keep_the_requested_order():
    found = endpoints.signatures_of(
        kvae.VAE(latent_dim=2, image_shape=(8, 8, 1)), ("encode_2", "decode", "decode_4"), (4, 1)
    )
    assert [signature.name for signature in found] == ["encode_2", "decode_4", "decode_1"]


def test_control_flow_is_kept(tmp_path):
    """A called subgraph is kept with its caller."""
    import tensorflow as tf

    def loop(x):
        return {"y": tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2), (0, x))[1]}

    module = tf.Module()
    signatures = {
        name: tf.function(function, input_signature=[tf.TensorSpec((2,), name="x")]).get_concrete_function()
        for name, function in {"add": lambda x: {"y": x + 1}, "loop": loop}.items()
    }
    tf.saved_model.save(module, str(tmp_path), signatures=signatures)
    data = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path), signature_keys=["add", "loop"]).convert()
    wanted = [flatbuffer.Named(name, ("x",), ("y",)) for name in ("loop", "add")]
    for name, right in {"loop": 8.0, "add": 2.0}.items():
        file = flatbuffer.Editable(data)
        file.arrange(wanted)
        arranged = bytes(file)
        file.isolate(name)
        for made, key in ((arranged, name), (bytes(file), "serving_default")):
            run = Interpreter(model_content=made).get_signature_runner(key)
            np.testing.assert_array_equal(run(x=np.ones(2, "float32"))["y"], [right, right])


# TFLite Metadata.


@pytest.mark.parametrize("path", ["decoder_int8.tflite", "encoder_float32.tflite"])
def test_metadata_describes_inputs_and_outputs(folder, path):
    with zipfile.ZipFile(folder / path) as archive:
        assert archive.namelist() == [runtime.INFO, metadata.CONDITIONS]
        assert archive.read(metadata.CONDITIONS) == b"cat\ndog\n"
    data = (folder / path).read_bytes()
    model = flatbuffer.flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    entries = {entry.name.decode(): bytes(model.buffers[entry.buffer].data) for entry in model.metadata}
    assert model.description == b"vae of 8\xc3\x9712\xc3\x973 images with 3 latents, trained on pets"
    assert entries[metadata.MIN_RUNTIME].rstrip(b"\0") == b"2.7.0"
    assert entries[metadata.TFLITE_METADATA][4:8] == b"M001"
    for text in (b"image", b"condition", metadata.CONDITIONS.encode(), b"kvae vae"):
        assert text in entries[metadata.TFLITE_METADATA]


# Old runtimes.

#: releases of TensorFlow Lite, and a Python version with wheels
OLD = {"2.7.0": "3.9", "2.10.0": "3.9", "2.13.0": "3.10", "2.14.0": "3.11"}
CLIENT = """
import json, sys
import numpy as np
from tflite_runtime.interpreter import Interpreter, OpResolverType
kernels = {"xnnpack": OpResolverType.AUTO, "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
results = {}
for path in sys.argv[1:]:
    golden = json.load(open(path.replace(".tflite", ".golden.json")))["signatures"]
    for name, resolver in kernels.items():
        try:
            opened = Interpreter(path, experimental_op_resolver_type=resolver)
            for signature, call in golden.items():
                arrays = {
                    side: {k: np.array(v["data"], v["dtype"]).reshape(v["shape"]) for k, v in call[side].items()}
                    for side in ("inputs", "outputs")
                }
                got = opened.get_signature_runner(signature)(**arrays["inputs"])
                for key, right in arrays["outputs"].items():
                    off, allowed = float(np.abs(got[key] - right).max()), call["outputs"][key]["tolerance"]
                    if not off <= allowed:
                        raise ValueError("%s of %s off by %g, allowed %g" % (key, signature, off, allowed))
            results[path.rsplit("/", 1)[-1] + " " + name] = "equal"
        except (ValueError, RuntimeError) as error:
            results[path.rsplit("/", 1)[-1] + " " + name] = str(error).splitlines()[0]
print(json.dumps(results))
"""


def python_of(version):
    """Return an interpreter of this Python version from pyenv or the path, or None."""
    found = shutil.which(f"python{version}")
    roots = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"]
    under = [str(path) for root in roots for path in sorted(root.glob(f"{version}.*/bin/python"))]
    for candidate in [*under, *([found] if found else [])]:
        asked = subprocess.run([candidate, "-c", "import sys; print(sys.version)"], capture_output=True, text=True)
        if asked.stdout.startswith(f"{version}."):
            return candidate
    return None


@pytest.fixture(scope="module")
def answers(folder, tmp_path_factory):
    """Results of each file in each old runtime."""
    found = {}
    for release, version in OLD.items():
        python = python_of(version)
        if python is None:
            pytest.skip(f"needs Python {version} for tflite-runtime {release}")
        place = tmp_path_factory.mktemp("old") / release
        subprocess.run([python, "-m", "venv", place], check=True, capture_output=True)
        install = [place / "bin/pip", "install", "-q", f"tflite-runtime=={release}", "numpy<2"]
        subprocess.run(install, check=True, capture_output=True)
        files = sorted(map(str, folder.glob("*.tflite")))
        done = subprocess.run([place / "bin/python", "-c", CLIENT, *files], capture_output=True, text=True, check=True)
        found[release] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("release", OLD)
def test_golden_pairs_are_replayed_on_old_runtimes(folder, answers, release):
    """Every file runs on exactly the runtimes of the report, with both sets of kernels."""
    report = json.loads((folder / "report.json").read_text())
    oldest = {entry["path"]: entry["oldest_runtime"] for entry in report["artifacts"] if entry["format"] == "litert"}
    as_tuple = lambda text: tuple(map(int, text.split(".")[:2]))  # noqa: E731
    for file, needed in oldest.items():
        for kernels in ("xnnpack", "builtin"):
            result = answers[release][f"{file} {kernels}"]
            if as_tuple(release) >= as_tuple(needed):
                assert result == "equal", (release, file, kernels)
            else:
                assert result != "equal", f"{file} runs on {release}: the report says {needed}"


def test_the_report_names_the_oldest_runtime(folder):
    report = json.loads((folder / "report.json").read_text())
    assert report["refused"] == {}
    found = {entry["path"]: entry["oldest_runtime"] for entry in report["artifacts"]}
    newer = {path: oldest for path, oldest in found.items() if path in FILES and oldest != "2.7"}
    assert newer == {"encoder_integer.tflite": "2.12"}  # because of the variance, an exponential in eight bits
    assert found["vae_int8.tflite"] == "2.13"
    assert oldest_runtime({"TRANSPOSE_CONV": 4, "GELU": 1}) == "2.11"
