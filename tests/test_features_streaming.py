"""Features streamed to a file: the rows equal those of `extract`, also after interruptions."""

import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from data.pictures import write_examples
from PIL import Image
from pyarrow import parquet

import kvae
from kvae import networks
from kvae.features import extract, streaming
from kvae.features.streaming import write_features

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)


@pytest.fixture(scope="module")
def vae():
    return kvae.VAE(networks.Encoder(2, networks.MLP((16,))), networks.Decoder((8, 8, 1), networks.MLP((16,))), seed=1)


@pytest.fixture(scope="module")
def data():
    return kvae.data.load("digits")


def read(path) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path) as found:
            return {name: found[name] for name in found.files}
    table = parquet.read_table(path)
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_rows_equal_those_of_extract(vae, data, tmp_path, suffix):
    path = tmp_path / f"features{suffix}"
    assert write_features(vae, data, path, "train", part_rows=512) == 1437
    found = read(path)
    expected = extract(vae, data.split("train", labels=True))
    assert set(found) == {"id", "label", "mean", "variance", "hidden"}
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    images, labels = data.source.splits["train"].memory.images, data.source.splits["train"].memory.labels
    np.testing.assert_array_equal(labels[found["id"]], found["label"])
    again = extract(vae, images[found["id"]] / np.float32(data.source.scale))["mean"]
    np.testing.assert_array_equal(again, found["mean"])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_parquet_has_lists_of_fixed_size_in_row_groups(vae, data, tmp_path):
    write_features(vae, data, tmp_path / "f.parquet", "train", part_rows=512)
    file = parquet.ParquetFile(tmp_path / "f.parquet")
    mean = file.schema_arrow.field("mean").type
    assert (mean.list_size, str(mean.value_type)) == (2, "float")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [512, 512, 413]


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0], ids=["in memory", "streamed"])
def test_rows_of_a_folder_have_the_paths_of_files(vae, data, tmp_path, cache_bytes):
    images, labels = data.arrays("test", 40)
    for i, (image, label) in enumerate(zip(images, labels)):
        (tmp_path / "images" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image[..., 0] * 255).astype("uint8")).save(tmp_path / f"images/{label}/{i:02d}.png")
    broken = tmp_path / "images" / str(labels[0]) / "00.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:50])  # the header remains
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kvae.data.DataWarning)
        folder = kvae.data.load(tmp_path / "images", cache_bytes=cache_bytes, validation_fraction=0, test_fraction=0)
        assert write_features(vae, folder, tmp_path / "f.npz", hidden=False) == 39
    found = read(tmp_path / "f.npz")
    assert len(set(found["path"])) == 39
    assert [folder.label_names[label] for label in found["label"]] == [path.split("/")[0] for path in found["path"]]
    pictures = np.stack([np.asarray(Image.open(tmp_path / "images" / path)) for path in found["path"]])
    expected = extract(vae, pictures[..., None] / np.float32(255), hidden=False)
    np.testing.assert_array_equal(expected["mean"], found["mean"])


def write_classes(root, images, folders=("b", "a")) -> None:
    """Write files 0000.bmp, … to the folders in turn."""
    for i, image in enumerate(images):
        path = root / folders[i % len(folders)] / f"{i:04d}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0], ids=["in memory", "streamed"])
