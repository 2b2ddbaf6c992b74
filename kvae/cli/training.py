"""One training run, from settings to a finished RUN folder."""

import dataclasses
import datetime
import importlib.metadata
import math
import os
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tqdm import tqdm

from kvae import data, likelihoods, networks, objectives, schedules
from kvae.cli.console import CommandError, our_warnings, say
from kvae.cli.evaluate import show_scores
from kvae.cli.features import probe_run, show_probe
from kvae.cli.plot import draw
from kvae.cli.run import read_history, write_json
from kvae.evaluation import CollapseWarning, evaluate
from kvae.files import atomic_directory
from kvae.models import VAE, load
from kvae.report import write_report

STEPS, MIN_EPOCHS, MAX_EPOCHS = 5_000, 10, 100
MAX_LINES = 20  # of the table that training prints
CLIP_NORM = 200.0  # far above ordinary gradients (in nats): only an explosion is cut

LIKELIHOODS: dict[str, Any] = {
    "bernoulli": likelihoods.Bernoulli,
    "normal": lambda: likelihoods.Normal(scale=0.1),
    "normal-learned": lambda: likelihoods.Normal(scale=0.2, learned=True),
    "normal-pixel": lambda: likelihoods.DiagonalNormal(min_scale=0.02),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `kvae train` was asked for; None or "auto" is settled when the data is known."""

    source: str
    epochs: int | None = None
    latent_dim: int = 16
    seed: int = 0
    data_dir: str | None = None
    batch_size: int = 128
    learning_rate: float = 3e-3
    beta: float = 1.0
    warmup: int = 0
    likelihood: str = "auto"
    network: str = "conv"
    binarize: str = "none"
    size: int | tuple[int, int] | None = None
    grayscale: bool | None = None
    patience: int | None = None
    precision: str = "float32"
    xla: bool = False

    def load(self) -> data.Data:
        return data.load(
            self.source, batch_size=self.batch_size, seed=self.seed, binarize=self.binarize, size=self.size,
            grayscale=self.grayscale, data_dir=self.data_dir,
        )  # fmt: skip

    def settle(self, images: data.Data) -> "Settings":
        """These settings with every choice made that depends on the data."""
        by_steps = round(STEPS / images.batches_per_epoch)
        color = images.image_shape[-1] > 1
        data_dir = self.data_dir or os.environ.get("TFDS_DATA_DIR")
        return dataclasses.replace(
            self,
            source=str(images.path or self.source),
            data_dir=str(Path(data_dir).resolve()) if data_dir else None,
            epochs=self.epochs or max(MIN_EPOCHS, min(MAX_EPOCHS, by_steps)),
            likelihood=("normal-learned" if color else "bernoulli") if self.likelihood == "auto" else self.likelihood,
        )

    def model(self, image_shape: tuple[int, int, int]) -> VAE:
        """The VAE that these settings describe, compiled."""
        bodies: dict[str, Any] = {
            "conv": (None, None),
            "mlp": (networks.MLP((512, 256)), networks.MLP((256, 512))),
        }
        encoder, decoder = bodies[self.network]
        return VAE(
            encoder=networks.Encoder(self.latent_dim, encoder),
            decoder=networks.Decoder(image_shape, decoder),
            likelihood=LIKELIHOODS[self.likelihood](),
            objective=objectives.ELBO(schedules.LinearWarmup(self.warmup, end=self.beta) if self.warmup else self.beta),
            seed=self.seed,
        )


class Progress(keras.callbacks.Callback):
    """A bar for the running epoch, a line for each that is done; counts the time that training itself takes."""

    def __init__(self, images_per_epoch: int):
        super().__init__()
        self.images_per_epoch = images_per_epoch
        self.epochs = 0
        self.seconds = 0.0  # training steps alone, without validation

    def on_train_begin(self, logs: Any = None) -> None:
        say("  epoch   distortion     rate    −ELBO   validation −ELBO   active latents   images/s")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.bar = tqdm(
            total=self.params["steps"], desc=f"epoch {epoch + 1}/{self.params['epochs']}", unit="step",
            leave=False, disable=None,
        )  # fmt: skip
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.bar.update(batch + 1 - self.bar.n)
        self.ended = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.bar.close()
        seconds = self.ended - self.started
        self.seconds += seconds
        self.epochs += 1
        logs = logs or {}
        if not math.isfinite(logs["loss"]):
            say(f"{epoch + 1:7d}   the loss is not finite any more: stopped, and the best epoch before is kept")
            return
        if (epoch + 1) % -(-self.params["epochs"] // MAX_LINES) and epoch + 1 < self.params["epochs"]:
            return
        say(
            f"{epoch + 1:7d} {logs['distortion']:12.2f} {logs['rate']:8.2f} {-logs['elbo']:8.2f} "
            f"{logs['val_loss']:18.2f} {logs['active_units']:16.0f} {self.images_per_epoch / seconds:10,.0f}"
        )


def train_run(settings: Settings, run: Path, num_samples: int = 16) -> VAE:
    """Train, score and draw. The RUN folder appears when the model is trained; the rest is added to it."""
    our_warnings()
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy("float32" if settings.precision == "float32" else f"mixed_{settings.precision}")
    images = settings.load()
    settings = settings.settle(images)
    model = settings.model(images.image_shape)
    say(
        f"{images.name}: {images.num_train:,} training, {images.num_validation:,} validation and "
        f"{images.num_test:,} test images of {'×'.join(map(str, images.image_shape))}"
    )
    say(f"VAE with {settings.latent_dim} latents, {model.count_params():,} weights, {settings.likelihood} likelihood\n")
    with atomic_directory(run) as folder:
        progress = fit(model, settings, images, folder)
        model = load(folder / "model.keras")
        write_json(folder / "config.json", _config(settings, images, model))
    say(f"\nTrained {progress.epochs} epochs in {progress.seconds:.0f} s. Scoring the test split …\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CollapseWarning)
        scores = evaluate(model, images.test, num_samples, "test", progress=True)
    show_scores(scores, model.latent_dim)
    metrics = {
        **scores,
        "train_seconds": progress.seconds,
        "epochs": progress.epochs,
        "images_per_second": progress.epochs * images.num_train / progress.seconds,
    }
    for warning in caught:
        if issubclass(warning.category, CollapseWarning):
            metrics["warning"] = str(warning.message)
            say(f"Warning: {warning.message}\n")
    if images.has_labels:
        metrics["probe"] = probe_run(model, images)
        show_probe(metrics["probe"])
    write_json(run / "metrics.json", metrics)
    draw(run, model, images, read_history(run))
    write_report(run)
    return model


def fit(model: VAE, settings: Settings, images: data.Data, folder: Path) -> Progress:
    """Fit `model`; `folder` gets history.csv and model.keras, the epoch with the best validation ELBO."""
    assert settings.epochs is not None
    steps = images.batches_per_epoch
    optimizer = keras.optimizers.Adam(
        learning_rate_schedule(settings.learning_rate, settings.epochs * steps), global_clipnorm=CLIP_NORM
    )
    # Many steps in one call: the framework's overhead is paid once (benchmarks/throughput.py).
    model.compile(optimizer, jit_compile=settings.xla or "auto", steps_per_execution=max(1, min(50, steps // 8)))
    progress = Progress(images.num_train)
    best = keras.callbacks.ModelCheckpoint(folder / "model.keras", monitor="val_loss", mode="min", save_best_only=True)
    callbacks: list[Any] = [
        keras.callbacks.TerminateOnNaN(),
        best,
        keras.callbacks.CSVLogger(str(folder / "history.csv")),
        progress,
    ]
    if settings.patience:
        callbacks.append(keras.callbacks.EarlyStopping("val_loss", mode="min", patience=settings.patience))
    try:
        model.fit(
            on_device(images.train), validation_data=images.validation, epochs=settings.epochs, callbacks=callbacks,
            shuffle=False, verbose=0,
        )  # fmt: skip
    except KeyboardInterrupt:
        if best.best is None:
            raise
        say(f"\nStopped after {progress.epochs} epochs; the best of them is kept.")
    if best.best is None or not math.isfinite(best.best):
        raise CommandError(
            "The loss became infinite or not a number in the first epoch. Lower --learning-rate "
            f"(it was {settings.learning_rate}), or use --precision float32 (it was {settings.precision})"
        )
    return progress


def on_device(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Batches wait on the accelerator, where there is one, before the step needs them."""
    gpus = tf.config.list_logical_devices("GPU")
    return dataset.apply(tf.data.experimental.prefetch_to_device(gpus[0].name)) if gpus else dataset


def learning_rate_schedule(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Up in a straight line over the first tenth (500 steps at most), then down to zero along a cosine.

    Without the way up, a large rate can collapse the posterior in the first hundred steps, for good.
    """
    warmup = max(1, min(500, steps // 10))
    return keras.optimizers.schedules.CosineDecay(
        peak / 20, max(1, steps - warmup), warmup_target=peak, warmup_steps=warmup
    )


def _config(settings: Settings, images: data.Data, model: VAE) -> dict[str, Any]:
    packages = ("keras-vae", "tensorflow", "keras", "numpy")
    return {
        **dataclasses.asdict(settings),
        "name": images.name,
        "image_shape": images.image_shape,
        "label_names": images.label_names,
        "training_images": images.num_train,
        "weights": model.count_params(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
    }
