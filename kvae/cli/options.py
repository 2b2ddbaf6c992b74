"""Options that several commands share, and the function that opens their run."""

from pathlib import Path
from typing import Annotated

import typer

from kvae.cli.console import CommandError, our_warnings, start_tensorflow
from kvae.run import CONFIG, RunError, RunFolder
from kvae.training import unfinished

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder made by `kvae train`.")]
DataDirOption = Annotated[
    Path | None,
    typer.Option(help="Folder of prepared TensorFlow Datasets (default: TFDS_DATA_DIR)."),
]


def open_run(path: Path, debug: bool = False) -> RunFolder:
    """Open a run and load its model. A folder without a run is refused before TensorFlow is imported."""
    run = RunFolder(path)
    run.config  # noqa: B018  # reads and checks config.json
    start_tensorflow(debug)
    our_warnings()
    try:
        run.model  # noqa: B018
    except RunError as error:
        if debug and error.__cause__ is not None:
            raise error.__cause__ from None
        raise
    return run


def check_target(run: Path, overwrite: bool) -> None:
    """Raise a CommandError if a run can't be written to this folder."""
    if run.exists() and not run.is_dir():
        raise CommandError(f"Expected --out to be a folder. Received: {run}, a file")
    if (run / unfinished.FOLDER).is_dir():
        with unfinished.locked(run):  # an error if another process trains it
            pass
    if run.is_dir() and any(run.iterdir()):
        started = unfinished.exists(run)
        if not overwrite and started:
            raise CommandError(
                f"{run} has an unfinished training run: resume it with `kvae train --resume {run}`, or pass "
                "--overwrite to start again"
            )
        if not overwrite:
            raise CommandError(f"{run} exists already: choose another --out, or pass --overwrite to replace it")
        if not (run / CONFIG).is_file() and not started:
            raise CommandError(f"Expected --overwrite to replace a run. Received: {run}, a folder without a run")
