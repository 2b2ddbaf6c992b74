"""Python in processes of their own that start at once: forked from one that has imported TensorFlow and kvae."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

from kvae.cli.main import main

#: A process that has imported these is forked, which takes milliseconds where importing them takes seconds.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["kvae", "kvae.training.job", "kvae.training.describe", "kvae.features.streaming", "sklearn.datasets"]
)


class Process:
    """`function(*arguments)` in a process of its own; what is needed of `subprocess.Popen`, stdout and stderr as one.

    Args:
        function: of a module that can be imported.
        *arguments: that can be pickled.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        reading, writing = os.pipe()
        self._process = _context.Process(target=_Redirected(function, arguments, writing))
        self._process.start()
        os.close(writing)
        self.pid = self._process.pid
        self.stdout = os.fdopen(reading, encoding="utf-8", errors="replace")

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self.poll()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> str:
        """All that it says, when it has ended."""
        said = self.stdout.read()
        self.wait()
        return said


class _Redirected:
    """A function whose output goes into a pipe; pickled while the process is started, so that the pipe gets there."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], writing: int):
        self.function, self.arguments, self.writing = function, arguments, writing

    def __getstate__(self) -> Any:
        return self.function, self.arguments, reduction.DupFd(self.writing)

    def __setstate__(self, state: Any) -> None:
        self.function, self.arguments, pipe = state
        self.writing = pipe.detach()

    def __call__(self) -> None:
        for stream in (1, 2):
            os.dup2(self.writing, stream)
        os.close(self.writing)
        sys.stdout = os.fdopen(1, "w", 1, encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", closefd=False)
        self.function(*self.arguments)


def command(*arguments: Any) -> Process:
    """`kvae` with these arguments."""
    return Process(main, [str(argument) for argument in arguments])


def run_command(*arguments: Any) -> str:
    """What `kvae` with these arguments says; it must succeed."""
    process = command(*arguments)
    said = process.communicate()
    assert process.poll() == 0, said
    return said
