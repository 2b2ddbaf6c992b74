"""A training run that was stopped, killed or out of disk space resumes to the same result."""

import functools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from data.pictures import write_records
from processes import Process, command, run_command

import kvae
from kvae.callbacks import Rescue, Resume, TrainingWarning
from kvae.cli.main import main

EPOCHS = 4


def parts():
    return {
        "encoder": kvae.Encoder(2, kvae.networks.MLP((16,))),
        "decoder": kvae.Decoder((8, 8, 1), kvae.networks.MLP((16,))),
        "objective": kvae.objectives.TargetRate(3.0),  # a controller, which has a state
    }


@pytest.fixture(scope="module")
def data():
    return kvae.data.load("digits", binarize="stochastic", batch_size=128)


class Killed(Exception):
    pass


class KillAt(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.step) >= self.step:
            raise Killed


def train(data, path, kill_at=10**9, precision="float32", others=(), epochs=EPOCHS):
    """Train as a new process does: everything is created again, except for the file."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(precision)
    vae = kvae.VAE(**parts())
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 100)
    vae.compile(keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.9))
    resume = Resume(path, others)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    batches = data.split("train", shuffle=True, epoch=resume.epoch)
    try:
        history = vae.fit(
            batches, validation_data=data.split("validation"), epochs=epochs, initial_epoch=resume.epoch, verbose=0,
            callbacks=[swap, *others, resume, KillAt(kill_at)],
        )  # fmt: skip
    except Killed:
        return None, None
    return vae, history


def assert_equal_weights(first, second):
    for a, b in zip(
        [*first.variables, *first.optimizer.variables], [*second.variables, *second.optimizer.variables], strict=True
    ):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "precision",
    ["float32", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mixed_bfloat16", "mixed_float16"))],
)
def test_a_resumed_training_run_ends_with_the_same_bits(data, tmp_path, precision):
    unbroken, whole = train(data, tmp_path / "unbroken.npz", precision=precision)
    path = tmp_path / "state.npz"
    epochs = []
    for step in (5, 30, 41):  # in epochs 0, 2 and 3, of 12 steps each
        assert train(data, path, step, precision) == (None, None)
        epochs.append(Resume(path).epoch)
    assert epochs == [0, 2, 3]
    resumed, last = train(data, path, precision=precision)
    assert last.epoch == [3]
    assert last.history["val_loss"] == whole.history["val_loss"][3:]
    assert_equal_weights(unbroken, resumed)
    assert Resume(path).finished


@pytest.mark.slow
def test_a_finished_training_run_restores_its_weights_and_can_be_extended(data, tmp_path):
    path = tmp_path / "state.npz"
    first, _ = train(data, path)
    again, history = train(data, path)
    assert history.epoch == []
    assert_equal_weights(first, again)
    _, history = train(data, path, epochs=EPOCHS + 2)
    assert history.epoch == [EPOCHS, EPOCHS + 1]


@pytest.mark.slow
def test_counters_of_callbacks_are_resumed(data, tmp_path):
    path = tmp_path / "state.npz"

    def counting():
        stopping = keras.callbacks.EarlyStopping("rate", mode="max", min_delta=1e6, patience=3)  # no epoch is better
        return [stopping]

    train(data, path, kill_at=26, others=counting(), epochs=10)
    assert Resume(path, counting()).epoch == 2
    _, history = train(data, path, others=counting(), epochs=10)
    assert history.epoch == [2, 3]  # without the saved counter: up to epoch 5


def test_counters_survive_the_rest_of_an_epoch(data, tmp_path):
    """Keras's callbacks reset their counters when `fit` begins, which it does twice."""

    def counting():
        return keras.callbacks.ReduceLROnPlateau("rate", mode="max", min_delta=1e6, patience=3)  # no epoch is better

    def train(path, kill_at=10**9):
        keras.utils.set_random_seed(1)
        vae = kvae.VAE(**parts())
        vae.compile(keras.optimizers.Adam(1e-3))
        plateau = counting()
        resume = Resume(path, [plateau], save_seconds=0.0)
        batches = functools.partial(data.split, "train", shuffle=True)
        try:
            history = resume.fit(vae, batches, 5, [plateau, KillAt(kill_at)], verbose=0)
        except Killed:
            return None
        return vae, history.epoch, float(vae.optimizer.learning_rate)

    unbroken, epochs, rate = train(tmp_path / "unbroken.npz")
    assert rate == pytest.approx(1e-4)  # lowered once, after epoch 3
    train(tmp_path / "state.npz", kill_at=30)  # in epoch 2, of 12 steps each
    resumed, last_epochs, last_rate = train(tmp_path / "state.npz")
    assert (epochs, last_epochs) == ([0, 1, 2, 3, 4], [2, 3, 4])
    assert last_rate == rate
    assert_equal_weights(unbroken, resumed)


