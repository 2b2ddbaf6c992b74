"""Values deeper than 8 bits from every source: the range of the training images becomes [0, 1], with a warning."""

import io
import re
import struct
import warnings

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import kvae
from kvae.data import DataError, DataWarning

from .pictures import write_examples
from .test_named import write_set

COUNT, SHAPE = 40, (9, 10)
TWELVE_BIT = np.random.default_rng(0).integers(300, 4096, (COUNT, *SHAPE))  # part of the range of 16 bits
SIGNED = np.random.default_rng(1).integers(-70_000, 90_000, (COUNT, *SHAPE))
LARGE = np.random.default_rng(2).integers(2**31 - 500, 2**31 + 500, (COUNT, *SHAPE))  # negative if read as int32
REAL = np.random.default_rng(3).normal(5, 30, (COUNT, *SHAPE)).astype(np.float32)


def tiff(values, order="<"):
    """Return an uncompressed grey TIFF of any integers or floats, in either byte order."""
    height, width = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    sample = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8 * values.itemsize), (259, 3, 1), (262, 3, 1), (273, 4, 8),
            (277, 3, 1), (278, 4, height), (279, 4, len(data)), (339, 3, sample)]  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1)
        + struct.pack(f"{order}HH" if kind == 3 else f"{order}I", value, *[0] * (kind == 3))
        for tag, kind, value in tags
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def png(values):
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(file, "PNG")
    return file.getvalue()


def pgm(values):
    return b"P5 %d %d 65535\n" % values.shape[::-1] + values.astype(">u2").tobytes()


def pfm(values):
    return b"Pf\n%d %d\n-1.0\n" % values.shape[::-1] + values[::-1].astype("<f4").tobytes()  # bottom row first


def folder(encode, suffix):
    def write(root, values):
        for i, image in enumerate(values):
            (root / f"{i:03d}{suffix}").write_bytes(encode(image))
        return root, {}

    return write


def tfrecord(encode):
    def write(root, values):
        write_examples(root / "part-0.tfrecord", [encode(image) for image in values])
        return root, {}

    return write


def array(dtype):
    return lambda root, values: (values.astype(dtype), {})


def array_file(root, values):
    np.save(root / "a.npy", values.astype(np.uint16))
    return root / "a.npy", {}


def prepared(dtype):
    def write(root, values):
        feature = tfds.features.Tensor(shape=(*SHAPE, 1), dtype=dtype)
        if dtype == np.uint16:
            feature = tfds.features.Image(shape=(*SHAPE, 1), dtype=dtype)
        write_set(root, "deep", {"image": feature}, values[..., np.newaxis].astype(dtype))
        return "deep", {"data_dir": root}

    return write


def streamed(write):
    def wrapped(root, values):
        source, options = write(root, values)
        return source, {**options, "cache_bytes": 0}

    return wrapped