def test_split_all_of_a_folder_has_the_order_of_files(vae, tmp_path, cache_bytes):
    write_classes(tmp_path / "images", IMAGES)
    data = kvae.data.load(tmp_path / "images", cache_bytes=cache_bytes, validation_fraction=0, test_fraction=0)
    assert write_features(vae, data, tmp_path / "f.npz", "all") == len(IMAGES)
    found = read(tmp_path / "f.npz")
    assert found["id"].tolist() == list(range(len(IMAGES)))
    assert found["path"].tolist() == sorted(found["path"])
    assert found["label"].tolist() == [0] * 20 + [1] * 20
    pictures = np.stack([np.asarray(Image.open(tmp_path / "images" / path)) for path in found["path"]])
    expected = extract(vae, pictures[..., None] / np.float32(255))
    for name in ("mean", "variance", "hidden"):
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0], ids=["in memory", "streamed"])
def test_split_all_of_a_folder_with_splits(vae, tmp_path, cache_bytes):
    write_classes(tmp_path / "images", IMAGES, ("train/b", "train/a", "test/a", "test/b"))
    load = partial(kvae.data.load, tmp_path / "images", cache_bytes=cache_bytes, test_fraction=0)
    write_features(vae, load(validation_fraction=0), tmp_path / "f.parquet", "all")
    found = read(tmp_path / "f.parquet")
    assert found["split"].tolist() == ["train"] * 20 + ["test"] * 20
    assert found["id"].tolist() == [*range(20, 40), *range(20)]
    assert [path.split("/")[0] for path in found["path"]] == found["split"].tolist()
    write_features(vae, load(validation_fraction=0), tmp_path / "f.parquet", "all", limit=25)
    assert read(tmp_path / "f.parquet")["id"].tolist() == found["id"].tolist()[:25]
    if not cache_bytes:
        with pytest.raises(ValueError, match="validation_fraction=0"):
            write_features(vae, load(), tmp_path / "g.npz", "all")


