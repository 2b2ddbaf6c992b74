"""Callbacks for `fit`: resuming a training run, handling values that aren't finite, and keeping the best epoch."""

from kvae.callbacks.best import BestEpoch
from kvae.callbacks.rescue import LowerableRate, NothingLearnedError, Rescue, SkippedStepsWarning, TrainingWarning
from kvae.callbacks.resume import Resume

__all__ = [
    "BestEpoch",
    "LowerableRate",
    "NothingLearnedError",
    "Rescue",
    "Resume",
    "SkippedStepsWarning",
    "TrainingWarning",
]