#: how files are written; values; name of the depth in the warning
KINDS = {
    "png": (folder(png, ".png"), TWELVE_BIT, "16-bit"),
    "png streamed": (streamed(folder(png, ".png")), TWELVE_BIT, "16-bit"),
    "pgm": (folder(pgm, ".pgm"), TWELVE_BIT, "integer"),  # Pillow's mode I
    "tiff little-endian": (folder(lambda x: tiff(x.astype(np.uint16)), ".tif"), TWELVE_BIT, "16-bit"),
    "tiff big-endian": (folder(lambda x: tiff(x.astype(np.uint16), ">"), ".tif"), TWELVE_BIT, "16-bit"),
    "tiff int16": (folder(lambda x: tiff(x.astype(np.int16)), ".tif"), TWELVE_BIT - 2000, "integer"),
    "tiff int16 big-endian": (folder(lambda x: tiff(x.astype(np.int16), ">"), ".tif"), TWELVE_BIT - 2000, "integer"),
    "tiff int32": (folder(lambda x: tiff(x.astype(np.int32)), ".tif"), SIGNED, "integer"),
    "tiff uint32": (folder(lambda x: tiff(x.astype(np.uint32)), ".tif"), LARGE, "integer"),
    "tiff float": (folder(tiff, ".tif"), REAL, "float"),
    "tiff float big-endian": (folder(lambda x: tiff(x, ">"), ".tif"), REAL, "float"),
    "pfm": (folder(pfm, ".pfm"), REAL, "float"),
    "tiff float streamed": (streamed(folder(tiff, ".tif")), REAL, "float"),
    "records png": (tfrecord(png), TWELVE_BIT, "16-bit"),
    "records png streamed": (streamed(tfrecord(png)), TWELVE_BIT, "16-bit"),
    "records tiff float": (tfrecord(tiff), REAL, "float"),
    "array uint16": (array(np.uint16), TWELVE_BIT, "16-bit"),
    "array uint16 below 256": (array(np.uint16), TWELVE_BIT // 16, "16-bit"),
    "array int16": (array(np.int16), TWELVE_BIT - 2000, "16-bit"),
    "array int32": (array(np.int32), SIGNED, "32-bit"),
    "array int64": (array(np.int64), SIGNED, "64-bit"),
    "array uint32": (array(np.uint32), LARGE, "32-bit"),
    "array int8": (array(np.int8), TWELVE_BIT // 16 - 128, "16-bit"),
    "array float64": (array(np.float64), REAL, "float"),
    "array float16": (array(np.float16), REAL.astype(np.float16).astype(np.float64), "float"),
    "npy": (array_file, TWELVE_BIT, "16-bit"),
    "prepared uint16": (prepared(np.uint16), TWELVE_BIT, "16-bit"),
    "prepared uint16 streamed": (streamed(prepared(np.uint16)), TWELVE_BIT, "16-bit"),
    "prepared int32": (prepared(np.int32), SIGNED, "32-bit"),
    "prepared float": (prepared(np.float32), REAL, "float"),
}


def everything(data):
    return np.concatenate([data.arrays(split)[0] for split in ("train", "validation", "test")])[..., 0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_range_becomes_the_unit_interval(tmp_path, kind):
    write, values, depth = KINDS[kind]
    source, options = write(tmp_path, values)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        data = kvae.data.load(source, **options)
        x = everything(data)
    low, high = data.value_range
    messages = [str(warning.message) for warning in caught if issubclass(warning.category, DataWarning)]
    digits = ".9g" if depth == "float" else ".0f"
    expected = f"{depth} images with values {low:{digits}}..{high:{digits}} are scaled to [0, 1] by the range of the "
    (scaled,) = [message for message in messages if "scaled" in message]
    assert scaled.split(": ", 1)[1].startswith(expected)
    assert data.image_shape == (*SHAPE, 1)
    assert x.dtype == np.float32
    # Identify each image as the nearest expected one.
    expected = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1).reshape(COUNT, -1)
    found = [int(np.abs(expected - image.reshape(-1)).max(axis=1).argmin()) for image in x]
    assert sorted(found) == list(range(COUNT))
    np.testing.assert_allclose(x.reshape(COUNT, -1), expected[found], atol=1e-6)
    training = values[found[: data.num_train]]
    assert (low, high) == (training.min(), training.max())  # not of other images
    clipped = any(values[i].min() < low or values[i].max() > high for i in found)
    assert any("are clipped" in message for message in messages) == clipped
    if options.get("cache_bytes") == 0:
        shuffled = np.concatenate(list(data.train))
        assert sorted(map(float, shuffled.max(axis=(1, 2, 3)))) == sorted(
            map(float, x[: data.num_train].max(axis=(1, 2)))
        )


@pytest.mark.parametrize(
    "kind", ["png", "png streamed", "tiff float", "records png", "array uint16", "prepared uint16"]
)
def test_a_given_value_range_is_used(tmp_path, kind):
    write, values, _ = KINDS[kind]
    source, options = write(tmp_path, values)
    span = (values.min() - 100.0, values.max() + 1000.0)
    data = kvae.data.load(source, value_range=span, **options)  # without a warning
    assert data.value_range == span
    x = everything(data)
    for found, right in ((x.min(), values.min()), (x.max(), values.max())):
        assert found == pytest.approx((right - span[0]) / (span[1] - span[0]), abs=1e-6)


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
@pytest.mark.parametrize("kind", ["folder", "records", "npz"])
def test_other_splits_are_clipped_and_counted(tmp_path, kind, cache_bytes):
    """The range is that of the training images alone."""
    train, test = TWELVE_BIT[:30], TWELVE_BIT[30:].copy()
    test[:3, 0, 0] = 9_999
    if kind == "npz":
        np.savez(tmp_path / "a.npz", x_train=train.astype(np.uint16), x_test=test.astype(np.uint16))
    for split, images in (("train", train), ("test", test)):
        if kind == "folder":
            (tmp_path / split).mkdir()
            folder(png, ".png")(tmp_path / split, images)
        elif kind == "records":
            write_examples(tmp_path / f"{split}-0.tfrecord", [png(image) for image in images])
    source = tmp_path / "a.npz" if kind == "npz" else tmp_path
    with pytest.warns(DataWarning) as caught:
        data = kvae.data.load(source, validation_fraction=0, cache_bytes=cache_bytes)
    x = data.arrays("test")[0]
    assert [bool(re.search(r"clipped, in 3 of 10 test images$", str(w.message))) for w in caught] == [False, True]
    assert data.value_range == (train.min(), train.max())
    assert np.count_nonzero(x == 1) >= 3


#: values, and the range that becomes [0, 1] (None: not scaled, without a warning)
WITHOUT_WARNING = {
    "floats in [0, 1]": (np.linspace(0, 1, 40 * 90, dtype=np.float32), None),
    "floats in a part of [0, 1]": (np.linspace(0.2, 0.4, 40 * 90), None),
    "rounding outside [0, 1]": (np.linspace(-1e-8, 1.0000001, 40 * 90), None),
    "int64 in 0..255": (np.arange(40 * 90) % 251, None),
    "the whole range of 16 bits": (np.linspace(0, 65535, 40 * 90).astype(np.uint16), (0, 65535)),
}


@pytest.mark.parametrize("case", WITHOUT_WARNING)
def test_ranges_without_a_warning(case):
    values, span = WITHOUT_WARNING[case]
    images = np.random.default_rng(5).permutation(values).reshape(40, 9, 10)
    images[:, 0, 0], images[:, 0, 1] = values[0], values[-1]  # every image has the whole range
    data = kvae.data.load(images)
    assert data.value_range == span
    low, high = span or (0, 255 if images.dtype.kind == "i" else 1)
    x = everything(data)
    assert 0 <= x.min() <= x.max() <= 1
    np.testing.assert_allclose(np.sort(x.ravel()), np.sort((images.ravel() - low) / (high - low)), atol=2e-6)


def test_models_and_exports_clip_rounding_errors():
    from kvae.export.reference import check_images

    vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
    x = np.full((2, 8, 8, 1), 0.5, np.float32)
    x[0, 0, 0], x[0, 0, 1] = 1.0000001, -1e-8
    for checked in (np.asarray(vae.check_images(x)), check_images(x, vae)):
        assert (checked.min(), checked.max()) == (0, 1)
    x[0, 0, 0] = 1.00001
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        vae.check_images(x)
    with pytest.raises(ValueError, match=r"values from -9\.99999994e-09 to 1\.00001001"):
        check_images(x, vae)
    x[0, 0, 0] = np.nan
    assert np.isnan(np.asarray(vae.check_images(x, training=True))[0, 0, 0, 0])


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (np.full((9, 8, 8), 1000), {}, "more than one value, or value_range=.*Received: 1000 for all pixels"),
        (np.full((9, 8, 8), -0.5), {}, "float training images with more than one value.*Received: -0.5 for all pixels"),
        (TWELVE_BIT, {"value_range": (5, 5)}, r"\(low, high\), finite, low < high. Received: \(5, 5\)"),
        (TWELVE_BIT, {"value_range": (0, np.inf)}, r"Received: \(0, inf\)"),
        (TWELVE_BIT, {"value_range": (0, np.nan)}, r"Received: \(0, nan\)"),
        (TWELVE_BIT, {"value_range": 255}, "Received: 255"),
        (TWELVE_BIT, {"value_range": (0, 1, 2)}, r"Received: \(0, 1, 2\)"),
        (TWELVE_BIT, {"value_range": "ab"}, "Received: 'ab'"),
        (np.where(REAL > 90, np.nan, REAL), {"value_range": (0, 1)}, "expected finite values"),
    ],
)
def test_invalid_ranges_are_refused(source, options, message):
    with pytest.raises(DataError, match=message):
        kvae.data.load(source, **options)


