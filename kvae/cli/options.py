"""Options that several commands have, and opening the run that they name."""

from pathlib import Path
from typing import Annotated

import typer

from kvae.cli.console import our_warnings, start_tensorflow
from kvae.run import RunError, RunFolder

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder made by `kvae train`.", show_default=False)]
DataDirOption = Annotated[
    Path | None,
    typer.Option(help="Folder of prepared TensorFlow Datasets (default: TFDS_DATA_DIR).", show_default=False),
]


def open_run(path: Path, debug: bool = False) -> RunFolder:
    """A run with its model loaded; what isn't one is refused before TensorFlow is imported."""
    run = RunFolder(path)
    run.config  # noqa: B018  # read it now
    start_tensorflow(debug)
    our_warnings()
    try:
        run.model  # noqa: B018
    except RunError as error:
        if debug and error.__cause__ is not None:
            raise error.__cause__ from None
        raise
    return run
