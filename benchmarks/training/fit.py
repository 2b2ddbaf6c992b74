"""Images per second of training: kvae, a VAE after keras.io's example, a bare loop, and Pythae.

    python benchmarks/training/fit.py --peer-python PATH
    python benchmarks/training/fit.py mlp --images 1280 --rounds 1                    # quick check, without Pythae

All contestants have the same network, optimizer (Adam), batch and images, and take turns. PATH is the interpreter of a
separate environment with Pythae (`pip install pythae==0.1.2 torch`).

* kvae, Keras's default: `vae.compile(Adam)`, `vae.fit(data.train)`.
* kvae, as `kvae train`: `kvae.optimizers.FusedAdam`, up to 50 steps in one execution; also with bfloat16 networks.
* kvae's default network instead of keras.io's: a faster network. `time_to_quality.py` has the −ELBO of both.
* keras.io's way: a subclass with a `train_step` (`by_hand.py`), `fit` on an array.
* bare loop: a `tf.function` without metrics, callbacks and checks, on slices of a tensor.
* Pythae: its `VAE` and `BaseTrainer`, with networks in PyTorch.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 128
#: shape of images; widths of strided 3×3 convolutions and of dense layers; latents; images of an epoch of some seconds
NETWORKS: dict[str, dict[str, Any]] = {
    "keras.io": {"image": (28, 28, 1), "filters": (32, 64), "units": (16,), "latents": 2, "epoch": 6400},
    "mlp": {"image": (28, 28, 1), "filters": (), "units": (200, 200), "latents": 50, "epoch": 38_400},
    "64x64x3": {"image": (64, 64, 3), "filters": (32, 64, 64, 128), "units": (), "latents": 64, "epoch": 6400},
}


def peer(name: str, folder: str) -> None:
    """Answer each line with the seconds of one epoch, in the peer's environment."""
    import logging

    import numpy as np
    import torch
    from pythae.data.datasets import DatasetOutput
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from torch import nn

    logging.disable(logging.CRITICAL)
    about = NETWORKS[name]
    height, width, channels = about["image"]
    filters, units, latents = about["filters"], about["units"], about["latents"]
    small = height // 2 ** len(filters)
    flat = small * small * filters[-1] if filters else height * width * channels

    def dense(*sizes: int) -> list[nn.Module]:
        return [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for a, b in zip((channels, *filters), filters):
                layers += [nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()]
            self.body = nn.Sequential(*layers, nn.Flatten(), *dense(flat, *units))
            self.mean, self.log_variance = (nn.Linear((flat, *units)[-1], latents) for _ in range(2))

        def forward(self, x: Any) -> Any:
            h = self.body(x)
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            if filters:
                layers += [*dense(latents, flat), nn.Unflatten(1, (filters[-1], small, small))]
                for a, b in zip(filters[::-1], filters[::-1][1:] + filters[:1]):
                    layers += [nn.ConvTranspose2d(a, b, 3, 2, 1, 1), nn.ReLU()]
                layers += [nn.ConvTranspose2d(filters[0], channels, 3, 1, 1), nn.Sigmoid()]
            else:
                layers += [*dense(latents, *units[::-1]), nn.Linear(units[0], flat), nn.Sigmoid()]
                layers += [nn.Unflatten(1, (channels, height, width))]
            self.body = nn.Sequential(*layers)

        def forward(self, z: Any) -> Any:
            return ModelOutput(reconstruction=self.body(z))

    class Images(torch.utils.data.Dataset):
        def __init__(self, x: Any) -> None:
            self.x = x

        def __len__(self) -> int:
            return len(self.x)

        def __getitem__(self, i: int) -> Any:
            return DatasetOutput(data=self.x[i])

    config = VAEConfig(input_dim=(channels, height, width), latent_dim=latents, reconstruction_loss="bce")
    model = VAE(config, Encoder(), Decoder())
    x = torch.tensor(np.moveaxis(np.load(Path(folder) / "images.npy"), -1, 1)).float()
    settings = BaseTrainerConfig(
        output_dir=folder, num_epochs=1, per_device_train_batch_size=BATCH, learning_rate=1e-3, no_cuda=True
    )
    sys.stdout.flush()
    answers, sys.stdout = sys.stdout, open(os.devnull, "w", encoding="utf-8")  # the trainer prints
    weights = sum(p.numel() for p in model.parameters())
    print(json.dumps({"torch": torch.__version__, "weights": weights}), file=answers, flush=True)
    for _ in sys.stdin:
        trainer = BaseTrainer(model=model, train_dataset=Images(x), training_config=settings)
        started = time.perf_counter()
        trainer.train()
        print(json.dumps({"seconds": time.perf_counter() - started}), file=answers, flush=True)


def contestants(name: str, x: Any) -> dict[str, Callable[[], Any]]:
    import keras
    import tensorflow as tf
    from by_hand import ByHand

    import kvae

    about = NETWORKS[name]
    shape, filters, units, latents = about["image"], about["filters"], about["units"], about["latents"]
    small = shape[0] // 2 ** len(filters)
    layers = keras.layers

    def encoder(size: int) -> keras.Model:
        convolutions = [layers.Conv2D(f, 3, 2, "same", activation="relu") for f in filters]
        dense = [layers.Dense(u, "relu") for u in units]
        return keras.Sequential([keras.Input(shape), *convolutions, layers.Flatten(), *dense, layers.Dense(size)])

    def decoder(activation: str | None) -> keras.Model:
        last: dict[str, Any] = {"activation": activation, "dtype": "float32"}
        if not filters:
            dense = [layers.Dense(u, "relu") for u in units[::-1]]
            end = [layers.Dense(shape[0] * shape[1] * shape[2], **last), layers.Reshape(shape)]
            return keras.Sequential([keras.Input((latents,)), *dense, *end])
        grown = [*filters[::-1][1:], filters[0]]
        return keras.Sequential(
            [
                keras.Input((latents,)),
                layers.Dense(small * small * filters[-1], "relu"),
                layers.Reshape((small, small, filters[-1])),
                *(layers.Conv2DTranspose(f, 3, 2, "same", activation="relu") for f in grown),
                layers.Conv2DTranspose(shape[-1], 3, 1, "same", **last),
            ]
        )

    def by_hand() -> Callable[[], Any]:
        model, images = ByHand(encoder(2 * latents), decoder("sigmoid")), x.astype("float32")
        model.compile(keras.optimizers.Adam(1e-3))
        return lambda: model.fit(images, batch_size=BATCH, verbose=0)

    def bare() -> Callable[[], Any]:
        parts = [encoder(2 * latents), decoder(None)]
        weights = [weight for part in parts for weight in part.trainable_weights]
        optimizer = keras.optimizers.Adam(1e-3)
        optimizer.build(weights)
        images = tf.constant(x, tf.float32)

        @tf.function
        def step(batch: Any) -> Any:
            with tf.GradientTape() as tape:
                mean, log_variance = tf.split(parts[0](batch), 2, axis=-1)
                logits = parts[1](mean + tf.exp(0.5 * log_variance) * tf.random.normal(tf.shape(mean)))
                distortion = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(batch, logits), (1, 2, 3))
                rate = -0.5 * tf.reduce_sum(1 + log_variance - mean**2 - tf.exp(log_variance), 1)
                loss = tf.reduce_mean(distortion + rate)
            optimizer.apply(tape.gradient(loss, weights), weights)
            return loss

        def epoch() -> float:
            for i in range(0, len(x), BATCH):
                loss = step(images[i : i + BATCH])
            return float(loss)

        return epoch

    def ours(optimizer: Any, per_execution: int, precision: str = "float32") -> Callable[[], Any]:
        keras.config.set_dtype_policy(precision)
        data = kvae.data.load(x, batch_size=BATCH, validation_fraction=0, test_fraction=0).train
        vae = kvae.VAE(encoder(2 * latents), decoder(None), latent_dim=latents, image_shape=shape)
        vae.compile(optimizer(1e-3, global_clipnorm=200.0), steps_per_execution=per_execution)
        keras.config.set_dtype_policy("float32")
        return lambda: vae.fit(data, verbose=0)

    def default() -> Callable[[], Any]:
        data = kvae.data.load(x, batch_size=BATCH, validation_fraction=0, test_fraction=0).train
        vae = kvae.VAE(latent_dim=16, image_shape=shape)
        vae.compile(kvae.optimizers.FusedAdam(1e-3, global_clipnorm=200.0), steps_per_execution=many)
        return lambda: vae.fit(data, verbose=0)

    many = max(1, min(50, len(x) // BATCH // 8))
    other = {"kvae's default network, as `kvae train`": default()} if name == "keras.io" else {}
    return {
        "keras.io's way": by_hand(),
        "bare loop": bare(),
        "kvae, Keras's default": ours(keras.optimizers.Adam, 1),
        "kvae, as `kvae train`": ours(kvae.optimizers.FusedAdam, many),
        "kvae, as `kvae train --precision bfloat16`": ours(kvae.optimizers.FusedAdam, many, "mixed_bfloat16"),
        **other,
    }


def compare(name: str, images: int | None, rounds: int, peer_python: str | None) -> dict[str, Any]:
    import numpy as np
    from common import interleaved, median_ratio, rates

    images = images or NETWORKS[name]["epoch"]
    x = (np.random.default_rng(0).random((images, *NETWORKS[name]["image"])) < 0.13).astype("uint8")
    runs = contestants(name, x)
    with tempfile.TemporaryDirectory() as folder:
        if peer_python:
            np.save(Path(folder) / "images.npy", x)
            process = subprocess.Popen(
                [peer_python, __file__, "--peer", name, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            assert process.stdin
            assert process.stdout
            about = json.loads(process.stdout.readline())

            def epoch() -> None:
                print("", file=process.stdin, flush=True)
                json.loads(process.stdout.readline())

            runs["Pythae"] = epoch
        seconds = interleaved(runs, rounds)
        if peer_python:
            process.stdin.close()
            process.wait()
    print(f"\n{name}: {images:,} images of {NETWORKS[name]['image']}, batch {BATCH}, {rounds} rounds")
    rows: dict[str, Any] = rates(seconds, "keras.io's way", images, "ratio_to_keras_io")
    for row, values in zip(rows.values(), seconds.values()):
        row["ratio_to_bare"] = round(median_ratio(seconds["bare loop"], values), 3)
    return {"images": images, "rounds": rounds, "rows": rows} | ({"peer": about} if peer_python else {})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(*sys.argv[2:])
        raise SystemExit
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help=f"any of {', '.join(NETWORKS)} (default: all)")
    parser.add_argument("--images", type=int, help="images per epoch, instead of the default of each network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", help="interpreter of an environment with pythae 0.1.2")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from common import RESULTS, machine, store

    found = {
        name: {"machine": machine()} | compare(name, options.images, options.rounds, options.peer_python)
        for name in options.networks or NETWORKS
    }
    if options.rounds >= 3:
        path = RESULTS / "training_fit.json"
        before = json.loads(path.read_text(encoding="utf-8"))["networks"] if path.is_file() else {}
        store("training_fit", {"batch": BATCH, "networks": before | found})