def test_8_bit_images_in_a_given_range():
    images = (np.arange(40 * 90).reshape(40, 9, 10) % 16).astype(np.uint8)
    x = everything(kvae.data.load(images, value_range=(0, 15)))
    np.testing.assert_allclose(np.unique(x), np.arange(16) / 15, atol=1e-7)
    with pytest.warns(
        DataWarning, match=r"values outside 0..10 are clipped, in 32 of 32 train, 4 of 4 validation and 4 of 4 test"
    ):
        x = everything(kvae.data.load(images, value_range=(0, 10)))
    np.testing.assert_allclose(np.unique(x), np.arange(11) / 10, atol=1e-7)
    with pytest.warns(DataWarning, match=r"8-bit, with values in 0..255, but value_range=\(0, 4095\) is wider"):
        kvae.data.load(images, value_range=(0, 4095))


@pytest.mark.parametrize("size", [None, 8])
def test_mixed_depths_are_refused(tmp_path, size):
    folder(png, ".png")(tmp_path, TWELVE_BIT[:5])
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(tmp_path / "z.png")
    with pytest.raises(DataError, match=r"images of one depth.*Received: 000.png \(16-bit\) and z.png \(8-bit\)"):
        kvae.data.load(tmp_path, size=size)
    shallow = (tmp_path / "z.png").read_bytes()
    for path in tmp_path.iterdir():
        path.unlink()
    for name, content in (("deep", png(TWELVE_BIT[0])), ("shallow", shallow)):  # the same name in two folders
        (tmp_path / name).mkdir()
        (tmp_path / name / "000.png").write_bytes(content)
    with pytest.raises(DataError, match=r"Received: deep/000.png \(16-bit\) and shallow/000.png \(8-bit\)"):
        kvae.data.load(tmp_path, size=size)
    (tmp_path / "shallow" / "000.png").unlink()
    (tmp_path / "deep" / "000.png").rename(tmp_path / "000.png")
    folder(tiff, ".tif")(tmp_path, REAL[:5])
    with pytest.raises(DataError, match=r"Received: 000.png \(16-bit\) and 000.tif \(float\)"):
        kvae.data.load(tmp_path, size=size, value_range=(0, 4095))


