"""Measurements of an exported file: its losses on test images, its latency and its memory."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kvae.evaluation.compression import psnr
from kvae.evaluation.probe import fit_probe, score_probe
from kvae.export import accuracy, runtime
from kvae.export.console import quiet
from kvae.export.reference import Run

THREADS = (1, 2)
SECONDS = 0.05  # of measurement per signature and number of threads
PROBED = 20  # smallest number of labelled images for a probe


@dataclass(frozen=True)
class Behaviour:
    """The results of a file on test images, and its cost; None for what wasn't measured.

    Attributes:
        distortion, rate, elbo: means in nats, computed by the file's `score` with one posterior sample for each image,
            the same in every file.
        nats_lost: ELBO of Keras minus `elbo`.
        score_spread: standard deviation of −ELBO in Keras over series or rows in their own units.
        score_rank_correlation: Spearman's correlation of −ELBO with that of Keras (1: anomalies stay anomalies).
        psnr: PSNR of the reconstructions against those of Keras, in dB; of values in their own units, with a peak of
            one standard deviation.
        psnr_data: PSNR of the reconstructions against the images.
        probe_accuracy: accuracy of logistic regression on the means from `encode` for the second half of the images.
            The regression is fitted on the means from Keras for the first half, the same for all files.
        agreement: share of images with the same class as in Keras.
        accuracy: share of images that the file classifies as their label.
        accuracy_lost: accuracy of Keras minus `accuracy`.
        accuracy_lost_error: standard error of this mean of paired differences; None for a single image.
        latency_us: median time of one call, in µs, by signature and number of threads.
        cold_start_ms, peak_memory_mb: of a new process that imports `kvae.export.runtime`, loads the file and runs its
            first signature once.
    """

    distortion: float | None = None
    rate: float | None = None
    elbo: float | None = None
    nats_lost: float | None = None
    score_spread: float | None = None
    score_rank_correlation: float | None = None
    psnr: float | None = None
    psnr_data: float | None = None
    probe_accuracy: float | None = None
    agreement: float | None = None
    accuracy: float | None = None
    accuracy_lost: float | None = None
    accuracy_lost_error: float | None = None
    latency_us: dict[str, dict[str, float]] | None = None
    cold_start_ms: float | None = None
    peak_memory_mb: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


class Comparison:
    """Outputs of a model on test images, for comparison with files.

    Args:
        run: the model in Keras.
        endpoints: names of the model's endpoints.
        inputs: test images `(N, H, W, C)` as "image", and "condition" for a conditional model.
        labels: `(N,)` or None; for a classifier, the numbers of the classes.
        units: size of one standardised unit in x (`kvae.export.reference.Reference`).
    """

    def __init__(
        self,
        run: Run,
        endpoints: set[str],
        inputs: dict[str, np.ndarray],
        labels: np.ndarray | None,
        units: Any = 1.0,
    ):
        self.endpoints, self.inputs, self.labels, self.units = endpoints, inputs, labels, units
        self.keras = self._outputs(run, endpoints)
        # The latents of a conditional model needn't contain the label, because its condition does.
        probes = "encode" in endpoints and "condition" not in inputs
        self.probed = labels if probes and labels is not None and len(labels) >= PROBED else None
        if self.probed is not None:
            half = len(self.probed) // 2
            self.probe = fit_probe(self.keras["mean"][:half], self.probed[:half], "mean")

    def of(self, run: Run, endpoints: Collection[str] | None = None) -> Behaviour:
        """Measure a file on the images through its `endpoints` (None: all endpoints of the model)."""
        has = self.endpoints if endpoints is None else self.endpoints & set(endpoints)
        got = self._outputs(run, has)
        result: dict[str, Any] = {}
        if "reconstruction" in got:
            result["psnr"] = self._psnr(got["reconstruction"], self.keras["reconstruction"])
            result["psnr_data"] = self._psnr(got["reconstruction"], self.inputs["image"])
        if "score" in has:
            result |= {name: float(np.mean(got[name], dtype="float64")) for name in ("distortion", "rate")}
            ours, keras = (np.mean(scores["negative_elbo"], dtype="float64") for scores in (got, self.keras))
            result["elbo"], result["nats_lost"] = -float(ours), float(ours - keras)
            if np.any(np.asarray(self.units) != 1):
                result["score_spread"] = float(np.std(self.keras["negative_elbo"], dtype="float64"))
            result["score_rank_correlation"] = _spearman(got["negative_elbo"], self.keras["negative_elbo"])
        if "classify" in has:
            result |= accuracy.compare(got["probability"], self.keras["probability"], self.labels)
        if self.probed is not None and "mean" in got:
            half = len(self.probed) // 2
            result["probe_accuracy"] = score_probe(self.probe, got["mean"][half:], self.probed[half:], "mean")
        return Behaviour(**result)

    def _psnr(self, a: np.ndarray, b: np.ndarray) -> float:
        """Return the PSNR over all images, dB; at most 200, which JSON can hold."""
        b = np.where(np.isnan(b), a, b)  # a missing value of a row
        return float(psnr((a / self.units).reshape(1, -1), (b / self.units).reshape(1, -1))[0])

    def _outputs(self, run: Run, endpoints: set[str]) -> dict[str, np.ndarray]:
        result: dict[str, np.ndarray] = {}
        for name in ("encode", "reconstruct"):
            if name in endpoints:
                result |= run(name, self.inputs)
        if "decode" in endpoints and "reconstruct" not in endpoints:
            given = {name: value for name, value in self.inputs.items() if name != "image"}
            # A file that only decodes gets the latents from Keras.
            result["reconstruction"] = run("decode", {"z": self.keras["mean"], **given})["image"]
        if "score" in endpoints:
            index = np.arange(len(self.inputs["image"]), dtype="int32")
            result |= run("score", {**self.inputs, "seed": runtime.seed_words(0), "index": index})
        if "classify" in endpoints:
            result |= run("classify", {"image": self.inputs["image"]})
        return result


def cost(path: Path) -> dict[str, Any]:
    """Measure a LiteRT file on this machine: the attributes of `Behaviour` about latency, cold start and memory."""
    with quiet():
        latency: dict[str, dict[str, float]] = {}
        for threads in THREADS:
            model = runtime.load(path, num_threads=threads)
            for endpoint, signature in model.info["signatures"].items():
                for size in signature["batch_sizes"]:
                    by_threads = latency.setdefault(f"{endpoint}_{size}", {})
                    by_threads[str(threads)] = _latency(model, endpoint, size)
    return {"latency_us": latency, **_cold_start(path)}


def first_latency(path: Path) -> float:
    """Measure the microseconds per call of a LiteRT file's first signature: smallest batch size, one thread."""
    with quiet():
        model = runtime.load(path, num_threads=1)
        endpoint, signature = next(iter(model.info["signatures"].items()))
        return _latency(model, endpoint, min(signature["batch_sizes"], default=1))


