"""Files that are either whole or not there: written under a temporary name, then renamed."""

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

LOCK = "lock"  # in a temporary folder, locked while its process lives


@contextmanager
def temporary_folder(parent: str | os.PathLike[str], prefix: str) -> Iterator[Path]:
    """A temporary folder in `parent`, with an empty `new` in it; removed after the block.

    A process that is killed leaves its folder behind. The next one with the same `prefix` removes it: the folder of
    a living process, on this machine or on another one that shares the file system, is locked. What a process was
    about to replace is in `old`; it is put back where nothing has taken its place.

    Example:

        >>> with tempfile.TemporaryDirectory() as parent, temporary_folder(parent, ".a-") as folder:
        ...     sorted(path.name for path in folder.iterdir())
        ['lock', 'new']
    """
    from filelock import FileLock

    parent = Path(parent)
    for left in sorted(parent.glob(f"{glob.escape(prefix)}*")):
        _remove_if_left(left)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = FileLock(folder / LOCK)
        with contextlib.suppress(FileNotFoundError):  # another process took it for one that was left
            try:
                lock.acquire()
            except FileNotFoundError:
                raise
            except (OSError, NotImplementedError):
                (folder / "new").mkdir()
                break  # a file system without locks: nobody can tell whether it was left
            (folder / "new").mkdir()
            if (folder / LOCK).exists():
                break
        _remove(folder, lock)
    try:
        yield folder
    finally:
        _remove(folder, lock)


def _remove_if_left(folder: Path) -> None:
    """Remove a temporary folder whose process was killed; leave all others, and what isn't one of ours."""
    from filelock import FileLock, Timeout

    if folder.is_symlink() or not folder.is_dir():
        return
    with contextlib.suppress(OSError, Timeout, NotImplementedError):
        content = {path.name for path in folder.iterdir()}
        if LOCK not in content and not content <= {"new", "old"}:
            return
        lock = FileLock(folder / LOCK)
        lock.acquire(blocking=False)
        try:
            for kept in (folder / "old").glob("*"):
                if not (folder.parent / kept.name).exists():
                    os.replace(kept, folder.parent / kept.name)
        finally:
            _remove(folder, lock)


def _remove(folder: Path, lock: Any) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    if os.name == "nt":  # it removes no file that is open; elsewhere, what is there now is another process's
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()
            folder.rmdir()


#: of a run, beside its figures: names of the figures that were drawn, and why the others weren't
FIGURES_LIST = Path("figures", "figures.json")


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` (same suffix) to write to; it takes its place when the block ends well.

    Example:

        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_file(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole", encoding="utf-8")
        >>> [file.name for file in folder.iterdir()]
        ['a.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path.parent, f".{path.name}-") as folder:
        temporary = folder / "new" / path.name
        yield temporary
        os.replace(temporary, path)


@contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside `path`; it takes its place, whatever was there, when the block ends well.

    What was there stays untouched until then, and for good if the block raises.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path.parent, f".{path.name}-") as folder:
        old = folder / "old" / path.name
        old.parent.mkdir()
        yield folder / "new"
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(folder / "new", path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise


def public_name(source: str | os.PathLike[str], before: str = "") -> str:
    """What others may know of where data come from: the last part of a path from a root or a home, the rest as it is.

    Args:
        source: a path or a name.
        before: put before what is left of a path.

    Example:

        >>> [public_name(source) for source in ("/home/me/photos", "~/photos", "mnist", "photos of 2019/2020")]
        ['photos', 'photos', 'mnist', 'photos of 2019/2020']
    """
    text = str(source)
    windows = PureWindowsPath(text)  # of the other kind of slashes, too
    if windows.drive or windows.root or text.startswith(("~", "./", "../")):
        return before + (windows.name or text[:1])
    return text