def test_mixed_depths_of_records_and_arrays_are_refused(tmp_path):
    shallow = io.BytesIO()
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(shallow, "PNG")
    write_examples(tmp_path / "a.tfrecord", [png(TWELVE_BIT[0])] * 5 + [shallow.getvalue()])
    with pytest.raises(DataError, match=r"record 0 of a.tfrecord \(16-bit\) and record 5 of a.tfrecord \(8-bit\)"):
        kvae.data.load(tmp_path, validation_fraction=0, test_fraction=0)
    deep, flat = TWELVE_BIT.astype(np.uint16), np.zeros((5, *SHAPE), np.uint8)
    for train, test in ((deep, flat), (flat, deep), (deep, flat / 255), (REAL, deep)):
        np.savez(tmp_path / "a.npz", x_train=train, x_test=test)
        with pytest.raises(DataError, match="same image shape and type in every split"):
            kvae.data.load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x_train=deep.astype(np.int64), x_test=flat.astype(np.int64))
    with pytest.warns(DataWarning) as caught:  # one type, so one depth
        data = kvae.data.load(tmp_path / "a.npz", validation_fraction=0)
    assert "are clipped, in 5 of 5 test images" in str(caught[1].message)
    assert data.arrays("test")[0].max() == 0


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
def test_a_file_with_nan_is_left_out_with_the_reason(tmp_path, cache_bytes):
    values = REAL.copy()
    values[7, 2, 3:5] = np.nan, np.inf
    folder(tiff, ".tif")(tmp_path, values)
    with pytest.warns(DataWarning) as caught:
        data = kvae.data.load(tmp_path, cache_bytes=cache_bytes)
    x = everything(data)
    assert any(
        "skipped 1 of 40 images (unreadable): 007.tif (2 NaN or infinite pixels)" in str(w.message) for w in caught
    )
    assert len(x) == 39
    assert np.isfinite(x).all()


def test_the_reason_is_shown_if_all_files_are_left_out(tmp_path):
    folder(tiff, ".tif")(tmp_path, np.full_like(REAL, np.nan)[:5])
    with (
        pytest.warns(DataWarning, match=r"skipped 5 of 5 .*000.tif \(90 NaN"),
        pytest.raises(DataError, match="none readable"),
    ):
        kvae.data.load(tmp_path)


def test_depth_survives_resizing_and_colour(tmp_path):
    ramp = np.linspace(1000, 3000, 32 * 32).reshape(32, 32)
    folder(png, ".png")(tmp_path, np.stack([ramp] * 12))
    with pytest.warns(DataWarning, match="values 1000..3000"):
        data = kvae.data.load(tmp_path, size=16, grayscale=False, cache_bytes=0)
    x = data.arrays("train")[0]
    assert x.shape == (10, 16, 16, 3)
    assert len(np.unique(x[0])) == 256  # each pixel has another level
    array = kvae.data.load(np.stack([ramp] * 12).astype(np.uint16), size=16, value_range=(1000, 3000))
    np.testing.assert_allclose(x[..., :1], array.arrays("train")[0], atol=1e-6)


def test_stochastic_draws_are_the_same_from_memory_and_streamed(tmp_path):
    folder(png, ".png")(tmp_path, TWELVE_BIT)
    options = {"binarize": "stochastic", "value_range": (300, 4095)}
    one, two = (kvae.data.load(tmp_path, cache_bytes=n, **options).arrays("train")[0] for n in (1 << 30, 0))
    np.testing.assert_array_equal(one, two)
    assert set(np.unique(one)) == {0, 1}
