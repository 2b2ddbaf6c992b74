"""Features streamed to a file: the rows of `extract`, whatever happens on the way."""

import itertools
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

import kvae
from kvae import networks
from kvae.features import extract
from kvae.features.streaming import write_features


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
def test_rows_are_those_of_extract(vae, data, tmp_path, suffix):
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
def test_files_of_a_folder_are_named(vae, data, tmp_path, cache_bytes):
    images, labels = data.arrays("test", 40)
    for i, (image, label) in enumerate(zip(images, labels)):
        (tmp_path / "images" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image[..., 0] * 255).astype("uint8")).save(tmp_path / f"images/{label}/{i:02d}.png")
    broken = tmp_path / "images" / str(labels[0]) / "00.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:50])  # its header is there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kvae.data.DataWarning)
        folder = kvae.data.load(tmp_path / "images", cache_bytes=cache_bytes, validation_fraction=0, test_fraction=0)
        assert write_features(vae, folder, tmp_path / "f.npz", hidden=False) == 39
    found = read(tmp_path / "f.npz")
    assert len(set(found["path"])) == 39
    for file, label, mean in zip(found["path"], found["label"], found["mean"]):
        assert folder.label_names[label] == file.split("/")[0]
        picture = np.asarray(Image.open(tmp_path / "images" / file), "float32")[None, ..., None] / np.float32(255)
        np.testing.assert_array_equal(extract(vae, picture, hidden=False)["mean"][0], mean)


def test_an_interruption_costs_no_more_than_a_part(vae, data, tmp_path, monkeypatch):
    path, whole = tmp_path / "f.npz", tmp_path / "whole.npz"
    path.write_bytes(b"what was there")
    write_features(vae, data, whole, part_rows=256)
    encoded = []

    class Counting(kvae.features.extract.__globals__["BatchEncoder"]):
        def __call__(self, images, labels=None):
            if len(encoded) == 3:
                raise KeyboardInterrupt
            encoded.append(len(images))
            return super().__call__(images, labels)

    monkeypatch.setattr("kvae.features.streaming.BatchEncoder", Counting)
    with pytest.raises(KeyboardInterrupt):
        write_features(vae, data, path, part_rows=256)
    assert path.read_bytes() == b"what was there"
    monkeypatch.undo()
    resumed = []
    write_features(vae, data, path, part_rows=256, on_resume=resumed.append)
    assert resumed == [768]
    assert path.read_bytes() == whole.read_bytes()


def test_parts_of_another_model_are_thrown_away(vae, data, tmp_path, monkeypatch):
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


def test_what_was_done_but_for_the_joining_is_not_done_again(vae, data, tmp_path, monkeypatch):
    path, resumed = tmp_path / "f.npz", []
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("kvae.features.streaming._join_npz", _fail)
        write_features(vae, data, path, "test")
    write_features(vae, data, path, "test", on_resume=resumed.append)
    assert resumed == [180]
    assert len(read(path)["id"]) == 180


def _fail(*_):
    raise OSError("No space left on device")


def test_a_full_disk_leaves_the_file_that_was_there(vae, data, tmp_path, monkeypatch):
    path = tmp_path / "f.parquet"
    write_features(vae, data, path, "test")
    before = path.read_bytes()
    monkeypatch.setattr("kvae.features.streaming._join_parquet", _fail)
    with pytest.raises(OSError, match="No space"):
        write_features(vae, data, path, "validation")
    assert path.read_bytes() == before


def test_another_kind_of_file_is_refused(vae, data, tmp_path):
    with pytest.raises(ValueError, match=r"\.parquet"):
        write_features(vae, data, tmp_path / "f.csv")


KILLED = """
import sys, numpy as np, kvae
from kvae.features.streaming import write_features
write_features(kvae.load(sys.argv[1]), kvae.data.load(sys.argv[2]), sys.argv[3], part_rows=256)
"""


@pytest.mark.slow
def test_kills_at_any_moment_leave_no_gap(vae, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (40_000, 8, 8), np.uint8))
    vae.save(tmp_path / "model.keras")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "model.keras"), str(tmp_path / "images.npy")]
    subprocess.run([*command, str(tmp_path / "whole.npz")], check=True, capture_output=True)
    folder, out = tmp_path / ".out.npz.parts", tmp_path / "out.npz"
    progress = []
    for kill in itertools.count():
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun = len(list(folder.glob("part-*")))
        while process.poll() is None and len(list(folder.glob("part-*"))) < begun + 20 + 11 * (kill % 3):
            time.sleep(0.01)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        time.sleep(float(rng.random()) * 0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        progress.append(len(list(folder.glob("part-*.npz"))))
        assert not out.exists()
    assert len(progress) >= 3
    assert progress == sorted(progress)
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()


PEAK = """
import sys, resource, kvae
from kvae.features.streaming import write_features
write_features(kvae.load(sys.argv[1]), kvae.data.load(sys.argv[2]), sys.argv[3], limit=int(sys.argv[4]))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_memory_does_not_grow_with_the_images(tmp_path, suffix):
    vae = kvae.VAE(networks.Encoder(64, networks.MLP((256,))), networks.Decoder((8, 8, 1), networks.MLP((8,))))
    vae.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (100_000, 8, 8), np.uint8))
    peaks = []
    for limit in (8_000, 80_000):
        arguments = [str(tmp_path / name) for name in ("model.keras", "images.npy", f"out{suffix}")]
        command = [sys.executable, "-c", PEAK, *arguments, str(limit)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024)
    megabytes = 72_000 * (64 + 64 + 256) * 4 / 2**20  # of features more: 105
    assert peaks[1] - peaks[0] < 0.5 * megabytes
