"""One training run, from settings to a finished RUN folder; also one that was stopped or killed on the way."""

import dataclasses
import datetime
import functools
import importlib.metadata
import inspect
import math
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tqdm import tqdm

from kvae import data, likelihoods, networks, objectives, optimizers, posteriors, priors, recipes, schedules
from kvae.best_epoch import BestEpoch, check_patience
from kvae.callbacks import LowerableRate, Rescue, Resume
from kvae.cli import unfinished, workers
from kvae.cli.console import (
    CommandError,
    Stopped,
    optional_steps,
    our_warnings,
    say,
    say_what_is_faster,
    undo_later,
)
from kvae.cli.evaluate import show_scores
from kvae.cli.features import probe_run, show_probe
from kvae.cli.plot import draw
from kvae.cli.run import as_trained, read_metrics, read_splits, with_data_seed, write_json, write_splits
from kvae.evaluation import EvaluationWarning, evaluate
from kvae.models import VAE, load
from kvae.models.base import CLIP_NORM
from kvae.report import write_report

STEPS, MIN_EPOCHS, MAX_EPOCHS = 5_000, 10, 100
MAX_LINES = 20  # of the table that training prints
SAID_AGAIN = {"warning", "not_made", "probe"}  # of a run that is described once more

LIKELIHOODS: dict[str, Any] = {
    "bernoulli": likelihoods.Bernoulli,
    "continuous-bernoulli": likelihoods.ContinuousBernoulli,
    "normal": lambda: likelihoods.Normal(scale=0.1),
    "normal-learned": lambda: likelihoods.Normal(scale=0.2, learned=True),
    "normal-optimal": lambda: likelihoods.OptimalNormal(scale=0.2),
    "normal-pixel": lambda: likelihoods.DiagonalNormal(min_scale=0.02),
    "normal-low-rank": lambda: likelihoods.LowRankNormal(min_scale=0.02),
    "laplace": lambda: likelihoods.Laplace(scale=0.2, learned=True),
    "logistic": likelihoods.DiscretizedLogistic,
    "logistic-mixture": likelihoods.DiscretizedLogisticMixture,
}
POSTERIORS: dict[str, Any] = {
    "normal": posteriors.DiagonalNormal,
    "full-covariance": posteriors.FullCovarianceNormal,
    "flow": posteriors.InverseAutoregressive,
}
PRIORS: dict[str, Any] = {
    "normal": priors.StandardNormal,
    "mixture": priors.Mixture,
    "vamp": priors.VampPrior,
    "flow": priors.RealNVP,
}
BODIES: dict[str, Any] = {
    "conv": lambda: (None, None),
    "mlp": lambda: (networks.MLP((512, 256)), networks.MLP((256, 512))),
    "residual": lambda: (networks.ResidualDown(), networks.ResidualUp()),
}
SEEN_IMAGES = 1000  # that a recipe may look at
SETTLED = {"beta", "warmup", "likelihood", "posterior", "prior", "network"}  # by a recipe


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `kvae train` was asked for; None or "auto" is settled when the data is known."""

    source: str
    recipe: str | None = None
    conditional: bool = False
    start: str | None = None
    epochs: int | None = None
    latent_dim: int | None = None
    seed: int = 0
    data_seed: int = 0
    data_dir: str | None = None
    batch_size: int = 128
    learning_rate: float = 3e-3
    beta: float = 1.0
    warmup: int = 0
    num_samples: int | None = None
    likelihood: str = "auto"
    posterior: str = "normal"
    prior: str = "normal"
    network: str = "conv"
    binarize: str = "none"
    size: int | tuple[int, int] | None = None
    grayscale: bool | None = None
    value_range: tuple[float, float] | None = None
    background: str | None = None
    key: str | None = None
    patience: int | None = None
    precision: str = "float32"
    ema: float = 0.0
    xla: bool = False
    deterministic: bool = False

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Settings":
        """Those that a run's config.json tells of."""
        config = with_data_seed(config)
        settled = SETTLED if config["recipe"] is not None else set()
        names = {field.name for field in dataclasses.fields(cls)} - settled
        return cls(**{name: config[name] for name in names & set(config)})

    def load(self) -> data.Data:
        return data.load(
            self.source, batch_size=self.batch_size, seed=self.data_seed, binarize=self.binarize, size=self.size,
            grayscale=self.grayscale, value_range=self.value_range, background=self.background or "white", key=self.key,
            data_dir=self.data_dir,
        )  # fmt: skip

    def with_recipe(self, given: set[str]) -> "Settings":
        """These settings with those of the recipe, but for what was `given` on the command line."""
        if self.recipe not in recipes.__all__:
            raise CommandError(f"Expected --recipe to be one of {', '.join(recipes.__all__)}. Received: {self.recipe}")
        if fixed := given & SETTLED:
            raise CommandError(f"--{min(fixed)} is what a recipe settles: leave it out, or leave out --recipe")
        settings = getattr(recipes, self.recipe).settings
        return dataclasses.replace(self, **{name: value for name, value in settings.items() if name not in given})

    def settle(self, images: data.Data) -> "Settings":
        """These settings with every choice made that depends on the data."""
        by_steps = round(STEPS / images.batches_per_epoch)
        color = images.image_shape[-1] > 1
        data_dir = self.data_dir or os.environ.get("TFDS_DATA_DIR")
        return dataclasses.replace(
            self,
            source=str(images.path or self.source),
            value_range=images.value_range,
            data_dir=str(Path(data_dir).resolve()) if data_dir else None,
            epochs=self.epochs or max(MIN_EPOCHS, min(MAX_EPOCHS, by_steps)),
            likelihood=("normal-learned" if color else "bernoulli") if self.likelihood == "auto" else self.likelihood,
        )

    def model(self, images: data.Data) -> VAE:
        """The VAE that these settings describe."""
        if self.conditional and not images.has_labels:
            raise CommandError(f"A conditional VAE needs labels. Received: {images.name}, which has none")
        if self.conditional and (bare := sorted(images.source.unlabelled)):
            raise CommandError(
                "A conditional VAE needs labels in every split: move the unlabelled images elsewhere. "
                f"Received: {images.name}, whose {' and '.join(bare)} split has none"
            )
        condition_dim = images.num_classes if self.conditional else None
        if self.recipe is None and self.num_samples is not None:
            raise CommandError("--importance-samples is for a recipe: add --recipe iwae, or leave it out")
        if self.recipe is not None:
            model = self._by_recipe(images, condition_dim)
        else:
            encoder, decoder = BODIES[self.network]()
            beta = schedules.LinearWarmup(self.warmup, end=self.beta) if self.warmup else self.beta
            model = VAE(
                encoder=networks.Encoder(self.latent_dim or 16, encoder),
                decoder=networks.Decoder(images.image_shape, decoder),
                posterior=POSTERIORS[self.posterior](),
                likelihood=LIKELIHOODS[self.likelihood](),
                prior=PRIORS[self.prior](),
                objective=objectives.ELBO(beta),
                condition_dim=condition_dim,
            )
        model.seed = self.seed
        if self.start is not None:
            start_from(model, load(Path(self.start) / "model.keras"), self.start)
        return model

    def _by_recipe(self, images: data.Data, condition_dim: int | None) -> VAE:
        build = getattr(recipes, self.recipe or "")
        wanted = inspect.signature(build).parameters
        assert self.epochs is not None
        known: dict[str, Any] = {
            "image_shape": images.image_shape,
            "latent_dim": self.latent_dim,
            "num_steps": self.epochs * images.batches_per_epoch,
            "num_images": images.num_train,
            "num_samples": self.num_samples,
            "condition_dim": condition_dim,
        }
        if "images" in wanted:
            known["images"] = images.arrays("train", limit=SEEN_IMAGES)[0]
        for name, option in (("condition_dim", "--conditional"), ("num_samples", "--importance-samples")):
            if known[name] is not None and name not in wanted:
                raise CommandError(f"Recipe {self.recipe} has no use for {option}")
        return build(**{name: value for name, value in known.items() if name in wanted and value is not None})


