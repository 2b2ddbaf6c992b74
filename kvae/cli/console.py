"""Output of the command: tables, messages and warnings, without TensorFlow's log."""

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
ARGUMENTS = "kvae.arguments"  # key in a context's `meta`: the arguments of the whole command


class CommandError(Exception):
    """An error that the user can fix; only its message is shown."""


_cleanup: contextlib.ExitStack | None = None  # callbacks for the end of the current session


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Restore streams, warnings and loggers after a command.

    A session inside another one is part of it.
    """
    global _cleanup
    if _cleanup is not None:
        yield
        return
    with any_character(), warnings.catch_warnings(), contextlib.ExitStack() as stack:
        stack.callback(setattr, sys, "excepthook", sys.excepthook)  # Typer installs its own
        _cleanup = stack
        try:
            yield
        finally:
            _cleanup = None


def call_at_end(function: Callable[..., object], *arguments: Any) -> None:
    """Call a function at the end of the session, if there is one."""
    if _cleanup is not None:
        _cleanup.callback(function, *arguments)


def say(text: str = "") -> None:
    print(text, flush=True)


def optional_steps(debug: bool = False) -> Steps:
    """Return steps that may fail without ending the command; a failure is printed, with `debug` after its traceback."""

    def report_failure(line: str) -> None:
        if debug:
            traceback.print_exc()
        say(line)

    return Steps(report_failure)


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
    """Silence output of C++ code on file descriptor 2: TensorFlow logs at import, whatever its settings are."""
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # no such descriptor
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
    """Import TensorFlow and Keras without their log, with GPU memory that grows as needed.

    Workers must connect before the first operation.
    """
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0" if debug else "3"
        call_at_end(os.environ.pop, "TF_CPP_MIN_LOG_LEVEL", None)
    with contextlib.nullcontext() if debug else _native_stderr_off():
        import tensorflow as tf

        import kvae.models.backend  # noqa: F401  # imports Keras with the TensorFlow backend

        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        if first_operation:
            tf.constant(0) + 0  # TensorFlow loads its drivers (and logs) now, not in the middle of a table
    if not debug:
        logger = logging.getLogger("absl")
        call_at_end(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)


def emulates_bfloat16() -> bool:
    """Return whether there is no accelerator, and the processor has no bfloat16 units according to Linux."""
    import tensorflow as tf

    if any(device.device_type != "CPU" for device in tf.config.list_physical_devices()):
        return False
    return CPUINFO.is_file() and "bf16" not in CPUINFO.read_text(encoding="utf-8")  # avx512_bf16, amx_bf16; on Arm bf16


def warn_if_emulated(precision: str, option: str) -> None:
    """Warn when bfloat16 is emulated, and name the option that avoids it."""
    if precision == "bfloat16" and emulates_bfloat16():
        say(f"This processor emulates bfloat16, which is slow: {option} is faster here.\n")


def show_only_our_warnings() -> None:
    """Print each kvae warning as one line, until the end of the session.

    Warnings of other libraries are shown with `--debug` only.
    """
    warnings.simplefilter("ignore")
    shown: set[str] = set()

    def show(message: Any, category: type, *_: Any, **__: Any) -> None:
        from kvae.data import DataWarning

        if issubclass(category, DataWarning) and str(message) in shown:
            return  # a command may load its dataset twice
        shown.add(str(message))
        print(f"kvae: warning: {message}", file=sys.stderr, flush=True)

    warnings.showwarning = show


def our_warnings() -> None:
    """Let kvae's warnings through. The imports are cheap only after `start_tensorflow`."""
    from kvae.callbacks import TrainingWarning
    from kvae.data import DataWarning
    from kvae.evaluation import EvaluationWarning

    for category in (DataWarning, EvaluationWarning, TrainingWarning):
        warnings.simplefilter("always", category)
