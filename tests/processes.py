"""Python processes that start at once: forks of a process that has imported TensorFlow and kvae."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

from kvae.cli.main import main

#: A fork of a process with these imports takes milliseconds; the imports take seconds.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["kvae", "kvae.training.job", "kvae.training.describe", "kvae.features.streaming", "sklearn.datasets"]
)


class Process:
    """`function(*arguments)` in a new process, with a part of the interface of `subprocess.Popen`.

    stdout and stderr are one stream.

    Args:
        function: a function of a module that can be imported.
        *arguments: arguments that can be pickled.
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
        """Wait for the end of the process, and return its output."""
        output = self.stdout.read()
        self.wait()
        return output


class _Redirected:
    """A function whose output goes into a pipe. It is pickled at the start of the process, together with the pipe."""

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
    """Start `kvae` with these arguments."""
    return Process(main, [str(argument) for argument in arguments])


def run_command(*arguments: Any) -> str:
    """Run `kvae` with these arguments and return its output. The command must succeed."""
    process = command(*arguments)
    output = process.communicate()
    assert process.poll() == 0, output
    return output
