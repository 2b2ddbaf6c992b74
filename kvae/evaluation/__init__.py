"""Numbers: likelihood bounds in nats, active units, and what a linear probe reads from the features."""

from kvae.evaluation.latents import LatentStatistics, latent_statistics
from kvae.evaluation.likelihood import CollapseWarning, diagnose, evaluate
from kvae.evaluation.probe import ProbeRow, linear_probe, probe_with_controls

__all__ = [
    "CollapseWarning",
    "LatentStatistics",
    "ProbeRow",
    "diagnose",
    "evaluate",
    "latent_statistics",
    "linear_probe",
    "probe_with_controls",
]
