"""Several processes on one machine train like one process with the same global batch."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import kvae
from kvae.callbacks import Resume
from kvae.cli import workers
from kvae.cli.console import CommandError

WORKER = """
import json, os, sys
import keras, numpy as np, tensorflow as tf
count, folder = int(sys.argv[1]), sys.argv[2]
strategy = tf.distribute.MultiWorkerMirroredStrategy() if count > 1 else tf.distribute.get_strategy()
import kvae
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).random((241, 8, 8, 1)).astype("float32")
x[70] = np.nan  # a step that all workers skip; the last batch has one image, so some workers have none
with strategy.scope():
    layers = [keras.layers.Conv2D(2, 3, strides=2), keras.layers.Flatten(), keras.layers.Dense(4)]
    vae = kvae.VAE(
        keras.Sequential(layers), kvae.Decoder((8, 8, 1), kvae.networks.MLP((8,))), latent_dim=2,
        objective=kvae.objectives.TargetRate(3.0),
    )
    vae.compile(keras.optimizers.Adam(1e-2), steps_per_execution=4)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
train = tf.data.Dataset.from_tensor_slices(x).batch(60).with_options(options)
validation = tf.data.Dataset.from_tensor_slices(x[:65]).batch(32).with_options(options)
history = vae.fit(train, validation_data=validation, epochs=3, verbose=0).history
index = strategy.cluster_resolver.task_id if count > 1 else 0
history = {name: [float(np.mean(value)) for value in values] for name, values in history.items()}
np.savez(f"{folder}/{count}-{index}.npz", history=json.dumps(history), skipped=vae.skipped.total,
         **{f"w{i}": w for i, w in enumerate(vae.get_weights())})
"""


def train(count, folder):
    cluster = {"worker": [f"localhost:{port}" for port in workers.free_ports(count)]}
    processes = []
    for index in range(count):
        environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1"}
        if count > 1:
            environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        command = [sys.executable, "-c", WORKER, str(count), str(folder)]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-3000:]
    return [np.load(folder / f"{count}-{index}.npz") for index in range(count)]


@pytest.mark.slow
def test_three_workers_equal_one(tmp_path):
    (one,) = train(1, tmp_path)
    assert int(one["skipped"]) == 3
    history = json.loads(str(one["history"]))
    trained_by = train(3, tmp_path)
    for worker in trained_by:
        assert int(worker["skipped"]) == 3
        for name in set(one.files) - {"history", "skipped"}:
            np.testing.assert_array_equal(worker[name], trained_by[0][name])  # to the bit, among the workers
            np.testing.assert_allclose(worker[name], one[name], atol=2e-5)  # up to the order of sums
        reported = json.loads(str(worker["history"]))
        for name in ("loss", "elbo", "distortion", "rate"):
            np.testing.assert_allclose(reported[name], history[name], rtol=1e-4)
            np.testing.assert_allclose(reported[f"val_{name}"], history[f"val_{name}"], rtol=1e-4)


# The command.


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """361 digits, 289 of them for training: batches of 48, and one of 1, which two workers can't halve."""
    from sklearn.datasets import load_digits

    path = tmp_path_factory.mktemp("images") / "digits.npy"
    np.save(path, (load_digits().images[:361] * 15.9).astype("uint8")[..., None])
    return path


def command(images, run, *options, background=False, **environment):
    settings = "--batch-size 48 --network mlp --latent-dim 4 --epochs 6 --learning-rate 1e-3 --deterministic"
    arguments = [sys.executable, "-m", "kvae", "train", str(images), *settings.split(), "--out", str(run), *options]
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", **environment}
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return process if background else (*process.communicate(timeout=300), process.returncode)


def trained(run):
    history = np.genfromtxt(run / "history.csv", delimiter=",", names=True)
    return history, kvae.load(run / "model.keras").get_weights()


