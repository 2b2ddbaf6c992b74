"""Missing values: `TableVAE` beside scikit-learn's imputers.

    python benchmarks/tables/imputation.py                     # all tables, three seeds
    python benchmarks/tables/imputation.py wine --seeds 0      # quick check

A share of the values is hidden completely at random, in training and test rows. Each method is fitted to the training
rows and fills the test rows. `rmse` is the root of the mean squared error of hidden numbers, in standard deviations of
the training rows; `accuracy` is the share of hidden categories that are found. Categories are one-hot columns for
scikit-learn's imputers, without the last category (a column that the others determine would stop IterativeImputer from
learning); the largest one is their answer.
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
from common import store
from data import divided
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.preprocessing import StandardScaler

import kvae
from kvae.features import TableVAE


class OneHot:
    """A table as standardised numbers and one-hot categories (`left_out`: without the last one), with NaN, and back."""

    def __init__(self, train: pd.DataFrame, left_out: int = 0):
        self.left_out = left_out
        self.columns = [*train.columns]
        self.numbers = train.select_dtypes("number").columns
        self.categories = {name: sorted(train[name].dropna().unique()) for name in train.columns.drop(self.numbers)}
        self.scaler = StandardScaler().fit(train[self.numbers])

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        parts = [self.scaler.transform(frame[self.numbers])]
        for name, levels in self.categories.items():
            one_hot = np.stack([frame[name] == level for level in levels[: len(levels) - self.left_out]], axis=1)
            parts.append(np.where(frame[[name]].isna(), np.nan, one_hot.astype(float)))
        return np.concatenate(parts, axis=1)

    def decode(self, values: np.ndarray) -> pd.DataFrame:
        count = len(self.numbers)
        frame = pd.DataFrame(self.scaler.inverse_transform(values[:, :count]), columns=self.numbers)
        for name, levels in self.categories.items():
            shares = values[:, count : count + len(levels) - self.left_out]
            count += shares.shape[1]
            if self.left_out:
                shares = np.concatenate([shares, 1 - shares.sum(axis=1, keepdims=True)], axis=1)
            frame[name] = np.array(levels, object)[shares.argmax(axis=1)]
        return frame[self.columns]


def sklearn_imputer(imputer: Any, train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    table = OneHot(train, left_out=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return table.decode(imputer.fit(table.encode(train)).transform(table.encode(test)))


def table_vae(train: pd.DataFrame, test: pd.DataFrame, seed: int, **settings: Any) -> pd.DataFrame:
    return TableVAE(random_state=seed, **settings).fit(train).impute(test)


METHODS = {
    "mean and mode": lambda train, test, seed: sklearn_imputer(SimpleImputer(), train, test),
    "KNNImputer": lambda train, test, seed: sklearn_imputer(KNNImputer(), train, test),
    "IterativeImputer": lambda train, test, seed: sklearn_imputer(IterativeImputer(random_state=seed), train, test),
    "TableVAE": table_vae,
    "TableVAE, 5 components": lambda *args: table_vae(*args, components=5),
    "TableVAE, ELBO": lambda *args: table_vae(*args, objective=kvae.objectives.ELBO()),
}


def run(name: str, methods: list[str], seeds: list[int], missing: float) -> dict[str, Any]:
    rows: dict[str, Any] = {method: {"rmse": [], "accuracy": [], "seconds": []} for method in methods}
    for seed in seeds:
        train, test, _ = divided(name, seed)
        masks = [
            np.random.default_rng([seed, i]).random(frame.shape) < missing for i, frame in enumerate((train, test))
        ]
        numbers = train.select_dtypes("number").columns
        at = train.columns.isin(numbers)
        scale = train[numbers].std()
        for method in methods:
            started = time.perf_counter()
            filled = METHODS[method](train.mask(masks[0]), test.mask(masks[1]), seed)
            error = ((filled[numbers] - test[numbers]) / scale).to_numpy()[masks[1][:, at]]
            others = train.columns[~at]
            right = (filled[others] == test[others]).to_numpy()[masks[1][:, ~at]]
            for key, value in (
                ("rmse", np.sqrt(np.mean(error**2))), ("accuracy", right.mean()),
                ("seconds", time.perf_counter() - started),
            ):  # fmt: skip
                rows[method][key].append(float(value))
            print(name, seed, method, {key: round(values[-1], 3) for key, values in rows[method].items()}, flush=True)
    return {method: {key: summary(values) for key, values in row.items()} for method, row in rows.items()}


def summary(values: list[float]) -> dict[str, Any]:
    return {"mean": round(statistics.mean(values), 3), "values": [round(value, 3) for value in values]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=["wine", "cancer", "diabetes"])
    parser.add_argument("--methods", nargs="*", default=[*METHODS], choices=[*METHODS])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--missing", type=float, default=0.3)
    args = parser.parse_args()
    results = {}
    for name in args.tables:
        results[name] = run(name, args.methods, args.seeds, args.missing)
        store("tables_imputation", {"command": " ".join(sys.argv), "missing": args.missing, "tables": results})


if __name__ == "__main__":
    main()
