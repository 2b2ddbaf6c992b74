"""The README's Python examples run, on the embedded digits and for one epoch."""

import re
from pathlib import Path

import pytest

import kvae

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


@pytest.mark.slow
def test_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 2
    code = "\n".join(blocks)
    for old, new in (('"mnist"', '"digits"'), ("epochs=10", "epochs=1"), ("num_samples=64", "num_samples=2")):
        assert code.count(old) == 1
        code = code.replace(old, new)
    names: dict = {}
    with pytest.warns(kvae.evaluation.CollapseWarning):  # one epoch is too little
        exec(compile(code, "README.md", "exec"), names)
    assert names["images"].shape == (16, 8, 8, 1)
    assert names["mean"].shape == (16, 16)
    assert {"elbo", "nll"} <= set(names["scores"])
    assert set(names["features"]) == {"mean", "variance", "hidden", "label"}


def test_no_placeholder_is_left():
    assert not re.findall(r"@[A-Z_]+@", README)
