"""Tests with more than a thousand damaged files and odd inputs: no crash, no hang, no wrong results."""

import shutil
import zipfile

import numpy as np
import pytest

from kvae.export import runtime

FILES = 300  # of each precision


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage the bytes of a file: flipped or overwritten bytes, missing or repeated parts."""
    kind, changed = rng.integers(6), bytearray(data)
    structure = min(len(data), 40_000)  # the structure of a flatbuffer is before and between the weights
    at = int(rng.integers(8, structure if kind < 3 else len(data)))
    if kind in (0, 3):
        changed[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        changed[at : at + 4] = rng.bytes(4)
    elif kind == 2:
        changed[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
    elif kind == 4:
        del changed[at : at + int(rng.integers(1, 10_000))]
    else:
        changed[at:at] = changed[at : at + int(rng.integers(1, 1000))]
    return bytes(changed)


@pytest.mark.parametrize("reported", [True, False])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_every_damaged_file_is_refused(exported, precision, reported, tmp_path):
    """Test with and without the report next to the file. LiteRT opens some of these files and crashes on a few."""
    if reported:
        shutil.copy(exported / "report.json", tmp_path)
    path, rng = tmp_path / f"vae_{precision}.tflite", np.random.default_rng(2)
    good = (exported / path.name).read_bytes()
    damaged = [data for data in (mutate(good, rng) for _ in range(FILES)) if data != good]
    assert len(damaged) > 0.9 * FILES  # (some mutations change nothing)
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(ValueError, match="damaged") as caught:
            runtime.load(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(good)
    runtime.load(path)


@pytest.mark.parametrize(
    ("right", "wrong"), [(b'"float32"', b'"flnat32"'), (b'"shape"', b'"shbpe"'), (b'"outputs"', b'"outqutd"')]
)
def test_a_wrong_description_is_refused(exported, tmp_path, right, wrong):
    good = (exported / "vae_float32.tflite").read_bytes()
    with zipfile.ZipFile(exported / "vae_float32.tflite") as archive:
        start = archive.infolist()[0].header_offset
        text = archive.read(runtime.INFO)
    assert right in text
    changed = {runtime.INFO: text.replace(right, wrong, 1)}
    (tmp_path / "vae.tflite").write_bytes(runtime.sealed(good[:start], changed))
    with pytest.raises(ValueError, match="with metadata in format 1"):
        runtime.load(tmp_path / "vae.tflite")


def odd_array(rng):
    """Return an array of random shape, dtype and contents: about one in six is a valid image or latent."""
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
    """Return a call of a random method of the model with such arrays and numbers."""
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


def test_odd_inputs_give_finite_numbers_or_errors(exported):
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
