"""The C programs of the documentation, compiled, and compared with the runtime in TensorFlow Lite's C library."""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kvae.export import runtime

DOCS = Path(__file__).parents[2] / "docs" / "on_device.md"
COMPILER = shutil.which("cc")
#: package with `libtensorflowlite_c.so` (2.17.1)
LIBRARY = "pymicro-wakeword==2.5.0"
#: declarations of `tensorflow/lite/c/c_api.h`, whose other functions the programs don't use
HEADER = """
#include <stddef.h>
#include <stdint.h>
typedef enum { kTfLiteOk = 0 } TfLiteStatus;
typedef struct TfLiteModel TfLiteModel;
typedef struct TfLiteInterpreter TfLiteInterpreter;
typedef struct TfLiteInterpreterOptions TfLiteInterpreterOptions;
typedef struct TfLiteSignatureRunner TfLiteSignatureRunner;
typedef struct TfLiteTensor TfLiteTensor;
TfLiteModel* TfLiteModelCreateFromFile(const char*);
void TfLiteModelDelete(TfLiteModel*);
TfLiteInterpreter* TfLiteInterpreterCreate(const TfLiteModel*, const TfLiteInterpreterOptions*);
void TfLiteInterpreterDelete(TfLiteInterpreter*);
TfLiteStatus TfLiteInterpreterAllocateTensors(TfLiteInterpreter*);
TfLiteStatus TfLiteInterpreterInvoke(TfLiteInterpreter*);
TfLiteTensor* TfLiteInterpreterGetInputTensor(const TfLiteInterpreter*, int32_t);
const TfLiteTensor* TfLiteInterpreterGetOutputTensor(const TfLiteInterpreter*, int32_t);
TfLiteSignatureRunner* TfLiteInterpreterGetSignatureRunner(const TfLiteInterpreter*, const char*);
void TfLiteSignatureRunnerDelete(TfLiteSignatureRunner*);
TfLiteStatus TfLiteSignatureRunnerAllocateTensors(TfLiteSignatureRunner*);
TfLiteStatus TfLiteSignatureRunnerInvoke(TfLiteSignatureRunner*);
TfLiteTensor* TfLiteSignatureRunnerGetInputTensor(TfLiteSignatureRunner*, const char*);
const TfLiteTensor* TfLiteSignatureRunnerGetOutputTensor(const TfLiteSignatureRunner*, const char*);
size_t TfLiteTensorByteSize(const TfLiteTensor*);
int32_t TfLiteTensorDim(const TfLiteTensor*, int32_t);
void* TfLiteTensorData(const TfLiteTensor*);
TfLiteStatus TfLiteTensorCopyFromBuffer(TfLiteTensor*, const void*, size_t);
TfLiteStatus TfLiteTensorCopyToBuffer(const TfLiteTensor*, void*, size_t);
"""


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """The compiled programs: one decodes, the other scores."""
    if COMPILER is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("c")
    header = folder / "tensorflow" / "lite" / "c" / "c_api.h"
    header.parent.mkdir(parents=True)
    header.write_text(HEADER)
    programs = re.findall(r"```c\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    for name, program in zip(("decode", "score"), programs, strict=True):
        (folder / f"{name}.c").write_text(program, encoding="utf-8")
        line = [COMPILER, "-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-I", folder, "-c", f"{name}.c"]
        subprocess.run(line, check=True, cwd=folder)
    return folder


def test_the_c_programs_compile(objects):
    assert {path.name for path in objects.glob("*.o")} == {"decode.o", "score.o"}


@pytest.fixture(scope="module")
def run(objects, exported):
    """Run a program in the folder of the exported files."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip(f"{LIBRARY} has TensorFlow Lite's C library for Linux on x86-64 only")
    place = objects / "package"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", place, LIBRARY]
    subprocess.run(install, check=True, capture_output=True)
    library = next(place.rglob("libtensorflowlite_c.so"))
    for name in ("decode", "score"):
        line = [COMPILER, f"{name}.o", "-o", name, library, f"-Wl,-rpath,{library.parent}"]
        subprocess.run(line, check=True, cwd=objects)

    def program(name, *arguments):
        return subprocess.run([objects / name, *arguments], cwd=exported, capture_output=True)

    return program


@pytest.mark.slow
def test_the_decoder_draws_the_average_image(run, exported):
    pixels = run("decode").stdout.removeprefix(b"P5 8 8 255\n")
    model = runtime.load(exported / "decoder_int8.tflite")
    expected = (255 * model.decode(np.zeros((1, model.latent_dim))) + 0.5).astype(int).ravel()
    assert np.abs(np.frombuffer(pixels, np.uint8) - expected).max() <= 1  # kernels of another release


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "close"), [("float32", 1e-3), ("int8", 0.1)])
def test_scores_and_p_values_are_those_of_the_runtime(run, exported, images, precision, close):
    model = runtime.load(exported / f"vae_{precision}.tflite")
    path = exported.parent / "image.f32"
    for image in (*images[:5], np.zeros_like(images[0])):
        image.tofile(path)
        shown = re.fullmatch(r"(.*) nats, p (.*)\n", run("score", model.path, path).stdout.decode())
        nats, p = map(float, shown.groups())
        np.testing.assert_allclose(nats, model.score(image[None])["negative_elbo"][0], atol=close)
        low, high = model.p_value(np.array([nats + 6e-4, nats - 6e-4]))  # the score has three decimals
        assert low - 6e-5 <= p <= high + 6e-5


@pytest.mark.slow
def test_invalid_inputs_are_refused(run, exported, images, tmp_path):
    image, path = images[0].copy(), tmp_path / "image.f32"
    cases = {"score_1": "decoder_int8.tflite", "pixels in [0, 1]": "vae_int8.tflite"}
    image[2, 3] = np.nan
    image.tofile(path)
    for message, file in cases.items():
        done = run("score", file, path)
        assert (done.returncode, done.stdout) == (1, b"")
        assert f"failed: {message}\n" in done.stderr.decode()
    for size in (63, 65):
        np.zeros(size, "float32").tofile(path)
        assert run("score", "vae_int8.tflite", path).returncode == 1
