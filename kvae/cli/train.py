"""`kvae train`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kvae.cli import unfinished, workers
from kvae.cli.console import ARGUMENTS, CommandError, say, start_tensorflow
from kvae.cli.run import DataDirOption, is_described, open_run


class Likelihood(StrEnum):
    auto = "auto"
    bernoulli = "bernoulli"
    continuous_bernoulli = "continuous-bernoulli"
    normal = "normal"
    normal_learned = "normal-learned"
    normal_optimal = "normal-optimal"
    normal_pixel = "normal-pixel"
    normal_low_rank = "normal-low-rank"
    laplace = "laplace"
    logistic = "logistic"
    logistic_mixture = "logistic-mixture"


class Posterior(StrEnum):
    normal = "normal"
    full_covariance = "full-covariance"
    flow = "flow"


class Prior(StrEnum):
    normal = "normal"
    mixture = "mixture"
    vamp = "vamp"
    flow = "flow"


class Network(StrEnum):
    conv = "conv"
    mlp = "mlp"
    residual = "residual"


class Binarize(StrEnum):
    none = "none"
    threshold = "threshold"
    stochastic = "stochastic"


class Precision(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def train(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            help="digits, shapes, a TFDS name, a folder of images or TFRecord files, or an .npy/.npz file.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Folder to write (else runs/SOURCE).", show_default=False),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A published variant; `kvae recipes` lists them.", show_default=False)
    ] = None,
    conditional: Annotated[bool, typer.Option("--conditional", help="Condition on the labels.")] = False,
    start: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="Start with the weights of this run.", show_default=False),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Passes over the data (else about 5,000 steps, 10 to 100 epochs).", show_default=False
        ),
    ] = None,
    latent_dim: Annotated[
        int | None, typer.Option(min=1, help="Number of latents (else 16, or the recipe's).", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of initialisation, order and noise in training.")] = 0,
    data_seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="Seed of the splits that are cut from arrays and folders of images, and of binarised validation and "
            "test images. It doesn't change splits that a source has itself, nor those of TFDS and TFRecord sources: "
            "what they lack is the end of their training images.",
        ),
    ] = 0,
    data_dir: DataDirOption = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    learning_rate: Annotated[
        float, typer.Option(help="Of Adam at its highest: a short way up, then down along a cosine.")
    ] = 3e-3,
    beta: Annotated[float, typer.Option(min=0, help="Weight of the rate.")] = 1.0,
    warmup: Annotated[int, typer.Option(min=0, help="Steps over which beta grows from 0.")] = 0,
    likelihood: Annotated[
        Likelihood,
        typer.Option(help="Of a pixel; auto: bernoulli for grey images, normal-learned for colour."),
    ] = Likelihood.auto,
    posterior: Annotated[Posterior, typer.Option(help="Family of q(z|x).")] = Posterior.normal,
    prior: Annotated[Prior, typer.Option(help="Family of p(z).")] = Prior.normal,
    network: Annotated[Network, typer.Option(help="Body of encoder and decoder.")] = Network.conv,
    num_samples: Annotated[
        int | None,
        typer.Option(
            "--importance-samples", min=1, help="K of a recipe with more than one posterior sample.", show_default=False
        ),
    ] = None,
    binarize: Annotated[
        Binarize, typer.Option(help="Make pixels 0 or 1; stochastic: anew each epoch.")
    ] = Binarize.none,
    size: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Crop and resize images to this.", show_default=False)
    ] = None,
    grayscale: Annotated[bool | None, typer.Option(help="Make images grey, or colour.", show_default=False)] = None,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            help="Values that become 0 and 1 (else 0 and 255; of deeper images, those of the training images).",
            show_default=False,
        ),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(metavar="COLOR", help="Background of transparent images (else white).", show_default=False),
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Entry of an .npz file with the images.", show_default=False)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stop after so many epochs that were no better by the validation value of the objective; warm-up "
            "doesn't count. Not for objectives that keep the last epoch.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Of the networks; densities stay float32.")] = Precision.float32,
    ema: Annotated[
        float,
        typer.Option(
            min=0, max=0.999999, help="Momentum of averaged weights, such as 0.999 (less at first); 0 is none."
        ),
    ] = 0.0,
    xla: Annotated[bool, typer.Option("--xla", help="Compile the training step with XLA.")] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Only operations that give the same bits every time.")
    ] = False,
    samples: Annotated[int, typer.Option(min=1, help="Posterior samples for the final nll.")] = 16,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with a training that was stopped or killed.", show_default=False),
    ] = None,
    save_seconds: Annotated[
        float, typer.Option(min=0, help="Save within an epoch, too, when so many have passed. Epochs are always saved.")
    ] = unfinished.SAVE_SECONDS,
    num_workers: Annotated[
        int,
        typer.Option("--workers", min=1, help="Processes that train together: here, or on the machines of TF_CONFIG."),
    ] = 1,
    worker_timeout: Annotated[float, typer.Option(min=1, help="Seconds within which all workers must have met.")] = 120,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
) -> None:
    """Train a VAE, score it on the test split, and write a RUN folder with model, figures and report.

    Ctrl-C saves, and so does every epoch: --resume goes on from there, to the same model.

    Example: kvae train mnist --latent-dim 2 --epochs 20 --out runs/mnist-2d
    """
    arguments = context.meta[ARGUMENTS]
    if resume is not None:
        given = [name for name in context.params if _was_given(context, name)]
        if others := set(given) - {"resume", "samples", "save_seconds", "num_workers", "worker_timeout"}:
            options = {option.name: option.opts[0] for option in context.command.params}
            raise CommandError(
                "A training goes on with the settings that it began with: leave out "
                + ", ".join(sorted(options[name] for name in others))
            )
        _go_on(resume, arguments, samples, save_seconds, num_workers, worker_timeout, context.obj)
        return
    if source is None:
        raise CommandError("Expected a SOURCE to train on, or --resume RUN: see `kvae train --help`")
    run = out or Path("runs") / Path(source).stem
    if not workers.is_worker() and (num_workers == 1 or workers.Cluster.of(num_workers).has_chief):
        check_target(run, overwrite)
    parsed = _parse_size(size)
    if start is not None and not (start / "model.keras").is_file():
        raise CommandError(f"Expected --from a folder made by `kvae train`. Received: {start}")
    if num_workers > 1 and not workers.is_worker():
        if recipe is None or _was_given(context, "batch_size"):
            _check_shares(batch_size, num_workers)
        if workers.train(arguments, run, num_workers, worker_timeout, overwrite):
            _score(run, samples, context.obj)
        return
    start_tensorflow(context.obj, first_operation=not workers.is_worker())
    from kvae.cli.training import Settings, train_in_worker, train_run

    settings = Settings(
        source=source, recipe=recipe, conditional=conditional, start=str(start) if start else None, epochs=epochs,
        latent_dim=latent_dim, seed=seed, data_seed=data_seed, data_dir=str(data_dir) if data_dir else None,
        batch_size=batch_size,
        learning_rate=learning_rate, beta=beta, warmup=warmup, num_samples=num_samples, likelihood=likelihood.value,
        posterior=posterior.value, prior=prior.value,
        network=network.value, binarize=binarize.value, size=parsed, grayscale=grayscale,
        value_range=value_range, background=background, key=key, patience=patience,
        precision=precision.value, ema=ema, xla=xla,
        deterministic=deterministic,
    )  # fmt: skip
    if recipe is not None:
        settings = settings.with_recipe({name for name in context.params if _was_given(context, name)})
    if workers.is_worker():
        train_in_worker(settings, run)
        return
    train_run(settings, run, samples, save_seconds=save_seconds, debug=context.obj)
    _say_what_next(run)


def _check_shares(batch_size: int, num_workers: int) -> None:
    if batch_size % num_workers:
        raise CommandError(
            f"Expected batches that {num_workers} workers can share: a multiple of {num_workers} images. "
            f"Received: --batch-size {batch_size}"
        )


def _go_on(
    run: Path,
    arguments: list[str],
    samples: int,
    save_seconds: float,
    num_workers: int,
    worker_timeout: float,
    debug: bool,
) -> None:
    """Resume what is in RUN/training; or describe what is trained, where scores, figures or report are missing."""
    if workers.is_worker():
        start_tensorflow(debug, first_operation=False)
        from kvae.cli.training import Settings, train_in_worker

        train_in_worker(Settings.from_config(unfinished.settings_of(run)), run, resume=True)
    elif not unfinished.is_there(run):
        if not (run / "model.keras").is_file():
            raise CommandError(f"Expected --resume a folder with an unfinished training. Received: {run}")
        if is_described(run):  # no error: schedulers restart what they don't know to be done
            say(f"{run} is finished. To train it further: kvae train SOURCE --from {run} --out ANOTHER")
            return
        _score(run, samples, debug)
    elif num_workers > 1:
        _check_shares(unfinished.settings_of(run)["batch_size"], num_workers)
        if workers.train(arguments, run, num_workers, worker_timeout, overwrite=False):
            _score(run, samples, debug)
    else:
        start_tensorflow(debug)
        from kvae.cli.training import Settings, train_run

        settings = Settings.from_config(unfinished.settings_of(run))
        train_run(settings, run, samples, resume=True, save_seconds=save_seconds, debug=debug)
        _say_what_next(run)


def _score(run: Path, samples: int, debug: bool) -> None:
    """Score and draw what is trained."""
    opened = open_run(run, debug)
    from kvae.cli.training import describe_run

    describe_run(run, opened.data(), samples, debug)
    _say_what_next(run)


def _say_what_next(run: Path) -> None:
    if (run / "report.html").is_file():
        say(f"Look at it:  {run / 'report.html'}")
    say(f"Use it:      kvae sample {run} -n 64 --seed 7 --out grid.png")
    say(f"Ship it:     kvae export {run} --out {run}-export")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def check_target(run: Path, overwrite: bool) -> None:
    if run.exists() and not run.is_dir():
        raise CommandError(f"Expected --out to be a folder. Received: {run}, a file")
    if (run / unfinished.FOLDER).is_dir():
        with unfinished.held(run):  # or an error: another process trains it
            pass
    if run.is_dir() and any(run.iterdir()):
        started = unfinished.is_there(run)
        if not overwrite and started:
            raise CommandError(
                f"{run} has an unfinished training: go on with `kvae train --resume {run}`, or pass --overwrite to "
                "begin anew"
            )
        if not overwrite:
            raise CommandError(f"{run} is there already: choose another --out, or pass --overwrite to replace it")
        if not (run / "config.json").is_file() and not started:
            raise CommandError(f"Expected --overwrite to replace a run. Received: {run}, a folder of something else")


def _parse_size(text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    try:
        sizes = [int(part) for part in text.lower().replace("×", "x").split("x")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2) or min(sizes) < 1:
        raise CommandError(f"Expected --size as N or HxW, in pixels. Received: {text}")
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])
