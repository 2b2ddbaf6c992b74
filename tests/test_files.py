"""Files are whole or not there, and of the same encoding on every machine."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvae.files import atomic_directory, atomic_file


def test_a_failure_leaves_the_old_file(tmp_path):
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


def test_a_failure_leaves_the_old_folder(tmp_path):
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


def texts_without_encoding(source: str) -> Iterator[int]:
    """Lines that read or write text in the encoding of the machine: on Windows that has no −."""
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
