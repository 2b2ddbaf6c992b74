"""Start-up of the command, what `import kvae` brings, and the peak memory of training on MNIST."""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from common import store


def seconds(command: list[str], runs: int = 5) -> list[float]:
    values = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        values.append(time.perf_counter() - started)
    return values[1:]


if __name__ == "__main__":
    python = sys.executable
    results = {
        "kvae --help, s": round(statistics.median(seconds([python, "-m", "kvae", "--help"])), 3),
        "python -c 'import kvae', s": round(statistics.median(seconds([python, "-c", "import kvae"])), 3),
        "python -c '', s": round(statistics.median(seconds([python, "-c", ""])), 3),
    }
    if os.environ.get("TFDS_DATA_DIR"):
        with tempfile.TemporaryDirectory() as folder:
            command = ["train", "mnist", "--epochs", "1", "--samples", "8", "--out", f"{folder}/run"]
            subprocess.run([python, "-m", "kvae", *command], check=True, capture_output=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        results["kvae train mnist --epochs 1, peak MB"] = round(peak)
    for name, value in results.items():
        print(f"{value:10,}  {name}")
    store("footprint", results)
