"""`kvae plot`, and the pictures of a run."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kvae.cli.console import optional_steps, say
from kvae.cli.run import DataDirOption, RunArgument, open_run, read_history
from kvae.steps import Steps

if TYPE_CHECKING:
    from kvae.data import Data
    from kvae.models import VAE

PICTURED = 2000  # test images behind the latent map and the statistics per latent


def plot(context: typer.Context, run: RunArgument, data_dir: DataDirOption = None) -> None:
    """Draw a run's figures and its report again.

    Example: kvae plot runs/mnist
    """
    opened = open_run(run, context.obj)
    from kvae.report import write_report

    for path in draw(run, opened.model, opened.data(data_dir=data_dir), optional_steps(context.obj)):
        say(f"Wrote {path}")
    say(f"Wrote {write_report(run)}")


def draw(run: Path, model: "VAE", data: "Data", steps: Steps) -> list[Path]:
    """Write the figures of a run from its first test images."""
    from kvae.evaluation import latent_statistics
    from kvae.features import extract
    from kvae.report import list_figures, write_figures

    failure, paths = "Not drawn: figures", []
    with steps(failure):
        images, labels = data.arrays("test", limit=PICTURED)
        if model.condition_dim is not None and labels is not None:
            images, labels = images[labels >= 0], labels[labels >= 0]  # without its label none can be encoded
        features = extract(model, images if labels is None else (images, labels), hidden=False)
        statistics = latent_statistics(features["mean"], features["variance"])
        paths = write_figures(
            run, model, images, labels, read_history(run),
            label_names=data.label_names, means=features["mean"], kl=statistics.kl, steps=steps,
        )  # fmt: skip
    if failure in steps.failed:
        list_figures(run, [], {failure: steps.failed[failure]})
    return paths
