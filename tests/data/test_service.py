"""A tf.data service in another process: every image once in a pass, and what it can't do."""

import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

import kvae
from kvae.data import DataError, service

from .pictures import numbered, numbers, write_records

IMAGES = numbered(200)
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


def test_a_prepared_set(address, tfds_dir):
    data = kvae.data.load("mnist", data_dir=tfds_dir, cache_bytes=0, batch_size=500)
    total = sum(float(tf.reduce_sum(x)) for x in data.split("train", shuffle=True, service=address))
    assert total == pytest.approx(sum(float(tf.reduce_sum(x)) for x in data.split("train")), rel=1e-6)


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
    for wrong in ("localhost:5000", "grpc://localhost", "grpc://localhost:x", "http://localhost:80"):
        with pytest.raises(DataError, match="grpc://HOST:PORT"):
            data.split("train", shuffle=True, service=wrong)
    with socket.socket() as bound:
        bound.bind(("localhost", 0))
        with pytest.raises(DataError, match="service answers"):
            data.split("train", shuffle=True, service=f"grpc://localhost:{bound.getsockname()[1]}")


@pytest.mark.slow
@pytest.mark.parametrize("address", [0], indirect=True)
def test_no_worker(address, folder, monkeypatch):
    monkeypatch.setattr(service, "TIMEOUT", 3.0)
    started = time.monotonic()
    with pytest.raises(DataError, match="has no worker"):
        kvae.data.load(folder, cache_bytes=0).split("train", shuffle=True, service=address)
    assert time.monotonic() - started < 30