def test_a_file_that_does_not_fit_is_refused(data, tmp_path):
    path = tmp_path / "state.npz"
    train(data, path, kill_at=14)
    other = kvae.VAE(latent_dim=3, image_shape=(8, 8, 1))
    other.compile("adam")
    with pytest.raises(ValueError, match="Expected the model, the optimizer"):
        other.fit(data.train, epochs=3, initial_epoch=1, callbacks=[Resume(path)], verbose=0)
    same = kvae.VAE(**parts())
    same.compile("adam")
    with pytest.raises(ValueError, match="pass initial_epoch=1"):
        same.fit(data.train, epochs=3, callbacks=[Resume(path)], verbose=0)
    content = path.read_bytes()
    for damaged in (content[:1000], content[:-10], b"", b"PK\x03\x04nonsense", b"\x80\x04pickle"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"saved by kvae\.callbacks\.Resume"):
            Resume(path)


@pytest.mark.slow
def test_a_full_disk_keeps_the_previous_state(data, tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    write = np.savez
    full = []

    def savez(file, *args, **kwargs):
        write(file, *args, **kwargs)
        if len(full) == 2:
            file.truncate(1000)
            raise OSError(28, "No space left on device")
        full.append(file)

    monkeypatch.setattr(np, "savez", savez)
    with pytest.raises(OSError, match="No space left"):
        train(data, path)
    monkeypatch.undo()
    assert Resume(path).epoch == 1
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]


def test_the_first_batches_of_a_pass_are_skipped(data):
    whole = [x.numpy() for x in data.split("train", shuffle=True, epoch=3)]
    rest = data.split("train", shuffle=True, epoch=3, skip=9)
    assert int(rest.cardinality()) == len(whole) - 9
    for a, b in zip(whole[9:], rest, strict=True):
        np.testing.assert_array_equal(a, b)
    for skip, shuffle in ((len(whole), True), (1, False), (-1, True)):
        with pytest.raises(kvae.data.DataError, match="skip"):
            data.split("train", shuffle=shuffle, skip=skip)


@pytest.mark.slow
def test_streamed_records_are_saved_within_an_epoch(tmp_path):
    """The number of records is unknown, because some may be damaged."""
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), np.uint8)
    write_records(tmp_path / "records", images, files=3)
    data = kvae.data.load(tmp_path / "records", batch_size=16, cache_bytes=0)
    assert not data.counts_are_exact

    def train(name, kill_at=10**9):
        keras.utils.set_random_seed(1)
        vae = kvae.VAE(**parts())
        vae.compile("adam")
        resume = Resume(tmp_path / name, save_seconds=0.0, steps=data.batches_per_epoch)
        batches = functools.partial(data.split, "train", shuffle=True)
        try:
            history = resume.fit(vae, batches, 2, [KillAt(kill_at)], verbose=0).history
        except Killed:
            return Resume(tmp_path / name)
        return vae, history["loss"]

    unbroken, losses = train("unbroken")
    killed = train("broken", kill_at=6)
    assert (killed.epoch, killed.batch) == (0, 5)  # killed before step 6 was saved
    resumed, same_losses = train("broken")
    assert_equal_weights(unbroken, resumed)
    assert same_losses == losses  # of whole epochs, and of both calls of `fit`


@pytest.mark.slow
def test_the_count_of_skipped_steps_is_resumed(tmp_path):
    def fit(epochs):
        vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        vae.compile(keras.optimizers.Adam(1e-3))
        rescue = Rescue()
        resume = Resume(tmp_path / "state.npz", [rescue])
        vae.fit(images, batch_size=8, epochs=epochs, initial_epoch=resume.epoch, callbacks=[rescue, resume], verbose=0)
        return vae

    images = np.zeros((16, 8, 8, 1), "float32")
    images[0] = np.nan
    with pytest.warns(TrainingWarning, match="epoch 1: 1 steps were skipped"):
        fit(1)
    with pytest.warns(TrainingWarning, match="epoch 2: 1 steps were skipped"):
        assert fit(2).skipped.total == 2


def test_callbacks_that_keep_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"EarlyStopping\(restore_best_weights=True\)"):
        Resume(tmp_path / "state.npz", [keras.callbacks.EarlyStopping(restore_best_weights=True)])


def test_the_rest_of_an_epoch_has_at_least_one_batch(data, tmp_path):
    """Damaged images may have shortened an epoch: its length is unknown, and the last saved batch may be its last."""
    steps, taken = data.batches_per_epoch, []

    def batches(epoch, skip):
        return data.split("train", shuffle=True, epoch=epoch).filter(lambda x: True).skip(skip)

    class Model:
        def fit(self, dataset, **options):
            options["callbacks"][0].on_train_begin()
            taken.append(sum(1 for _ in dataset))

    for skip in (0, 3, steps - 1, steps, steps + 2):
        resume = Resume(tmp_path / "state.npz")
        resume.batch = skip
        resume.fit(Model(), batches, epochs=1)
    assert taken == [steps, steps - 3, 1, 1, 1]


