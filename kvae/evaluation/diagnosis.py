"""Diagnose problems of a VAE from its scores, with remedies."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from kvae.evaluation.latents import mismatch
from kvae.networks import kind_of

TRUSTED = 0.9  # share of images with two effective samples or more
ENOUGH_SAMPLES = 64  # with fewer samples, the bound isn't expected to be close to the likelihood
CLEAR = 4.0  # standard errors of a significant gap
GAP = 1.0  # nats of a relevant gap
UNUSED = 0.1  # nats of a stochastic layer that carries (almost) no information
#: further remedy for overfitting, by the events of the model; that of images for others
REMEDIES = {
    "images": "redraw binary images in each epoch",
    "series": "look for a drift: the splits follow each other in time",
    "rows": "check that the splits are random parts of one table",
}
WASTED = 0.1  # acceptable share of the aggregate posterior's KL from the prior in the rate


class EvaluationWarning(UserWarning):
    """A warning about a problem that the scores of an evaluation show."""


class CollapseWarning(EvaluationWarning):
    """A warning that the posterior has collapsed onto the prior: the latents carry (almost) no information about x."""


class NonFiniteWarning(EvaluationWarning):
    """A warning that some images have terms that are infinite or NaN."""


class WeightWarning(EvaluationWarning):
    """A warning that for many images one or two samples dominate the importance-weighted likelihood."""


#: findings of which `evaluate` warns, by name; only `diagnose` reports the others
WARNINGS: dict[str, type[EvaluationWarning]] = {
    "posterior collapse": CollapseWarning,
    "not finite": NonFiniteWarning,
    "degenerate weights": WeightWarning,
}


class Finding(NamedTuple):
    """A problem of a model: its name, and a message with the numbers and a remedy."""

    name: str
    message: str


def diagnose(scores: Mapping[str, Any], train: Mapping[str, Any] | None = None) -> list[Finding]:
    """Return the problems that the scores show; an empty list if they show none.

    * "posterior collapse": fewer than 2 latents, and at most a quarter, are active;
    * "unused layers": stochastic layers of a hierarchy with a rate below 0.1 nats;
    * "not finite": names the terms, and the number of images of each;
    * "outside the support": images without a probability under the likelihood, such as grey ones for Bernoulli;
    * "degenerate weights": K ≥ 64, and the effective sample size is below 2 for more than 10% of the images;
    * "prior mismatch": the KL of the aggregate posterior from the prior is over 1 nat, and over 10% of the rate;
    * "overfitting": test images cost over 1 nat more than training images, and over 4 standard errors;
    * "underfitting": test images cost no more than training images (within 2 standard errors).

    Args:
        scores: result of `evaluate`, optionally merged with that of `aggregate_posterior`.
        train: scores of the same number of training images with the same K.

    Example:

        >>> scores = {"active_units": 0, "kl_per_dimension": [0.0] * 8, "rate": 0.01, "nll": 100.0}
        >>> [finding.name for finding in diagnose(scores)]
        ['posterior collapse']
    """
    checks = (_collapse, _layers, _not_finite, _outside, _weights, _mismatch)
    findings = [finding for check in checks if (finding := check(scores))]
    return findings if train is None else [*findings, *_gap(scores, train)]


def _events(scores: Mapping[str, Any], count: int = 2) -> str:
    """Return the name of the events that were scored, such as "images"."""
    return kind_of(tuple(scores.get("event_shape", (1, 1, 1))), count)


def _collapse(scores: Mapping[str, Any]) -> Finding | None:
    active, latents = scores["active_units"], len(scores["kl_per_dimension"])
    if active > latents / 4 or active >= 2:
        return None
    rate, one = f"rate {scores['rate']:.2f} nats", _events(scores, count=1)
    if scores["rate"] > latents:  # far from the prior, and still without information
        rate += f", for a posterior that is nearly the same for every {one}"
    return Finding(
        "posterior collapse",
        f"Posterior collapse: {active} of {latents} latents are active ({rate}), so the decoder gives nearly the same "
        f"{one} for every z. Train longer, warm up or lower beta, or use a likelihood with a smaller variance.",
    )


def _layers(scores: Mapping[str, Any]) -> Finding | None:
    rates = scores.get("layer_rates", [])
    unused = [str(i) for i, rate in enumerate(rates, start=1) if rate < UNUSED]
    if not unused:
        return None
    return Finding(
        "unused layers",
        f"Unused layers: {len(unused)} of {len(rates)} stochastic layers carry less than {UNUSED} nats (from the top: "
        f"{', '.join(unused)}). Train with free bits for each layer (FreeBits), or use fewer layers.",
    )


def _not_finite(scores: Mapping[str, Any]) -> Finding | None:
    if not scores.get("non_finite"):
        return None
    terms = ", ".join(f"{name} of {count} {_events(scores)}" for name, count in scores["non_finite"].items())
    return Finding(
        "not finite",
        f"Not finite: {terms} of {scores['examples']}; the means are not finite, either. Train again with a lower "
        "learning rate or in float32, or bound the scales of the posterior and the likelihood from below.",
    )


def _outside(scores: Mapping[str, Any]) -> Finding | None:
    if not scores.get("outside_support"):
        return None
    share = f"{scores['outside_support']} of {scores['examples']} {_events(scores)}"
    if scores["support"] == "binary":
        message = f"{share} have grey values: with Bernoulli the number is not a likelihood of x. Binarise the " \
                  "images, or use ContinuousBernoulli."  # fmt: skip
    else:
        message = f"{share} have values between the levels, which are rounded: the number is that of the rounded " \
                  "images. Use values k / (levels − 1), such as 8-bit images that aren't resized."  # fmt: skip
    return Finding("outside the support", f"Outside the support: {message}")


def _weights(scores: Mapping[str, Any]) -> Finding | None:
    few = scores.get("ess_below_2", 0.0)
    if few <= 1 - TRUSTED or scores["num_samples"] < ENOUGH_SAMPLES:
        return None
    return Finding(
        "degenerate weights",
        f"Degenerate importance weights: for {few:.0%} of the {_events(scores)} fewer than 2 of "
        f"{scores['num_samples']} samples count (median {scores['ess_median']:.1f}), so the nll is a loose bound for "
        "them. Use refined proposals (--proposal refined), which give nll_refined; more samples; or a richer posterior "
        "(InverseAutoregressive, FullCovarianceNormal).",
    )


def _mismatch(scores: Mapping[str, Any]) -> Finding | None:
    if "marginal_kl" not in scores:
        return None
    bound, nats = mismatch(scores)
    if bound == "at most" or nats <= max(GAP, WASTED * scores["rate"]):
        return None
    return Finding(
        "prior mismatch",
        f"Prior mismatch: the aggregate posterior is {f'{bound} {nats:.1f}'.lstrip()} nats from the "
        f"prior (of a rate of {scores['rate']:.1f}), so samples come from regions on which the decoder was not "
        "trained. Fit a prior to the latents after training (--fit-prior mixture), learn one (VampPrior, RealNVP), or "
        "raise beta.",
    )


def _gap(scores: Mapping[str, Any], train: Mapping[str, Any]) -> list[Finding]:
    gap, error = generalisation_gap(scores, train)
    events = _events(scores)
    remedy = REMEDIES.get(events, REMEDIES["images"])
    if gap > max(GAP, CLEAR * error):
        return [
            Finding(
                "overfitting",
                f"Overfitting: {scores['split']} {events} cost {gap:.2f} ± {error:.2f} nats more than training "
                f"{events}. Stop earlier, use a smaller decoder or more data, or {remedy}.",
            )
        ]
    if gap < 2 * error:
        return [
            Finding(
                "underfitting",
                f"No overfitting: {scores['split']} {events} cost {gap:.2f} ± {error:.2f} nats more than training "
                f"{events}. A larger network or longer training may lower both.",
            )
        ]
    return []


def generalisation_gap(scores: Mapping[str, Any], train: Mapping[str, Any]) -> tuple[float, float]:
    """Return the nll of other images minus that of training images, and its standard error over the examples.

    Example:

        >>> test, train = {"nll": 90.0, "nll_error": 0.3}, {"nll": 87.0, "nll_error": 0.4}
        >>> generalisation_gap(test, train)
        (3.0, 0.5)
    """
    error = math.hypot(scores["nll_error"] or 0.0, train["nll_error"] or 0.0)
    return scores["nll"] - train["nll"], error
