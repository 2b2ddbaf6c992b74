"""The `kvae` command. Nothing heavy is imported before a subcommand runs, so that help is instant."""

import os
import sys
from typing import Annotated

import typer

from kvae import __version__
from kvae.cli import demo, evaluate, export, features, plot, recipes, sample, train
from kvae.cli.console import CommandError, Stopped, show_only_our_warnings

app = typer.Typer(
    help="Variational autoencoders from training to the phone. Start with [bold]kvae demo[/bold].",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, train, recipes, evaluate, sample, plot, features, export):
    app.command()(getattr(command, command.__name__.rsplit(".", 1)[-1]))


def _version(show: bool) -> None:
    if show:
        print(f"kvae {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and TensorFlow's log.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    context.obj = debug
    if not debug:
        show_only_our_warnings()


def main() -> None:
    """Run the command; every error that a user can mend is one line and exit status 1."""
    debug = "--debug" in sys.argv
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Stopped as stopped:
        print(f"kvae: {stopped}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `kvae … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        message = " ".join(str(error).split())
        if not isinstance(error, CommandError | ValueError | OSError) and not type(error).__module__.startswith(
            "kvae."
        ):
            message = f"unexpected {type(error).__name__}: {message[:300]} (--debug, before the command, shows where)"
        sys.exit(f"kvae: error: {message or type(error).__name__}")