def test_a_second_ctrl_c_ends_a_long_call():
    code = (
        "import hashlib\n"
        "from types import SimpleNamespace\n"
        "from kvae.training.signals import stoppable\n"
        "with stoppable(SimpleNamespace(interrupted=False)):\n"
        "    print('calling', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 500_000_000)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "calling\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130


# The command.

SMALL = ["digits", "--network", "mlp", "--latent-dim", "2", "--batch-size", "64", "--deterministic", "--ema", "0.9",
         "--binarize", "stochastic", "--patience", "50"]  # fmt: skip


def start(*arguments):
    """Start the command, and return it with its output when its first step is about to run."""
    process = command(*arguments)
    output = []
    for line in process.stdout:
        if line.startswith("  epoch"):
            return process
        output.append(line)
    raise AssertionError(f"exit status {process.wait()}: {''.join(output)}")


def wait_for_epoch(epoch, run):
    """Wait until this number of epochs is saved."""
    state = run / "training" / "state.npz"
    while not (state.exists() and Resume(state).epoch >= epoch):
        time.sleep(0.02)


def outcome(run):
    """Return the result of a training run: the text of the history, and all weights."""
    model = kvae.load(run / "model.keras")
    weights = [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]
    return (run / "history.csv").read_text(), weights


def assert_same_outcome(first, second):
    (history, weights), (other_history, other_weights) = outcome(first), outcome(second)
    assert history == other_history
    for a, b in zip(weights, other_weights, strict=True):
        np.testing.assert_array_equal(a, b)


#: KVAE_KILLS=30 sets another number
KILLS = int(os.environ.get("KVAE_KILLS", 5))


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    epochs = 3 * KILLS + 5
    settings = [*SMALL, "--epochs", epochs, "--patience", epochs, "--samples", 1]
    process = start("train", *settings, "--out", unbroken)
    began = time.monotonic()
    wait_for_epoch(3, unbroken)
    longest = time.monotonic() - began  # largest time before a kill; half of it is tracing, on any machine
    process.communicate()
    assert process.poll() == 0
    rng = random.Random(0)
    kills, progress = 0, []
    arguments = ["train", *settings, "--out", broken, "--save-seconds", 0.2]
    while kills < KILLS:
        process = start(*arguments)
        time.sleep(rng.uniform(0, longest))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        state = broken / "training" / "state.npz"
        arguments = ["train", "--resume", broken, "--save-seconds", 0.2, "--samples", 1]
        if state.exists():
            saved = Resume(state)
            progress.append((saved.epoch, saved.batch))
        else:
            arguments = ["train", *settings, "--out", broken, "--save-seconds", 0.2]
    assert kills == KILLS, f"the training was over after {kills} kills"
    assert progress == sorted(progress)
    assert progress[-1] > (0, 0)  # progress between the kills
    assert any(batch for _, batch in progress)  # within an epoch, too
    run_command("train", "--resume", broken, "--samples", 1)
    assert_same_outcome(unbroken, broken)
    assert sorted(os.listdir(unbroken)) == sorted(os.listdir(broken))


@pytest.mark.slow
def test_the_command_with_a_full_disk(tmp_path):
    """Files are limited to 100 kB, less than a state: the saved state remains, and is resumed."""
    unbroken, full = tmp_path / "unbroken", tmp_path / "full"
    settings = [*SMALL, "--epochs", 3, "--samples", 1]
    run_command("train", *settings, "--out", unbroken)

    def with_full_disk(*arguments):
        process = Process(_with_little_disk_space, list(map(str, arguments)))
        output = process.communicate()
        assert process.poll() == 1
        return output

    assert "Free some disk space, and start again" in with_full_disk("train", *settings, "--out", full)
    assert not full.exists()
    process = start("train", *settings, "--out", full)
    state = full / "training" / "state.npz"
    wait_for_epoch(1, full)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = state.read_bytes()
    assert f"resume with: kvae train --resume {full}" in with_full_disk("train", "--resume", full)
    assert state.read_bytes() == before
    run_command("train", "--resume", full, "--samples", 1)
    assert_same_outcome(unbroken, full)


def _with_little_disk_space(arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    main(arguments)


@pytest.mark.slow
def test_two_training_runs_and_ctrl_c(tmp_path):
    run = tmp_path / "run"
    settings = [*SMALL, "--epochs", 400, "--samples", 1]
    process = start("train", *settings, "--out", run)
    for arguments in (["train", *settings, "--out", run], ["train", "--resume", run],
                      ["train", *settings, "--out", run, "--overwrite"]):  # fmt: skip
        second = command(*arguments)
        assert "is being trained by another process" in second.communicate()
        assert second.poll() == 1
    process.send_signal(signal.SIGINT)
    output = process.communicate()
    assert process.poll() == 130
    assert "Saving after the current step" in output
    assert f"Resume with: kvae train --resume {run}" in output
    assert sorted(os.listdir(run)) == ["training"]
    assert "has an unfinished training" in command("train", *settings, "--out", run).communicate()
    config = json.loads((run / "training" / "config.json").read_text())
    config["epochs"] = 1 + Resume(run / "training" / "state.npz").epoch
    (run / "training" / "config.json").write_text(json.dumps(config))
    run_command("train", "--resume", run, "--samples", 1)
    assert "training" not in os.listdir(run)
    assert (run / "report.html").is_file()
