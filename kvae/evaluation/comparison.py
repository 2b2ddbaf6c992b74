"""Several runs beside each other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvae.evaluation.likelihood import standard_error

SAME = ("split", "num_samples", "examples", "images", "binarisation")  # for all runs
COMPARED = ("distortion", "rate", "elbo", "nll", "bits_per_dim", "bits_per_dim_nll", "active_units")


def over_runs(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over runs (seeds of one configuration) of what `evaluate` gives, with two errors that answer two questions.

    * `nll_error_runs`, …: standard error over the runs: how much another seed of training changes the mean;
    * `nll_error`, …: standard error over the examples, root mean square over the runs: how much other test images
      do. All runs are scored on the same ones, so it doesn't shrink with their number.

    Args:
        results: one dict per run, of the same images (by number, checksum and binarisation) and K.

    Raises:
        ValueError: if there are none, or if they differ in these.

    Example:

        >>> runs = [{"nll": nll, "nll_error": 0.5, "split": "test"} for nll in (88.0, 90.0)]
        >>> over_runs(runs)
        {'runs': 2, 'nll': 89.0, 'nll_error': 0.5, 'nll_error_runs': 1.0, 'split': 'test'}
    """
    same = {name: {result.get(name) for result in results} for name in SAME}
    if not results or any(len(values) > 1 for values in same.values()):
        raise ValueError(f"Expected results of the same images and number of samples. Received: {same}")
    mean: dict[str, Any] = {"runs": len(results)}
    for name in COMPARED:
        if name not in results[0]:
            continue
        mean[name] = float(np.mean([result[name] for result in results]))
        errors = [error for result in results if (error := result.get(f"{name}_error")) is not None]
        if len(errors) == len(results):
            mean[f"{name}_error"] = float(np.sqrt(np.mean(np.square(errors))))
        mean[f"{name}_error_runs"] = standard_error([result[name] for result in results])
    return mean | {name: value for name, values in same.items() if (value := values.pop()) is not None}


def rate_distortion(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rate–distortion curve of several runs, such as one for each β (Alemi et al. 2018, eq. 8).

    A run is a point (R, D); at the best D for its R the slope of the curve is −β. A run is on the `frontier` if no
    other has both a lower rate and a lower distortion. The points of equal ELBO lie on lines D = −ELBO − R.

    Args:
        results: dicts with `rate` and `distortion`, such as those of `evaluate`; `beta` is kept.

    Returns:
        A row per run, by rising rate: `rate`, `distortion`, `elbo`, `frontier`, and `beta` if it is known.

    Example:

        >>> runs = [{"rate": 20.0, "distortion": 70.0}, {"rate": 10.0, "distortion": 90.0}, {"rate": 21.0,
        ...         "distortion": 71.0}]
        >>> [(row["rate"], row["frontier"]) for row in rate_distortion(runs)]
        [(10.0, True), (20.0, True), (21.0, False)]
    """
    rows: list[dict[str, Any]] = []
    lowest = np.inf
    for result in sorted(results, key=lambda result: (result["rate"], result["distortion"])):
        rate, distortion = result["rate"], result["distortion"]
        beta = {"beta": result["beta"]} if "beta" in result else {}
        rows.append(
            {
                **beta,
                "rate": rate,
                "distortion": distortion,
                "elbo": -rate - distortion,
                "frontier": distortion < lowest,
            }
        )
        lowest = min(lowest, distortion)
    return rows
