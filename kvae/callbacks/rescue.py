"""Values that aren't finite: skipped steps, and the rescue of a training run."""

import warnings
from typing import Any

import keras
import numpy as np

from kvae.callbacks.resume import variables_of

SCALE_STEPS = 30  # steps that float16 may skip until its loss scale is found


class TrainingWarning(UserWarning):
    """A warning about a training run."""


@keras.saving.register_keras_serializable("kvae")
class LowerableRate(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate schedule times a factor, which `Rescue` can lower during training.

    Example:

        >>> rate = LowerableRate(keras.optimizers.schedules.CosineDecay(1e-3, 1000))
        >>> _ = rate.factor.assign(0.5)
        >>> round(float(rate(0)), 6)
        0.0005
    """

    def __init__(self, schedule: Any):
        is_config = isinstance(schedule, dict)
        self.schedule = keras.saving.deserialize_keras_object(schedule) if is_config else schedule
        self.factor = keras.Variable("ones", shape=(), trainable=False, name="factor")

    def __call__(self, step: Any) -> Any:
        return self.factor * self.schedule(step)

    def get_config(self) -> dict[str, Any]:
        return {"schedule": keras.saving.serialize_keras_object(self.schedule)}


class NothingLearnedError(ValueError):
    """No step of a training run had a finite loss and finite gradients."""


class SkippedStepsWarning(keras.callbacks.Callback):
    """A callback that counts the steps that were skipped because their loss or gradients weren't finite.

    It gives a `TrainingWarning` after each epoch with such steps, and ends `fit` if no step at all was taken. `VAE.fit`
    adds this callback itself.

    Raises:
        NothingLearnedError: after an epoch, if no step has been taken so far. (float16 may skip up to 30 steps
            until its loss scale is found.)
    """

    stops = True  # if no step was taken

    def on_train_begin(self, logs: Any = None) -> None:
        skipped = self.model.skipped
        self._seen, self._begun, self._missing, self._first = (
            skipped.total,
            skipped.total,
            skipped.missing,
            self._step(),
        )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        skipped = self.model.skipped.total - self._seen
        self._seen += skipped
        if not skipped:
            return
        steps = self._step() - self._first
        is_scaled = isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer)
        if self._seen - self._begun == steps and self.stops and steps > (SCALE_STEPS if is_scaled else 0):
            raise NothingLearnedError(
                f"Expected steps with a finite loss and finite gradients. Received: none in {steps} steps, so nothing "
                f"was learned. {self._remedy()}"
            )
        warnings.warn(
            f"epoch {epoch + 1}: {skipped} steps were skipped because their loss or gradients were not finite. "
            f"{self._remedy()}",
            TrainingWarning, stacklevel=2,
        )  # fmt: skip

    def _step(self) -> int:
        return int(keras.ops.convert_to_tensor(self.model.step).numpy())

    def _remedy(self) -> str:
        if self.model.skipped.missing > self._missing:
            return "Images hold NaN: repair or drop them"
        return "Use a lower learning rate, float32, or a likelihood with a bounded variance"


class Rescue(SkippedStepsWarning):
    """A callback that restores earlier weights when the loss or gradients of many steps in a row aren't finite.

    Steps whose loss or gradients aren't finite are always skipped; `vae.skipped` counts them. After too many in a row,
    the weights from the beginning of the epoch are restored (the callback keeps a copy) and the learning rate is
    lowered. If that doesn't help either, training stops, and `diagnosis` says why. A `TrainingWarning` reports rescues
    and skipped steps.

    Args:
        rate: the optimizer's schedule; None if its learning rate is a number.
        in_a_row: number of skipped steps in a row that triggers a rescue. (float16 begins with up to 15, until its loss
            scale is found.)
        factor: factor by which the learning rate is multiplied.
        times: number of rescues after which training stops.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> vae.compile(keras.optimizers.Adam(1e-3))
        >>> rescue = Rescue(in_a_row=2, times=1)
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", TrainingWarning)
        ...     history = vae.fit(np.full((64, 8, 8, 1), np.nan), batch_size=8, callbacks=[rescue], verbose=0)
        >>> rescue.diagnosis.split(",")[0]
        '2 steps in a row had no finite loss or gradients'
    """

    stops = False  # rescues come first

    def __init__(self, rate: LowerableRate | None = None, in_a_row: int = 30, factor: float = 0.3, times: int = 3):
        super().__init__()
        self.rate, self.in_a_row, self.factor, self.times = rate, in_a_row, factor, times
        self.lowered = 1.0  # current factor of the learning rate
        self.rescues = 0
        self.diagnosis: str | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._good: list[np.ndarray] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if not self._good:  # not in on_epoch_begin, in which other callbacks restore and swap weights
            self._good = [keras.ops.convert_to_numpy(variable) for variable in self._variables()]
            if self.rate is not None:
                self.rate.factor.assign(self.lowered)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        in_a_row = self.model.skipped.in_a_row
        if in_a_row < self.in_a_row:
            return
        if self.rescues == self.times:
            self.diagnosis = (
                f"{in_a_row} steps in a row had no finite loss or gradients, after {self.times} rescues and with "
                f"{self.lowered:.2g} times the original learning rate. {self._remedy()}"
            )
            self.model.stop_training = True
            return
        self.rescues += 1
        self.lowered *= self.factor
        for variable, value in zip(self._variables(), self._good):
            variable.assign(value)
        self.model.skipped.begin_row()
        if self.rate is not None:
            self.rate.factor.assign(self.lowered)
        else:
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) * self.factor
        warnings.warn(
            f"{in_a_row} steps in a row had no finite loss or gradients: restored the weights from the beginning of "
            f"the epoch; training continues with {self.lowered:.2g} times the original learning rate",
            TrainingWarning, stacklevel=2,
        )  # fmt: skip

    def _variables(self) -> list[Any]:
        """Return all variables except the learning rate and the step, which stays so that the noise is new."""
        kept = (id(self.model.step), id(self.model.optimizer.learning_rate))
        return [variable for variable in variables_of(self.model) if id(variable) not in kept]
