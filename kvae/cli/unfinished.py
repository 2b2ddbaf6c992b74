"""A training that isn't finished: where it waits, who holds it, and how it becomes a RUN.

While it trains, everything is in RUN/training, and what else is in RUN stays as it is. That folder is still there when
a training was stopped or killed; `kvae train --resume RUN` takes it up.
"""

import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from kvae.cli.console import CommandError, say
from kvae.files import atomic_file

if TYPE_CHECKING:
    from kvae.callbacks import Resume

FOLDER, LOCK, STATE = "training", "lock", "state.npz"
SAVE_SECONDS = 300.0  # after which the state is saved within an epoch, too
MOVED = ("history.csv", "model.keras", "splits.npz", "metrics.json", "config.json")  # into RUN, when it is finished


def is_there(run: Path) -> bool:
    return (run / FOLDER / STATE).is_file()


@contextlib.contextmanager
def held(run: Path) -> Iterator[Path]:
    """RUN/training, for this process alone; CommandError if another has it. One that holds no state is removed."""
    from filelock import FileLock, Timeout

    folder = run / FOLDER
    lock = FileLock(folder / LOCK)
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except FileNotFoundError:
            continue  # who held it has just removed the folder
        except Timeout as error:
            raise CommandError(
                f"{run} is being trained by another process: wait for it, stop it, or choose another --out"
            ) from error
        if (folder / LOCK).exists():
            break
        lock.release()
    try:
        yield folder
    finally:
        if not is_there(run):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # it isn't empty: a run that was there before
                run.rmdir()
        lock.release()


def clear(folder: Path) -> None:
    """Remove what an earlier training left."""
    for path in folder.iterdir():
        if path.name != LOCK:
            _remove(path)


def tidy(folder: Path, epoch: int) -> None:
    """What a killed process left half done: temporary folders, and lines of epochs that are to be done again."""
    for path in folder.glob(".*"):
        _remove(path)
    history = folder / "history.csv"
    if not history.is_file():
        return
    lines = history.read_bytes().splitlines(keepends=True)
    with atomic_file(history) as temporary:
        temporary.write_bytes(b"".join(lines[: epoch + 1]) if epoch else b"")


def finish(run: Path, folder: Path) -> None:
    """RUN becomes what was trained; what was there goes. Done again after a kill, it comes to the same."""
    for path in run.iterdir():
        if path.name != FOLDER and (path.name not in MOVED or (folder / path.name).exists()):
            _remove(path)
    for name in MOVED:
        if (folder / name).exists():
            os.replace(folder / name, run / name)
    clear(folder)


def settings_of(run: Path) -> dict[str, Any]:
    """The configuration that an unfinished training began with."""
    path = run / FOLDER / "config.json"
    path = path if path.is_file() else run / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {**config, "size": tuple(config["size"]) if isinstance(config["size"], list) else config["size"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandError(
            f"Expected the configuration that `kvae train` wrote. Received: {path} ({error}). --overwrite begins anew"
        ) from error


@contextlib.contextmanager
def stoppable(resume: "Resume") -> Iterator[None]:
    """Ctrl-C or SIGTERM has `resume` save after the step that is running; a second one stops at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if resume.interrupted:
            raise KeyboardInterrupt
        resume.interrupted = True
        say("\nFinishing the step, and saving. Once more stops at once.")

    with stopped_by(stop), exit_at_second_signal():
        yield


@contextlib.contextmanager
def exit_at_second_signal(patience: float = 1.0) -> Iterator[None]:
    """Ends the process at the second Ctrl-C or SIGTERM, also while a long call keeps Python from handling the first.

    Python handles signals between two calls, and several of them as one; what the operating system delivers is told to
    a pipe at once, which a thread reads. Python has `patience` seconds to stop by itself.
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
    """`stop` is what Ctrl-C and SIGTERM call, also where a shell has told its background jobs to ignore the former."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it isn't Python's


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