def test_split_all_of_arrays_resumes_after_every_part(vae, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {f"x_{name}": rng.integers(0, 256, (n, 8, 8), np.uint8) for name, n in (("train", 600), ("test", 300))}
    np.savez(tmp_path / "x.npz", **arrays)
    data = kvae.data.load(tmp_path / "x.npz", validation_fraction=0)
    write_features(vae, data, tmp_path / "whole.npz", "all", part_rows=256)
    whole = read(tmp_path / "whole.npz")
    assert whole["id"].tolist() == [*range(600), *range(300)]
    assert whole["split"].tolist() == ["train"] * 600 + ["test"] * 300
    for stop, kept in ((1, 512), (2, 600), (3, 856)):  # the parts have 256, 256, 88, 256 and 44 images
        left = iter(range(stop))
        add = streaming._Parts.add

        def failing(self, columns, left=left, add=add):
            add(self, columns)
            if next(left, None) is None:
                raise OSError("No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(streaming._Parts, "add", failing)
            with pytest.raises(OSError, match="No space"):
                write_features(vae, data, tmp_path / "f.npz", "all", part_rows=256)
        resumed = []
        write_features(vae, data, tmp_path / "f.npz", "all", part_rows=256, on_resume=resumed.append)
        assert resumed == [kept]
        assert (tmp_path / "f.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def another_array(folder):
    yield {"source": IMAGES}
    yield {"source": 255 - IMAGES}


def other_labels(folder):
    yield {"source": (IMAGES, np.arange(40) % 2)}
    yield {"source": (IMAGES, np.arange(40) % 4)}


def a_file_written_over(folder):
    np.save(folder / "x.npy", IMAGES)
    yield {"source": folder / "x.npy"}
    np.save(folder / "x.npy", 255 - IMAGES)
    yield {"source": folder / "x.npy"}


def a_changed_image(folder):
    write_classes(folder / "images", IMAGES)
    yield {"source": folder / "images"}
    Image.fromarray(255 - IMAGES[0]).save(folder / "images/b/0000.bmp")
    yield {"source": folder / "images"}


def changed_records(folder):
    for images in (IMAGES, 255 - IMAGES):
        with tf.io.TFRecordWriter(str(folder / "x.tfrecord")) as writer:
            for image in images:
                content = tf.train.BytesList(value=[tf.io.encode_png(image[..., None]).numpy()])
                feature = {"image": tf.train.Feature(bytes_list=content)}
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
        yield {"source": folder / "x.tfrecord"}


def other_fractions(folder):
    yield {"source": IMAGES, "validation_fraction": 0.2, "test_fraction": 0.1}
    yield {"source": IMAGES, "validation_fraction": 0.1, "test_fraction": 0.1}


CHANGES = [another_array, other_labels, a_file_written_over, a_changed_image, changed_records, other_fractions]


@pytest.mark.parametrize("change", CHANGES)
def test_parts_of_another_collection_are_deleted(vae, tmp_path, monkeypatch, change):
    resumed = []
    write = partial(write_features, vae, path=tmp_path / "f.npz", split="test", on_resume=resumed.append)
    loads = (kvae.data.load(**given, cache_bytes=0) for given in change(tmp_path))  # arrays are still held in memory
    before = next(loads)
    for again in ([], [before.num_test]):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr("kvae.features.streaming._join_npz", _fail)
            write(data=before)
        assert resumed == again  # the same collection is resumed
    after = next(loads)
    resumed.clear()
    write(data=after)
    assert resumed == []
    images, labels = after.arrays("test")
    np.testing.assert_array_equal(read(tmp_path / "f.npz")["mean"], extract(vae, images)["mean"])
    if after.has_labels:
        np.testing.assert_array_equal(read(tmp_path / "f.npz")["label"], labels)


def test_an_interruption_loses_at_most_one_part(vae, data, tmp_path, monkeypatch):
    path, whole = tmp_path / "f.npz", tmp_path / "whole.npz"
    path.write_bytes(b"what was there")
    write_features(vae, data, whole, part_rows=256)
    encoded = []

    encode = streaming.batch_encoder(vae, True)

    def stops(images, labels=None):
        if len(encoded) == 3:
            raise KeyboardInterrupt
        encoded.append(len(images))
        return encode(images, labels)

    monkeypatch.setattr(streaming, "batch_encoder", lambda model, hidden: stops)
    with pytest.raises(KeyboardInterrupt):
        write_features(vae, data, path, part_rows=256)
    assert path.read_bytes() == b"what was there"
    monkeypatch.undo()
    resumed = []
    write_features(vae, data, path, part_rows=256, on_resume=resumed.append)
    assert resumed == [768]
    assert path.read_bytes() == whole.read_bytes()


def test_parts_of_another_model_are_deleted(vae, data, tmp_path, monkeypatch):
    path = tmp_path / "f.npz"
    for error, identity in ((True, "one"), (False, "another")):
        with monkeypatch.context() as patch:
            if error:
                patch.setattr("kvae.features.streaming._join_npz", _fail)
            resumed = []
            try:
                write_features(vae, data, path, "test", identity=identity, on_resume=resumed.append)
            except OSError:
                assert error
            assert resumed == []
    assert len(read(path)["id"]) == 180


def test_finished_parts_are_not_encoded_again(vae, data, tmp_path, monkeypatch):
    path, resumed = tmp_path / "f.npz", []
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("kvae.features.streaming._join_npz", _fail)
        write_features(vae, data, path, "test")
    write_features(vae, data, path, "test", on_resume=resumed.append)
    assert resumed == [180]
    assert len(read(path)["id"]) == 180


def _fail(*_):
    raise OSError("No space left on device")


def test_a_full_disk_does_not_change_the_existing_file(vae, data, tmp_path, monkeypatch):
    path = tmp_path / "f.parquet"
    write_features(vae, data, path, "test")
    before = path.read_bytes()
    monkeypatch.setattr("kvae.features.streaming._join_parquet", _fail)
    with pytest.raises(OSError, match="No space"):
        write_features(vae, data, path, "validation")
    assert path.read_bytes() == before


def test_another_suffix_is_refused(vae, data, tmp_path):
    with pytest.raises(ValueError, match=r"\.parquet"):
        write_features(vae, data, tmp_path / "f.csv")


KILLED_FOLDER = """
import sys, kvae
from kvae.features.streaming import write_features
data = kvae.data.load(sys.argv[2], cache_bytes=0, validation_fraction=0, test_fraction=0)
write_features(kvae.load(sys.argv[1]), data, sys.argv[3], "all", part_rows=256)
"""


@pytest.mark.slow
def test_streaming_a_folder_with_broken_images_survives_kills(vae, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5_000, 8, 8), np.uint8)
    write_classes(tmp_path / "images", images)
    for broken in ("b/0000.bmp", "a/0003.bmp", "b/4000.bmp"):
        file = tmp_path / "images" / broken
        file.write_bytes(file.read_bytes()[:-20])  # the header remains
    vae.save(tmp_path / "model.keras")
    command = [sys.executable, "-c", KILLED_FOLDER, str(tmp_path / "model.keras"), str(tmp_path / "images")]
    subprocess.run([*command, str(tmp_path / "whole.parquet")], check=True, capture_output=True)
    whole = parquet.read_table(tmp_path / "whole.parquet")
    paths = sorted(file.relative_to(tmp_path / "images").as_posix() for file in tmp_path.glob("images/*/*"))
    missing = [paths.index(broken) for broken in ("b/0000.bmp", "a/0003.bmp", "b/4000.bmp")]
    assert whole["id"].to_pylist() == [number for number in range(5_000) if number not in missing]
    assert whole["path"].to_pylist() == [paths[number] for number in whole["id"].to_pylist()]
    folder, out = tmp_path / ".out.parquet.parts", tmp_path / "out.parquet"
    kills, code = 0, None
    while code is None:
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun = len(list(folder.glob("part-*")))
        while (code := process.poll()) is None and len(list(folder.glob("part-*"))) < begun + 7:
            time.sleep(0.002)
        if code is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            assert not out.exists()
    assert code == 0
    assert kills >= 1
    assert parquet.read_table(out).equals(whole)


PEAK = """
import sys, resource, kvae
from kvae.features.streaming import write_features
write_features(kvae.load(sys.argv[1]), kvae.data.load(sys.argv[2]), sys.argv[3], limit=int(sys.argv[4]))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path):
    vae = kvae.VAE(networks.Encoder(64, networks.MLP((256,))), networks.Decoder((8, 8, 1), networks.MLP((8,))))
    vae.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (100_000, 8, 8), np.uint8))
    peaks = []
    for limit in (8_000, 80_000):
        arguments = [str(tmp_path / name) for name in ("model.keras", "images.npy", "out.npz")]
        command = [sys.executable, "-c", PEAK, *arguments, str(limit)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024)
    megabytes = 72_000 * (64 + 64 + 256) * 4 / 2**20  # size of the additional features: 105
    assert peaks[1] - peaks[0] < 0.5 * megabytes


def deep_collection(root, kind, values):
    """Write 16-bit images as a folder, a TFRecord file, or a Parquet file."""
    import io

    import pyarrow as pa

    contents = []
    for image in values:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        contents.append(file.getvalue())
    root.mkdir()
    if kind == "folder":
        for i, content in enumerate(contents):
            (root / f"{i:02d}.png").write_bytes(content)
    elif kind == "records":
        write_examples(root / "a.tfrecord", contents)
    else:
        parquet.write_table(pa.table({"image": contents}), root / "a.parquet")


@pytest.mark.parametrize("kind", ["folder", "records", "parquet"])
def test_deep_images_are_listed_with_their_range(tmp_path, kind):
    """A cluster reads the same pixels as one machine."""
    from kvae.features.listing import list_images

    values = np.random.default_rng(0).integers(300, 4096, (40, 8, 8), np.uint16)
    deep_collection(tmp_path / "deep", kind, values)
    for span in ((0, 65535), None):
        if span is None and kind == "parquet":
            with pytest.raises(ValueError, match=r"deep: expected value_range=.* for 16-bit images in Parquet"):
                list_images(str(tmp_path / "deep"))
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", kvae.data.DataWarning)  # the range is inferred
            found = list_images(str(tmp_path / "deep"), value_range=span)
        images = np.concatenate([images for images, _ in found.read(found.rows)])
        low, high = span or (values.min(), values.max())
        np.testing.assert_allclose(images[..., 0] / found.scale, (values - float(low)) / (high - float(low)), atol=1e-6)


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0], ids=["in memory", "streamed"])
def test_features_of_deep_images_depend_on_their_range(vae, tmp_path, cache_bytes):
    values = np.random.default_rng(0).integers(300, 4096, (40, 8, 8), np.uint16)
    deep_collection(tmp_path / "deep", "folder", values)
    rows = {}
    for span in ((300, 4095), (0, 65535)):  # one after the other, to the same file
        data = kvae.data.load(
            tmp_path / "deep", value_range=span, cache_bytes=cache_bytes, validation_fraction=0, test_fraction=0
        )
        write_features(vae, data, tmp_path / "f.npz", "all")
        rows[span] = read(tmp_path / "f.npz")["mean"]
        x = ((values - float(span[0])) / (span[1] - span[0])).astype("float32")[..., None]
        np.testing.assert_allclose(rows[span], extract(vae, x)["mean"], atol=1e-5)
