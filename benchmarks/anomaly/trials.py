"""The trials of detectors on all tables: resumable, and stored with one line for each table. Requires scikit-learn."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sets import NAMES, SEEDS, protocols, split
from sklearn.metrics import average_precision_score, roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

#: fits a detector to (rows, seed) and returns its function from rows to anomaly scores, by name of the score
Detector = Callable[[np.ndarray, int], Callable[[np.ndarray], dict[str, np.ndarray]]]


METRICS = ("auroc", "average_precision", "not_finite")


def trial(
    detector: Detector, name: str, protocol: str, seed: int
) -> tuple[dict[str, tuple[float, float, int]], float, float]:
    """Return AUROC, average precision and the number of scores that aren't finite; wall and processor seconds of `fit`.

    Scores that aren't finite count as the highest, and as equal.
    """
    train, test, outlying = split(name, protocol, seed)
    wall, processor = time.perf_counter(), time.process_time()
    score = detector(train, seed)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    found = {}
    for key, values in score(test).items():
        finite = np.isfinite(values)
        values = np.where(finite, values, np.finfo("float64").max)
        metrics = float(roc_auc_score(outlying, values)), float(average_precision_score(outlying, values))
        found[key] = *metrics, int(np.sum(~finite))
    return found, wall, processor


def run(path: Path, detectors: dict[str, Detector], machine: dict[str, Any], options: argparse.Namespace) -> None:
    """Run what isn't in the file at `path`, and store each result when it is finished."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"trials": {}}
    for name in options.sets or NAMES:
        for protocol in protocols(name):
            for contestant, detector in detectors.items():
                stored = results["trials"].setdefault(f"{name}; {protocol}", {})
                if contestant in stored.get("seconds", {}):
                    continue
                trials = [trial(detector, name, protocol, seed) for seed in SEEDS]
                for key in trials[0][0]:
                    for index, metric in enumerate(METRICS):
                        values = [round(found[key][index], 4) for found, _, _ in trials]
                        stored.setdefault(metric, {})[key] = values
                seconds = [round(statistics.median(values), 2) for values in list(zip(*trials, strict=True))[1:]]
                stored.setdefault("seconds", {})[contestant] = seconds
                means = {key: round(statistics.mean(stored["auroc"][key]), 3) for key in trials[0][0]}
                print(f"{name}; {protocol}: {means}, training {seconds[0]} s, processor {seconds[1]} s", flush=True)
                store(path, {**results, "machine": machine, "command": f"python {' '.join(sys.argv)}"})


def timed(path: Path, detectors: dict[str, Detector], machine: dict[str, Any], options: argparse.Namespace) -> None:
    """Store wall and processor seconds of training on a quiet machine: the medians of five rounds after a warm-up."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"trials": {}}
    for name in options.sets or ("wine", "digits, 9 is the outlier"):
        for contestant, detector in detectors.items():
            rounds = [trial(detector, name, "novelty", seed)[1:] for seed in (0, *SEEDS)][1:]
            seconds = [round(statistics.median(values), 2) for values in zip(*rounds, strict=True)]
            results.setdefault("time", {}).setdefault(name, {})[contestant] = seconds
            print(f"{name}, {contestant}: training {seconds[0]} s, processor {seconds[1]} s", flush=True)
    store(path, {**results, "machine": machine})


def store(path: Path, results: dict[str, Any]) -> None:
    """Write a file that has one line for each metric of each table."""
    rows = [
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(f"    {json.dumps(metric)}: {json.dumps(values)}" for metric, values in row.items())
        + "\n  }"
        for name, row in results["trials"].items()
        if row
    ]
    head = "".join(f"{json.dumps(name)}: {json.dumps(value)},\n" for name, value in results.items() if name != "trials")
    path.write_text("{" + head + '"trials": {\n' + ",\n".join(rows) + "\n}}\n", encoding="utf-8")


def options(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", help=f"any of {', '.join(map(repr, NAMES))} (default: all)")
    parser.add_argument("--time", action="store_true", help="measure the training time only, on a quiet machine")
    return parser
