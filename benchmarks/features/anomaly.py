"""Anomaly detection without labels: one digit against the others, and clothes against digits.

    python benchmarks/features/anomaly.py                      # all experiments
    python benchmarks/features/anomaly.py one-class --epochs 1 --seeds 0 --limit 1000      # quick check

Requires `TFDS_DATA_DIR` with mnist and fashion_mnist. The result is the AUROC on the test splits: mean over the seeds,
and range. Controls: the distance to the nearest training image, the squared error of a PCA with the same number of
components, and the squared error of a plain autoencoder with the same networks.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np
from common import RESULTS, store
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import kvae
from kvae.features import AnomalyDetector

LATENTS, SAMPLES, BATCH = 16, 8, 64
NEIGHBOURS = 10_000  # training images for the nearest-neighbour search


def scores(
    train: np.ndarray, tests: list[np.ndarray], epochs: int, seed: int, density: bool = True
) -> dict[str, list[np.ndarray]]:
    """Return how anomalous each test image is, for each score.

    With `density`, the likelihood is a distribution of 8-bit grey values, which is comparable with a compressor.
    Otherwise it is Bernoulli: the cross-entropy of grey values.
    """

    def vae(shape: tuple[int, int, int], latent_dim: int) -> kvae.VAE:
        likelihood = kvae.likelihoods.DiscretizedLogistic(levels=256) if density else kvae.likelihoods.Bernoulli()
        return kvae.VAE(latent_dim=latent_dim, image_shape=shape, likelihood=likelihood)

    detector = AnomalyDetector(
        LATENTS, model=vae, epochs=epochs, batch_size=BATCH, num_samples=SAMPLES, random_state=seed
    )
    detector.fit(train)
    by_criterion = [detector.score_by_criterion(test) for test in tests]
    found = {criterion: [-scores[criterion] for scores in by_criterion] for criterion in by_criterion[0]}
    found["auto"] = found[detector.criterion_]
    print(f"  criterion='auto' chose {detector.criterion_}: {detector.criterion_auroc_}", flush=True)
    detector.set_params(proposal="refined")
    found["likelihood, refined"] = [-detector.score_by_criterion(test)["likelihood"] for test in tests]
    keras.utils.set_random_seed(seed)
    likelihood = kvae.likelihoods.Normal(0.1)
    autoencoder = kvae.Autoencoder(latent_dim=LATENTS, image_shape=train.shape[1:], likelihood=likelihood)
    autoencoder.compile(keras.optimizers.Adam(1e-3))
    autoencoder.fit(train, epochs=epochs, batch_size=BATCH, verbose=0)
    found["autoencoder"] = [_squared(test, autoencoder.predict(test, verbose=0)) for test in tests]
    flat = train.reshape(len(train), -1)
    pca = PCA(LATENTS, random_state=0).fit(flat)
    neighbours = NearestNeighbors(n_neighbors=1).fit(flat[:NEIGHBOURS])
    for name, score in {
        "PCA": lambda x: _squared(x, pca.inverse_transform(pca.transform(x))),
        "nearest image": lambda x: neighbours.kneighbors(x)[0][:, 0],
    }.items():
        found[name] = [score(test.reshape(len(test), -1)) for test in tests]
    return found


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.square(a - b).reshape(len(a), -1).sum(axis=1)


def auroc(ordinary: np.ndarray, anomalous: np.ndarray) -> float:
    labels = np.repeat([0, 1], [len(ordinary), len(anomalous)])
    return float(roc_auc_score(labels, np.concatenate([ordinary, anomalous])))


def one_class(epochs: int, seed: int, limit: int | None, density: bool = True) -> dict[str, float]:
    """Return the AUROC on all test images with one ordinary digit, as a mean over the ten digits."""
    data = kvae.data.load("mnist")
    (x, y), (x_test, y_test) = data.arrays("train", limit), data.arrays("test", limit)
    assert y is not None
    assert y_test is not None
    by_digit: dict[str, list[float]] = {}
    for digit in range(10):
        for name, (score,) in scores(x[y == digit], [x_test], epochs, seed, density).items():
            by_digit.setdefault(name, []).append(auroc(score[y_test == digit], score[y_test != digit]))
        print(f"  digit {digit}:", {name: round(values[-1], 3) for name, values in by_digit.items()}, flush=True)
    return {name: statistics.mean(values) for name, values in by_digit.items()}


def against(ordinary: str, other: str) -> Callable[[int, int, int | None], dict[str, float]]:
    """Return an experiment: train on one dataset, AUROC against the other."""

    def run(epochs: int, seed: int, limit: int | None) -> dict[str, float]:
        data = kvae.data.load(ordinary)
        tests = [data.arrays("test", limit)[0], kvae.data.load(other).arrays("test", limit)[0]]
        found = scores(data.arrays("train", limit)[0], tests, epochs, seed)
        return {name: auroc(*values) for name, values in found.items()}

    return run


EXPERIMENTS: dict[str, tuple[Callable[[int, int, int | None], dict[str, float]], int]] = {
    "one-class": (one_class, 10),
    "one-class, Bernoulli": (functools.partial(one_class, density=False), 10),
    "fashion_mnist, then mnist": (against("fashion_mnist", "mnist"), 4),
    "mnist, then fashion_mnist": (against("mnist", "fashion_mnist"), 4),
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", help=f"any of {', '.join(map(repr, EXPERIMENTS))} (default: all)")
    parser.add_argument("--epochs", type=int, help="epochs, instead of the default of each experiment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--limit", type=int, help="use only the first images of each split")
    options = parser.parse_args()
    stored = RESULTS / "anomaly.json"
    results: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
    for name in options.experiments or EXPERIMENTS:
        run, epochs = EXPERIMENTS[name]
        epochs = options.epochs or epochs
        started = time.perf_counter()
        rows = [run(epochs, seed, options.limit) for seed in options.seeds]
        print(f"\n{name}: AUROC after {epochs} epochs, seeds {options.seeds}")
        table = {}
        for score in rows[0]:
            values = [row[score] for row in rows]
            table[score] = {"mean": statistics.mean(values), "runs": values}
            print(f"  {score:<16}{table[score]['mean']:.3f}   ({min(values):.3f} – {max(values):.3f})")
        results[name] = {
            "epochs": epochs,
            "seeds": options.seeds,
            "auroc": table,
            "seconds": round(time.perf_counter() - started),
        }
    if options.limit is None:
        store("anomaly", {**results, "latents": LATENTS, "samples": SAMPLES})
