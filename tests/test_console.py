"""The command restores the state of the calling process, and prints only characters that the stream can encode."""

import io
import logging
import os
import signal
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from kvae.cli.main import app, main
from kvae.cli.streams import LOOK_ALIKES, any_character, encodable, look_alike

ENCODINGS = ("ascii", "cp1252", "latin-1", "cp437", "utf-8")
SMALL = ["--epochs", "1", "--network", "mlp", "--latent-dim", "2", "--samples", "1"]


class Stream(io.TextIOWrapper):
    """Redirected output with an encoding."""

    def __init__(self, encoding: str):
        super().__init__(io.BytesIO(), encoding=encoding, newline="\n")

    @property
    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


def status_of(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code or 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a few images, in a folder whose name isn't ASCII, and the output of a stream that is."""
    folder = tmp_path_factory.mktemp("σ−é")
    np.savez(folder / "few.npz", images=np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        streams = Stream("ascii"), Stream("ascii")
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        status = status_of("train", folder / "few.npz", *SMALL, "--out", folder / "run")
    assert status == 0, streams[1].text
    return folder / "run", streams[0].text


@pytest.mark.slow
def test_output_of_training_in_ascii(trained):
    run, text = trained
    for words in ("-ELBO", "KL(q || p)", "8x8x1", "Scoring the test split ...", "+/- over images", "sigma-e"):
        assert words in text
    assert "?" not in text
    assert "−ELBO" in (run / "report.html").read_text(encoding="utf-8")


#: arguments, status, and words of the output in ASCII
COMMANDS = {
    "help": (["--help"], 0, "Usage:"),
    "help of a command": (["evaluate", "--help"], 0, "ELBO, rate, distortion"),
    "recipes": (["recipes"], 0, "beta_vae"),
    "scores": (["evaluate", "{run}", "--samples", "2", "--limit", "3"], 0, "-ELBO"),
    "a bad option": (["train", "digits", "--likelihood", "β−ß"], 2, "Invalid value"),
    "an unknown command": (["−σ"], 2, "No such command"),
    "an error": (["generate", "−β\udcff"], 1, "kvae: error: Expected a folder made by `kvae train`"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_encoding_of_the_output(name, encoding, trained, monkeypatch):
    arguments, status, words = COMMANDS[name]
    streams = Stream(encoding), Stream(encoding)
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    assert status_of(*(argument.replace("{run}", str(trained[0])) for argument in arguments)) == status
    text = streams[0].text + streams[1].text
    assert words.replace("-ELBO", encodable("−ELBO", streams[0])) in text
    assert "Traceback" not in text
    assert [stream.errors for stream in streams] == ["strict", "strict"]


@pytest.mark.parametrize("name", ["help", "scores", "an error"])
@pytest.mark.parametrize("kind", ["none", "closed", "StringIO"])
def test_missing_closed_and_replaced_streams(kind, name, trained, monkeypatch):
    arguments, status, words = COMMANDS[name]
    streams = [None if kind == "none" else io.StringIO() for _ in range(2)]
    for stream in streams:
        if kind == "closed":
            stream.close()
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    found = status_of(*(argument.replace("{run}", str(trained[0])) for argument in arguments))
    assert (sys.stdout, sys.stderr) == tuple(streams)
    monkeypatch.undo()
    assert found == status
    if kind == "StringIO":
        assert words.replace("-ELBO", "−ELBO") in "".join(stream.getvalue() for stream in streams)


def test_a_process_with_ascii_output(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-m", "kvae", "train", "--help"], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    done = subprocess.run([sys.executable, "-m", "kvae", "generate", "−β"], capture_output=True, env=environment)
    assert (done.returncode, done.stderr.splitlines()[0][:12]) == (1, b"kvae: error:")
    assert b"Received: -beta (no such folder)" in done.stderr


LOOKS = {
    "−": "-", "β": "beta", "Σ": "Sigma", "λ": "lambda", "‖": "||", "→": "->", "…": "...", "–": "-", "·": "*",
    "±": "+/-", "×": "x", "µ": "u", "é": "e", "ß": "?", "₂": "2", "⁸": "^8", "½": "1/2", "≥": ">=",
    "─": "-", "━": "-", "│": "|", "╭": "+", "┼": "+", "█": "#", "▌": "#",
    "“": '"', "\u2009": " ", "文": "?", "\udcff": "?",
}  # fmt: skip


@pytest.mark.parametrize("character", LOOKS)
def test_look_alikes(character):
    assert look_alike(character) == LOOKS[character]
    for encoding in ENCODINGS:
        shown = f"a{character}b".encode(encoding, LOOK_ALIKES).decode(encoding)
        assert shown in (f"a{character}b", f"a{LOOKS[character]}b")


def test_errors_are_not_suppressed():
    for error in (ValueError, OSError, BrokenPipeError):
        with pytest.raises(error), any_character():
            raise error("x")


#: state that a command may change, and functions that return it
STATE = {
    "filters of warnings": lambda: list(warnings.filters),
    "showwarning": lambda: warnings.showwarning,
    "level of absl": lambda: logging.getLogger("absl").level,
    "handlers": lambda: list(logging.root.handlers),
    "environment": lambda: dict(os.environ),
    "policy": lambda: keras.config.dtype_policy().name,
    "signals": lambda: [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    "native stderr": lambda: (os.fstat(2).st_dev, os.fstat(2).st_ino),
    "streams": lambda: [(stream, stream.errors) for stream in (sys.stdout, sys.stderr)],
    "arguments": lambda: list(sys.argv),
    "folder": os.getcwd,
}
CALLS = {
    "help": ["--help"],
    "recipes": ["recipes"],
    "an error": ["generate", "nowhere"],
    "training": ["train", "{run}/../few.npz", *SMALL, "--precision", "bfloat16", "--out", "{out}"],
    "training that fails": ["train", "{run}/../few.npz", *SMALL, "--learning-rate", "1e30", "--out", "{out}"],
    "scores": ["evaluate", "{run}", "--samples", "1", "--limit", "3"],
    "figures": ["plot", "{run}"],
}
SLOW = ("training", "training that fails", "figures")


def process_state() -> dict:
    return {name: look() for name, look in STATE.items()}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CALLS])
def test_a_command_restores_the_state_of_the_process(name, trained, tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    logging.getLogger("absl").setLevel(logging.WARNING)
    warnings.filterwarnings("once", message="of the program")
    arguments = [word.format(run=trained[0], out=tmp_path / "run") for word in CALLS[name]]
    before = process_state()
    status_of(*arguments)
    assert process_state() == before
    CliRunner().invoke(app, arguments)
    assert process_state() == before


def test_the_entry_point_reads_the_arguments_of_the_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kvae", "--version"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert capsys.readouterr().out.startswith("kvae ")


def test_workers_get_the_arguments_of_the_command(trained, tmp_path, monkeypatch):
    from kvae.cli import workers

    given = []
    monkeypatch.setattr(workers, "train", lambda arguments, *others: given.append(arguments))
    monkeypatch.setattr(sys, "argv", ["another program", "--with", "options"])
    command = ["train", "digits", "--workers", "2", "--out", str(tmp_path / "run")]
    assert status_of(*command) == 0
    assert given == [command]
