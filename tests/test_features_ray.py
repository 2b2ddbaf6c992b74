"""Features on a local Ray cluster equal those of one machine, also after a worker is killed."""

import os
import shutil
import signal
import threading
import time
import warnings
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from PIL import Image
from pyarrow import parquet

import kvae
from kvae import networks
from kvae.features.streaming import write_features

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'keras-vae[ray]'")

from kvae.features.ray import ImageEncoder, write_features_on_ray  # noqa: E402

pytestmark = pytest.mark.slow

on_ray = partial(write_features_on_ray, workers=1, size=8, grayscale=True)


@pytest.fixture(scope="module")
def local_ray():
    os.environ["PYTHONPATH"] = os.pathsep.join(["", os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    ray.init(num_cpus=4, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


def small(path, **options):
    encoder, decoder = networks.Encoder(3, networks.MLP((16,))), networks.Decoder((8, 8, 1), networks.MLP((16,)))
    kvae.VAE(encoder, decoder, **options).save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small(tmp_path_factory.mktemp("model") / "model.keras")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """1,200 files in the folders of two classes, larger than the model's images; one is broken, and two are hidden."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(1200):
        path = root / ("b" if i % 3 else "a") / f"{i:04d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8)).save(path)
    broken = root / "b" / "0001.png"
    broken.write_bytes(broken.read_bytes()[:100])  # the header remains
    for hidden in (".thumbnails/0002.png", "a/.0003.png"):
        (root / hidden).parent.mkdir(exist_ok=True)
        shutil.copy(root / "b" / "0002.png", root / hidden)
    (root / "a" / "notes.txt").write_text("no image")
    return root


def on_one_machine(model, source, out) -> pa.Table:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kvae.data.DataWarning)
        data = kvae.data.load(source, size=8, grayscale=True, validation_fraction=0, test_fraction=0)
        write_features(kvae.load(model), data, out, "all")
    return parquet.read_table(out)


@pytest.fixture(scope="module")
def expected(model, pictures, tmp_path_factory) -> pa.Table:
    """The features of the folder from one machine."""
    table = on_one_machine(model, pictures, tmp_path_factory.mktemp("one") / "features.parquet")
    assert table.column_names == ["id", "path", "label", "mean", "variance", "hidden"]
    assert len(table) == 1199
    return table


def check(out, expected) -> None:
    """Check that rows and columns are equal and have the same order."""
    found = parquet.read_table(out)
    assert found.column_names == expected.column_names
    for name in expected.column_names:
        assert found[name].combine_chunks().equals(expected[name].combine_chunks()), name


def test_rows_of_a_folder(local_ray, model, pictures, expected, tmp_path):
    """The target is an address."""
    address = f"file://{tmp_path}/remote.parquet"
    with pytest.warns(kvae.data.DataWarning, match="left out 1 of 1200 images"):
        assert on_ray(model, pictures, address, workers=2) == 1199
    check(tmp_path / "remote.parquet", expected)
    with pytest.raises(ValueError, match=r"address without Parquet files\. Received: file://"):
        on_ray(model, pictures, address)
    assert not ray.data.DataContext.get_current().execution_options.preserve_order  # the option is restored
    assert ray.is_initialized()


def test_a_killed_worker_is_restarted_without_losing_rows(local_ray, model, pictures, expected, tmp_path, monkeypatch):
    killed: list[int] = []
    marks = tmp_path / "marks"
    marks.mkdir()

    class Slow(ImageEncoder):
        def __call__(self, rows):
            (marks / str(os.getpid())).touch()
            time.sleep(1.0)
            yield from super().__call__(rows)

    def kill() -> None:
        while not killed:
            for mark in marks.iterdir():
                time.sleep(0.3)  # in the middle of its first batch
                os.kill(int(mark.name), signal.SIGKILL)
                killed.append(int(mark.name))
                return
            time.sleep(0.01)

    monkeypatch.setattr("kvae.features.ray.ImageEncoder", Slow)
    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    with pytest.warns(kvae.data.DataWarning, match="left out 1"):
        on_ray(model, pictures, tmp_path / "out", workers=2)
    thread.join(1)
    assert killed
    assert len(list(marks.iterdir())) >= 3  # two workers, and one that replaced the killed worker
    check(tmp_path / "out", expected)


def example(content: bytes, image: str, label: str, value: int) -> bytes:
    features = {
        image: tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
        label: tf.train.Feature(int64_list=tf.train.Int64List(value=[value])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


NAMES = {
    "one file": ["x.tfrecord-00000-of-00001"],
    "splits": ["x-train.tfrecord-00000-of-00002", "x-train.tfrecord-00001-of-00002", "x-test.tfrecord-00000-of-00001"],
}


@pytest.mark.parametrize(
    ("names", "features"), [("splits", ("image/encoded", "image/class/label")), ("one file", ("image", "label"))]
)
def test_rows_of_tfrecord_files(local_ray, model, pictures, tmp_path, names, features):
    contents = [path.read_bytes() for path in sorted(pictures.glob("b/0*.png"))]  # the first one is broken
    folder = tmp_path / "records"
    folder.mkdir()
    for k, name in enumerate(NAMES[names]):
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for i, content in enumerate(contents[k :: len(NAMES[names])]):
                writer.write(example(content, *features, i % 7))
    source = folder if names == "splits" else folder / NAMES[names][0]
    expected = on_one_machine(model, source, tmp_path / "expected.parquet")
    assert len(expected) == len(contents) - 1
    assert ("split" in expected.column_names) == (names == "splits")
    with pytest.warns(kvae.data.DataWarning, match="left out 1"):
        on_ray(model, source, tmp_path / "out")
    check(tmp_path / "out", expected)


def test_rows_of_parquet_files(local_ray, model, pictures, expected, tmp_path):
    paths = sorted(path.relative_to(pictures).as_posix() for path in pictures.glob("[ab]/[01]*.png"))
    contents = [(pictures / path).read_bytes() for path in paths]
    table = pa.table({"path": paths, "image": contents, "label": [int(path[0] == "b") for path in paths]})
    (tmp_path / "images").mkdir()
    parquet.write_table(table[:700], tmp_path / "images" / "0.parquet", row_group_size=300)
    parquet.write_table(table[700:], tmp_path / "images" / "1.parquet", row_group_size=100)
    with pytest.warns(kvae.data.DataWarning, match="left out 1 of 1200"):
        on_ray(model, tmp_path / "images", tmp_path / "out")
    check(tmp_path / "out", expected)
    names = [f"image {i}" for i in range(700)]
    table = table.set_column(1, "image", pa.array([{"bytes": content, "path": None} for content in contents]))
    parquet.write_table(table[:700].append_column("id", pa.array(names)), tmp_path / "named.parquet")  # Hugging Face's
    with pytest.warns(kvae.data.DataWarning, match="left out 1"):
        on_ray(model, f"file://{tmp_path}/named.parquet", tmp_path / "out")
    named = pa.array([f"image {number}" for number in expected["id"].to_pylist()])
    check(tmp_path / "out", expected.set_column(0, "id", named)[: named.index("image 699").as_py() + 1])


def test_binary_images_are_scaled_as_on_one_machine(local_ray, model, tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 2, (8, 8), np.uint8)).save(tmp_path / f"images/{i:02d}.png")
    expected = on_one_machine(model, tmp_path / "images", tmp_path / "expected.parquet")
    on_ray(model, tmp_path / "images", tmp_path / "out")
    check(tmp_path / "out", expected)


def test_invalid_arguments_are_refused(local_ray, model, pictures, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="folder with images"):
        on_ray(model, tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="binarize"):
        on_ray(model, pictures, tmp_path / "out", binarize="stochastic")
    with pytest.raises(ValueError, match=r"shape \(8, 8, 1\).*\(10, 12, 3\)"):
        on_ray(model, pictures, tmp_path / "out", size=None, grayscale=None)
    with pytest.raises(ValueError, match=r"to 10\.0\.0\.1:6379.*Received: a connection to"):
        on_ray(model, pictures, tmp_path / "out", address="10.0.0.1:6379")
    conditional = small(tmp_path / "conditional.keras", condition_dim=2)
    with pytest.raises(ValueError, match="without conditions"):
        on_ray(conditional, pictures, tmp_path / "out")
    parquet.write_table(pa.table({"image": ["a.png"]}), tmp_path / "names.parquet")
    with pytest.raises(ValueError, match=r"encoded images.*image \(string\)"):
        on_ray(model, tmp_path / "names.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_of_several_sizes_are_refused(local_ray, model, tmp_path):
    (tmp_path / "images").mkdir()
    for i, side in enumerate((8, 8, 9)):
        Image.fromarray(np.zeros((side, side), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    with pytest.raises(kvae.data.DataError, match="images of one size"):
        on_ray(model, tmp_path / "images", tmp_path / "out", size=None)