def start_from(model: VAE, other: VAE, name: str) -> None:
    """Give `model` the weights of `other`; CommandError if they aren't of the same networks."""
    for part in ("encoder", "decoder", "posterior", "likelihood", "prior"):
        mine, theirs = getattr(model, part), getattr(other, part)
        shapes = [[tuple(weight.shape) for weight in layer.weights] for layer in (mine, theirs)]
        if shapes[0] != shapes[1]:
            raise CommandError(f"Expected --from a run with the same {part} as this one is to have. Received: {name}")
        mine.set_weights(theirs.get_weights())


class Progress(keras.callbacks.Callback):
    """A bar for the running epoch, a line for each that is done; counts the time that training itself takes."""

    def __init__(self, images_per_epoch: int, batches: int):
        super().__init__()
        self.images_per_epoch = images_per_epoch
        self.batches = batches
        self.headed = False
        self.images = 0.0  # trained on, since the beginning
        self.epochs = 0
        self.seconds = 0.0  # training steps alone, without validation

    def on_train_begin(self, logs: Any = None) -> None:
        if self.headed:
            return
        self.headed = True
        say("  epoch   distortion     rate    −ELBO   validation −ELBO   active latents   images/s")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.bar = tqdm(
            total=self.params["steps"] or self.batches, desc=f"epoch {epoch + 1}/{self.params['epochs']}", unit="step",
            leave=False, disable=None,
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
        if (epoch + 1) % -(-self.params["epochs"] // MAX_LINES) and epoch + 1 < self.params["epochs"]:
            return
        say(
            f"{epoch + 1:7d} {logs['distortion']:12.2f} {logs['rate']:8.2f} {-logs['elbo']:8.2f} "
            f"{logs['val_loss']:18.2f} {logs['active_units']:16.0f} {images / seconds:10,.0f}"
        )


class UpToNextEpoch(keras.callbacks.Callback):
    """Ends a `fit` that did the rest of an epoch when the next one begins, whose dataset is a whole one."""

    class Reached(Exception):
        pass

    def on_train_begin(self, logs: Any = None) -> None:
        self.epochs = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epochs += 1
        if self.epochs > 1:
            raise UpToNextEpoch.Reached


def train_run(
    settings: Settings,
    run: Path,
    num_samples: int = 16,
    resume: bool = False,
    save_seconds: float | None = unfinished.SAVE_SECONDS,
    debug: bool = False,
) -> VAE:
    """Train, score and draw. RUN is written when the model is trained; until then all is in RUN/training.

    Args:
        settings: what to train.
        run: the folder.
        num_samples: posterior samples of the test images, for the nll.
        resume: go on with what is in RUN/training.
        save_seconds: after which the state is saved within an epoch, too.
        debug: show the tracebacks of what can't be said of the model.
    """
    _set_up(settings)
    with unfinished.held(run) as folder:
        images = _train(settings, run, folder, resume, save_seconds)
    return describe_run(run, images, num_samples, debug)


def train_in_worker(settings: Settings, run: Path, resume: bool = False) -> None:
    """The part of one of several workers in the training; the command that started it holds RUN, and scores it."""
    strategy = workers.join()  # before any other operation
    _set_up(settings)
    with workers.lost_others(), strategy.scope():
        _train(settings, run, run / unfinished.FOLDER, resume, save_seconds=None)


def _set_up(settings: Settings) -> None:
    our_warnings()
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    undo_later(keras.config.set_dtype_policy, keras.config.dtype_policy())
    keras.config.set_dtype_policy("float32" if settings.precision == "float32" else f"mixed_{settings.precision}")


def _train(settings: Settings, run: Path, folder: Path, resume: bool, save_seconds: float | None) -> data.Data:
    """Train until RUN is there, but for the scores; of several workers the chief alone writes."""
    images = settings.load()
    if resume:
        images = _as_begun(images, run, settings.source)
        model = dataclasses.replace(settings, start=None).model(images)  # all weights are in the state
    else:
        settings = settings.settle(images)
        model = settings.model(images)
        check_patience(model, settings.patience)
        if workers.is_chief():
            unfinished.clear(folder)
            write_json(folder / "config.json", _config(settings, images, model))
            write_splits(folder, images)
    say(
        f"{images.name}: {images.num_train:,} training, {images.num_validation:,} validation and "
        f"{images.num_test:,} test images of {'×'.join(map(str, images.image_shape))}"
    )
    kind = "Conditional VAE" if model.condition_dim else "VAE"
    likelihood = type(model.likelihood).__name__
    say(f"{kind} with {model.latent_dim} latents, {model.count_params():,} weights, {likelihood} likelihood\n")
    if not resume:  # which takes no other precision
        say_what_is_faster(settings.precision, "--precision float32")
    progress, best = fit(model, settings, images, folder, save_seconds)
    if workers.is_chief():
        training = {
            "train_seconds": progress.seconds,
            "epochs": progress.epochs,
            "images_per_second": progress.images / progress.seconds,
            **({"missed": best.missed} if best.missed else {}),
        }
        write_json(folder / "metrics.json", training)
        kept = {"kept_epoch": best.epoch, "kept_because": best.because}
        write_json(folder / "config.json", {**unfinished.settings_of(run), **kept})
        unfinished.finish(run, folder)
    say(f"\nTrained {progress.epochs} epochs in {progress.seconds:.0f} s.")
    say(f"Kept epoch {best.epoch} of {progress.epochs}: {best.because}.")
    if best.missed:
        say(f"Warning: {best.missed}.")
    return images


def _as_begun(images: data.Data, run: Path, source: str) -> data.Data:
    """The images in the splits that the training began with; CommandError if some that it needs aren't there."""
    began = read_splits(run / unfinished.FOLDER)
    began = read_splits(run) if began is None else began
    if began is not None:
        missing = images.changes(began).missing
        if lost := missing["train"] + missing["validation"]:
            raise CommandError(
                f"{lost:,} of the {len(began['train']) + len(began['validation']):,} images that the training began "
                f"with are gone from {source}, or others now: put them back, or begin anew with --overwrite"
            )
        return as_trained(images, began)
    count = unfinished.settings_of(run)["training_images"]  # all that is known
    if count != images.num_train:
        raise CommandError(f"{source} had {count:,} training images, and has {images.num_train:,} now")
    return images


def describe_run(run: Path, images: data.Data, num_samples: int, debug: bool = False) -> VAE:
    """Say what a trained model is like: scores, linear probe, figures, report; what can't be done is said, too."""
    say("Scoring the test split …\n")
    model = load(run / "model.keras")
    steps = optional_steps(debug)
    metrics = {name: value for name, value in read_metrics(run).items() if name not in SAID_AGAIN}
    with steps("Not scored: test split"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EvaluationWarning)
        scores = evaluate(model, images, num_samples, "test", progress=True)
        show_scores(scores, model.latent_dim)
        metrics |= scores
        if warned := [str(warning.message) for warning in caught if issubclass(warning.category, EvaluationWarning)]:
            metrics["warning"] = " ".join(warned)
            say(f"Warning: {metrics['warning']}\n")
    if images.has_labels and model.condition_dim is None:  # a conditional encoder is told the label
        with steps("Not made: linear probe"):
            metrics["probe"] = probe_run(model, images)
            show_probe(metrics["probe"])
    write_json(run / "metrics.json", metrics | ({"not_made": steps.failed} if steps.failed else {}))
    draw(run, model, images, optional_steps(debug))
    with steps("Not made: report"):
        write_report(run)
    return model


def fit(
    model: VAE, settings: Settings, images: data.Data, folder: Path, save_seconds: float | None
) -> tuple[Progress, BestEpoch]:
    """Fit `model`, from the state in `folder` if there is one.

    `folder` gets history.csv, model.keras, the best epoch by what the objective says, and the state after every epoch.
    """
    assert settings.epochs is not None
    steps = images.batches_per_epoch
    rate = LowerableRate(learning_rate_schedule(settings.learning_rate, settings.epochs * steps))
    optimizer = optimizers.Adam(
        rate, global_clipnorm=CLIP_NORM, use_ema=bool(settings.ema), ema_momentum=settings.ema or 0.99
    )
    # Many steps in one call: the framework's overhead is paid once (benchmarks/training/fit.py).
    model.compile(optimizer, jit_compile=settings.xla or "auto", steps_per_execution=max(1, min(50, steps // 8)))
    labels = model.condition_dim is not None
    progress, best = Progress(images.num_train, steps), BestEpoch(folder / "model.keras", settings.patience)
    while True:  # twice, if the first is the rest of an epoch
        rescue = Rescue(rate)
        counting: list[Any] = [progress, best, rescue]
        resume = Resume(folder / unfinished.STATE, counting, save_seconds, steps)
        first = resume.epoch
        if workers.is_chief():
            unfinished.tidy(folder, first)
        callbacks = [
            *([keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if settings.ema else []),  # all others see averages
            *([keras.callbacks.CSVLogger(str(folder / "history.csv"), append=True)] if workers.is_chief() else []),
            *counting,
            resume,
            *([UpToNextEpoch()] if resume.batch else []),
        ]
        batches = functools.partial(images.split, "train", shuffle=True, labels=labels, epoch=first, seed=settings.seed)
        batches = functools.partial(batches, skip=done_of(batches, resume.batch, images.counts_are_exact))
        try:
            with unfinished.stoppable(resume):
                model.fit(
                    on_devices(batches, images.batch_size),
                    validation_data=by_image(images.split("validation", labels=labels)),
                    epochs=first if resume.finished else settings.epochs, initial_epoch=first, callbacks=callbacks,
                    shuffle=False, verbose=0,
                )  # fmt: skip
        except UpToNextEpoch.Reached:
            workers.meet(tf.distribute.get_strategy())  # the chief has saved where all of them go on
            continue
        except KeyboardInterrupt:
            where = f"{resume.epoch} epochs" + (f" and {resume.batch} of {steps} steps" if resume.batch else "")
            raise Stopped(f"stopped; saved after {where}. Go on with: kvae train --resume {folder.parent}") from None
        except OSError as error:
            there = (
                f"What was saved after {resume.epoch} epochs is there: make room, and go on with: kvae train --resume"
            )
            raise CommandError(
                f"The training could not be saved ({error}). "
                + (f"{there} {folder.parent}" if resume.is_saved else "Make room, and begin again")
            ) from error
        break
    if not best.epoch and not math.isfinite(best.best):
        resume.path.unlink(missing_ok=True)
        raise CommandError(
            f"No epoch had finite validation values. {rescue.diagnosis or ''} Lower --learning-rate "
            f"(it was {settings.learning_rate}), or use --precision float32 (it was {settings.precision})"
        )
    if rescue.diagnosis:
        say(f"\nStopped: {rescue.diagnosis}.")
    return progress, best


def done_of(batches: Callable[..., tf.data.Dataset], batch: int, is_exact: bool) -> int:
    """How many batches of an epoch to leave out, so that one is left: damaged images may have made it shorter."""
    while batch and not is_exact and next(iter(batches(skip=batch)), None) is None:
        batch -= 1
    return batch


def on_devices(batches: Callable[..., tf.data.Dataset], batch_size: int) -> Any:
    """Batches wait on the accelerator, where there is one, before they are needed; a worker gets its part of each."""
    strategy = tf.distribute.get_strategy()
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        workers.meet(strategy)  # all of them have looked for a state by now

        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            dataset = batches(worker=(context.input_pipeline_id, context.num_input_pipelines))
            if context.num_replicas_in_sync == context.num_input_pipelines:
                return dataset
            return dataset.rebatch(context.get_per_replica_batch_size(batch_size))  # a worker with several GPUs

        return strategy.distribute_datasets_from_function(of_worker)
    gpus = tf.config.list_logical_devices("GPU")
    dataset = batches()
    return dataset.apply(tf.data.experimental.prefetch_to_device(gpus[0].name)) if gpus else dataset


def by_image(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Divided among workers, if there are several, image by image."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)


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
        **({} if settings.recipe is None else dict.fromkeys(sorted(SETTLED))),
        "parts": {
            part: type(getattr(model, part)).__name__ for part in ("likelihood", "posterior", "prior", "objective")
        },
        "latent_dim": model.latent_dim,
        "name": images.name,
        "image_shape": images.image_shape,
        "label_names": images.label_names,
        "training_images": images.num_train,
        "weights": model.count_params(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
    }
