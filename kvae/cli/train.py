"""`kvae train`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from kvae.cli import workers
from kvae.cli.console import ARGUMENTS, CommandError, our_warnings, say, start_tensorflow, warn_if_emulated
from kvae.cli.options import check_target, open_run
from kvae.cli.tables import describe
from kvae.run import MODEL, REPORT, RunFolder
from kvae.training import cluster, unfinished
from kvae.training.settings import (
    BATCH_SIZE,
    Binarize,
    FitPrior,
    Kind,
    Likelihood,
    Network,
    Posterior,
    Precision,
    Prior,
    Settings,
)

MODELS, DATA, OPTIMISATION = "Model", "Data", "Optimisation"
ROBUSTNESS, PROCESSES = "Robustness and reproducibility", "Several processes"
DEFAULT = Settings(source="")


def _option(panel: str, *names: str, **options: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **options)


def train(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            help="digits, shapes, faces, machine, a TensorFlow Datasets name, a folder of images or TFRecord files, or "
            "a file: .npy, .npz, .csv or .parquet."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Folder to write (default: runs/SOURCE).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing run.")] = False,
    samples: Annotated[int, typer.Option(min=1, help="Posterior samples for the final NLL.")] = 16,
    recipe: Annotated[str | None, _option(MODELS, help="Published variant (`kvae recipes` lists them).")] = None,
    latent_dim: Annotated[
        int | None, _option(MODELS, min=1, help="Number of latents (default: 16, or the recipe's).")
    ] = None,
    likelihood: Annotated[
        Likelihood,
        _option(
            MODELS,
            help="Likelihood of x (auto: bernoulli for grey images, normal-learned for colour, a normal distribution "
            "with learned variances for series).",
        ),
    ] = DEFAULT.likelihood,
    posterior: Annotated[Posterior, _option(MODELS, help="Family of q(z|x).")] = DEFAULT.posterior,
    prior: Annotated[Prior, _option(MODELS, help="Family of p(z).")] = DEFAULT.prior,
    fit_prior: Annotated[
        FitPrior,
        _option(
            MODELS,
            help="Prior that replaces the trained one after training: a mixture of normals, or a flow, fitted to the "
            "latents of the training images. Samples improve; the networks stay the same.",
        ),
    ] = DEFAULT.fit_prior,
    network: Annotated[Network, _option(MODELS, help="Body of encoder and decoder.")] = DEFAULT.network,
    conditional: Annotated[
        bool, _option(MODELS, "--conditional", help="Condition on the labels.")
    ] = DEFAULT.conditional,
    beta: Annotated[float, _option(MODELS, min=0, help="Weight of the rate.")] = DEFAULT.beta,
    warmup: Annotated[int, _option(MODELS, min=0, help="Steps over which beta grows from 0.")] = DEFAULT.warmup,
    num_samples: Annotated[
        int | None,
        _option(MODELS, "--importance-samples", min=1, help="Posterior samples K of an importance-weighted recipe."),
    ] = None,
    start: Annotated[
        Path | None, _option(MODELS, "--from", metavar="RUN", help="Run that provides the initial weights.")
    ] = None,
    data_dir: Annotated[
        Path | None, _option(DATA, help="Folder of prepared TensorFlow Datasets (default: TFDS_DATA_DIR).")
    ] = None,
    binarize: Annotated[
        Binarize, _option(DATA, help="Binarisation of the pixels (stochastic: redrawn each epoch).")
    ] = DEFAULT.binarize,
    size: Annotated[str | None, _option(DATA, metavar="N|HxW", help="Size to crop and resize images to.")] = None,
    grayscale: Annotated[bool | None, _option(DATA, help="Convert images to grey, or to colour.")] = None,
    value_range: Annotated[
        tuple[float, float] | None,
        _option(
            DATA,
            metavar="LOW HIGH",
            help="Pixel values that become 0 and 1 (default: 0 and 255; of images deeper than 8 bits, the range of "
            "the training images).",
        ),
    ] = None,
    background: Annotated[
        str | None, _option(DATA, metavar="COLOR", help="Background of transparent images (default: white).")
    ] = None,
    key: Annotated[str | None, _option(DATA, metavar="NAME", help="Entry of an .npz file with the images.")] = None,
    kind: Annotated[
        Kind, _option(DATA, help="Kind of data (auto: series with --window, images or a table by the type of source).")
    ] = DEFAULT.kind,
    window: Annotated[
        int | None, _option(DATA, min=2, metavar="N", help="Rows in a window of a long series, such as a .csv file.")
    ] = None,
    stride: Annotated[
        int | None,
        _option(DATA, min=1, metavar="N", help="Rows from one window to the next (default: a quarter of the window)."),
    ] = None,
    time: Annotated[
        str | None, _option(DATA, metavar="COLUMN", help="Column of times; no window crosses a gap in them.")
    ] = None,
    columns: Annotated[
        str | None,
        _option(DATA, metavar="A,B,C", help="Columns to use (default: of series, all numbers that vary)."),
    ] = None,
    series: Annotated[
        str | None, _option(DATA, metavar="COLUMN", help="Column that names the series of a row, such as a machine.")
    ] = None,
    data_seed: Annotated[
        int,
        _option(
            DATA,
            min=0,
            help="Seed for splitting and for binarising the evaluation images. Splits that a source has itself, and "
            "those of TFDS and TFRecord sources, don't depend on it.",
        ),
    ] = DEFAULT.data_seed,
    epochs: Annotated[
        int | None,
        _option(OPTIMISATION, min=1, help="Passes over the data (default: about 5,000 steps, 10 to 100 epochs)."),
    ] = None,
    batch_size: Annotated[
        int | None,
        _option(OPTIMISATION, min=1, help="Images in a step (default: 128 or the recipe's; fewer above 64×64)."),
    ] = None,
    learning_rate: Annotated[
        float, _option(OPTIMISATION, help="Peak learning rate (warm-up, then cosine decay).")
    ] = DEFAULT.learning_rate,
    patience: Annotated[
        int | None,
        _option(
            OPTIMISATION,
            min=1,
            help="Number of epochs without a better validation value before training stops; a warm-up isn't counted. "
            "Not available for objectives that keep the last epoch.",
        ),
    ] = None,
    ema: Annotated[
        float,
        _option(
            OPTIMISATION,
            min=0,
            max=0.999999,
            help="Momentum of averaged weights, such as 0.999 (smaller in the first steps); 0 disables averaging.",
        ),
    ] = DEFAULT.ema,
    precision: Annotated[
        Precision, _option(OPTIMISATION, help="Precision of the networks; densities stay float32.")
    ] = DEFAULT.precision,
    xla: Annotated[bool, _option(OPTIMISATION, "--xla", help="Compilation of the training step with XLA.")] = False,
    seed: Annotated[int, _option(ROBUSTNESS, min=0, help="Seed of initialisation, order and noise.")] = DEFAULT.seed,
    deterministic: Annotated[
        bool,
        _option(
            ROBUSTNESS, "--deterministic", help="Use only deterministic operations: repeated runs give the same bits."
        ),
    ] = False,
    resume: Annotated[Path | None, _option(ROBUSTNESS, metavar="RUN", help="Interrupted run to resume.")] = None,
    save_seconds: Annotated[
        float,
        _option(ROBUSTNESS, min=0, help="Seconds between saves within an epoch; the end of an epoch is always saved."),
    ] = unfinished.SAVE_SECONDS,
    num_workers: Annotated[
        int,
        _option(
            PROCESSES,
            "--workers",
            min=1,
            help="Number of processes that train together, on this machine or those in TF_CONFIG.",
        ),
    ] = 1,
    worker_timeout: Annotated[
        float, _option(PROCESSES, min=1, help="Number of seconds to wait for all workers to connect.")
    ] = 120,
) -> None:
    """Train a VAE, score it on the test split, and write a RUN folder with model, figures and report.

    The training state is saved after every epoch and on Ctrl-C: a run continued with --resume gives the same model.

    Example: kvae train mnist --latent-dim 2 --epochs 20 --out runs/mnist-2d
    """
    arguments, given = context.meta[ARGUMENTS], {name for name in context.params if _was_given(context, name)}
    if resume is not None:
        if fixed := given - {"resume", "samples", "save_seconds", "num_workers", "worker_timeout"}:
            options = {option.name: option.opts[0] for option in context.command.params}
            raise CommandError(
                "A resumed run keeps its settings: leave out " + ", ".join(sorted(options[name] for name in fixed))
            )
        _resume(resume, arguments, samples, save_seconds, num_workers, worker_timeout, context.obj)
        return
    if source is None:
        raise CommandError("Expected a SOURCE to train on, or --resume RUN: see `kvae train --help`")
    run = out or Path("runs") / Path(source).stem
    if not cluster.is_worker() and (num_workers == 1 or workers.Cluster.of(num_workers).has_chief):
        check_target(run, overwrite)
    if start is not None and not (start / MODEL).is_file():
        raise CommandError(f"Expected --from to be a folder made by `kvae train`. Received: {start}")
    names = {field.name for field in dataclasses.fields(Settings)} & set(context.params)
    wanted = Settings(**{name: _plain(context.params[name]) for name in names})
    wanted = dataclasses.replace(wanted, size=_parse_size(size), columns=_parse_columns(columns))
    if num_workers > 1 and not cluster.is_worker():
        if recipe is None or batch_size is not None:
            _check_shares(batch_size or BATCH_SIZE, num_workers)
        if workers.train(arguments, run, num_workers, worker_timeout, overwrite):
            _describe(run, samples, context.obj)
        return
    _begin(context.obj)
    wanted = wanted if recipe is None else wanted.with_recipe(given)
    warn_if_emulated(wanted.precision, "--precision float32")
    _train(wanted, run, samples, save_seconds, context.obj)


def _begin(debug: bool) -> None:
    start_tensorflow(debug, first_operation=not cluster.is_worker())
    our_warnings()


def _train(wanted: Settings, run: Path, samples: int, save_seconds: float, debug: bool, resume: bool = False) -> None:
    from kvae.training import job

    if cluster.is_worker():
        job.train_in_worker(wanted, run, resume)
        return
    describe(run, job.train_run(wanted, run, resume, save_seconds), samples, debug)
    _say_what_next(run)


def _resume(
    run: Path,
    arguments: list[str],
    samples: int,
    save_seconds: float,
    num_workers: int,
    worker_timeout: float,
    debug: bool,
) -> None:
    """Resume the training run in RUN/training; if it is trained, add the scores, figures or report that are missing."""
    if not cluster.is_worker() and not unfinished.exists(run):
        if not (run / MODEL).is_file():
            raise CommandError(f"Expected --resume to be a folder with an unfinished training run. Received: {run}")
        if RunFolder(run).is_described:  # no error: a scheduler may restart a finished run
            say(f"{run} is finished. To train it further: kvae train SOURCE --from {run} --out ANOTHER")
            return
        _describe(run, samples, debug)
    elif num_workers > 1 and not cluster.is_worker():
        _check_shares(unfinished.config_of(run)["batch_size"], num_workers)
        if workers.train(arguments, run, num_workers, worker_timeout, overwrite=False):
            _describe(run, samples, debug)
    else:
        _begin(debug)
        wanted = Settings.from_config(unfinished.config_of(run))
        _train(wanted, run, samples, save_seconds, debug, resume=True)


def _describe(run: Path, samples: int, debug: bool) -> None:
    """Describe a run that is trained: by several workers, or before the process was killed."""
    data = open_run(run, debug).data()
    from kvae.training.fitted_prior import fit_prior_of  # imports TensorFlow, which `open_run` has started

    with unfinished.locked(run):
        fit_prior_of(run, data)
    describe(run, data, samples, debug)
    _say_what_next(run)


def _say_what_next(run: Path) -> None:
    if (run / REPORT).is_file():
        say(f"Report:    {run / REPORT}")
    say(f"Generate:  kvae generate {run} -n 64 --seed 7")
    say(f"Export:    kvae export {run} --out {run}-export")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _plain(value: Any) -> Any:
    """Convert a parameter to its type in `Settings`."""
    return str(value) if isinstance(value, Path) else value


def _check_shares(batch_size: int, num_workers: int) -> None:
    if batch_size % num_workers:
        raise CommandError(
            f"Expected --batch-size to be a multiple of {num_workers}, the number of workers. "
            f"Received: --batch-size {batch_size}"
        )


def _parse_columns(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _parse_size(text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    try:
        sizes = [int(part) for part in text.lower().replace("×", "x").split("x")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2) or min(sizes) < 1:
        raise CommandError(f"Expected --size to be N or HxW, in pixels. Received: {text}")
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])
