"""A tf.data service in another process: every image once in a pass, and what it can't do."""

import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import kvae
from kvae.data import DataError, service

from .pictures import numbered, numbers, write_records
from .test_named import write_set

IMAGES = numbered(200)
pytestmark = pytest.mark.slow

#: A dispatcher, which says its address, and two workers of this many; until its input ends.
PROGRAM = """
import sys, tensorflow as tf
service = tf.data.experimental.service
dispatcher = service.DispatchServer(service.DispatcherConfig(port=0))
address = dispatcher.target.removeprefix("grpc://")
workers = [service.WorkerServer(service.WorkerConfig(dispatcher_address=address)) for _ in range({workers})]
print(dispatcher.target, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module", params=[2])
def address(request):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(workers=request.param)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        yield process.stdout.readline().strip()
        process.kill()  # asked politely, it takes a minute


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("records")
    write_records(path, IMAGES, files=4)
    return path


def test_every_image_once_in_another_order_on_each_pass(address, folder):
    tf.keras.utils.set_random_seed(0)  # as the command does: orders differ all the same
    data = kvae.data.load(folder, batch_size=32, cache_bytes=0)
    dataset = data.split("train", shuffle=True, labels=True, service=address)
    passes = [list(dataset) for _ in range(2)]
    for batches in passes:
        assert [len(x) for x, _ in batches] == [32] * 5
        assert batches[0][0].dtype == tf.float32
        for x, label in batches:
            np.testing.assert_array_equal(label, np.array(numbers(x)) % 4)
    orders = [[n for x, _ in batches for n in numbers(x)] for batches in passes]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(numbers(data.arrays("train")[0]))
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


@pytest.mark.slow
def test_files_are_in_another_order_on_each_pass(address, tmp_path, monkeypatch):
    """Two workers that read a file at a time: in a fixed order the first batch would be of one of the first two."""
    monkeypatch.setattr(service, "FILES", 1)
    monkeypatch.setattr(service, "WINDOW", 4)
    write_records(tmp_path, IMAGES[:160], files=40)
    tf.keras.utils.set_random_seed(0)
    data = kvae.data.load(tmp_path, batch_size=4, cache_bytes=0, validation_fraction=0, test_fraction=0)
    dataset = data.split("train", shuffle=True, service=address)
    passes = [[numbers(x) for x in dataset] for _ in range(6)]
    for batches in passes:
        assert sorted(n for batch in batches for n in batch) == list(range(160))
    assert len({batches[0][0] // 4 for batches in passes}) > 2  # of 40: 10⁻⁶ that there are two


@pytest.mark.slow
def test_windows_are_bounded_by_bytes_and_uint8_is_sent(address, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "FILES", 1)
    monkeypatch.setattr(service, "MEMORY", 20 * 90)  # bytes of 20 images
    sent, distribute = [], service._distribute
    monkeypatch.setattr(
        service, "_distribute",
        lambda *args: lambda dataset: sent.append(dataset.element_spec) or distribute(*args)(dataset),
    )  # fmt: skip
    write_records(tmp_path, IMAGES, files=5)
    data = kvae.data.load(tmp_path, batch_size=20, cache_bytes=0, validation_fraction=0, test_fraction=0)
    batches = [numbers(x) for x in data.split("train", shuffle=True, service=address)]
    assert [max(batch) - min(batch) for batch in batches] == [19] * 10
    assert all(batch != sorted(batch) for batch in batches)
    assert sent[-1][0].dtype == tf.uint8


@pytest.mark.slow
def test_binary_draws_differ_on_each_pass(address, tmp_path):
    write_records(tmp_path, np.full((64, 8, 8, 1), 128, np.uint8), files=2)
    data = kvae.data.load(
        tmp_path, batch_size=16, cache_bytes=0, binarize="stochastic", validation_fraction=0, test_fraction=0
    )
    dataset = data.split("train", shuffle=True, service=address)
    first, second = (np.concatenate(list(dataset)) for _ in range(2))
    assert set(np.unique(first)) == {0.0, 1.0}
    assert abs(first.mean() - 0.5) < 0.05  # 4,096 flips: five standard errors
    assert 0.4 < np.mean(first != second) < 0.6
    assert 0.4 < np.mean(first[:16] != first[16:32]) < 0.6
    again = np.concatenate(list(data.split("train", shuffle=True, service=address, epoch=1)))
    np.testing.assert_array_equal(again, second)  # all images are alike: the draws are of seed, pass and batch


@pytest.mark.slow
def test_a_prepared_set(address, tfds_dir):
    data = kvae.data.load("mnist", data_dir=tfds_dir, cache_bytes=0, batch_size=500)
    total = sum(float(tf.reduce_sum(x)) for x in data.split("train", shuffle=True, service=address))
    assert total == pytest.approx(sum(float(tf.reduce_sum(x)) for x in data.split("train")), rel=1e-6)


@pytest.mark.slow
def test_a_prepared_set_of_several_files(address, tmp_path):
    """Not all of the last file is for training."""
    write_set(tmp_path, "sharded", {"image": tfds.features.Image(shape=(9, 10, 1))}, IMAGES, files=3)
    data = kvae.data.load("sharded", data_dir=tmp_path, cache_bytes=0, batch_size=32)
    orders = [[n for x in data.split("train", shuffle=True, service=address) for n in numbers(x)] for _ in range(2)]
    assert [sorted(order) for order in orders] == [list(range(160))] * 2
    assert orders[0] != orders[1]


@pytest.mark.slow
def test_pixels_of_jpeg_are_those_of_a_pass_without_it(address, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 24, 16, 3), np.uint8)
    write_records(tmp_path, images, files=2, encode=tf.io.encode_jpeg)
    data = kvae.data.load(tmp_path, cache_bytes=0, batch_size=4, validation_fraction=0, test_fraction=0)
    found = []
    for options in ({}, {"service": address}):
        ((x, label),) = data.split("train", labels=True, shuffle=True, **options)
        found.append(x.numpy()[np.argsort(label)])
    assert np.abs(found[0] - found[1]).max() <= 2 / 255  # two builds of libjpeg


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("damaged", r"A record is damaged or missing in.*part-1\.tfrecord"),
        ("cut", r"A record is damaged or missing in.*part-1\.tfrecord"),
        ("another size", r"Expected images of 9x10x1 in.*part-1\.tfrecord.*Received:.*12 10 1"),
        ("gone", r"part-1\.tfrecord; No such file"),
    ],
)
def test_what_ends_a_pass_names_the_file(address, tmp_path, fault, message):
    """It is an error, and nothing waits."""
    paths = write_records(tmp_path, IMAGES, files=4)
    if fault == "another size":
        write_records(tmp_path / "other", numbered(50, height=12))[0].rename(paths[1])
    data = kvae.data.load(tmp_path, cache_bytes=0, batch_size=16, validation_fraction=0, test_fraction=0)
    content = bytearray(paths[1].read_bytes())
    content[len(content) // 2] ^= 1
    if fault == "gone":
        paths[1].unlink()
    elif fault == "damaged":
        paths[1].write_bytes(bytes(content))
    elif fault == "cut":
        paths[1].write_bytes(bytes(content[: len(content) // 2]))
    with pytest.raises(tf.errors.OpError, match=message):
        list(data.split("train", shuffle=True, service=address))


@pytest.mark.slow
def test_fit(address, folder):
    data = kvae.data.load(folder, batch_size=32, cache_bytes=0)
    vae = kvae.VAE(latent_dim=2, image_shape=data.image_shape)
    vae.compile("adam", steps_per_execution=2)
    history = vae.fit(data.split("train", shuffle=True, service=address), epochs=2, verbose=0)
    assert int(vae.step) == 10
    assert np.all(np.isfinite(history.history["loss"]))


@pytest.mark.slow
def test_command(address, folder, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from kvae.cli import training
    from kvae.cli.main import app

    load = kvae.data.load
    monkeypatch.setattr(training.data, "load", lambda *args, **kwargs: load(*args, **kwargs, cache_bytes=0))
    options = ["train", str(folder), "--epochs", "1", "--batch-size", "32", "--data-service", address]
    result = CliRunner().invoke(app, [*options, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "report.html").is_file()
    for other in ("--deterministic", "--workers"):
        values = ["2"] if other == "--workers" else []
        result = CliRunner().invoke(app, [*options, "--out", str(tmp_path / "other"), other, *values])
        assert f"leave out {other}" in str(result.exception)


def test_what_it_cannot_do(address, folder, tmp_path):
    data = kvae.data.load(folder, cache_bytes=0)
    with pytest.raises(DataError, match="whole training passes"):
        data.split("train", service=address)
    with pytest.raises(DataError, match="whole training passes"):
        data.split("train", shuffle=True, limit=10, service=address)
    with pytest.raises(DataError, match="is in memory"):
        kvae.data.load("digits").split("train", shuffle=True, service=address)
    with pytest.raises(DataError, match="TFRecord files of images as they are"):
        kvae.data.load(folder, size=8, cache_bytes=0).split("train", shuffle=True, service=address)


def test_nobody_there(folder, monkeypatch):
    data = kvae.data.load(folder, cache_bytes=0)
    for wrong in ("localhost:5000", "grpc://localhost", "grpc://localhost:x", "http://localhost:80", "grpc://[::1"):
        with pytest.raises(DataError, match="grpc://HOST:PORT"):
            data.split("train", shuffle=True, service=wrong)
    with socket.socket() as bound:
        bound.bind(("localhost", 0))
        with pytest.raises(DataError, match="service answers"):
            data.split("train", shuffle=True, service=f"grpc://localhost:{bound.getsockname()[1]}")


def test_a_failure_of_the_service_is_told_at_once(folder, monkeypatch):
    def fail(dataset):
        raise tf.errors.FailedPreconditionError(None, None, "{{node of a graph}} another\nversion [Op:Register]")

    monkeypatch.setattr(service, "_distribute", lambda *args: fail)
    started = time.monotonic()
    with socket.socket() as server:
        server.bind(("localhost", 0))
        server.listen()
        address = f"grpc://localhost:{server.getsockname()[1]}"
        with pytest.raises(DataError, match=rf"service at {address} failed\. Received: another version$"):
            service.check(address)
    assert time.monotonic() - started < 0.5 * service.TIMEOUT


@pytest.mark.slow
@pytest.mark.parametrize("address", [0], indirect=True)
def test_no_worker(address, folder, monkeypatch):
    monkeypatch.setattr(service, "TIMEOUT", 3.0)
    started = time.monotonic()
    with pytest.raises(DataError, match="has no worker"):
        kvae.data.load(folder, cache_bytes=0).split("train", shuffle=True, service=address)
    assert time.monotonic() - started < 30
