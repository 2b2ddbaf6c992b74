"""Scores, linear probe, figures and report of a trained model."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kvae.data import Data
from kvae.evaluation import EvaluationWarning, evaluate, latent_statistics, probe_with_controls, score_images
from kvae.features import extract
from kvae.models import VAE
from kvae.report import list_figures, write_figures, write_report
from kvae.run import METRICS, RunFolder, write_json
from kvae.steps import Steps

PROBE_TRAIN, PROBE_TEST = 2000, 5000  # labels for training and testing a probe
PICTURED = 2000  # test images for the figures and the statistics of each latent
_REPLACED = {"warning", "not_made", "probe"}  # entries of the metrics that a new description replaces


def _ignore(*_: Any) -> None:
    """Do nothing."""


def describe_run(
    run: Path | RunFolder,
    data: Data,
    num_samples: int = 16,
    steps: Callable[[], Steps] = Steps,
    on_scores: Callable[[dict[str, Any]], object] = _ignore,
    on_probe: Callable[[list[dict[str, Any]]], object] = _ignore,
    on_warning: Callable[[str], object] = _ignore,
) -> VAE:
    """Score a trained run on its test split, probe its latents, and write figures and report.

    A step that fails is listed in the metrics and the report, with its reason; the others run.

    Args:
        run: the run folder.
        data: data that the run was trained on.
        num_samples: posterior samples of each test image, for the NLL.
        steps: function that creates `kvae.steps.Steps`, which report failures.
        on_scores: called with the scores.
        on_probe: called with the rows of the probe.
        on_warning: called with a warning about suspicious scores.

    Returns:
        The model.
    """
    folder = RunFolder(run.path if isinstance(run, RunFolder) else run)
    model, optional = folder.model, steps()
    metrics = {name: value for name, value in folder.metrics.items() if name not in _REPLACED}
    with optional("Not scored: test split"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EvaluationWarning)
        scores = evaluate(model, data, num_samples, "test", progress=True)
        on_scores(scores)
        metrics |= scores
        messages = [str(warning.message) for warning in caught if issubclass(warning.category, EvaluationWarning)]
        if messages:
            metrics["warning"] = " ".join(messages)
            on_warning(metrics["warning"])
    if data.has_labels and model.condition_dim is None:  # a conditional encoder receives the label
        with optional("Not made: linear probe"):
            metrics["probe"] = probe_run(model, data)
            on_probe(metrics["probe"])
    write_json(folder / METRICS, metrics | ({"not_made": optional.failed} if optional.failed else {}))
    draw_run(folder, data, steps())
    with optional("Not made: report"):
        write_report(folder.path)
    return model


def draw_run(run: RunFolder, data: Data, steps: Steps) -> list[Path]:
    """Write the figures of a run from its first test images, and return their paths."""
    failure, paths, model = "Not drawn: figures", [], run.model
    with steps(failure):
        images, labels = data.arrays("test", limit=PICTURED)
        if model.condition_dim is not None and labels is not None:
            images, labels = images[labels >= 0], labels[labels >= 0]  # a conditional model encodes no others
        # The pictures decode, which requires all levels of a hierarchy.
        features = extract(model, images if labels is None else (images, labels), hidden=False, all_levels=True)
        statistics = latent_statistics(features["mean"], features["variance"])
        paths = write_figures(
            run.path, model, images, labels, run.history,
            label_names=data.label_names, means=features["mean"], kl=statistics.kl,
            layer_rates=run.metrics.get("layer_rates"), steps=steps,
            history_of_scores=_scores_in_time(model, data) if _has_history(model, data) else None,
        )  # fmt: skip
    if failure in steps.failed:
        list_figures(run.path, [], {failure: steps.failed[failure]})
    return paths


def _has_history(model: VAE, data: Data) -> bool:
    """Return whether the windows of the data are the parts of long series, in one order of time."""
    return data.source.times is not None and bool(data.counts["validation"]) and model.condition_dim is None


def _scores_in_time(model: VAE, data: Data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return −ELBO of the validation windows, and of the test windows in the order of time, with their times."""
    known, scores = (
        (rows := score_images(model, data.split(split, limit=PICTURED), 1, seed=0))["distortion"] + rows["rate"]
        for split in ("validation", "test")
    )
    times = data.times("test")[: len(scores)]
    order = np.argsort(times, kind="stable")
    return known, scores[order], times[order]


def probe_run(model: VAE, data: Data) -> list[dict[str, Any]]:
    """Run the linear probe and its controls on a few thousand labels of the training and test splits."""
    train_images, train_labels = data.arrays("train", limit=PROBE_TRAIN)
    test_images, test_labels = data.arrays("test", limit=PROBE_TEST)
    if train_labels is None or test_labels is None:
        split = "training" if train_labels is None else "test"
        raise ValueError(f"Expected labels to probe for. Received: {data.name}, whose {split} images have none")
    train = {**extract(model, train_images), "label": np.asarray(train_labels)}
    test = {**extract(model, test_images), "label": np.asarray(test_labels)}
    rows = probe_with_controls(train, train_images, test, test_images)
    return [{**row._asdict(), "labels": int(np.sum(train["label"] >= 0))} for row in rows]
