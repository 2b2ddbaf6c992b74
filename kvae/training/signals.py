"""Handling of Ctrl-C and SIGTERM during a training run."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvae.callbacks import Resume


class Stopped(Exception):
    """The user stopped a training run; the message says how to resume it."""


@contextlib.contextmanager
def stoppable(resume: "Resume") -> Iterator[None]:
    """Make `resume` save after the current step on Ctrl-C or SIGTERM; a second signal stops at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if resume.interrupted:
            raise KeyboardInterrupt
        resume.interrupted = True
        print("\nSaving after the current step. Press Ctrl-C again to stop at once.", flush=True)

    with stopped_by(stop), exit_at_second_signal():
        yield


@contextlib.contextmanager
def exit_at_second_signal(patience: float = 1.0) -> Iterator[None]:
    """End the process at the second Ctrl-C or SIGTERM, even while a long call keeps Python from handling the first.

    Python handles signals between two calls, and handles several as one. The operating system writes each signal to a
    pipe at once, and a thread reads it. Python has `patience` seconds to stop by itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stopped = threading.Event()

    def watch() -> None:
        with open(reader, "rb", buffering=0) as pipe:
            for _ in range(2):
                if not pipe.read(1):
                    return
            if not stopped.wait(patience):
                os._exit(128 + signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        stopped.set()
        signal.set_wakeup_fd(before)
        os.close(writer)


@contextlib.contextmanager
def stopped_by(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call `stop` on Ctrl-C and SIGTERM, even if the shell makes its background jobs ignore Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
