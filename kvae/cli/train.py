"""`kvae train`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kvae.cli.console import CommandError, say, start_tensorflow
from kvae.cli.run import DataDirOption


class Likelihood(StrEnum):
    auto = "auto"
    bernoulli = "bernoulli"
    normal = "normal"
    normal_learned = "normal-learned"
    normal_pixel = "normal-pixel"


class Network(StrEnum):
    conv = "conv"
    mlp = "mlp"


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
        str,
        typer.Argument(help="digits, a TFDS name, a folder of images, or an .npy/.npz file.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Folder to write (else runs/SOURCE).", show_default=False),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Passes over the data (else about 5,000 steps, 10 to 100 epochs).", show_default=False
        ),
    ] = None,
    latent_dim: Annotated[int, typer.Option(min=1, help="Number of latents.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of initialisation, order, binarisation and noise.")] = 0,
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
    network: Annotated[Network, typer.Option(help="Body of encoder and decoder.")] = Network.conv,
    binarize: Annotated[
        Binarize, typer.Option(help="Make pixels 0 or 1; stochastic: anew each epoch.")
    ] = Binarize.none,
    size: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Crop and resize images to this.", show_default=False)
    ] = None,
    grayscale: Annotated[bool | None, typer.Option(help="Make images grey, or colour.", show_default=False)] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Stop after so many epochs without a better val_loss.", show_default=False),
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Of the networks; densities stay float32.")] = Precision.float32,
    xla: Annotated[bool, typer.Option("--xla", help="Compile the training step with XLA.")] = False,
    samples: Annotated[int, typer.Option(min=1, help="Posterior samples for the final nll.")] = 16,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
) -> None:
    """Train a VAE, score it on the test split, and write a RUN folder with model, figures and report.

    Example: kvae train mnist --latent-dim 2 --epochs 20 --out runs/mnist-2d
    """
    run = out or Path("runs") / Path(source).stem
    check_target(run, overwrite)
    parsed = _parse_size(size)
    start_tensorflow(context.obj)
    from kvae.cli.training import Settings, train_run

    settings = Settings(
        source=source, epochs=epochs, latent_dim=latent_dim, seed=seed, data_dir=str(data_dir) if data_dir else None,
        batch_size=batch_size, learning_rate=learning_rate, beta=beta, warmup=warmup, likelihood=likelihood.value,
        network=network.value, binarize=binarize.value, size=parsed, grayscale=grayscale, patience=patience,
        precision=precision.value, xla=xla,
    )  # fmt: skip
    train_run(settings, run, samples)
    say(f"Look at it:  {run / 'report.html'}")
    say(f"Use it:      kvae sample {run} -n 64 --seed 7 --out grid.png")
    say(f"Ship it:     kvae export {run} --out {run}-export")


def check_target(run: Path, overwrite: bool) -> None:
    if run.exists() and not run.is_dir():
        raise CommandError(f"Expected --out to be a folder. Received: {run}, a file")
    if run.is_dir() and any(run.iterdir()):
        if not overwrite:
            raise CommandError(f"{run} is there already: choose another --out, or pass --overwrite to replace it")
        if not (run / "config.json").is_file():
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
