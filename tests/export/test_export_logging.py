"""Tests that an export restores a program's logging, warnings and streams."""

import contextlib
import io
import logging
import os
import sys
import threading
import warnings

import absl.logging
import pytest
import tensorflow as tf
from program import bare_root, state

from kvae.export import ExportError, behaviour, litert, onnx, saved_model, verify
from kvae.export.console import quiet
from kvae.export.reference import Reference


def absl_speaks():
    absl.logging.warning("of the converter")


def absl_is_an_app():
    absl.logging.use_absl_handler()
    absl.logging.set_verbosity(absl.logging.DEBUG)
    absl.logging.set_stderrthreshold("fatal")


def captures_warnings():
    logging.captureWarnings(True)
    warnings.simplefilter("error")


def sets_everything():
    for name in (None, "absl", "tensorflow", "mine", "mine.part"):
        logger = logging.getLogger(name)
        logger.setLevel(1)
        logger.addFilter(lambda record: False)
        logger.propagate, logger.disabled = False, name is not None
        for handler in logger.handlers:
            handler.setLevel(1)
            handler.setFormatter(logging.Formatter("%(name)s"))
            handler.addFilter(lambda record: False)
        logger.handlers.clear()
        logger.addHandler(logging.StreamHandler())
    logging.disable(logging.CRITICAL)
    warnings.showwarning = print
    sys.stdout = sys.stderr = None


def configures():
    logging.basicConfig(level=logging.DEBUG, format="%(name)s")


MEDDLERS = {f.__name__: f for f in (absl_speaks, absl_is_an_app, captures_warnings, sets_everything, configures)}
PROGRAMS = {
    "nothing set": lambda: None,
    "levels and filters": lambda: (
        logging.getLogger("mine").setLevel(logging.DEBUG),
        logging.getLogger("mine.part").addFilter(lambda record: "secret" not in record.msg),
        logging.getLogger("mine").addHandler(logging.StreamHandler(io.StringIO())),
    ),
    "disabled": lambda: logging.disable(logging.INFO),
    "captured warnings": lambda: logging.captureWarnings(True),
    "own warnings": lambda: setattr(warnings, "showwarning", lambda *args, **kwargs: None),
    "an app of absl": lambda: absl.logging.use_absl_handler(),
    "no tensorflow": lambda: tf.get_logger().setLevel(logging.CRITICAL),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("meddler", MEDDLERS)
def test_settings_changed_by_libraries_are_restored(program, meddler):
    with quiet(), warnings.catch_warnings():  # also restores the changes of this test
        with bare_root():
            PROGRAMS[program]()
            before = state()
            with quiet():
                MEDDLERS[meddler]()
            assert state() == before
            with pytest.raises(OSError, match="half-way"), quiet(), quiet():  # nested, with an error
                MEDDLERS[meddler]()
                raise OSError("half-way")
            assert state() == before


def speak(*args, **kwargs):
    absl.logging.warning("chatter")
    raise ValueError("enough said")


#: users of `quiet`: the function to replace by one that logs and fails, and the call
USERS = {
    "writing a SavedModel": ("tensorflow.saved_model.save", lambda vae, out: saved_model.write(vae, out / "x", b"{}")),
    "reading a SavedModel": (
        "tensorflow.saved_model.load",
        lambda vae, out: verify.verify_saved_model(out, Reference(vae, rows=2)),
    ),
    "converting": ("tensorflow.lite.TFLiteConverter.from_saved_model", lambda vae, out: litert.convert(out, ["info"])),
    "quantizing": ("litert_quantizer.quantizer.Quantizer", lambda vae, out: litert.quantize(b"", "int8")),
    "running": ("kvae.export.runtime.load", lambda vae, out: verify.verify_litert(FILE(out), "int8", Reference(vae))),
    "measuring": ("kvae.export.runtime.load", lambda vae, out: behaviour.cost(FILE(out))),
    "opening ONNX": ("onnxruntime.InferenceSession", lambda vae, out: onnx.open_onnx(out)),
    "converting to ONNX": (
        "tf2onnx.convert.from_function",
        lambda vae, out: onnx.export(vae, out / "onnx", Reference(vae, rows=2)),
    ),
}


def FILE(folder):
    return folder / "vae_int8.tflite"


@pytest.mark.parametrize("user", USERS)
def test_every_user_of_quiet_restores_settings(user, vae, exported, tmp_path, monkeypatch, capfd):
    where, call = USERS[user]
    if "onnx" in where:
        pytest.importorskip("tf2onnx")
    (tmp_path / "empty.onnx").touch()
    FILE(tmp_path).write_bytes(FILE(exported).read_bytes())
    monkeypatch.setattr(where, speak)
    with bare_root():
        before = state()
        with pytest.raises((ExportError, ValueError), match="enough said"):
            call(vae, tmp_path)
        assert state() == before
        stream = io.StringIO()
        logging.basicConfig(stream=stream, format="%(message)s", level=logging.INFO)
        logging.info("up")
        absl.logging.warning("absl's own")
        assert stream.getvalue() == "up\nabsl's own\n"
    assert capfd.readouterr() == ("", "")


def test_messages_of_other_threads_are_logged(tmp_path):
    """Warnings of the converter's own thread are suppressed, its errors are not."""
    file = tmp_path / "log.txt"
    handler = logging.FileHandler(file)
    logger = logging.getLogger("mine")
    logger.addHandler(handler)
    try:
        with quiet():
            logger.warning("converting")
            logger.error("failing")
            other = threading.Thread(target=logger.warning, args=("serving",))
            other.start()
            other.join()
        logger.warning("done")
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert file.read_text().split() == ["failing", "serving", "done"]


def test_two_threads_use_quiet_in_turn():
    before, inside, errors = state(), threading.Barrier(3), []

    def work():
        try:
            inside.wait()
            for _ in range(20):
                with quiet():
                    absl.logging.warning("chatter")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait()
    for thread in threads:
        thread.join()
    assert not errors
    assert state() == before


def test_the_handler_of_a_package_imported_meanwhile_writes_to_the_real_stream():
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        with quiet():
            logging.getLogger("imported.meanwhile").addHandler(logging.StreamHandler())
        logging.getLogger("imported.meanwhile").warning("heard")
    logging.getLogger("imported.meanwhile").handlers.clear()
    assert stream.getvalue() == "heard\n"


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, closed(), io.StringIO()], ids=["None", "closed", "StringIO"])
def test_any_streams_are_accepted(stream, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    with quiet() as log:
        print("chatter", file=sys.stderr)
        log.seek(0)
        assert log.read() == "chatter\n"
    assert (sys.stdout, sys.stderr) == (stream, stream)


def test_closed_descriptors():
    """Closed descriptors, as in a daemon, stay closed."""
    kept = {number: os.dup(number) for number in (1, 2)}
    try:
        for number in kept:
            os.close(number)
        with quiet():
            pass
        still_closed = [number for number in kept if not _is_open(number)]
    finally:
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)
    assert still_closed == [1, 2]


def _is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
