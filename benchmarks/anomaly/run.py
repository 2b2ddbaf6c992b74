"""`AnomalyDetector` with its defaults on the tables and series of `sets.py`, every criterion; and tables of results.

    python benchmarks/anomaly/run.py                 # what isn't stored yet: 10 processor seconds for each of 195 fits
    python benchmarks/anomaly/run.py --table         # the results of this script and of peers.py, as Markdown
    python benchmarks/anomaly/run.py --time          # training time only, on a quiet machine

Seeds 0 to 4 choose the outliers, the split, the weights and the noise. Nothing is downloaded.
"""

import json
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import trials
from common import RESULTS, machine
from sets import CHOSEN_ON, HELD_OUT, NAMES, PROTOCOLS, SERIES, protocols

from kvae.features import AnomalyDetector

OURS, PEERS = RESULTS / "anomaly_tables.json", RESULTS / "anomaly_tables_peers.json"
CRITERIA = ("elbo", "likelihood", "distortion", "rate", "typicality")


def detector(train: np.ndarray, seed: int) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    fitted = AnomalyDetector(event_shape=train.shape[1:] if train.ndim > 2 else None, random_state=seed).fit(train)
    return lambda rows: {f"kvae {name}": -score for name, score in fitted.score_by_criterion(rows).items()}


def with_error(values: list[float]) -> str:
    """Return the mean and its standard error over the seeds."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"


def table(metric: str) -> None:
    """Print a metric of all detectors on what both scripts have finished, and its means."""
    ours, peers = (json.loads(path.read_text(encoding="utf-8"))["trials"] for path in (OURS, PEERS))
    rows: dict[tuple[str, str], dict[str, list[float]]] = {}
    for name in NAMES:
        for protocol in protocols(name):
            key = f"{name}; {protocol}"
            if key in ours and len(peers.get(key, {}).get("seconds", {})) == 6:
                rows[name, protocol] = ours[key][metric] | peers[key][metric]
    names = [f"kvae {criterion}" for criterion in CRITERIA]
    names += [name for name in next(iter(rows.values())) if name not in names]
    print(f"\n{metric}\n\n| table | protocol | {' | '.join(names)} |\n|{'---|' * (2 + len(names))}")
    for (name, protocol), row in rows.items():
        print(f"| {name} | {protocol} | {' | '.join(with_error(row[key]) for key in names)} |")
    parts: dict[str, Callable[[str, str], bool]] = {
        "all tables": lambda name, protocol: name not in SERIES,
        "tables of the choice": lambda name, protocol: name in CHOSEN_ON,
        "held-out tables": lambda name, protocol: name in HELD_OUT,
        **{key: lambda name, protocol, key=key: protocol == key and name not in SERIES for key in PROTOCOLS},
        "series": lambda name, protocol: name in SERIES,
    }
    for part, belongs in parts.items():
        chosen = [row for key, row in rows.items() if belongs(*key)]
        if chosen:
            # The error of the mean over these tables: the seeds are the only thing that varies.
            means = [with_error(list(np.mean([row[key] for row in chosen], axis=0))) for key in names]
            print(f"| **mean: {part}** | {len(chosen)} rows | {' | '.join(means)} |")
    for name, protocol in rows:
        counts = {**ours[key := f"{name}; {protocol}"]["not_finite"], **peers[key]["not_finite"]}
        if found := {detector: count for detector, count in counts.items() if any(count)}:
            print(f"\n{key}: number of scores that aren't finite, by seed: {found}")


if __name__ == "__main__":
    parser = trials.options(__doc__)
    parser.add_argument("--table", action="store_true", help="print the stored results")
    options = parser.parse_args()
    detectors: dict[str, Any] = {"kvae": detector}
    if options.table:
        for metric in ("auroc", "average_precision"):
            table(metric)
    else:
        (trials.timed if options.time else trials.run)(OURS, detectors, machine(), options)
