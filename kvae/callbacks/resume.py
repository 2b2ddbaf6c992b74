"""The callback that lets a training run survive being killed."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kvae.files import atomic_file
from kvae.state import state_of

FORMAT = 3
Numbers = int | float | bool | str | None


class Resume(keras.callbacks.Callback):
    """Saves the whole state of a training after every epoch, and goes on from it as if nothing had happened.

    On a CPU with deterministic operations the weights at the end are those of an unbroken training, to the bit,
    wherever it was killed. Saved are: the model's variables (with the step that its noise depends on), the optimizer's
    (moments, iterations, averages, loss scale), the number of the epoch, and the numbers that other callbacks count
    with, but not weights that they keep: an EarlyStopping that restores the best ones is refused. The file is replaced
    whole; a process that is killed while it writes leaves the one before.

    Of several workers (MultiWorkerMirroredStrategy) the chief writes, and all read: `path` is in a folder they share.

    Put it last among the callbacks, start `fit` where it says, and give it data that is the same in epoch k however k
    is reached: that of `kvae.data` is, and so is any dataset that isn't shuffled.

    Args:
        path: of the file, such as "runs/state.npz". If it is there, `fit` goes on from it.
        others: callbacks that count (EarlyStopping, ReduceLROnPlateau, …): theirs is saved and restored, too.
        save_seconds: save within an epoch as well, when so many have passed since the last time. To go on from there
            takes a dataset of the epoch's other batches (`Data.split(..., epoch=resume.epoch, skip=resume.batch)`) in a
            `fit` of its own, as `kvae train` does.
        steps: batches in an epoch, at most, where the dataset doesn't know how many there are.

    Attributes:
        epoch: the epoch to go on with: `initial_epoch` of `fit`; 0 if nothing is saved.
        batch: how many of its batches are done already.
        finished: whether the saved training came to its end.

    Raises:
        ValueError: if the file is damaged or of another model, if `fit` starts elsewhere, or one of `others` keeps
            weights.

    Example:

        >>> import kvae, tempfile
        >>> data = kvae.data.load("digits")
        >>> def train(epochs, path):
        ...     keras.utils.set_random_seed(0)
        ...     vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        ...     vae.compile("adam")
        ...     resume = Resume(path)
        ...     batches = data.split("train", shuffle=True, epoch=resume.epoch)
        ...     history = vae.fit(batches, epochs=epochs, initial_epoch=resume.epoch, callbacks=[resume], verbose=0)
        ...     return history.epoch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     train(1, f"{folder}/state.npz"), train(3, f"{folder}/state.npz")
        ([0], [1, 2])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        others: Sequence[keras.callbacks.Callback] = (),
        save_seconds: float | None = None,
        steps: int | None = None,
    ):
        super().__init__()
        self.path = Path(path)
        self.others = list(others)
        for callback in self.others:
            if getattr(callback, "restore_best_weights", False):
                raise ValueError(
                    "Expected callbacks that keep no weights, which aren't saved; take ModelCheckpoint for the best. "
                    f"Received: {type(callback).__name__}(restore_best_weights=True)"
                )
        self.save_seconds, self.steps = save_seconds, steps
        self.interrupted = False  # set from outside: save after this step, and stop
        self.epoch, self.batch, self.finished = 0, 0, False
        self._first, self._saved_at = 0, time.monotonic()  # the epoch's first batch in this `fit`, and the last save
        self._arrays: list[np.ndarray] | None = None
        self.is_saved = self.path.exists()
        if self.is_saved:
            self._read()

    # What `fit` calls.

    def on_train_begin(self, logs: Any = None) -> None:
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._arrays is not None:
            if epoch != self.epoch:
                raise ValueError(
                    f"Expected `fit` to start where {self.path} was saved: pass initial_epoch={self.epoch}. "
                    f"Received: epoch {epoch}"
                )
            self._restore(self._arrays)
            self._arrays = None
        elif epoch > self.epoch or not self.is_saved:
            self._save(epoch, 0)
        self._stop_if_interrupted()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        left, done = self.params.get("steps"), batch + 1  # of this `fit`
        if left is None and self.steps is not None:
            left = self.steps - self._first
        if self.save_seconds is None or left is None or done >= left:
            return  # the end of the epoch will save
        if self.interrupted or time.monotonic() - self._saved_at > self.save_seconds:
            self._save(self.epoch, self._first + done)
            self._stop_if_interrupted()

    def on_train_end(self, logs: Any = None) -> None:
        if self._arrays is not None:  # it was finished before: no epoch was left to do
            self._restore(self._arrays)
            self._arrays = None
            return
        self._save(self.epoch + 1, 0, finished=True)

    def _stop_if_interrupted(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt

    # The file.

    def _variables(self) -> list[Any]:
        metrics = [variable for metric in self.model.metrics for variable in metric.variables]
        skipped = self.model.skipped.variables if hasattr(self.model, "skipped") else []
        return list({id(variable): variable for variable in [*variables_of(self.model), *metrics, *skipped]}.values())

    def _save(self, epoch: int, batch: int, finished: bool = False) -> None:
        values = [_plain(keras.ops.convert_to_numpy(variable)) for variable in self._variables()]
        arrays: dict[str, Any] = {f"{number:05d}": value for number, value in enumerate(values)}
        state = {
            "format": FORMAT,
            "epoch": epoch,
            "batch": batch,
            "finished": finished,
            "callbacks": [_numbers(callback) for callback in self.others],
        }
        if self.model.distribute_strategy.extended.should_checkpoint:  # not so of workers but the chief
            encoded = np.frombuffer(json.dumps(state).encode(), np.uint8)
            with atomic_file(self.path) as temporary, open(temporary, "wb") as file:
                np.savez(file, state=encoded, **arrays)
        self.is_saved = True
        self.epoch, self.batch, self.finished = epoch, batch, finished
        if not batch:
            self._first = 0
        self._saved_at = time.monotonic()

    def _read(self) -> None:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                state = json.loads(bytes(file["state"]))
                self._arrays = [file[name] for name in sorted(set(file.files) - {"state"})]
            if not all(isinstance(array, np.ndarray) for array in self._arrays):
                raise ValueError("a member that is no array")  # np.load gives its bytes
            if state["format"] != FORMAT:
                raise ValueError(f"format {state['format']}")
            self.epoch, self.batch, self.finished = int(state["epoch"]), int(state["batch"]), bool(state["finished"])
            self._counts = [dict(numbers) for numbers in state["callbacks"]]
        except Exception as error:  # whatever zipfile and NumPy make of a damaged file
            raise ValueError(
                f"Expected a state saved by kvae.callbacks.Resume. Received: {self.path}, which can't be read "
                f"({type(error).__name__}: {error}). Remove it to begin anew"
            ) from error

    def _restore(self, arrays: list[np.ndarray]) -> None:
        variables = self._variables()
        shapes = [tuple(variable.shape) for variable in variables]
        saved = [array.shape for array in arrays]
        if shapes != saved or len(self._counts) != len(self.others):
            different = next((pair for pair in zip(saved, shapes) if pair[0] != pair[1]), (len(saved), len(shapes)))
            raise ValueError(
                f"Expected the model, the optimizer and the callbacks that {self.path} was saved with. Received: "
                f"others (saved {different[0]}, now {different[1]})"
            )
        for variable, array in zip(variables, arrays):
            variable.assign(array)
        for callback, numbers in zip(self.others, self._counts):
            known = _numbers(callback)  # a file can't give it anything else
            vars(callback).update({name: n for name, n in numbers.items() if name in known and isinstance(n, Numbers)})
        self._first, self._saved_at = self.batch, time.monotonic()


def variables_of(model: keras.Model) -> list[Any]:
    """Those of the model and its optimizer."""
    return [*state_of(model), *model.optimizer.variables]


def _plain(array: np.ndarray) -> np.ndarray:
    """As a dtype that NumPy knows by itself: bfloat16 goes to float32, which holds it exactly."""
    return array.astype("float32") if array.dtype.kind == "V" or array.dtype.name == "bfloat16" else array


def _numbers(callback: keras.callbacks.Callback) -> dict[str, Numbers]:
    """What a callback counts with."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in vars(callback).items()}
    return {name: value for name, value in plain.items() if isinstance(value, Numbers)}
