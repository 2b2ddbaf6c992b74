"""The folder of an export: it is written completely or not at all."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from kvae.arguments import shown
from kvae.export.errors import ExportError
from kvae.files import temporary_folder


@contextlib.contextmanager
def inside(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Create a temporary folder inside the target, so that a rename moves files into place, even on a mounted volume.

    At the end, it is removed, with the parent folders made for it if they are empty.
    """
    if not isinstance(directory, str | os.PathLike):
        raise ValueError(f"Argument `directory` must be a path. Received: directory={shown(directory)}")
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise ExportError(f"Expected a folder to export to. Received: the file '{directory}'")
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, made)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(temporary_folder(directory, ".export-"))
        except OSError as error:
            raise ExportError(
                f"Expected a folder that can be written to. Received: '{directory}' ({error.strerror})"
            ) from error
        try:
            yield folder
        except OSError as error:  # such as a full disk; the system then names no file
            error.filename = error.filename or str(directory)
            raise


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # not empty: it has the export
        for folder in folders:
            folder.rmdir()


def replace(new: Path, directory: Path, old: Path, known: Iterable[str]) -> None:
    """Move the `known` names from `directory` to `old` and from `new` to `directory`; undo everything on an error."""
    old.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for name in sorted(known):
            for source, target in ((directory, old), (new, directory)):
                if (source / name).exists():
                    moved.append((source / name, target / name))
                    os.rename(source / name, target / name)
    except BaseException:
        for source, target in reversed(moved):
            if target.exists() and not source.exists():
                os.rename(target, source)
        raise
