"""What the command shows: tables and progress, and not TensorFlow's log."""

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kvae.cli.streams import any_character, encodable
from kvae.steps import Steps

CPUINFO = Path("/proc/cpuinfo")
ARGUMENTS = "kvae.arguments"  # in a context's `meta`: those of the whole command


class CommandError(Exception):
    """An error that a user can mend; its message is all that is shown."""


_undone_later: contextlib.ExitStack | None = None  # inside `session`: what its end calls


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Inside, a command may change the process: streams, warnings and loggers are afterwards what they were before.

    A session inside another one is part of it.
    """
    global _undone_later
    if _undone_later is not None:
        yield
        return
    with any_character(), warnings.catch_warnings(), contextlib.ExitStack() as at_the_end:
        at_the_end.callback(setattr, sys, "excepthook", sys.excepthook)  # Typer has its own
        _undone_later = at_the_end
        try:
            yield
        finally:
            _undone_later = None


def undo_later(function: Callable[..., object], *arguments: Any) -> None:
    """Call a function at the end of the session, if there is one."""
    if _undone_later is not None:
        _undone_later.callback(function, *arguments)


def say(text: str = "") -> None:
    print(text, flush=True)


def optional_steps(debug: bool = False) -> Steps:
    """Steps of a command that it does without: one that fails is a line, with `debug` after its traceback."""

    def say_why(line: str) -> None:
        if debug:
            traceback.print_exc()
        say(line)

    return Steps(say_why)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; numbers are right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        grid.add_column(encodable(column, sys.stdout), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(encodable(_cell(value), sys.stdout) for value in row))
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(grid)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if value and abs(value) < 1e-3 else f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@contextlib.contextmanager
def _native_stderr_off() -> Iterator[None]:
    """Silence what C++ code writes to file descriptor 2: TensorFlow logs at import whatever its settings are."""
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def start_tensorflow(debug: bool = False, first_operation: bool = True) -> None:
    """Import TensorFlow and Keras, quietly, with GPU memory that grows as it is needed.

    Workers must meet before the first operation.
    """
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0" if debug else "3"
        undo_later(os.environ.pop, "TF_CPP_MIN_LOG_LEVEL", None)
    with contextlib.nullcontext() if debug else _native_stderr_off():
        import tensorflow as tf

        import kvae.models.backend  # noqa: F401  # and so Keras, on TensorFlow

        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        if first_operation:
            tf.constant(0) + 0  # drivers are looked for now, not in the middle of a table
    if not debug:
        logger = logging.getLogger("absl")
        undo_later(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)


def emulates_bfloat16() -> bool:
    """Whether there is nothing but a processor, and Linux says that it has no units for bfloat16."""
    import tensorflow as tf

    if any(device.device_type != "CPU" for device in tf.config.list_physical_devices()):
        return False
    return CPUINFO.is_file() and "bf16" not in CPUINFO.read_text(encoding="utf-8")  # avx512_bf16, amx_bf16; on Arm bf16


def say_what_is_faster(precision: str, option: str) -> None:
    """Tell whoever computes in a bfloat16 that is emulated which option to add."""
    if precision == "bfloat16" and emulates_bfloat16():
        say(f"This processor emulates bfloat16, which makes it slow: {option} takes less time here.\n")


def show_only_our_warnings() -> None:
    """Warnings of kvae become one line each; those of the libraries below are for developers (`--debug`).

    Until the end of the session.
    """
    warnings.simplefilter("ignore")
    shown: set[str] = set()

    def show(message: Any, category: type, *_: Any, **__: Any) -> None:
        from kvae.data import DataWarning

        if issubclass(category, DataWarning) and str(message) in shown:
            return  # a command may load its images twice
        shown.add(str(message))
        print(f"kvae: warning: {message}", file=sys.stderr, flush=True)

    warnings.showwarning = show  # type: ignore[assignment]


def our_warnings() -> None:
    """Once kvae's warning classes can be imported cheaply, let them through."""
    from kvae.callbacks import TrainingWarning
    from kvae.data import DataWarning
    from kvae.evaluation import EvaluationWarning

    for category in (DataWarning, EvaluationWarning, TrainingWarning):
        warnings.simplefilter("always", category)
