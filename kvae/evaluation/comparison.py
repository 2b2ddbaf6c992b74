"""Comparisons of several training runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvae.evaluation.likelihood import standard_error

SAME = ("split", "num_samples", "examples", "images", "binarisation")  # must be equal for all runs
COMPARED = (
    "distortion", "rate", "elbo", "nll", "nll_refined", "bits_per_dim", "bits_per_dim_nll", "bits_per_dim_refined",
    "active_units",
)  # fmt: skip


def over_runs(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of the results of `evaluate` over training runs (seeds of one configuration), with two errors.

    * `nll_error_runs`, …: standard error over the runs: the effect of another training seed on the mean;
    * `nll_error`, …: standard error over the examples, root mean square over the runs: the effect of other test
      images. All runs are scored on the same images, so it doesn't shrink with the number of runs.

    Args:
        results: one dict per run, with the same images (by number, checksum and binarisation) and K.

    Raises:
        ValueError: if there are no results, or if they differ in the images or in K.

    Example:

        >>> runs = [{"nll": nll, "nll_error": 0.5, "split": "test"} for nll in (88.0, 90.0)]
        >>> over_runs(runs)
        {'runs': 2, 'nll': 89.0, 'nll_error': 0.5, 'nll_error_runs': 1.0, 'split': 'test'}
    """
    same = {name: {result.get(name) for result in results} for name in SAME}
    if not results or any(len(values) > 1 for values in same.values()):
        raise ValueError(f"Expected results for the same images and number of samples. Received: {same}")
    proposals = {result.get("proposal") for result in results}
    is_comparable = len(proposals) == 1 and None not in proposals
    mean: dict[str, Any] = {"runs": len(results)} | ({"proposal": proposals.pop()} if is_comparable else {})
    for name in COMPARED:
        if any(name not in result for result in results) or ("refined" in name and not is_comparable):
            continue
        mean[name] = float(np.mean([result[name] for result in results]))
        errors = [error for result in results if (error := result.get(f"{name}_error")) is not None]
        if len(errors) == len(results):
            mean[f"{name}_error"] = float(np.sqrt(np.mean(np.square(errors))))
        mean[f"{name}_error_runs"] = standard_error([result[name] for result in results])
    return mean | {name: value for name, values in same.items() if (value := values.pop()) is not None}


def rate_distortion(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rate–distortion curve of several training runs, such as one for each β (Alemi et al. 2018, eq. 8).

    A run is a point (R, D); at the best D for its R the slope of the curve is −β. A run is on the `frontier` unless
    another run has both a lower rate and a lower distortion. Points of equal ELBO are on lines D = −ELBO − R.

    Args:
        results: dicts with `rate` and `distortion`, such as the results of `evaluate`; `beta` is kept.

    Returns:
        A row per run, by increasing rate: `rate`, `distortion`, `elbo`, `frontier`, and `beta` if it is known.

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
