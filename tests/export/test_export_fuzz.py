"""Damaged files and odd inputs, more than a thousand: no crash, no hang, no nonsense where a checksum is given."""

import shutil
import subprocess
import sys
from pathlib import Path

import fuzz_runtime
import numpy as np
import pytest

import kvae.export
from kvae.export import runtime

ROOT = Path(kvae.export.__file__).parent.parent
FILES = 300  # of each precision


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_damaged_files_neither_crash_nor_hang(exported, precision):
    """Without a checksum a file with damaged weights may still answer: that's what the checksum is for."""
    command = [sys.executable, fuzz_runtime.__file__, exported / f"vae_{precision}.tflite", "1", str(FILES)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=200, env={"PYTHONPATH": str(ROOT)}
    )
    outcomes = done.stdout.splitlines()
    assert done.returncode == 0, f"crashed at file {len(outcomes)}: {done.stderr[-500:]}"
    assert len(outcomes) == FILES
    assert set(outcomes) == {"refused", "answered"}


@pytest.mark.parametrize(
    ("right", "wrong"), [(b'"float32"', b'"flnat32"'), (b'"shape"', b'"shbpe"'), (b'"outputs"', b'"outqutd"')]
)
def test_a_damaged_description_is_refused(exported, tmp_path, right, wrong):
    good = (exported / "vae_float32.tflite").read_bytes()
    assert right in good
    (tmp_path / "vae.tflite").write_bytes(good.replace(right, wrong, 1))
    with pytest.raises(ValueError, match="with the signature 'info' in format 1"):
        runtime.load(tmp_path / "vae.tflite")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_with_a_checksum_every_damaged_file_is_refused(exported, precision, tmp_path):
    shutil.copy(exported / "report.json", tmp_path)
    path, rng = tmp_path / f"vae_{precision}.tflite", np.random.default_rng(2)
    good = (exported / path.name).read_bytes()
    damaged = [data for data in (fuzz_runtime.mutate(good, rng) for _ in range(FILES)) if data != good]
    assert len(damaged) > 0.9 * FILES  # (some mutations change nothing)
    for data in damaged:
        path.write_bytes(data)
        assert fuzz_runtime.answer(path) == "refused"
    path.write_bytes(good)
    assert fuzz_runtime.answer(path) == "answered"


def odd_array(rng):
    """An array of some shape, dtype and contents: about one in six is a good image or latent."""
    shape = [
        (1, 8, 8, 1),
        (3, 8, 8, 1),
        (20, 2),
        (1, 2),
        (0, 2),
        (2,),
        (),
        (8, 8, 1),
        (1, 8, 8),
        (2, 8, 8, 3),
        (1, 1, 2),
    ]
    value = rng.random(shape[rng.integers(len(shape))])
    kind = rng.integers(8)
    if kind == 0 and value.size:
        value.flat[rng.integers(value.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e300])
    if kind == 1:
        value = value * 255
    if kind == 2:
        value = value.astype(rng.choice(["float16", "float64", "int64", "uint8", "bool", "complex64", "S3", "O"]))
    return value.tolist() if kind == 3 else value


INTEGERS = [0, 1, 7, 17, -1, 2**31, 2**63, 2**64, -(2**70), 10**9]
TEMPERATURES = [0.0, 1.0, 1e30, -1.0, np.nan, np.inf]


def odd_call(model, rng):
    """A call of one of the model's methods with such arrays and numbers."""
    x, y = odd_array(rng), odd_array(rng)
    n, seed, start, steps = (INTEGERS[i] for i in rng.integers(len(INTEGERS), size=4))
    calls = [
        lambda: model.decode(x),
        lambda: model.encode(x),
        lambda: model.reconstruct(x),
        lambda: model.score(x, seed=seed),
        lambda: model.interpolate(x, y, steps=min(steps, 100)),
        lambda: model.generate(n, seed=seed, start=start, temperature=rng.choice(TEMPERATURES)),
    ]
    return calls[rng.integers(len(calls))]


def test_odd_inputs_are_answered_with_finite_numbers_or_refused(exported):
    rng, answered, refusals = np.random.default_rng(3), 0, []
    for precision in ("float32", "int8"):
        model = runtime.load(exported / f"vae_{precision}.tflite")
        for _ in range(400):
            try:
                got = odd_call(model, rng)()
            except ValueError as error:
                refusals.append(str(error))
                continue
            answered += 1
            for value in got.values() if isinstance(got, dict) else [got]:
                assert np.isfinite(value).all()
    assert min(answered, len(refusals)) > 50
    assert not [message for message in refusals if "\n" in message]
