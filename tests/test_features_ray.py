"""Features on a real local Ray: the rows of one machine, also when a worker is killed."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

import kvae
from kvae import networks
from kvae.features.streaming import write_features

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'keras-vae[ray]'")

from kvae.features.ray import ImageEncoder, write_features_on_ray  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def local_ray():
    os.environ["PYTHONPATH"] = os.pathsep.join(["", os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    ray.init(num_cpus=4, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    vae = kvae.VAE(networks.Encoder(3, networks.MLP((16,))), networks.Decoder((8, 8, 1), networks.MLP((16,))))
    path = tmp_path_factory.mktemp("model") / "model.keras"
    vae.save(path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """1,200 files in two folders, of other sizes than the model's, one of them broken."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(1200):
        path = root / ("a" if i % 3 else "b") / f"{i:04d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8)).save(path)
    (root / "a" / "0001.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def expected(model, pictures, tmp_path_factory) -> dict[str, np.ndarray]:
    """What one machine writes, sorted by path."""
    out = tmp_path_factory.mktemp("one") / "features.npz"
    with pytest.warns(kvae.data.DataWarning, match="0001"):
        data = kvae.data.load(pictures, size=8, grayscale=True, validation_fraction=0, test_fraction=0)
    write_features(kvae.load(model), data, out)
    with np.load(out) as found:
        rows = {name: found[name] for name in found.files}
    order = np.argsort(rows["path"])
    return {name: values[order] for name, values in rows.items()}


def sorted_rows(out) -> dict[str, np.ndarray]:
    table = parquet.read_table(out)
    rows = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    order = np.argsort(rows["id"])
    return {name: values[order] for name, values in rows.items()}


def check(out, expected, ids) -> None:
    rows = sorted_rows(out)
    assert rows["id"].tolist() == ids
    for name in ("mean", "variance", "hidden"):
        np.testing.assert_array_equal(rows[name].astype("float32"), expected[name])


def test_rows_of_a_folder(local_ray, model, pictures, expected, tmp_path):
    assert write_features_on_ray(model, pictures, tmp_path / "out", workers=2) == 1199
    check(tmp_path / "out", expected, expected["path"].tolist())


def test_a_worker_that_is_killed_costs_no_row(local_ray, model, pictures, expected, tmp_path, monkeypatch):
    killed: list[int] = []
    marks = tmp_path / "marks"
    marks.mkdir()

    class Slow(ImageEncoder):
        def __call__(self, batch):
            (marks / str(os.getpid())).touch()
            time.sleep(1.0)
            return super().__call__(batch)

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
    write_features_on_ray(model, pictures, tmp_path / "out", workers=2)
    thread.join(1)
    assert killed
    assert len(list(marks.iterdir())) >= 2  # another process went on
    check(tmp_path / "out", expected, expected["path"].tolist())


def test_parquet_and_tfrecord(local_ray, model, pictures, expected, tmp_path):
    import pyarrow as pa
    import tensorflow as tf

    contents = [(pictures / path).read_bytes() for path in expected["path"]]
    table = pa.table({"image": contents, "label": list(range(len(contents)))})
    parquet.write_table(table, tmp_path / "images.parquet", row_group_size=100)
    write_features_on_ray(model, tmp_path / "images.parquet", tmp_path / "from_parquet", workers=2)
    check(tmp_path / "from_parquet", expected, list(range(1199)))
    assert sorted_rows(tmp_path / "from_parquet")["label"].tolist() == list(range(1199))

    with tf.io.TFRecordWriter(str(tmp_path / "images.tfrecord")) as writer:
        for path, content in zip(expected["path"], contents):
            feature = {
                "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
                "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[path.encode()])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    write_features_on_ray(model, tmp_path / "images.tfrecord", tmp_path / "from_tfrecord", workers=2)
    rows = parquet.read_table(tmp_path / "from_tfrecord")["id"].to_pylist()
    names = [row.decode() if isinstance(row, bytes) else row for row in rows]
    check(tmp_path / "from_tfrecord", expected, sorted(rows))
    assert sorted(names) == expected["path"].tolist()


def test_errors(local_ray, model, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="folder of images"):
        write_features_on_ray(model, tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="binarize"):
        write_features_on_ray(model, tmp_path, tmp_path / "out", binarize="stochastic")
    assert not (tmp_path / "out").exists()
