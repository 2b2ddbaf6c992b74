"""Files are written atomically, with the same encoding on every machine."""

import ast
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvae.files
from kvae.files import atomic_directory, atomic_file, temporary_folder

ROOT = Path(kvae.files.__file__).parent.parent


def test_a_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_file(path) as temporary:
        temporary.write_text("half of the n")
        raise OSError("disk full")
    assert path.read_text() == "old"
    with atomic_file(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_keeps_the_old_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_directory(folder) as new:
        (new / "model").write_text("half")
        raise KeyboardInterrupt
    assert (folder / "model").read_text() == "old"
    with atomic_directory(folder) as new:
        (new / "other").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["other"]
    assert list(tmp_path.iterdir()) == [folder]


KILLED = """
import os, signal, sys
from kvae.files import atomic_directory, atomic_file
replace, left = os.replace, int(sys.argv[3])
def replace_or_die(*names):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    replace(*names)
os.replace = replace_or_die
with {"file": atomic_file, "folder": atomic_directory}[sys.argv[1]](sys.argv[2]) as new:
    (new / "a" if new.is_dir() else new).write_text("half")
"""


def kill_while_writing(kind, path, renamed=0):
    """Kill a process that writes to `path`, after it has renamed this number of files or folders."""
    arguments = (kind, path, renamed)
    result = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, arguments)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert result.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_folders_of_killed_processes_are_removed(tmp_path):
    folder, file = tmp_path / "run", tmp_path / "a.txt"
    folder.mkdir()
    (folder / "a").write_text("old")
    kill_while_writing("file", file)
    kill_while_writing("folder", folder)
    assert (folder / "a").read_text() == "old"
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 3
    assert left[0].startswith(".a.txt-")
    with atomic_file(file) as temporary:
        temporary.write_text("new")
    with atomic_directory(folder) as new:
        (new / "a").write_text("new")
    assert sorted(tmp_path.iterdir()) == [file, folder]
    assert (folder / "a").read_text() == file.read_text() == "new"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_folder_that_was_being_replaced_is_restored(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "a").write_text("old")
    kill_while_writing("folder", folder, renamed=1)
    assert not folder.exists()
    with pytest.raises(KeyboardInterrupt), atomic_directory(folder):
        raise KeyboardInterrupt
    assert (folder / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


LEFT = {  # content of a folder with a temporary name: whether it is removed
    "nothing": ((), True),
    "of an older version": (("new/a", "old/b"), True),
    "killed": (("lock", "new/a", "other"), True),
    "a user's": (("new/a", "photo.png"), False),
    "a user's, with the same name": (("original.txt",), False),
}


@pytest.mark.parametrize("case", LEFT)
def test_only_our_own_folders_are_removed(case, tmp_path):
    content, removed = LEFT[case]
    left = tmp_path / ".a-original"
    left.mkdir()
    for name in content:
        (left / name).parent.mkdir(exist_ok=True)
        (left / name).write_text(name)
    (tmp_path / ".a-link").symlink_to(left)
    with temporary_folder(tmp_path, ".a-"):
        assert left.exists() != removed
    assert (tmp_path / ".a-link").is_symlink()
    assert all((left / name).read_text() == name for name in content if not removed)


def test_the_folder_of_a_running_process_stays(tmp_path):
    child = """
import sys
from kvae.files import temporary_folder
with temporary_folder(sys.argv[1], ".a-") as folder:
    print(folder, flush=True)
    sys.stdin.read()
    print(sorted(path.name for path in folder.iterdir()))
"""
    with subprocess.Popen(
        [sys.executable, "-c", child, str(tmp_path)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        living = Path(process.stdout.readline().strip())
        with temporary_folder(tmp_path, ".a-") as mine:
            assert sorted(tmp_path.iterdir()) == sorted([living, mine])
        assert process.communicate(input="")[0].strip() == "['lock', 'new']"
    assert list(tmp_path.iterdir()) == []


def test_many_threads_write_one_file(tmp_path):
    path, errors = tmp_path / "a.txt", []

    def work(text):
        try:
            for _ in range(20):
                with atomic_file(path) as temporary:
                    temporary.write_text(text * 1000)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(text,)) for text in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(path.read_text())) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    import filelock

    def acquire(*_, **__):
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with temporary_folder(tmp_path, ".a-") as first, temporary_folder(tmp_path, ".a-"):
        assert (first / "new").is_dir()
    assert list(tmp_path.iterdir()) == []


def texts_without_encoding(source: str) -> Iterator[int]:
    """Yield the lines that read or write text in the encoding of the machine, which lacks − on Windows."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or any(keyword.arg == "encoding" for keyword in call.keywords):
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        mode = ast.unparse(call.args[1]) if len(call.args) > 1 else "'r'"
        if name in ("read_text", "write_text") or (
            isinstance(call.func, ast.Name) and name == "open" and "b" not in mode
        ):
            yield call.lineno


def test_text_files_have_an_encoding():
    assert list(
        texts_without_encoding("open(a)\nb.read_text()\nopen(c, 'wb')\nd.write_text('−', encoding='utf-8')")
    ) == [1, 2]
    root = Path(__file__).parent.parent
    paths = [path for room in ("kvae", "export", "benchmarks") for path in sorted((root / room).rglob("*.py"))]
    assert len(paths) > 100
    found = {path.name: list(texts_without_encoding(path.read_text(encoding="utf-8"))) for path in paths}
    assert not {name: lines for name, lines in found.items() if lines}
