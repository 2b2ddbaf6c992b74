"""`kvae plot`."""

import typer

from kvae.cli.console import optional_steps, say
from kvae.cli.options import DataDirOption, RunArgument, open_run


def plot(context: typer.Context, run: RunArgument, data_dir: DataDirOption = None) -> None:
    """Redraw the figures of a run and rewrite its report.

    Example: kvae plot runs/mnist
    """
    opened = open_run(run, context.obj)
    from kvae.report import write_report
    from kvae.training.describe import draw_run

    for path in draw_run(opened, opened.data(data_dir=data_dir), optional_steps(context.obj)):
        say(f"Wrote {path}")
    say(f"Wrote {write_report(run)}")
