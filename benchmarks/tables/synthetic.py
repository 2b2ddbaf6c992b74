"""Synthetic rows: `TableVAE` beside CTGAN's TVAE (`peer_tvae.py`) and two controls.

    python benchmarks/tables/synthetic.py                          # all tables, two seeds
    python benchmarks/tables/synthetic.py wine --seeds 0 --no-peer # quick check

Requires statsmodels (its data sets). As many rows are drawn as there are training rows.

* `auroc`: classifiers trained on synthetic rows predict the label of real test rows; mean of logistic regression and a
  random forest.
* `marginals`: mean over the columns of the Wasserstein distance (numbers, in standard deviations) or of the total
  variation (categories) to the test rows.
* `correlations`: mean absolute difference of the correlations of all standardised and one-hot columns.
* `closest_record`: median distance to the closest training row, relative to that of the real test rows: well below 1
  means that training rows are repeated.

Controls: the training rows themselves, and training rows whose columns are shuffled independently.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from data import divided
from imputation import OneHot, store, summary
from scipy.stats import wasserstein_distance
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from kvae.features import TableVAE

HERE = Path(__file__).resolve().parent
PEER = HERE.parent.parent / ".venv-peers-tables" / "bin" / "python"


def table_vae(train: pd.DataFrame, seed: int, **settings: Any) -> pd.DataFrame:
    batch_size = 64 if len(train) < 2000 else 500  # 500 is TVAE's
    return TableVAE(random_state=seed, hidden=0, batch_size=batch_size, **settings).fit(train).sample(len(train), seed)


def tvae(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        given, made = f"{folder}/train.csv", f"{folder}/made.csv"
        train.to_csv(given, index=False)
        subprocess.run([PEER, HERE / "peer_tvae.py", given, str(len(train)), str(seed), made], check=True)
        return pd.read_csv(made)


def shuffled(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({name: rng.permutation(train[name].to_numpy()) for name in train.columns})


METHODS: dict[str, Callable[[pd.DataFrame, int], pd.DataFrame]] = {
    "training rows": lambda train, seed: train,
    "shuffled columns": shuffled,
    "TableVAE": table_vae,
    "TableVAE, 5 components": lambda train, seed: table_vae(train, seed, components=5),
    "TVAE of CTGAN": tvae,
}


def measures(made: pd.DataFrame, train: pd.DataFrame, test: pd.DataFrame, label: str) -> dict[str, float]:
    table = OneHot(train)
    synthetic, real, unseen = (table.encode(frame[train.columns]) for frame in (made, train, test))
    marginals = [wasserstein_distance(synthetic[:, i], unseen[:, i]) for i in range(len(table.numbers))]
    for name, levels in table.categories.items():
        shares = [frame[name].value_counts(normalize=True).reindex(levels).fillna(0) for frame in (made, test)]
        marginals.append(0.5 * float((shares[0] - shares[1]).abs().sum()))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlations = [np.nan_to_num(np.corrcoef(part.T)) for part in (synthetic, unseen)]
    neighbours = NearestNeighbors(n_neighbors=1).fit(real)
    distances = [float(np.median(neighbours.kneighbors(part)[0])) for part in (synthetic, unseen)]
    features = OneHot(train.drop(columns=label))
    inputs, given = (features.encode(frame.drop(columns=label)[train.columns.drop(label)]) for frame in (made, test))
    auroc = []
    for classifier in (LogisticRegression(max_iter=1000), RandomForestClassifier(200, random_state=0, n_jobs=2)):
        probability = classifier.fit(inputs, made[label]).predict_proba(given)
        if len(classifier.classes_) == 2:
            auroc.append(roc_auc_score(test[label] == classifier.classes_[1], probability[:, 1]))
        else:
            auroc.append(roc_auc_score(test[label], probability, multi_class="ovr", labels=classifier.classes_))
    return {
        "auroc": float(np.mean(auroc)), "marginals": float(np.mean(marginals)),
        "correlations": float(np.abs(correlations[0] - correlations[1]).mean()),
        "closest_record": distances[0] / distances[1] if distances[1] else float("nan"),
    }  # fmt: skip


def run(name: str, methods: list[str], seeds: list[int]) -> dict[str, Any]:
    rows: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        train, test, label = divided(name, seed)
        for method in methods:
            started = time.perf_counter()
            made = METHODS[method](train, seed)
            found = {"seconds": time.perf_counter() - started, **measures(made, train, test, label)}
            for key, value in found.items():
                rows.setdefault(method, {}).setdefault(key, []).append(value)
            print(name, seed, method, {key: round(value, 3) for key, value in found.items()}, flush=True)
    return {method: {key: summary(values) for key, values in row.items()} for method, row in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=["cancer", "diabetes", "fair", "randhie"])
    parser.add_argument("--methods", nargs="*", default=[*METHODS], choices=[*METHODS])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--no-peer", action="store_true", help="leave CTGAN's TVAE out")
    args = parser.parse_args()
    methods = [method for method in args.methods if not (args.no_peer and method == "TVAE of CTGAN")]
    results = {}
    for name in args.tables:
        results[name] = run(name, methods, args.seeds)
        store("tables_synthetic", {"command": " ".join(sys.argv), "tables": results})


if __name__ == "__main__":
    main()
