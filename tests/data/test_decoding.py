"""Image files that are transparent, large or damaged: pixels and messages."""

import io
import logging
import re
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image, ImageChops

import kvae
from kvae.data import DataError, DataWarning, decoding, pillow
from kvae.data.images import check_background
from kvae.data.pillow import Unreadable

from .pictures import write_examples
from .test_named import write_set

SIZE = 16
COUNT = 12
MASKS = np.zeros((COUNT, SIZE, SIZE), np.uint8)  # a disc that moves, half-transparent at its left
for i in range(COUNT):
    rows, columns = np.mgrid[:SIZE, :SIZE]
    MASKS[i][(rows - 4 - i % 5) ** 2 + (columns - 4 - i // 2) ** 2 < 10] = 255
    MASKS[i][:, :4][MASKS[i][:, :4] > 0] = 128
RAMP = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)


def raw_png(depth, colour, rows, palette=b"", transparent=b""):
    """Return a PNG of any depth and transparent colour, including those that Pillow can't write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width = len(rows[0]) * 8 // (depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour])
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))
    parts = [chunk(kind, data) for kind, data in ((b"PLTE", palette), (b"tRNS", transparent)) if data]
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(row) for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(parts) + pixels + chunk(b"IEND", b"")


def encoded(image, suffix=".png", **options):
    file = io.BytesIO()
    image.save(file, Image.registered_extensions()[suffix], **options)
    return file.getvalue()


def rgba(i):
    return Image.fromarray(np.dstack([RAMP, RAMP.T, np.full_like(RAMP, 40), MASKS[i]]), "RGBA")


def grey_alpha(i):
    return Image.merge("LA", [Image.fromarray(RAMP), Image.fromarray(MASKS[i])])


def palette(i):
    """Return an image of three colours: index 0 has alpha 0, 1 has 128, 2 has 255."""
    image = Image.fromarray(np.digitize(MASKS[i], [1, 200]).astype(np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 200, 0, 100, 7, 8, 9])
    return image


def composite(colour, alpha, background):
    """Compute the formula in float64."""
    alpha = np.asarray(alpha, float)[..., np.newaxis] / 255
    colour = np.asarray(colour, float).reshape(*alpha.shape[:2], -1)
    return colour * alpha + np.asarray(background, float) * (1 - alpha)


COLOURS = np.array([[10, 20, 30], [200, 0, 100], [7, 8, 9]])
LEVELS = np.digitize(MASKS, [1, 200])
ALPHAS = np.array([0, 128, 255])[LEVELS]
INDEXED = np.where(LEVELS == 0, 0, 255)

#: suffix; content of file i; its colours and alpha
TRANSPARENT = {
    "RGBA": (".png", lambda i: encoded(rgba(i)), lambda i: (np.asarray(rgba(i))[..., :3], MASKS[i])),
    "RGBA tiff": (".tif", lambda i: encoded(rgba(i), ".tif"), lambda i: (np.asarray(rgba(i))[..., :3], MASKS[i])),
    "RGBA webp": (
        ".webp",
        lambda i: encoded(rgba(i), ".webp", lossless=True, exact=True),
        lambda i: (np.asarray(rgba(i))[..., :3], MASKS[i]),
    ),
    "RGBA of 16 bits": (
        ".png",
        lambda i: raw_png(16, 6, [(row * 257).astype(">u2").tobytes() for row in np.asarray(rgba(i)).astype(int)]),
        lambda i: (np.asarray(rgba(i))[..., :3], MASKS[i]),
    ),
    "LA": (".png", lambda i: encoded(grey_alpha(i)), lambda i: (RAMP, MASKS[i])),
    "palette with bytes": (
        ".png",
        lambda i: encoded(palette(i), transparency=bytes([0, 128, 255])),
        lambda i: (COLOURS[LEVELS[i]], ALPHAS[i]),
    ),
    "palette with an index": (
        ".png",
        lambda i: encoded(palette(i), transparency=0),
        lambda i: (COLOURS[LEVELS[i]], INDEXED[i]),
    ),
    "PA tiff": (
        ".tif",
        lambda i: encoded(Image.merge("PA", [palette(i), Image.fromarray(MASKS[i])]), ".tif"),
        lambda i: (COLOURS[LEVELS[i]], MASKS[i]),
    ),
    "gif": (".gif", lambda i: encoded(palette(i), ".gif", transparency=0), lambda i: (COLOURS[LEVELS[i]], INDEXED[i])),
    "animated png": (
        ".png",
        lambda i: encoded(rgba(i), save_all=True, append_images=[ImageChops.invert(rgba(i))]),
        lambda i: (np.asarray(rgba(i))[..., :3], MASKS[i]),
    ),
    "grey with a colour key": (
        ".png",
        lambda i: encoded(Image.fromarray(RAMP), transparency=7),
        lambda i: (RAMP, np.where(RAMP == 7, 0, 255)),
    ),
    "colour with a colour key": (
        ".png",
        lambda i: encoded(rgba(i).convert("RGB"), transparency=(7, 112, 40)),
        lambda i: (np.asarray(rgba(i))[..., :3], np.where((RAMP == 7) & (RAMP.T == 112), 0, 255)),
    ),
    "2 bits with a colour key": (
        ".png",
        lambda i: raw_png(2, 0, [[0b00011011] * 4] * SIZE, transparent=b"\0\2"),
        lambda i: (np.tile([0, 85, 170, 255], (SIZE, 4)), np.tile([255, 255, 0, 255], (SIZE, 4))),
    ),
    "4 bits with a colour key": (
        ".png",
        lambda i: raw_png(4, 0, [[0x01, 0x2F] * 4] * SIZE, transparent=b"\0\2"),
        lambda i: (np.tile([0, 17, 34, 255], (SIZE, 4)), np.tile([255, 255, 0, 255], (SIZE, 4))),
    ),
    "1 bit with a colour key": (
        ".png",
        lambda i: raw_png(1, 0, [[0b01010101] * 2] * SIZE, transparent=b"\0\0"),
        lambda i: (np.tile([0, 255], (SIZE, 8)), np.tile([0, 255], (SIZE, 8))),
    ),
    "colours of 16 bits with a key": (
        ".png",
        lambda i: raw_png(
            16,
            2,
            [struct.pack(">6H", 0x6464, 200, 300, 4000, 5000, 6000) * 8] * SIZE,
            transparent=struct.pack(">3H", 4000, 5000, 6000),
        ),
        lambda i: (np.tile([[100, 0, 1], [15, 19, 23]], (SIZE, 8, 1)), np.tile([255, 0], (SIZE, 8))),
    ),
}


WHOLE = {"validation_fraction": 0, "test_fraction": 0}


def all_pixels(data):
    return np.concatenate([data.arrays(split)[0] for split in ("train", "validation", "test")]) * 255


def assert_same_images(found, expected):
    """Compare images in any order."""
    assert len(found) == len(expected)
    left = list(found)
    for image in expected:
        distances = [np.abs(image - other).max() for other in left]
        assert min(distances) <= 1.01, min(distances)  # both are rounded to 8 bits somewhere
        left.pop(int(np.argmin(distances)))


@pytest.mark.parametrize("case", TRANSPARENT)
def test_transparent_images_get_a_white_background(tmp_path, case):
    suffix, encode, parts = TRANSPARENT[case]
    for i in range(COUNT):
        (tmp_path / f"{i:02d}{suffix}").write_bytes(encode(i))
    with pytest.warns(DataWarning) as caught:
        data = kvae.data.load(tmp_path, **WHOLE)
    (message,) = [str(warning.message) for warning in caught]
    assert message.endswith(
        "replaced by white, in 12 of 12 train images (background=, --background on the command line)"
    )
    is_grey = parts(0)[0].ndim == 2
    assert data.image_shape[-1] == (1 if is_grey else 3)
    x = data.arrays("train")[0] * 255  # in the order of the names
    for i, image in enumerate(x):  # half a level each for rounding and for Pillow's division by alpha
        np.testing.assert_allclose(image, composite(*parts(i), 255)[..., : image.shape[-1]], atol=1.01)


@pytest.mark.parametrize("case", TRANSPARENT)
@pytest.mark.parametrize(("background", "levels"), [("#ff8000", (255, 128, 0)), (0, (0, 0, 0)), ((1, 2, 3), (1, 2, 3))])
def test_other_backgrounds(case, background, levels):
    _, encode, parts = TRANSPARENT[case]
    is_grey = parts(0)[0].ndim == 2 and len(set(levels)) == 1
    decode = decoding.Decoder((SIZE, SIZE, 1 if is_grey else 3), background=check_background(background))
    for i in (0, 5):
        picture = decode(io.BytesIO(encode(i)))
        assert picture.is_transparent
        np.testing.assert_allclose(picture.pixels, composite(*parts(i), levels)[..., : decode.shape[2]], atol=1.01)


@pytest.mark.parametrize("kind", ["folder", "records"])
def test_transparent_images_are_the_same_streamed_and_in_memory(tmp_path, kind):
    if kind == "folder":
        for i in range(COUNT):
            rgba(i).save(tmp_path / f"{i}.png")
    else:
        write_examples(tmp_path / "a.tfrecord", [encoded(rgba(i)) for i in range(COUNT)])
    with pytest.warns(DataWarning, match="transparent pixels are replaced by white, in") as caught:
        streamed, memory = [kvae.data.load(tmp_path, cache_bytes=n) for n in (0, 1 << 30)]
    x = all_pixels(streamed)
    list(streamed.train)  # no second warning: a warning is an error here
    assert len([w for w in caught if "transparent" in str(w.message)]) == 2  # once for each
    np.testing.assert_array_equal(x, all_pixels(memory))
    assert_same_images(x, [composite(np.asarray(rgba(i))[..., :3], MASKS[i], 255) for i in range(COUNT)])


@pytest.mark.parametrize(("channels", "dtype"), [(4, np.uint8), (4, np.uint16)])
def test_prepared_dataset_with_an_alpha_channel(tmp_path, channels, dtype):
    images = [np.asarray(rgba(i)).astype(dtype) * dtype(257 if dtype == np.uint16 else 1) for i in range(COUNT)]
    write_set(tmp_path, "clear", {"image": tfds.features.Image(shape=(SIZE, SIZE, channels), dtype=dtype)}, images)
    options = {} if dtype == np.uint8 else {"value_range": (0, 65535)}
    with pytest.warns(DataWarning, match="transparent pixels are replaced by white, in 10 of the first 10 images"):
        data = kvae.data.load("clear", data_dir=tmp_path, **options)
    x = all_pixels(data)
    assert_same_images(x, [composite(np.asarray(rgba(i))[..., :3], MASKS[i], 255) for i in range(COUNT)])


def test_a_transparent_value_is_not_part_of_the_range(tmp_path):
    """16-bit grey images with one transparent value."""
    values = np.linspace(1000, 2000, SIZE * SIZE).astype(">u2").reshape(SIZE, SIZE)
    values[0] = 7
    for i in range(COUNT):
        content = raw_png(16, 0, [row.tobytes() for row in values], transparent=struct.pack(">H", 7))
        (tmp_path / f"{i}.png").write_bytes(content)
    with pytest.warns(DataWarning) as caught:
        data = kvae.data.load(tmp_path)
    assert any("values 1062..2000 are scaled" in str(warning.message) for warning in caught)
    x = data.arrays("train")[0][0, ..., 0]
    assert (x[0] == 1).all()  # white
    np.testing.assert_allclose(x[1:], (values[1:].astype(float) - 1062) / (2000 - 1062), atol=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGB"])
def test_opaque_images_give_no_warning(tmp_path, mode):
    for i in range(COUNT):
        Image.fromarray(RAMP).convert(mode).save(tmp_path / f"{i}.png")
    data = kvae.data.load(tmp_path)  # a warning is an error here
    assert data.image_shape == (SIZE, SIZE, 1 if mode == "LA" else 3)
    np.testing.assert_array_equal(np.rint(all_pixels(data)[0, ..., 0]), RAMP)


def test_a_coloured_background_makes_transparent_grey_images_coloured(tmp_path):
    for i in range(COUNT):
        Image.fromarray(RAMP).save(tmp_path / f"{i}.png")
    assert kvae.data.load(tmp_path, background="red").image_shape[-1] == 1
    grey_alpha(0).save(tmp_path / "a.png")
    with pytest.warns(DataWarning, match="by #ff0000, in 1 of"):
        assert kvae.data.load(tmp_path, background="red").image_shape[-1] == 3
    with pytest.warns(DataWarning, match="by #ff0000, in 1 of"):
        assert kvae.data.load(tmp_path, background="red", grayscale=True).image_shape[-1] == 1


@pytest.mark.parametrize("background", ["no colour", "#12345678", 256, -1, 0.5, True, (1, 2), (0, 0, 300), None])
def test_invalid_backgrounds_are_refused(background):
    with pytest.raises(DataError, match="'background' must be a colour"):
        kvae.data.load("digits", background=background)


# Unreadable files.


def bomb(width, height):
    """Return a PNG of a few bytes whose header has a large size."""
    return raw_png(1, 0, [[0]]).replace(
        struct.pack(">IIBBBBB", 8, 1, 1, 0, 0, 0, 0), struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    )


def with_checksum(content):
    """Return a PNG with the right checksum of its header."""
    return content[:29] + struct.pack(">I", zlib.crc32(content[12:29])) + content[33:]


GOOD = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), np.uint8)))
JPEG = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), np.uint8)), ".jpg")
#: suffix, content, and reason in the warning
BROKEN = {
    "text": (".png", b"not an image", "unknown image format"),
    "two letters": (".png", b"no", "unknown image format"),
    "empty": (".png", b"", "empty file"),
    "truncated png": (".png", GOOD[:-60], r"image file is truncated"),
    "truncated jpeg": (".jpg", JPEG[:-60], r"image file is truncated \(\d+ bytes not processed\)"),
    "header alone": (".png", GOOD[:30], "PNG: .+"),
    "a damaged chunk": (".png", GOOD[:40] + b"\xff" + GOOD[41:], "PNG: broken PNG file"),
    "float64 tiff": (".tif", None, "TIFF: unknown pixel mode"),
    "a bomb": (
        ".png",
        with_checksum(bomb(100_000, 100_000)),
        r"Image size \(10000000000 pixels\) exceeds limit of 1073741824 .*decompression bomb DOS attack\.",
    ),
}


@pytest.mark.parametrize("kind", ["folder", "folder streamed", "records"])
@pytest.mark.parametrize("case", BROKEN)
def test_the_warning_has_the_reason(tmp_path, case, kind):
    from .test_depth import tiff

    suffix, content, reason = BROKEN[case]
    content = tiff(RAMP.astype(np.float64)) if content is None else content
    if kind == "records":
        write_examples(tmp_path / "a.tfrecord", [GOOD] * 9 + [content])
    else:
        for i in range(9):
            (tmp_path / f"{i}.png").write_bytes(GOOD)
        (tmp_path / f"z{suffix}").write_bytes(content)
    with pytest.warns(DataWarning) as caught:
        data = kvae.data.load(tmp_path, cache_bytes=1 << 30 if kind != "folder streamed" else 0)
    (message,) = [str(warning.message) for warning in caught]
    where = rf"\(a.tfrecord: 9\); 1 so far: ({reason})" if kind == "records" else rf"z{suffix} \(({reason})"
    assert re.search(where, message), message
    assert str(tmp_path) not in message
    assert "\n" not in message
    assert data.num_train + data.num_validation + data.num_test == 9


def test_a_file_that_changes_its_size_while_streaming_is_left_out(tmp_path):
    for i in range(9):
        (tmp_path / f"{i}.png").write_bytes(GOOD)
    data = kvae.data.load(tmp_path, cache_bytes=0, validation_fraction=0, test_fraction=0)
    (tmp_path / "3.png").write_bytes(encoded(Image.new("L", (9, 20))))
    with pytest.warns(DataWarning, match=r"3.png \(20x9, not 16x16\)"):
        assert len(data.arrays("train")[0]) == 8


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_header_and_pixels_have_the_same_orientation(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.tile(RAMP, (1, 2))
    for i in range(3):
        Image.fromarray(pixels).save(tmp_path / f"{i}{suffix}", exif=exif)
    x = kvae.data.load(tmp_path, **WHOLE).arrays("train")[0][0, ..., 0] * 255
    turned = np.rot90(pixels, {1: 0, 3: 2, 6: 3, 8: 1}[orientation])
    assert x.shape == turned.shape
    np.testing.assert_allclose(x, turned, atol=8 if suffix == ".jpg" else 1e-3)


# Large images.


@pytest.mark.parametrize("case", ["1", "L", "I;16", "RGBA", "jpeg"])
def test_large_images_shrink_in_bounded_memory(tmp_path, monkeypatch, case):
    """The same ramp, large and small; the limit of large images is lowered for the test."""
    monkeypatch.setattr(decoding, "LARGE", 10_000)
    monkeypatch.setattr(pillow, "LARGE", 10_000)
    columns = np.tile(np.linspace(0, 255, 640), (480, 1))
    image = Image.fromarray(columns.astype(np.uint8))
    options = {}
    if case == "1":
        image = image.convert("1")  # dithered
    elif case == "I;16":
        image, options = Image.fromarray((columns * 257).astype(np.uint16)), {"value_range": (0, 65535)}
    elif case == "RGBA":
        image = image.convert("RGBA")
    suffix = ".jpg" if case == "jpeg" else ".png"
    for i in range(3):
        image.save(tmp_path / f"{i}{suffix}")
    x = kvae.data.load(tmp_path, size=(12, 16), **options).arrays("train")[0][0]
    expected = (np.arange(16) + 0.5) / 16
    assert np.abs(x.mean(axis=(0, 2)) - expected).max() < (0.03 if case == "1" else 0.01)


def test_a_large_one_bit_image(tmp_path):
    """182 million pixels in 182 MB: more than Pillow's own limit."""
    rows = np.zeros((13_000, 14_000 // 8), np.uint8)
    rows[:6_500] = 255
    content = raw_png(1, 0, [b"\0" * 1750]).replace(struct.pack(">II", 14_000, 1), struct.pack(">II", 14_000, 13_000))
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), 1)
    start = content.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    (tmp_path / "poster.png").write_bytes(with_checksum(content[:start] + chunk + content[-12:]))
    for name in ("a", "b"):
        Image.new("1", (20, 20)).save(tmp_path / f"{name}.png")
    limit = Image.MAX_IMAGE_PIXELS
    data = kvae.data.load(tmp_path, size=8)
    x = all_pixels(data)
    assert [int(image.mean()) for image in sorted(x, key=np.sum)][:2] == [0, 0]
    assert 126 < max(image.mean() for image in x) < 129
    assert Image.MAX_IMAGE_PIXELS == limit


def test_the_limit_is_in_bytes(monkeypatch):
    monkeypatch.setattr(pillow, "MAX_BYTES", 1000)
    grey, colour = Image.new("L", (30, 30)), Image.new("RGB", (30, 30))
    assert decoding.read_header(io.BytesIO(encoded(grey))).height == 30
    with pytest.raises(Unreadable, match=r"30x30 pixels take 0.0 GB"):
        decoding.read_header(io.BytesIO(encoded(colour)))
    header = decoding.read_header(io.BytesIO(encoded(colour, ".jpg")))  # JPEG could be decoded at a smaller size
    with pytest.raises(Unreadable, match="the limit is"):
        decoding.Decoder((header.height, header.width, 3))(io.BytesIO(encoded(colour, ".jpg")))


# Pillow's own warnings.


def noisy_files():
    """Yield files that Pillow warns of."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\0\0\x06\0\0\0"
    yield "exif.jpg", encoded(Image.fromarray(RAMP), ".jpg", exif=exif)
    yield "palette.png", encoded(palette(0), transparency=bytes([255, 255, 255]))
    none = b"acTL" + bytes(8)  # an animation without frames
    chunk = struct.pack(">I", 8) + none + struct.pack(">I", zlib.crc32(none))
    yield "apng.png", GOOD[:33] + chunk + GOOD[33:]


def test_pillows_warnings_and_logs_are_suppressed(tmp_path, capfd):
    for name, content in noisy_files():
        (tmp_path / name).write_bytes(content)
    from .test_depth import tiff

    bands = bytearray(tiff(RAMP))
    place = bands.index(struct.pack("<HHI", 277, 3, 1)) + 8
    bands[place] = 13  # Pillow logs that this is too many
    (tmp_path / "bands.tif").write_bytes(bytes(bands))
    filters, limit, handlers = list(warnings.filters), Image.MAX_IMAGE_PIXELS, list(logging.getLogger().handlers)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kvae.data.load(tmp_path, size=8)
    ours = [warning for warning in caught if not issubclass(warning.category, DeprecationWarning)]
    assert [warning.category for warning in ours] == [DataWarning], [str(warning.message) for warning in ours]
    assert "bands.tif (TIFF: " in str(ours[0].message)
    assert "samples" not in capfd.readouterr().err
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == (filters, limit)
    assert list(logging.getLogger().handlers) == handlers
    with pytest.warns(Image.DecompressionBombWarning):  # Pillow's warnings are back
        Image.open(io.BytesIO(with_checksum(bomb(10_000, 10_000))))


def test_threads_restore_pillows_settings():
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    contents = [content for _, content in noisy_files()] * 5
    failures = []

    def work():
        for content in contents:
            try:
                with pillow.open_image(io.BytesIO(content), is_decoded=True) as image:
                    image.getexif()
                    image.load()
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert not caught
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == (filters, limit)
