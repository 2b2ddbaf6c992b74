"""Images per second of `kvae train --workers N` with one, two and four workers on one machine, the same total work.

    python benchmarks/training/scaling.py
    python benchmarks/training/scaling.py --rounds 1 --images 1280 --workers 1 2        # quick check

Epochs of synthetic 28×28 images, the default network, global batches of 128, divided among the workers. The threads of
one process already use all cores, so a ratio of 1 is the best possible result on one machine.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from common import extent, median_ratio, store

EPOCHS = 3  # the rates exclude the first epoch, which traces the step


def images_per_second(source: Path, workers: int, folder: str) -> float:
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    command = ["train", str(source), "--out", str(run), "--epochs", str(EPOCHS), "--samples", "1"]
    more = ["--workers", str(workers)] if workers > 1 else []
    done = subprocess.run(
        [sys.executable, "-m", "kvae", *command, *more], check=True, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    # A line for each epoch: its number, five values, and images/s.
    epochs = re.findall(r"^ +\d+(?: +[-−\d.]+){5} +([\d,]+) *$", done.stdout, re.MULTILINE)
    assert len(epochs) == EPOCHS, done.stdout
    return statistics.harmonic_mean([float(rate.replace(",", "")) for rate in epochs[1:]])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[int, list[float]] = {count: [] for count in options.workers}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "images.npy"
        np.save(source, np.random.default_rng(0).integers(0, 2, (options.images, 28, 28), np.uint8) * 255)
        for _ in range(options.rounds):
            for count, values in found.items():
                values.append(images_per_second(source, count, folder))
    base = found[options.workers[0]]
    rows = {
        str(count): {
            "ratio": round(median_ratio(values, base), 3),
            "images_per_second": round(statistics.median(values)),
            "spread": extent(values),
        }
        for count, values in found.items()
    }
    for count, row in rows.items():
        print(f"  {row['ratio']:5.2f}×  {row['images_per_second']:7,} images/s  ({row['spread']})  {count} workers")
    if options.rounds >= 3:
        store("training_scaling", {"images": options.images, "epochs": EPOCHS, "workers": rows})
