"""Callbacks for `fit`: resuming, values that aren't finite, and the epoch that is kept."""

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
