"""Detectors of PyOD with their defaults, on the tables of `sets.py`, and on its series as rows of numbers.

Run it in an environment of its own:

    python -m venv .venv-peers
    .venv-peers/bin/pip install torch && .venv-peers/bin/pip install pyod scikit-learn tqdm
    .venv-peers/bin/python benchmarks/anomaly/peers.py

Results that are stored aren't computed again.
"""

import os
import platform
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import trials
from common import RESULTS
from pyod.models.auto_encoder import AutoEncoder
from pyod.models.ecod import ECOD
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.pca import PCA
from pyod.models.vae import VAE


def peer(make: Any, **settings: Any) -> trials.Detector:
    """Return a detector of PyOD; one with random numbers gets the seed."""

    def fit(train: np.ndarray, seed: int) -> Any:
        seeded = {"random_state": seed} if "random_state" in make.__init__.__code__.co_varnames else {}
        detector = make(**settings, **seeded).fit(train.reshape(len(train), -1))
        return lambda rows: {f"pyod {make.__name__}": detector.decision_function(rows.reshape(len(rows), -1))}

    return fit


PEERS: dict[str, trials.Detector] = {
    "pyod VAE": peer(VAE, verbose=0),
    "pyod AutoEncoder": peer(AutoEncoder, verbose=0),
    **{f"pyod {make.__name__}": peer(make) for make in (IForest, KNN, PCA, ECOD)},
}


if __name__ == "__main__":
    options = trials.options(__doc__).parse_args()
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "pyod", "scikit-learn")},
    }
    torch.set_num_threads(1)
    (trials.timed if options.time else trials.run)(RESULTS / "anomaly_tables_peers.json", PEERS, machine, options)
