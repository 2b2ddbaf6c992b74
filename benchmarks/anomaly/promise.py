"""False alarms of `AnomalyDetector(alpha=0.05)` on fresh ordinary rows: in Keras, and by its float32 and int8 files.

    python benchmarks/anomaly/promise.py     # the ordinary rows of the tables of sets.py, and the machine's windows

Given n calibration scores, the number of false alarms among m fresh rows has a beta-binomial distribution with
k = floor(alpha (n + 1)) (Bates et al. 2023, https://arxiv.org/abs/2104.08279): its 95 % interval is shown beside it.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from scipy import stats
from sets import TABLES

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import RESULTS, machine

import kvae
import kvae.export
from kvae.evaluation import score_images
from kvae.export.runtime import load
from kvae.features import AnomalyDetector
from kvae.features.anomaly import conformal_p_values
from kvae.training import fit
from kvae.training.parts import model_of
from kvae.training.settings import Settings

ALPHA, SEED = 0.05, 0
STORED = RESULTS / "anomaly_promise.json"
PRECISIONS = ("float32", "int8")


def of_files(model: kvae.VAE, calibration: np.ndarray, fresh: np.ndarray) -> dict[str, int]:
    """Return the number of alarms on fresh rows by the model's files, calibrated with these rows."""
    with tempfile.TemporaryDirectory() as folder:
        kvae.export.export(
            model,
            folder,
            calibration[:50],
            validation=calibration,
            precisions=PRECISIONS,
            networks=(),
            batch_sizes=(16,),
            accept_losses=True,
        )
        files = {name: load(f"{folder}/vae_{name}.tflite") for name in PRECISIONS}
        return {
            name: int(np.sum(file.p_value(file.score(fresh)["negative_elbo"]) <= ALPHA)) for name, file in files.items()
        }


def of_table(name: str) -> tuple[int, int, dict[str, int]]:
    """Return the numbers of calibration and fresh rows, and the alarms."""
    x, outlying = TABLES[name](SEED)
    rows = np.random.default_rng(SEED).permutation(x[~outlying]).astype("float32")
    seen, fresh = np.split(rows, [round(0.6 * len(rows))])
    detector = AnomalyDetector(alpha=ALPHA, calibration_fraction=0.4, random_state=SEED).fit(seen)
    calibration = seen[detector.calibration_rows_[None]]
    alarms = {"Keras": int(np.sum(detector.predict(fresh) < 0)), **of_files(detector.model_, calibration, fresh)}
    return len(calibration), len(fresh), alarms


def of_machine() -> tuple[int, int, dict[str, int]]:
    """Return the same for windows of the simulated machine, whose splits follow each other in time."""
    data = kvae.data.load("machine", window=64, validation_fraction=0.3, test_fraction=0.3)
    vae = model_of(Settings(source="machine", window=64, epochs=20).for_data(data), data)
    fit(vae, data, epochs=20, learning_rate=1e-3, seed=SEED)
    calibration, fresh = (data.in_order().arrays(split)[0] for split in ("validation", "test"))
    known, scores = (
        (rows := score_images(vae, x, 1, seed=SEED))["distortion"] + rows["rate"] for x in (calibration, fresh)
    )
    p_values = conformal_p_values(np.sort(known), scores)
    return len(known), len(fresh), {"Keras": int(np.sum(p_values <= ALPHA)), **of_files(vae, calibration, fresh)}


if __name__ == "__main__":
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.is_file() else {"rows": {}}
    for name in [*TABLES, "machine"]:
        if name.split(", ")[-1] in ("global", "cluster", "dependency"):  # the same ordinary rows as those of "local"
            continue
        if name not in stored["rows"]:
            count, fresh, alarms = of_machine() if name == "machine" else of_table(name)
            k = int(np.floor(ALPHA * (count + 1)))
            interval = stats.betabinom(fresh, k, count + 1 - k).interval(0.95)
            stored["rows"][name] = {
                "calibration": count, "fresh": fresh, "alarms": alarms, "interval": [int(end) for end in interval]
            }  # fmt: skip
            stored |= {"alpha": ALPHA, "command": f"python {sys.argv[0]}", "machine": machine()}
            STORED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        row = stored["rows"][name]
        counts = ", ".join(f"{where} {number}" for where, number in row["alarms"].items())
        low, high = row["interval"]
        print(f"{name}: {row['fresh']} fresh rows, false alarms: {counts}; expected {low} to {high}", flush=True)
