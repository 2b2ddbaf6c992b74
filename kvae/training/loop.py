"""Fitting a model: schedule, clipping, averages, resuming, and the epoch that is kept."""

import dataclasses
import functools
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tqdm import tqdm

from kvae.callbacks import BestEpoch, LowerableRate, Rescue, Resume
from kvae.callbacks.best import check_patience
from kvae.data import Data
from kvae.models.base import LatentModel
from kvae.models.steps import CLIP_NORM
from kvae.networks import kind_of
from kvae.optimizers import FusedAdam
from kvae.run import HISTORY, MODEL, RunError
from kvae.training import cluster, unfinished
from kvae.training.settings import default_epochs
from kvae.training.signals import Stopped, stoppable

MAX_LINES = 20  # lines of the table that training prints


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of `fit`.

    Attributes:
        epochs: number of trained epochs, including those before a training run was resumed.
        seconds: duration of the training steps, without validation.
        images: number of images in these steps.
        kept_epoch: number of the epoch that is kept, from 1.
        kept_because: why it is kept.
        missed: goal of the objective that was not reached, such as a target rate; None if there is none.
        history: values of each epoch of this call, by name.
    """

    epochs: int
    seconds: float
    images: float
    kept_epoch: int
    kept_because: str
    missed: str | None
    history: dict[str, list[float]]


def fit(
    model: LatentModel,
    data: Data,
    epochs: int | None = None,
    *,
    learning_rate: float = 3e-3,
    clip_norm: float = CLIP_NORM,
    ema: float = 0.0,
    patience: int | None = None,
    seed: int | None = None,
    xla: bool = False,
    folder: str | Path | None = None,
    save_seconds: float | None = None,
    verbose: bool = True,
) -> Trained:
    """Train a model as `kvae train` does, and restore the weights of the best epoch.

    The training uses Adam with a warm-up and a cosine decay of the learning rate, gradients clipped by their norm, many
    steps per call, `kvae.callbacks.Rescue` for values that aren't finite, and `kvae.callbacks.BestEpoch`.

    Args:
        model: a `kvae.VAE`, or another model of this package; it is compiled here.
        data: training and validation images. A conditional model is trained on their labels.
        epochs: passes over the training images (default: about 5,000 steps, 10 to 100 epochs).
        learning_rate: peak learning rate (warm-up, then cosine decay; `learning_rate_schedule`).
        clip_norm: largest norm of the gradient, in nats.
        ema: momentum of averaged weights, such as 0.999; 0 is none.
        patience: epochs without a better validation value after which training stops.
        seed: seed of the order of the images; None is that of `data`.
        xla: whether the training step is compiled with XLA.
        folder: folder for the state, which is saved after every epoch, with `history.csv` and the best model in
            `model.keras`. A call with the same folder resumes. None saves nothing.
        save_seconds: seconds between saves within an epoch.
        verbose: whether progress is printed.

    Returns:
        A summary of the training run. The model has the weights of the epoch that is kept.

    Raises:
        TypeError: if `data` is not a `kvae.data.Data`.
        ValueError: for a `patience`, if the objective keeps the last epoch.
        RunError: if no epoch had finite validation values, or the state can't be saved.
        Stopped: after Ctrl-C or SIGTERM, when the state is saved.

    Example:

        >>> import kvae
        >>> data = kvae.data.load("digits")
        >>> vae = kvae.VAE(latent_dim=2, image_shape=data.event_shape)
        >>> trained = fit(vae, data, epochs=2, verbose=False)
        >>> trained.epochs, trained.kept_epoch
        (2, 2)
    """
    if not isinstance(data, Data):
        raise TypeError(
            f"Argument `data` must be a `kvae.data.Data`. Received: {type(data).__name__}; for arrays, pass "
            "`kvae.data.load(images)`, for datasets, call `model.fit`"
        )
    check_patience(model, patience)
    epochs = epochs or default_epochs(data)
    steps = data.batches_per_epoch
    rate = LowerableRate(learning_rate_schedule(learning_rate, epochs * steps))
    optimizer = FusedAdam(rate, global_clipnorm=clip_norm, use_ema=bool(ema), ema_momentum=ema or 0.99, ema_warmup=True)
    # Many steps in one call share the framework's overhead (benchmarks/training/fit.py).
    model.compile(optimizer, jit_compile=xla or "auto", steps_per_execution=max(1, min(50, steps // 8)))
    labels, seed = model.condition_dim is not None, data.seed if seed is None else seed
    with ExitStack() as stack:
        place = Path(folder or stack.enter_context(tempfile.TemporaryDirectory()))
        progress = Progress(data.num_train, steps, verbose)
        best, rescue = BestEpoch(place / MODEL, patience), Rescue(rate)
        resume = Resume(place / unfinished.STATE, [progress, best, rescue], save_seconds, steps)
        if cluster.is_chief():
            unfinished.tidy(place, resume.epoch)
        callbacks = [
            # First, so that the other callbacks see the averaged weights.
            *([keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if ema else []),
            *([keras.callbacks.CSVLogger(str(place / HISTORY), append=True)] if cluster.is_chief() else []),
            *resume.others,
        ]
        batches = functools.partial(data.split, "train", shuffle=True, labels=labels, seed=seed)
        with _saved(resume, place, steps) if folder else nullcontext():
            history = resume.fit(
                model, functools.partial(on_devices, batches, data.batch_size),
                resume.epoch if resume.finished else epochs, callbacks,
                validation_data=by_image(data.split("validation", labels=labels)), shuffle=False, verbose=0,
            ).history  # fmt: skip
        if not best.epoch and not math.isfinite(best.best):
            resume.path.unlink(missing_ok=True)
            precision = model.decoder.compute_dtype
            raise RunError(
                f"No epoch had finite validation values. {rescue.diagnosis or ''} Lower the learning rate (it was "
                f"{learning_rate:g})" + ("" if precision == "float32" else f", or use float32 instead of {precision}")
            )
        if rescue.diagnosis and verbose:
            print(f"\nStopped: {rescue.diagnosis}.", flush=True)
        if not cluster.is_worker() and best.path.is_file():
            model.load_weights(best.path)
    return Trained(progress.epochs, progress.seconds, progress.images, best.epoch, best.because, best.missed, history)


@contextmanager
def _saved(resume: Resume, folder: Path, steps: int) -> Iterator[None]:
    """Save after the current step on Ctrl-C or SIGTERM, and say how to resume; also when the disk is full."""
    command = f"kvae train --resume {folder.parent}"
    try:
        with stoppable(resume):
            yield
    except KeyboardInterrupt:
        of_epoch = f" and {resume.batch} of {steps} steps" if resume.batch else ""
        raise Stopped(f"stopped; saved after {resume.epoch} epochs{of_epoch}. Resume with: {command}") from None
    except OSError as error:
        kept = f"The state after {resume.epoch} epochs is kept: free some disk space, and resume with: {command}"
        remedy = kept if resume.is_saved else "Free some disk space, and start again"
        raise RunError(f"The training run could not be saved ({error}). {remedy}") from error


class Progress(keras.callbacks.Callback):
    """A bar for the current epoch, a line for each finished epoch, and the duration of the training steps."""

    def __init__(self, images_per_epoch: int, batches: int, verbose: bool = True):
        super().__init__()
        self.say = functools.partial(print, flush=True) if verbose else None
        self.images_per_epoch = images_per_epoch
        self.batches = batches
        self.headed = False
        self.images = 0.0  # images in all training steps so far
        self.epochs = 0
        self.seconds = 0.0  # duration of the training steps, without validation

    def on_train_begin(self, logs: Any = None) -> None:
        if self.headed or self.say is None:
            return
        self.headed = True
        speed = f"{kind_of(self.model.event_shape)}/s"
        self.say(f"  epoch   distortion     rate    −ELBO   validation −ELBO   active latents {speed:>10}")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.bar = tqdm(
            total=self.params["steps"] or self.batches, desc=f"epoch {epoch + 1}/{self.params['epochs']}", unit="step",
            leave=False, disable=None if self.say else True,
        )  # fmt: skip
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.bar.update(batch + 1 - self.bar.n)
        self.ended = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.bar.close()
        seconds = self.ended - self.started
        images = self.images_per_epoch * (self.params["steps"] or self.batches) / self.batches
        self.seconds += seconds
        self.images += images
        self.epochs += 1
        logs = logs or {}
        if self.say is None or (
            (epoch + 1) % -(-self.params["epochs"] // MAX_LINES) and epoch + 1 < self.params["epochs"]
        ):
            return
        self.say(
            f"{epoch + 1:7d} {logs['distortion']:12.2f} {logs['rate']:8.2f} {-logs['elbo']:8.2f} "
            f"{logs['val_loss']:18.2f} {logs['active_units']:16.0f} {images / seconds:10,.0f}"
        )


def on_devices(batches: Callable[..., tf.data.Dataset], batch_size: int, **position: int) -> Any:
    """Return the batches from a position on, prefetched to the accelerator; for a worker, its part of each batch."""
    strategy = tf.distribute.get_strategy()
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        cluster.meet(strategy)  # after this, all workers have looked for a state

        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            worker = (context.input_pipeline_id, context.num_input_pipelines)
            dataset = batches(worker=worker, **position)
            if context.num_replicas_in_sync == context.num_input_pipelines:
                return dataset
            return dataset.rebatch(context.get_per_replica_batch_size(batch_size))  # a worker with several GPUs

        return strategy.distribute_datasets_from_function(of_worker)
    gpus = tf.config.list_logical_devices("GPU")
    dataset = batches(**position)
    return dataset.apply(tf.data.experimental.prefetch_to_device(gpus[0].name)) if gpus else dataset


def by_image(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Divide a dataset among workers, if there are several, image by image."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)


def learning_rate_schedule(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return a linear warm-up over the first tenth of the steps (500 at most) and a cosine decay to zero.

    Without the warm-up, a large rate can collapse the posterior for good in the first hundred steps.
    """
    warmup = max(1, min(500, steps // 10))
    return keras.optimizers.schedules.CosineDecay(
        peak / 20, max(1, steps - warmup), warmup_target=peak, warmup_steps=warmup
    )
