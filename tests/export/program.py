"""Settings of logging, warnings and streams of a program around an export."""

import contextlib
import logging
import os
import sys
import warnings

import absl.logging


def state():
    """Return all settings of loggers, handlers, absl, warnings and streams."""
    named = [logging.getLogger(name) for name in ("absl", "tensorflow", "mine", "mine.part")]
    loggers = {logger.name: logger for logger in (logging.root, *named)}
    handlers = [h for logger in loggers.values() for h in logger.handlers]
    handlers += [absl.logging.get_absl_handler(), absl.logging.get_absl_handler().python_handler]
    return {
        "loggers": {k: (x.level, x.disabled, x.propagate, x.handlers[:], x.filters[:]) for k, x in loggers.items()},
        "handlers": [(id(h), h.level, h.formatter, h.filters[:], getattr(h, "stream", None)) for h in handlers],
        "disabled": logging.root.manager.disable,
        "enabled": [x.isEnabledFor(level) for x in loggers.values() for level in range(0, 60, 10)],
        "captures": logging._warnings_showwarning,
        "warnings": (warnings.filters[:], warnings.showwarning),
        "absl": (absl.logging.get_verbosity(), absl.logging._attempted_to_remove_stderr_stream_handlers),
        "streams": (sys.stdout, sys.stderr),
        "files": [os.fstat(number)[:2] for number in (1, 2)],
    }


@contextlib.contextmanager
def bare_root():
    """Remove pytest's handlers from the root logger inside the context."""
    kept = logging.root.handlers[:]
    logging.root.handlers.clear()
    try:
        yield
    finally:
        logging.root.handlers[:] = kept
