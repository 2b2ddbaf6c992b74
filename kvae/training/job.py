"""One training run, from settings to a finished run folder; also after it was stopped or killed."""

import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kvae.callbacks.best import check_patience
from kvae.data import Data
from kvae.models import VAE
from kvae.networks import kind_of
from kvae.run import CONFIG, METRICS, RunError, in_splits_of_training, read_splits, write_json, write_splits
from kvae.training import cluster, unfinished
from kvae.training.fitted_prior import check_fit_prior, fit_prior_of
from kvae.training.loop import fit
from kvae.training.parts import model_of
from kvae.training.settings import OF_RECIPES, Settings

_say = functools.partial(print, flush=True)


def train_run(
    settings: Settings,
    run: Path,
    resume: bool = False,
    save_seconds: float | None = unfinished.SAVE_SECONDS,
) -> Data:
    """Train a model and write its run folder. Until the model is trained, everything is in RUN/training.

    Args:
        settings: settings of the training run.
        run: path of the folder.
        resume: whether to resume the training run in RUN/training.
        save_seconds: seconds between saves within an epoch.

    Returns:
        The data, for `kvae.training.describe_run`.

    Raises:
        RunError: if another process trains this run, the settings don't fit the data, or the dataset has changed.
        Stopped: after Ctrl-C or SIGTERM, when the state is saved.
    """
    with _set_up(settings), unfinished.locked(run) as folder:
        images = _train(settings, run, folder, resume, save_seconds)
        fit_prior_of(run, images)
        return images


def train_in_worker(settings: Settings, run: Path, resume: bool = False) -> None:
    """Train as one of several workers. The command that started them holds the lock of RUN, and scores the model."""
    strategy = cluster.join()  # before any other operation
    with _set_up(settings), cluster.lost_others(), strategy.scope():
        _train(settings, run, run / unfinished.FOLDER, resume, save_seconds=None)


@contextlib.contextmanager
def _set_up(settings: Settings) -> Iterator[None]:
    """Set the seed, and the precision of new layers, from the settings; restore the precision at the end."""
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32" if settings.precision == "float32" else f"mixed_{settings.precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _train(settings: Settings, run: Path, folder: Path, resume: bool, save_seconds: float | None) -> Data:
    """Train and write RUN, except for the scores. Of several workers, only the chief writes."""
    images = settings.load()
    if resume:
        images = _as_at_start(images, run, settings.source)
        model = model_of(dataclasses.replace(settings, start=None), images)  # all weights are in the state
    else:
        settings = settings.for_data(images)
        model = model_of(settings, images)
        check_patience(model, settings.patience)
        check_fit_prior(model, settings.fit_prior)
        if cluster.is_chief():
            unfinished.clear(folder)
            write_json(folder / CONFIG, _config(settings, images, model))
            write_splits(folder, images)
    _say(
        f"{images.name}: {images.num_train:,} training, {images.num_validation:,} validation and "
        f"{images.num_test:,} test {kind_of(images.event_shape)} of {'×'.join(map(str, images.event_shape))}"
    )
    kind = "Conditional VAE" if model.condition_dim else "VAE"
    likelihood = type(getattr(model.likelihood, "base", model.likelihood)).__name__
    _say(f"{kind} with {model.latent_dim} latents, {model.count_params():,} weights, {likelihood} likelihood\n")
    trained = fit(
        model, images, settings.epochs, learning_rate=settings.learning_rate, ema=settings.ema,
        patience=settings.patience, seed=settings.seed, xla=settings.xla, folder=folder, save_seconds=save_seconds,
    )  # fmt: skip
    if cluster.is_chief():
        training = {
            "train_seconds": trained.seconds,
            "epochs": trained.epochs,
            "images_per_second": trained.images / trained.seconds,
            **({"missed": trained.missed} if trained.missed else {}),
        }
        write_json(folder / METRICS, training)
        kept = {"kept_epoch": trained.kept_epoch, "kept_because": trained.kept_because}
        write_json(folder / CONFIG, {**unfinished.config_of(run), **kept})
        unfinished.finish(run, folder)
    _say(f"\nTrained {trained.epochs} epochs in {trained.seconds:.0f} s.")
    _say(f"Kept epoch {trained.kept_epoch} of {trained.epochs}: {trained.kept_because}.")
    if trained.missed:
        _say(f"Warning: {trained.missed}.")
    return images


def _as_at_start(images: Data, run: Path, source: str) -> Data:
    """Return the images in the splits of the training run; raise a RunError if some are missing."""
    began = read_splits(run / unfinished.FOLDER)
    began = read_splits(run) if began is None else began
    if began is not None:
        missing = images.changes(began).missing
        if lost := missing["train"] + missing["validation"]:
            total = f"{len(began['train']) + len(began['validation']):,} {kind_of(images.event_shape)}"
            raise RunError(
                f"{lost:,} of the {total} of this training run are missing from {source}, or have changed: restore "
                "them, or start again with --overwrite"
            )
        return in_splits_of_training(images, began)
    count = unfinished.config_of(run)["training_images"]  # an older run has no list of its images
    if count != images.num_train:
        raise RunError(
            f"Expected the {count:,} training images of {source} that this run was started with. Received: "
            f"{images.num_train:,}; start again with --overwrite"
        )
    return images


def _config(settings: Settings, images: Data, model: VAE) -> dict[str, Any]:
    packages = ("keras-vae", "tensorflow", "keras", "numpy")
    return {
        **dataclasses.asdict(settings),
        **({} if settings.recipe is None else dict.fromkeys(sorted(OF_RECIPES))),
        "parts": {
            part: type(getattr(model, part)).__name__ for part in ("likelihood", "posterior", "prior", "objective")
        },
        "latent_dim": model.latent_dim,
        "name": images.name,
        "event_shape": images.event_shape,
        "label_names": images.label_names,
        "training_images": images.num_train,
        "weights": model.count_params(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
    }
