"""Keeping the converter's chatter off the terminal."""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Inside, what Python, absl, MLIR and C++ print goes to a temporary file, which the context gives.

    It redirects the process's stdout and stderr, so other threads are silent meanwhile, too.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        contextlib.ExitStack() as stack,
    ):
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):  # closed, as in a daemon: nothing to keep quiet
                saved = os.dup(descriptor)
                stack.callback(_restore, saved, descriptor)
                os.dup2(log.fileno(), descriptor)
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.WARNING)
        yield log
        log.flush()


def _restore(saved: int, descriptor: int) -> None:
    os.dup2(saved, descriptor)
    os.close(saved)
