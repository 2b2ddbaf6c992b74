"""Interleaved timing, and storage of the results."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def interleaved(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every contestant in every round. Contestants take turns, after one warm-up each."""
    for run in contestants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def median_ratio(a: list[float], b: list[float]) -> float:
    """Return the median of a/b over the rounds, so that drifts of the machine cancel."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def extent(values: list[float]) -> str:
    return f"{min(values):,.4g} – {max(values):,.4g}"


def rates(seconds: dict[str, list[float]], base: str, images: int, ratio: str) -> dict[str, dict[str, Any]]:
    """Print and return images per second of every contestant, and the ratio to `base` with the key `ratio`."""
    rows = {
        name: {
            ratio: round(median_ratio(seconds[base], values), 3),
            "images_per_second": round(images / statistics.median(values)),
            "spread": extent([images / value for value in values]),
        }
        for name, values in seconds.items()
    }
    for name, row in rows.items():
        print(f"  {row[ratio]:5.2f}×  {row['images_per_second']:7,} images/s  ({row['spread']})  {name}")
    return rows


def machine() -> dict[str, Any]:
    import tensorflow as tf

    names = [
        line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if line.startswith("model name")
    ]
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
    }


def store(name: str, results: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n", encoding="utf-8")
    print(f"\nStored in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
