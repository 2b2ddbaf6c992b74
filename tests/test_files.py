"""Files are whole or not there."""

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
