"""Several processes on one machine train as one does at the same global batch."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

WORKER = """
import json, os, sys
import keras, numpy as np, tensorflow as tf
count, folder = int(sys.argv[1]), sys.argv[2]
strategy = tf.distribute.MultiWorkerMirroredStrategy() if count > 1 else tf.distribute.get_strategy()
import kvae
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).random((240, 8, 8, 1)).astype("float32")
x[70] = np.nan  # a step that all of them skip
with strategy.scope():
    vae = kvae.VAE(
        kvae.Encoder(2, kvae.networks.MLP((8,))), kvae.Decoder((8, 8, 1), kvae.networks.MLP((8,))),
        objective=kvae.objectives.TargetRate(3.0),
    )
    vae.compile(keras.optimizers.Adam(1e-2), steps_per_execution=4)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
train = tf.data.Dataset.from_tensor_slices(x).batch(60).with_options(options)
validation = tf.data.Dataset.from_tensor_slices(x[:64]).batch(32).with_options(options)
history = vae.fit(train, validation_data=validation, epochs=3, verbose=0).history
index = strategy.cluster_resolver.task_id if count > 1 else 0
history = {name: [float(np.mean(value)) for value in values] for name, values in history.items()}
np.savez(f"{folder}/{count}-{index}.npz", history=json.dumps(history), skipped=vae.skipped.total,
         **{f"w{i}": w for i, w in enumerate(vae.get_weights())})
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def train(count, folder):
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(count)]}
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
def test_two_and_four_workers_equal_one(tmp_path):
    (one,) = train(1, tmp_path)
    assert int(one["skipped"]) == 3
    history = json.loads(str(one["history"]))
    for count in (2, 4):  # processes
        workers = train(count, tmp_path)
        for worker in workers:
            assert int(worker["skipped"]) == 3
            for name in set(one.files) - {"history", "skipped"}:
                np.testing.assert_array_equal(worker[name], workers[0][name])  # to the bit, among the workers
                np.testing.assert_allclose(worker[name], one[name], atol=2e-5)  # up to the order of sums
            told = json.loads(str(worker["history"]))
            for name in ("loss", "elbo", "distortion", "rate"):
                np.testing.assert_allclose(told[name], history[name], rtol=1e-4)
                np.testing.assert_allclose(told[f"val_{name}"], history[f"val_{name}"], rtol=1e-4)
