"""The `kvae` command. Heavy modules are imported only when a subcommand runs, so that help is instant."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kvae import __version__
from kvae.cli import demo, evaluate, export, features, generate, plot, recipes, train
from kvae.cli.console import ARGUMENTS, session, show_only_our_warnings
from kvae.steps import is_for_users, reason_of
from kvae.training.signals import Stopped


class Commands(TyperGroup):
    """The subcommands; each runs in a session."""

    def main(self, *args: Any, **options: Any) -> Any:
        with session():
            return super().main(*args, **options)

    def make_context(self, info_name: str | None, args: list[str], *others: Any, **options: Any) -> Any:
        arguments = list(args)
        context = super().make_context(info_name, args, *others, **options)
        context.meta[ARGUMENTS] = arguments
        return context


app = typer.Typer(
    cls=Commands,
    help="Train, evaluate and export variational autoencoders. Start with [bold]kvae demo[/bold].",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, train, recipes, evaluate, generate, plot, features, export):
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit. An error that the user can fix is one line, with exit status 1.

    Args:
        arguments: arguments of the command (default: those in `sys.argv`).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with session():
        try:
            app(arguments)
        except KeyboardInterrupt:
            sys.exit(130)
        except Stopped as stopped:
            print(f"kvae: {stopped}", file=sys.stderr)
            sys.exit(130)
        except BrokenPipeError:  # `kvae … | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(1)
        except Exception as error:
            if "--debug" in arguments:
                raise
            reason = reason_of(error)
            if not is_for_users(error):
                reason = f"unexpected {reason} (`kvae --debug COMMAND` shows the traceback)"
            print(f"kvae: error: {reason}", file=sys.stderr)
            sys.exit(1)
