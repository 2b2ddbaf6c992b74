"""An unfinished training run: its folder, its lock, and how it replaces a RUN.

While a model is trained, everything is in RUN/training, and the rest of RUN stays as it is. A training run that was
stopped or killed leaves this folder; `kvae train --resume RUN` resumes it.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kvae.files import atomic_file
from kvae.run import CONFIG, HISTORY, METRICS, MODEL, SPLITS, RunError

FOLDER, LOCK, STATE = "training", "lock", "state.npz"
SAVE_SECONDS = 300.0  # between saves within an epoch
MOVED = (HISTORY, MODEL, SPLITS, METRICS, CONFIG)  # moved to the run folder when the training run is finished


def exists(run: Path) -> bool:
    """Return whether an unfinished training run is in the folder."""
    return (run / FOLDER / STATE).is_file()


@contextlib.contextmanager
def locked(run: Path) -> Iterator[Path]:
    """Lock RUN/training for this process; raise a RunError if another one holds it.

    The folder is removed at the end if it holds no state.
    """
    from filelock import FileLock, Timeout

    folder = run / FOLDER
    lock = FileLock(folder / LOCK)
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except FileNotFoundError:
            continue  # the process that held the lock has just removed the folder
        except Timeout as error:
            raise RunError(
                f"{run} is being trained by another process: wait for it, stop it, or choose another --out"
            ) from error
        if (folder / LOCK).exists():
            break
        lock.release()
    try:
        yield folder
    finally:
        if not exists(run):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty: an earlier run
                run.rmdir()
        lock.release()


def clear(folder: Path) -> None:
    """Remove the files of an earlier training run."""
    for path in folder.iterdir():
        if path.name != LOCK:
            _remove(path)


def tidy(folder: Path, epoch: int) -> None:
    """Remove what a killed process left: temporary folders, and history lines of epochs that will be repeated."""
    for path in folder.glob(".*"):
        _remove(path)
    history = folder / HISTORY
    if not history.is_file():
        return
    lines = history.read_bytes().splitlines(keepends=True)
    with atomic_file(history) as temporary:
        temporary.write_bytes(b"".join(lines[: epoch + 1]) if epoch else b"")


def finish(run: Path, folder: Path) -> None:
    """Replace the content of RUN by the trained run. Repeating it after a kill gives the same result."""
    for path in run.iterdir():
        if path.name != FOLDER and (path.name not in MOVED or (folder / path.name).exists()):
            _remove(path)
    for name in MOVED:
        if (folder / name).exists():
            os.replace(folder / name, run / name)
    clear(folder)


def config_of(run: Path) -> dict[str, Any]:
    """Return the configuration of an unfinished training run."""
    path = run / FOLDER / CONFIG
    path = path if path.is_file() else run / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {**config, "size": tuple(config["size"]) if isinstance(config["size"], list) else config["size"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"Expected the configuration that `kvae train` wrote. Received: {path} ({error}). Pass --overwrite to "
            "restart from the beginning"
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
