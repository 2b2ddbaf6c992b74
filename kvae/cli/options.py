"""Options that several commands share, and the function that opens their run."""

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