def _latency(model: runtime.Model, endpoint: str, size: int) -> float:
    inputs = runtime.zeros(model.info["signatures"][endpoint]["inputs"], size)
    model.run(endpoint, batch=size, **inputs)  # the first call allocates
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 5:
        start = time.perf_counter()
        model.run(endpoint, batch=size, **inputs)
        times.append(time.perf_counter() - start)
    return round(float(np.median(times)) * 1e6, 1)


_COLD_START = """
import json, sys, time
start = time.perf_counter()
from kvae.export.runtime import load, zeros
model = load(sys.argv[1])
name, signature = next(iter(model.info["signatures"].items()))
model.run(name, **zeros(signature["inputs"], 1))
seconds = time.perf_counter() - start
try:  # resource.getrusage would include the parent process
    kilobytes = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
except OSError:
    import resource
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
print(json.dumps({"cold_start_ms": round(1000 * seconds, 1), "peak_memory_mb": round(kilobytes / 1024, 1)}))
"""


def _cold_start(path: Path) -> dict[str, Any]:
    import kvae

    root = str(Path(kvae.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", _COLD_START, str(path)], capture_output=True, text=True, check=True, env=environment
    )
    return json.loads(done.stdout)


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the rank correlation; None for fewer than two values."""
    if len(a) < 2:
        return None
    first, second = (np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (a, b))
    return float(np.corrcoef(first, second).item(1))
