"""Atomic files and folders: they are written under a temporary name, then renamed."""

import contextlib
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

LOCK = "lock"  # file in a temporary folder, locked as long as its process runs


@contextmanager
def temporary_folder(parent: str | os.PathLike[str], prefix: str) -> Iterator[Path]:
    """Create a temporary folder in `parent`, with an empty folder `new` in it; remove it after the block.

    A killed process leaves its folder. The next call with the same `prefix` removes it. The folder of a running
    process, on this machine or on another one that shares the file system, is locked. A file or folder that is being
    replaced is in `old`; it is restored if its replacement is missing.

    Example:

        >>> with tempfile.TemporaryDirectory() as parent, temporary_folder(parent, ".a-") as folder:
        ...     sorted(path.name for path in folder.iterdir())
        ['lock', 'new']
    """
    from filelock import FileLock

    parent = Path(parent)
    for abandoned in sorted(parent.glob(f"{glob.escape(prefix)}*")):
        _remove_if_abandoned(abandoned)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = FileLock(folder / LOCK)
        with contextlib.suppress(FileNotFoundError):  # another process has removed it as abandoned
            try:
                lock.acquire()
            except FileNotFoundError:
                raise
            except (OSError, NotImplementedError):
                (folder / "new").mkdir()
                break  # without locks, no process can tell whether the folder is abandoned
            (folder / "new").mkdir()
            if (folder / LOCK).exists():
                break
        _remove(folder, lock)
    try:
        yield folder
    finally:
        _remove(folder, lock)


def _remove_if_abandoned(folder: Path) -> None:
    """Remove a temporary folder whose process was killed; keep every other folder or file."""
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
    if os.name == "nt":  # Windows can't remove an open file; elsewhere, a lock file now belongs to another process
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()
            folder.rmdir()


#: file of a run that lists the figures that were drawn, and why the others weren't
FIGURES_LIST = Path("figures", "figures.json")


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path with the same suffix to write to; it replaces `path` if the block raises no error.

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
    """Yield a temporary folder to write to; it replaces the file or folder `path` if the block raises no error.

    If the block raises, `path` stays as it was.
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
    """Return a source without private folders: the last part of a path from a root or a home; other names unchanged.

    Args:
        source: a path or a name.
        before: prefix of a shortened path.

    Example:

        >>> [public_name(source) for source in ("/home/me/photos", "~/photos", "mnist", "photos of 2019/2020")]
        ['photos', 'photos', 'mnist', 'photos of 2019/2020']
    """
    text = str(source)
    windows = PureWindowsPath(text)  # accepts both kinds of slashes
    if windows.drive or windows.root or text.startswith(("~", "./", "../")):
        return before + (windows.name or text[:1])
    return text


def checksum(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
