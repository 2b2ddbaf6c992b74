"""A training that isn't finished: where it waits, who holds it, and how it becomes a RUN.

While it trains, everything is in RUN/training, and what else is in RUN stays as it is. That folder is still there when
a training was stopped or killed; `kvae train --resume RUN` takes it up.
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
SAVE_SECONDS = 300.0  # after which the state is saved within an epoch, too
MOVED = (HISTORY, MODEL, SPLITS, METRICS, CONFIG)  # into the run folder, when the training run is finished


def exists(run: Path) -> bool:
    """Whether an unfinished training run is in the folder."""
    return (run / FOLDER / STATE).is_file()


@contextlib.contextmanager
def locked(run: Path) -> Iterator[Path]:
    """RUN/training, for this process alone; RunError if another has it. One that holds no state is removed."""
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
    history = folder / HISTORY
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


def config_of(run: Path) -> dict[str, Any]:
    """The configuration that an unfinished training began with."""
    path = run / FOLDER / CONFIG
    path = path if path.is_file() else run / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {**config, "size": tuple(config["size"]) if isinstance(config["size"], list) else config["size"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"Expected the configuration that `kvae train` wrote. Received: {path} ({error}). --overwrite begins anew"
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
