"""Seconds from a cold start to a test −ELBO of 100 nats on static MNIST: kvae, keras.io's script, Pythae.

    python benchmarks/training/time_to_quality.py --peer-python PATH
    python benchmarks/training/time_to_quality.py kvae --limit 30                    # quick check

Each contestant has its own defaults and a separate process:

* kvae: `fit` with network, optimizer and schedule of `kvae train binarized_mnist`, without the other work of the
  command (checkpoints, validation after every epoch, figures).
* keras.io: the unchanged script (2 latents, Adam, batches of 128).
* Pythae: its VAE and trainer (10 latents, MLP of 512, Adam at 1e-4, batches of 64), with `reconstruction_loss="bce"`,
  because its default, squared errors, is not a likelihood of binary images.

The clock starts with the process. It stops during the evaluation of the −ELBO of the 10,000 test images (one sample)
after every epoch. PATH is the interpreter of a separate environment with Pythae (`pip install pythae==0.1.2 torch`).
Requires `TFDS_DATA_DIR` with binarized_mnist.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TARGET = 100.0  # nats


class Clock:
    """A clock that prints the seconds since the start of the process without evaluation, and ends it at the limit."""

    def __init__(self, started: float, limit: float):
        self.started, self.limit, self.measuring = started, limit, 0.0

    def epoch(self, loss: Callable[[], float]) -> None:
        seconds = time.time() - self.started - self.measuring
        value = loss()
        self.measuring = time.time() - self.started - seconds
        print(json.dumps({"seconds": round(seconds, 1), "loss": round(value, 2)}), flush=True)
        if value <= TARGET or seconds > self.limit:
            os._exit(0)


def kvae_fit(folder: str, clock: Clock) -> None:
    """Train by `fit` with the settings of `kvae train`."""
    import keras

    import kvae
    from kvae.models.steps import CLIP_NORM
    from kvae.training import Settings, learning_rate_schedule
    from kvae.training.parts import model_of

    data = kvae.data.load("binarized_mnist")
    settings = Settings("binarized_mnist").for_data(data)
    model, steps = model_of(settings, data), data.batches_per_epoch
    rate = learning_rate_schedule(settings.learning_rate, settings.epochs * steps)
    model.compile(kvae.optimizers.FusedAdam(rate, global_clipnorm=CLIP_NORM), steps_per_execution=min(50, steps // 8))
    measured = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: clock.epoch(lambda: model.evaluate(data.test, verbose=0, return_dict=True)["loss"])
    )
    model.fit(data.train, epochs=settings.epochs, callbacks=[measured], verbose=0)


def keras_way(folder: str, clock: Clock) -> None:
    import keras
    import numpy as np
    from by_hand import ByHand

    layers, latents = keras.layers, 2
    train, test = (np.load(f"{folder}/{split}.npy").astype("float32") for split in ("train", "test"))
    encoder = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, 2, "same", activation="relu"),
            layers.Conv2D(64, 3, 2, "same", activation="relu"),
            layers.Flatten(),
            layers.Dense(16, "relu"),
            layers.Dense(2 * latents),
        ]
    )
    decoder = keras.Sequential(
        [
            keras.Input((latents,)),
            layers.Dense(7 * 7 * 64, "relu"),
            layers.Reshape((7, 7, 64)),
            layers.Conv2DTranspose(64, 3, 2, "same", activation="relu"),
            layers.Conv2DTranspose(32, 3, 2, "same", activation="relu"),
            layers.Conv2DTranspose(1, 3, padding="same", activation="sigmoid"),
        ]
    )
    model = ByHand(encoder, decoder)
    model.compile(keras.optimizers.Adam())
    measured = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: clock.epoch(
            lambda: model.evaluate(test, batch_size=1000, verbose=0, return_dict=True)["loss"]
        )
    )
    model.fit(train, epochs=30, batch_size=128, callbacks=[measured], verbose=0)


def pythae_way(folder: str, clock: Clock) -> None:
    import logging

    import numpy as np
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    logging.disable(logging.CRITICAL)
    train, test = (
        torch.tensor(np.moveaxis(np.load(f"{folder}/{split}.npy"), -1, 1)).float() for split in ("train", "test")
    )
    model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=10, reconstruction_loss="bce"))

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            parts = [float(model({"data": test[i : i + 1000]}).loss) for i in range(0, len(test), 1000)]
        model.train()
        return sum(parts) / len(parts)

    class Measured(TrainingCallback):
        def on_epoch_end(self, training_config: Any, **kwargs: Any) -> None:
            sys.stdout = answers
            clock.epoch(loss)
            sys.stdout = nowhere

    answers, nowhere = sys.stdout, open(os.devnull, "w", encoding="utf-8")  # the trainer prints
    labels = torch.zeros(len(train))
    settings = BaseTrainerConfig(output_dir=folder, num_epochs=10_000, no_cuda=True)
    trainer = BaseTrainer(model, BaseDataset(train, labels), training_config=settings, callbacks=[Measured()])
    sys.stdout = nowhere
    trainer.train()


WAYS: dict[str, Callable[[str, Clock], None]] = {"kvae": kvae_fit, "keras.io": keras_way, "Pythae": pythae_way}


def timed(name: str, python: str, folder: str, limit: float) -> dict[str, Any]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1"}
    command = [python, __file__, "--way", name, folder, str(time.time()), str(limit)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    epochs = []
    for line in process.stdout:
        epochs.append(json.loads(line))
        print(
            f"  {name:<10}{len(epochs):4d} epochs{epochs[-1]['seconds']:9.1f} s{epochs[-1]['loss']:9.2f} nats",
            flush=True,
        )
    if process.wait():
        raise SystemExit(f"{name} ended with status {process.returncode}")
    reached = next((row["seconds"] for row in epochs if row["loss"] <= TARGET), None)
    return {"seconds_to_target": reached, "epochs": epochs}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--way"]:
        way, folder, started, limit = sys.argv[2:]
        WAYS[way](folder, Clock(float(started), float(limit)))
        raise SystemExit
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", help=f"any of {', '.join(WAYS)} (default: all)")
    parser.add_argument("--limit", type=float, default=300, help="time limit of each contestant in seconds")
    parser.add_argument("--peer-python", help="interpreter of an environment with pythae 0.1.2")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import numpy as np
    from common import store

    import kvae

    ways = options.ways or [name for name in WAYS if name != "Pythae" or options.peer_python]
    data = kvae.data.load("binarized_mnist")
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "test"):
            np.save(f"{folder}/{split}.npy", data.arrays(split)[0].astype("uint8"))
        found = {
            name: timed(name, options.peer_python if name == "Pythae" else sys.executable, folder, options.limit)
            for name in ways
        }
    for name, result in found.items():
        last = result["epochs"][-1]
        print(
            f"{name}: {result['seconds_to_target']} s to {TARGET:g} nats"
            if result["seconds_to_target"]
            else f"{name}: {last['loss']} nats after {last['seconds']} s"
        )
    if set(found) == set(WAYS):
        store("training_time_to_quality", {"target": TARGET, "limit": options.limit, "ways": found})