@pytest.fixture(scope="module")
def trained_by_two(images, tmp_path_factory):
    run = tmp_path_factory.mktemp("two") / "run"
    out, errors, status = command(images, run, "--workers", "2")
    assert status == 0, errors
    assert "validation −ELBO" in out
    assert "linear probe" not in out
    return run


@pytest.mark.slow
def test_the_command_with_two_workers_equals_one(images, trained_by_two, tmp_path):
    _, errors, status = command(images, tmp_path / "one")
    assert status == 0, errors
    (history, weights), (expected, of_one) = trained(trained_by_two), trained(tmp_path / "one")
    assert list(history["epoch"]) == list(range(6))
    for name in ("loss", "val_loss", "rate", "val_distortion"):
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-4)
    for a, b in zip(weights, of_one, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    by_one, by_two = ({path.name for path in run.iterdir()} for run in (tmp_path / "one", trained_by_two))
    assert by_two == by_one


def wait_for_epoch(epoch, run, process):
    """Wait until this number of epochs is saved."""
    state = run / "training" / "state.npz"
    deadline = time.monotonic() + 200
    while not state.exists() or Resume(state).epoch < epoch:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def worker_processes(process):
    """Return the worker processes of a command by their index."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        children = [int(pid) for pid in file.read().split()]
    found = {}
    for pid in children:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = dict(item.split(b"=", 1) for item in file.read().split(b"\0") if b"=" in item)
        found[json.loads(variables[b"TF_CONFIG"])["task"]["index"]] = pid
    return found


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="finds the workers in Linux's /proc")
def test_a_killed_worker_is_restarted(images, trained_by_two, tmp_path):
    run = tmp_path / "run"
    process = command(images, run, "--workers", "2", background=True)
    wait_for_epoch(2, run, process)
    os.kill(worker_processes(process)[1], signal.SIGKILL)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Worker 1 was killed (SIGKILL): restarting all workers from the last saved epoch" in out
    assert errors.count("error") == 0
    (history, weights), (expected, unbroken) = trained(run), trained(trained_by_two)
    np.testing.assert_array_equal(history, expected)
    for a, b in zip(weights, unbroken, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_one_process_resumes_a_run_of_workers(images, trained_by_two, tmp_path):
    run = tmp_path / "run"
    process = command(images, run, "--workers", "2", background=True)
    wait_for_epoch(1, run, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().endswith(f"Resume with: kvae train --resume {run}")
    resumed = [sys.executable, "-m", "kvae", "train", "--resume", str(run)]
    subprocess.run(resumed, check=True, timeout=300, capture_output=True)
    for a, b in zip(trained(run)[1], trained(trained_by_two)[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.slow
def test_a_missing_worker(images, tmp_path):
    addresses = [f"localhost:{port}" for port in workers.free_ports(2)]
    cluster = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 0}})
    options = ("--workers", "2", "--worker-timeout", "15")
    _, errors, status = command(images, tmp_path / "run", *options, TF_CONFIG=cluster)
    assert status == 1
    (line,) = errors.strip().splitlines()
    assert f"Expected 2 workers to connect within 15 s: {addresses[0]}, {addresses[1]}" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_error_of_all_workers_is_shown_once(images, tmp_path):
    _, errors, status = command(images, tmp_path / "run", "--workers", "2", "--conditional")
    assert status == 1
    (line,) = errors.strip().splitlines()
    assert "A conditional VAE requires labels" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_batches_that_workers_cannot_share(images, tmp_path):
    _, errors, status = command(images, tmp_path / "run", "--workers", "7")
    assert status == 1
    (line,) = errors.strip().splitlines()
    assert "a multiple of 7, the number of workers. Received: --batch-size 48" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "Expected TF_CONFIG="),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "Expected TF_CONFIG="),
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}', "Expected --workers 2"),
    ],
)
def test_errors_of_tf_config(monkeypatch, config, message):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(CommandError, match=message):
        workers.Cluster.of(3)
