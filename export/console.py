"""Suppression of the converter's output, and protection of the program's logging settings."""

import contextlib
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import Any

_one_thread = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Redirect the output of Python, absl, MLIR and C++ to a temporary file, which the context returns.

    The process's stdout and stderr are redirected, so the output of other threads is suppressed, too; their log files
    are not affected. At the end, all settings of logging, absl and warnings are restored, whatever a library changed:
    absl, for example, gives the root logger a handler that writes to the temporary file. One thread at a time may be in
    the context; the others wait.
    """
    with (
        _one_thread,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        contextlib.ExitStack() as stack,
    ):
        stack.enter_context(_logging_restored(log))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # None, or closed
                stream.flush()
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):  # closed, as in a daemon
                saved = os.dup(descriptor)
                stack.callback(_restore, saved, descriptor)
                os.dup2(log.fileno(), descriptor)
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield log
        log.flush()


def _restore(saved: int, descriptor: int) -> None:
    os.dup2(saved, descriptor)
    os.close(saved)


@contextlib.contextmanager
def _logging_restored(log: Any) -> Iterator[None]:
    """Suppress log records up to WARNING from this thread, and restore all settings at the end."""
    thread = threading.get_ident()

    def hush(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING or threading.get_ident() != thread

    before = [(thing, name, _copy(getattr(thing, name))) for thing, name in _settings() if hasattr(thing, name)]
    for handler in _handlers():
        handler.addFilter(hush)
    try:
        yield
    finally:
        for thing, name, value in before:
            now = getattr(thing, name)
            if isinstance(now, list):
                now[:] = value
            elif now != value:
                setattr(thing, name, value)
        logging.disable(logging.root.manager.disable)  # clears the cache of enabled levels
        for handler in _handlers():  # of new loggers
            if getattr(handler, "stream", None) is log:
                handler.stream = sys.stderr


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, list) else value


def _settings() -> Iterator[tuple[Any, str]]:
    """Yield all settings that a library may change, as objects and names of attributes."""
    for logger in _loggers():
        yield from ((logger, name) for name in ("level", "propagate", "disabled", "handlers", "filters"))
    for handler in _handlers():
        yield from ((handler, name) for name in ("level", "formatter", "filters"))
    yield logging.root.manager, "disable"
    yield logging, "_warnings_showwarning"  # set by captureWarnings
    if absl := sys.modules.get("absl.logging"):
        yield absl, "_attempted_to_remove_stderr_stream_handlers"  # set by use_absl_handler
        yield from ((absl.FLAGS[name], "_value") for name in ("verbosity", "stderrthreshold", "logger_levels"))


def _loggers() -> list[logging.Logger]:
    named = list(logging.root.manager.loggerDict.values())
    return [logging.root, *(logger for logger in named if isinstance(logger, logging.Logger))]


def _handlers() -> list[Any]:
    handlers = [handler for logger in _loggers() for handler in logger.handlers]
    if absl := sys.modules.get("absl.logging"):
        handlers += [absl.get_absl_handler(), absl.get_absl_handler().python_handler]
    return list({id(handler): handler for handler in handlers if isinstance(handler, logging.Handler)}.values())
