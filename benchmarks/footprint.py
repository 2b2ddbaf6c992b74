"""Start-up of the command, `import kvae`, `kvae train` to its first step, and the peak memory of training on MNIST.

`kvae train` runs 50 steps in one call. The time to the first step is the time to the end of the first call, which also
traces the step. The rows of MNIST require `TFDS_DATA_DIR` with mnist.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from common import store

#: program that ends when `kvae train` returns from its first call of the compiled step
FIRST_STEP = """
import os, sys, tempfile, keras
from kvae.cli.main import main
fit, ended = keras.Model.fit, keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: os._exit(0))
keras.Model.fit = lambda self, *args, callbacks=(), **more: fit(self, *args, callbacks=[*callbacks, ended], **more)
data, folder = sys.argv[1:]
sys.argv[1:] = ["train", data, "--out", tempfile.mkdtemp(dir=folder) + "/run"]
main()
raise SystemExit("no step was taken")
"""


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
    with tempfile.TemporaryDirectory() as folder:
        for data in ["digits", *(["mnist"] if os.environ.get("TFDS_DATA_DIR") else [])]:
            command = [python, "-c", FIRST_STEP, data, folder]
            results[f"kvae train {data}, to the end of the first call, s"] = round(
                statistics.median(seconds(command)), 2
            )
        if os.environ.get("TFDS_DATA_DIR"):
            command = ["train", "mnist", "--epochs", "1", "--samples", "8", "--out", f"{folder}/run"]
            subprocess.run([python, "-m", "kvae", *command], check=True, capture_output=True)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            results["kvae train mnist --epochs 1, peak MB"] = round(peak)
    for name, value in results.items():
        print(f"{value:10,}  {name}")
    store("footprint", results)
