"""What is wrong with a VAE, by its numbers, and what to do about it."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from kvae.evaluation.latents import mismatch

TRUSTED = 0.9  # share of images with two effective samples or more
ENOUGH_SAMPLES = 64  # with fewer, nobody takes the bound for the likelihood
CLEAR = 4.0  # standard errors
GAP = 1.0  # nats that are worth a remark
WASTED = 0.1  # share of the rate that may go to the aggregate posterior's distance from the prior


class EvaluationWarning(UserWarning):
    """The numbers of an evaluation point at something wrong."""


class CollapseWarning(EvaluationWarning):
    """The posterior has collapsed onto the prior: the latents carry (almost) nothing about x."""


class NonFiniteWarning(EvaluationWarning):
    """Some images have terms that are infinite or not a number."""


class WeightWarning(EvaluationWarning):
    """For many images the importance-weighted likelihood is that of one or two samples."""


#: findings that `evaluate` warns of, by name; the others it leaves to `diagnose`
WARNINGS: dict[str, type[EvaluationWarning]] = {
    "posterior collapse": CollapseWarning,
    "not finite": NonFiniteWarning,
    "degenerate weights": WeightWarning,
}


class Finding(NamedTuple):
    """One thing that is wrong: its name, and a sentence with the numbers and a remedy."""

    name: str
    message: str


def diagnose(scores: Mapping[str, Any], train: Mapping[str, Any] | None = None) -> list[Finding]:
    """What the scores point at; nothing for a model of which nothing is known to be wrong.

    * "posterior collapse": fewer than 2 latents, and at most a quarter, are active;
    * "not finite": which terms, and for how many images;
    * "outside the support": images that the likelihood gives no probability to, such as grey ones for Bernoulli;
    * "degenerate weights": K ≥ 64, and the effective sample size is below 2 for more than 10% of the images;
    * "prior mismatch": the KL of the aggregate posterior from the prior is over 1 nat, and over 10% of the rate;
    * "overfitting": test images cost over 1 nat more than training images, and over 4 standard errors;
    * "underfitting": they cost no more than training images (within 2 standard errors).

    Args:
        scores: what `evaluate` gives, and perhaps `aggregate_posterior`, in one dict.
        train: the scores of as many training images with the same K.

    Example:

        >>> scores = {"active_units": 0, "kl_per_dimension": [0.0] * 8, "rate": 0.01, "nll": 100.0}
        >>> [finding.name for finding in diagnose(scores)]
        ['posterior collapse']
    """
    found = (_collapse(scores), _not_finite(scores), _outside(scores), _weights(scores), _mismatch(scores))
    findings = [finding for finding in found if finding]
    return findings if train is None else [*findings, *_gap(scores, train)]


def _collapse(scores: Mapping[str, Any]) -> Finding | None:
    active, latents = scores["active_units"], len(scores["kl_per_dimension"])
    if active > latents / 4 or active >= 2:
        return None
    rate = f"rate {scores['rate']:.2f} nats"
    if scores["rate"] > latents:  # far from the prior, and still without information
        rate += ", paid for a posterior that is nearly the same for every image"
    return Finding(
        "posterior collapse",
        f"Posterior collapse: {active} of {latents} latents are active ({rate}), so the "
        "decoder draws nearly the same image for every z. Train longer, warm up or lower beta, or use a likelihood "
        "with a smaller variance.",
    )


def _not_finite(scores: Mapping[str, Any]) -> Finding | None:
    if not scores.get("non_finite"):
        return None
    terms = ", ".join(f"{name} of {count} images" for name, count in scores["non_finite"].items())
    return Finding(
        "not finite",
        f"Not finite: {terms} of {scores['examples']}, and the means are not either. Train again with a lower "
        "learning rate or in float32, or bound the scale of the posterior and the likelihood from below.",
    )


def _outside(scores: Mapping[str, Any]) -> Finding | None:
    if not scores.get("outside_support"):
        return None
    share = f"{scores['outside_support']} of {scores['examples']} images"
    if scores["support"] == "binary":
        message = f"{share} have grey values: under Bernoulli the number is not a likelihood of x. Binarise the " \
                  "images, or take ContinuousBernoulli."  # fmt: skip
    else:
        message = f"{share} have values between the levels, which are rounded: the number is that of other images. " \
                  "Give images of k / (levels − 1), such as 8-bit ones that aren't resized."  # fmt: skip
    return Finding("outside the support", f"Outside the support: {message}")


def _weights(scores: Mapping[str, Any]) -> Finding | None:
    few = scores.get("ess_below_2", 0.0)
    if few <= 1 - TRUSTED or scores["num_samples"] < ENOUGH_SAMPLES:
        return None
    return Finding(
        "degenerate weights",
        f"Degenerate importance weights: for {few:.0%} of the images fewer than 2 of {scores['num_samples']} samples "
        f"count (median {scores['ess_median']:.1f}), so that the nll is a loose bound there. Take more samples, or a "
        "richer posterior (InverseAutoregressive, FullCovarianceNormal).",
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
        f"prior (of a rate of {scores['rate']:.1f}), so samples come from where the decoder was never trained. Fit a "
        "prior to the latents (VampPrior, RealNVP), or raise beta.",
    )


def _gap(scores: Mapping[str, Any], train: Mapping[str, Any]) -> list[Finding]:
    gap, error = generalisation_gap(scores, train)
    if gap > max(GAP, CLEAR * error):
        return [
            Finding(
                "overfitting",
                f"Overfitting: {scores['split']} images cost {gap:.2f} ± {error:.2f} nats more than training images. "
                "Stop earlier, take a smaller decoder or more data, or draw binary images afresh in each epoch.",
            )
        ]
    if gap < 2 * error:
        return [
            Finding(
                "underfitting",
                f"No overfitting: {scores['split']} images cost {gap:.2f} ± {error:.2f} nats more than training "
                "images. A larger network or longer training has room to lower both.",
            )
        ]
    return []


def generalisation_gap(scores: Mapping[str, Any], train: Mapping[str, Any]) -> tuple[float, float]:
    """Nll of one set of images minus that of training images, and its standard error over the examples.

    Example:

        >>> test, train = {"nll": 90.0, "nll_error": 0.3}, {"nll": 87.0, "nll_error": 0.4}
        >>> generalisation_gap(test, train)
        (3.0, 0.5)
    """
    error = math.hypot(scores["nll_error"] or 0.0, train["nll_error"] or 0.0)
    return scores["nll"] - train["nll"], error
