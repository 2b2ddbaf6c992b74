"""Measurements: likelihood bounds in nats, active units, probes, disentanglement, sample quality, localisation."""

from kvae.evaluation.audit import audit
from kvae.evaluation.comparison import over_runs, rate_distortion
from kvae.evaluation.compression import CodeRow, compression_table
from kvae.evaluation.diagnosis import (
    CollapseWarning,
    EvaluationWarning,
    Finding,
    NonFiniteWarning,
    WeightWarning,
    diagnose,
    generalisation_gap,
)
from kvae.evaluation.factors import dci, disentanglement, factor_vae_score, mig, sap
from kvae.evaluation.latents import LatentStatistics, aggregate_posterior, latent_statistics
from kvae.evaluation.likelihood import evaluate
from kvae.evaluation.localisation import per_region_overlap, pixel_auroc
from kvae.evaluation.probe import ProbeRow, linear_probe, probe_with_controls
from kvae.evaluation.quality import classifier_features, feature_classifier, frechet_distance, sample_quality, sharpness
from kvae.evaluation.scoring import score_images

__all__ = [
    "CodeRow",
    "CollapseWarning",
    "EvaluationWarning",
    "Finding",
    "LatentStatistics",
    "NonFiniteWarning",
    "ProbeRow",
    "WeightWarning",
    "aggregate_posterior",
    "audit",
    "classifier_features",
    "compression_table",
    "dci",
    "diagnose",
    "disentanglement",
    "evaluate",
    "factor_vae_score",
    "feature_classifier",
    "frechet_distance",
    "generalisation_gap",
    "latent_statistics",
    "linear_probe",
    "mig",
    "over_runs",
    "per_region_overlap",
    "pixel_auroc",
    "probe_with_controls",
    "rate_distortion",
    "sample_quality",
    "sap",
    "score_images",
    "sharpness",
]
