"""The callback that keeps the best epoch of a training run, as judged by the objective."""

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from kvae.files import atomic_file


class BestEpoch(keras.callbacks.Callback):
    """A callback that saves the model of the best epoch in a file, which is replaced atomically.

    The objective defines the best epoch (`vae.criterion()`): the one with the lowest validation value, among the epochs
    after a warm-up and near a target rate, or the last one if the objective has no such value. If the criterion
    excludes all epochs so far, the latest one is kept. An epoch whose values aren't finite is never kept.

    With several workers (MultiWorkerMirroredStrategy) only the chief writes.

    Args:
        path: path of the `.keras` file.
        patience: number of epochs without a better value after which training stops; excluded epochs aren't counted.

    Attributes:
        epoch: number of the epoch that is kept, from 1; 0 if there is none.
        best: its value; infinity if all epochs so far were excluded.
        because: why it was kept.
        missed: goal that this epoch missed, such as a target rate; None if it missed none.

    Raises:
        ValueError: if the objective requires validation data and `fit` gets none; if `patience` is given and the
            objective keeps the last epoch.

    Example:

        >>> import kvae, tempfile
        >>> data = kvae.data.load("digits")
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> vae.compile("adam")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     best = BestEpoch(f"{folder}/best.keras")
        ...     history = vae.fit(data.train, validation_data=data.validation, callbacks=[best], verbose=0)
        >>> best.epoch, best.because.split(",")[0]
        (1, 'the lowest validation −ELBO')
    """

    def __init__(self, path: str | os.PathLike[str], patience: int | None = None):
        super().__init__()
        self.path, self.patience = Path(path), patience
        self.epoch, self.best, self.because = 0, math.inf, ""
        self.missed: str | None = None
        self.worse = 0  # epochs that counted since the best one

    def keep(self) -> None:
        """Save the model as it is now."""
        # Workers add up their metrics while they save, so all of them save; only the chief's file is kept.
        chief = self.model.distribute_strategy.extended.should_checkpoint
        with atomic_file(self.path) if chief else _nowhere(self.path.suffix) as temporary:
            self.model.save(temporary)

    def on_train_begin(self, logs: Any = None) -> None:
        check_patience(self.model, self.patience)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        criterion = self.model.criterion()
        logs = logs or {}
        values = {name.removeprefix("val_"): float(value) for name, value in logs.items() if name.startswith("val_")}
        if criterion.value is not None and not values:
            raise ValueError(
                f"Expected validation_data in `fit`: the best epoch is the one with the lowest validation "
                f"{criterion.name}. Received: none"
            )
        step = int(keras.ops.convert_to_tensor(self.model.step).numpy())
        value = criterion.judge(values, step)
        if value is None:
            better = math.isinf(self.best) and math.isfinite(values.get("loss", float(logs["loss"])))
        else:
            better = value < self.best
            self.worse = 0 if better else self.worse + 1
        if better:
            self.keep()
            self.epoch, self.best = epoch + 1, math.inf if value is None else value
            self.because = criterion.reason(value, step)
            self.missed = criterion.missed(values) if criterion.missed and values else None
        if self.patience is not None and self.worse >= self.patience:
            self.model.stop_training = True


def check_patience(model: Any, patience: int | None) -> None:
    """Raise a ValueError for a `patience` if the objective has no validation value."""
    if patience is not None and (criterion := model.criterion()).value is None:
        raise ValueError(
            f"Expected an objective with a validation value for `patience`; this one keeps the last epoch, because "
            f"{criterion.why}. Received: patience={patience}; leave `patience` out"
        )


@contextlib.contextmanager
def _nowhere(suffix: str) -> Iterator[Path]:
    """Yield the path of a temporary file, which is removed."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / f"file{suffix}"
