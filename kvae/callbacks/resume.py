"""The callback that saves a training run, and resumes it after it was stopped or killed."""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kvae.files import atomic_file
from kvae.state import state_of

FORMAT = 3
Numbers = int | float | bool | str | None


class Resume(keras.callbacks.Callback):
    """A callback that saves the whole state of a training run after every epoch, and resumes from it.

    On a CPU with deterministic operations the final weights equal those of an unbroken training run to the bit,
    wherever it was killed. The state has the model's variables (with the step that its noise depends on), the
    optimizer's (moments, iterations, averages, loss scale), the number of the epoch, and the counters of other
    callbacks. Weights that callbacks keep aren't saved: an EarlyStopping that restores the best weights is refused. The
    file is replaced atomically: a process that is killed while it writes leaves the previous file.

    With several workers (MultiWorkerMirroredStrategy) the chief writes and all workers read: `path` must be in a folder
    that they share.

    Call `resume.fit`, or pass the callback as the last one to a `fit` with `initial_epoch=resume.epoch`. Use data whose
    epoch k always has the same batches, whether training began with epoch 0 or resumed with epoch k. This holds for
    `kvae.data`, and for datasets that aren't shuffled.

    Args:
        path: path of the file, such as "runs/state.npz". If it exists, `fit` resumes from it.
        others: callbacks with counters (EarlyStopping, ReduceLROnPlateau, …), which are saved and restored, too.
        save_seconds: seconds between saves within an epoch, for `resume.fit`; None saves at its end only.
        steps: largest number of batches in an epoch, for datasets of unknown length.

    Attributes:
        epoch: the epoch to resume with, `initial_epoch` of `fit`; 0 if nothing is saved.
        batch: number of its batches that are done.
        finished: whether the saved training run is finished.

    Raises:
        ValueError: if the file is damaged or belongs to another model, if `fit` starts with another epoch, or if one of
            `others` keeps weights.

    Example:

        >>> import functools, kvae, tempfile
        >>> data = kvae.data.load("digits")
        >>> def train(epochs, path):
        ...     keras.utils.set_random_seed(0)
        ...     vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        ...     vae.compile("adam")
        ...     batches = functools.partial(data.split, "train", shuffle=True)
        ...     return Resume(path).fit(vae, batches, epochs, verbose=0).epoch
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
                    "Expected callbacks that keep no weights, because these aren't saved. "
                    f"Received: {type(callback).__name__}(restore_best_weights=True); use ModelCheckpoint instead"
                )
        self.save_seconds, self.steps = save_seconds, steps
        self.interrupted = False  # set by a signal handler: save after the current step, and stop
        self.epoch, self.batch, self.finished = 0, 0, False
        self._first, self._saved_at = 0, time.monotonic()  # the epoch's first batch in this `fit`, and the last save
        self._arrays: list[np.ndarray] | None = None
        self._counts: list[dict[str, Numbers]] = []  # counters of `others` to restore when the next epoch begins
        self.is_saved = self.path.exists()
        if self.is_saved:
            self._read()

    def fit(
        self,
        model: keras.Model,
        batches: Callable[..., Any],
        epochs: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        **options: Any,
    ) -> keras.callbacks.History:
        """Call `model.fit` from the saved position to the end: on the rest of an epoch, then on whole epochs.

        Args:
            model: the compiled model.
            batches: function of `epoch` and `skip` that returns the dataset of this epoch and the later ones, each
                without its first `skip` batches, such as `functools.partial(data.split, "train", shuffle=True)`.
            epochs: number of epochs in all.
            callbacks: all other callbacks, those in `others` included.
            options: other arguments of `Model.fit`.

        Returns:
            The values of the epochs of this call. They are those of the whole epoch, if its rest was trained.
        """
        history, trained = keras.callbacks.History(), []  # of both calls
        while True:
            try:
                model.fit(
                    _at_least_one(batches, self.epoch, self.batch), initial_epoch=self.epoch,
                    epochs=epochs, callbacks=[history, *callbacks, self], **options,
                )  # fmt: skip
            except _RestOfEpochIsDone:
                trained = history.epoch
                self._counts = [_numbers(callback) for callback in self.others]  # the second `fit` may reset them
                continue
            history.epoch = [*trained, *history.epoch]
            return history

    # What `fit` calls.

    def on_train_begin(self, logs: Any = None) -> None:
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._arrays is None:
            self._restore_counts()
        else:
            if epoch != self.epoch:
                raise ValueError(
                    f"Expected `fit` to start where {self.path} was saved: pass initial_epoch={self.epoch}. "
                    f"Received: epoch {epoch}"
                )
            self._restore(self._arrays)
            self._arrays = None
        if epoch > self.epoch or not self.is_saved:
            is_after_rest = self._first > 0
            self._save(epoch, 0)
            if is_after_rest and not self.interrupted:
                raise _RestOfEpochIsDone
        self._stop_if_interrupted()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        left, done = self.params.get("steps"), batch + 1  # in this `fit`
        if left is None and self.steps is not None:
            left = self.steps - self._first
        if self.save_seconds is None or left is None or done >= left:
            return  # saved at the end of the epoch
        if self.interrupted or time.monotonic() - self._saved_at > self.save_seconds:
            self._save(self.epoch, self._first + done)
            self._stop_if_interrupted()

    def on_train_end(self, logs: Any = None) -> None:
        if self._arrays is not None:  # it was finished before: no epoch was left
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
        if self.model.distribute_strategy.extended.should_checkpoint:  # only the chief
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
                raise ValueError("a member isn't an array")  # np.load returns its bytes
            if state["format"] != FORMAT:
                raise ValueError(f"format {state['format']}")
            self.epoch, self.batch, self.finished = int(state["epoch"]), int(state["batch"]), bool(state["finished"])
            self._counts = [dict(numbers) for numbers in state["callbacks"]]
        except Exception as error:  # zipfile and NumPy raise nearly anything on damaged files
            raise ValueError(
                f"Expected a state saved by kvae.callbacks.Resume. Received: {self.path}, which can't be read "
                f"({type(error).__name__}: {error}). Remove it to restart from the beginning"
            ) from error

    def _restore(self, arrays: list[np.ndarray]) -> None:
        variables = self._variables()
        shapes = [tuple(variable.shape) for variable in variables]
        saved = [array.shape for array in arrays]
        if shapes != saved or len(self._counts) != len(self.others):
            different = next((pair for pair in zip(saved, shapes) if pair[0] != pair[1]), (len(saved), len(shapes)))
            raise ValueError(
                f"Expected the model, the optimizer and the callbacks that {self.path} was saved with. Received: "
                f"{different[1]} (saved: {different[0]})"
            )
        for variable, array in zip(variables, arrays):
            variable.assign(array)
        self._restore_counts()
        self._first, self._saved_at = self.batch, time.monotonic()

    def _restore_counts(self) -> None:
        for callback, numbers in zip(self.others, self._counts):
            known = _numbers(callback)  # a file can't set other attributes
            vars(callback).update({name: n for name, n in numbers.items() if name in known and isinstance(n, Numbers)})
        self._counts = []


class _RestOfEpochIsDone(Exception):
    """The next epoch begins, which requires a dataset of whole epochs."""


def _at_least_one(batches: Callable[..., Any], epoch: int, skip: int) -> Any:
    """Return the batches after the first `skip`, or fewer so that one is left: damaged images may have shortened it."""

    def has_none() -> bool:
        dataset = batches(epoch=epoch, skip=skip)
        size = dataset.cardinality() if callable(dataset.cardinality) else dataset.cardinality  # of several workers
        return bool(size < 0) and next(iter(dataset), None) is None

    while skip and has_none():
        skip -= 1
    return batches(epoch=epoch, skip=skip)  # a new dataset: each pass over one is another epoch


def variables_of(model: keras.Model) -> list[Any]:
    """Return the variables of the model and its optimizer."""
    return [*state_of(model), *model.optimizer.variables]


def _plain(array: np.ndarray) -> np.ndarray:
    """Convert to a dtype of plain NumPy: bfloat16 becomes float32, which holds it exactly."""
    return array.astype("float32") if array.dtype.kind == "V" or array.dtype.name == "bfloat16" else array


def _numbers(callback: keras.callbacks.Callback) -> dict[str, Numbers]:
    """Return the plain attributes of a callback, such as its counters."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in vars(callback).items()}
    return {name: value for name, value in plain.items() if isinstance(value, Numbers)}
