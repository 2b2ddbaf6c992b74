"""Distortion, rate, ELBO and importance-weighted likelihood over a whole split."""

import math
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kvae.evaluation.diagnosis import WARNINGS, diagnose
from kvae.evaluation.importance import Rows
from kvae.evaluation.latents import latent_statistics
from kvae.evaluation.refined import ENOUGH
from kvae.evaluation.scoring import SAMPLERS, score_images
from kvae.models import VAE

FEW = 2.0  # effective samples; with fewer, one weight dominates the sum
MOST_REFINED = 512  # latents; with more, annealing is better (benchmarks/likelihood/proposals.py)
PREFIXES = tuple(f"{name}_" for name in SAMPLERS if name != "posterior")  # of their rows in an unfinished evaluation
GREY, BINARY = "grey values: not a likelihood of binary data", "binary images as given"


def evaluate(
    model: VAE,
    data: Any,
    num_samples: int = 64,
    split: str = "test",
    progress: bool = False,
    *,
    seed: int = 0,
    limit: int | None = None,
    done: Mapping[str, np.ndarray] | None = None,
    save: Callable[[Rows], None] | None = None,
    proposal: str = "posterior",
) -> dict[str, Any]:
    """Score a VAE in nats per example.

    * `distortion` and `rate`: −E_q log p(x|z) and KL(q ‖ p), means over the same K posterior samples;
    * `elbo` = −(distortion + rate), the evidence lower bound (Kingma & Welling 2014, eq. 3);
    * `nll`: −log p̂(x) with p̂ = mean_k p(x, z_k)/q(z_k|x), the importance-weighted upper bound on −log p(x) with K
      samples (Burda et al. 2016, eq. 8). It falls towards −log p(x) as K grows; papers quote it at K = 5000;
    * `bits_per_dim`: −ELBO / (ln 2 · H·W·C), and `bits_per_dim_nll`, the same for the nll. For a discrete likelihood
      these are bits per dimension of the data. For a density (Normal) they refer to x in [0, 1]; add log₂ 255 = 7.99 to
      compare with bits of 8-bit images, whose levels are 1/255 apart;
    * `ess_median` and `ess_below_2`: median of the effective sample size (Σw)²/Σw², and the share of images where
      it is below 2. The nll of such an image depends on one weight and can't be trusted;
    * `nll_refined`, with the proposal "refined": the bound with samples from a normal distribution near p(z|x) as well
      (`RefinedSampler`), as many as an image requires; with "annealed" by annealed importance sampling, for hundreds
      of latents and more (`AnnealedSampler`). It is closer to −log p(x), but papers don't quote it. With it come
      `bits_per_dim_refined`, `ess_refined_median`, `ess_refined_below_2`, and `samples_refined`, the mean number of
      samples;
    * `kl_per_dimension`: KL from N(0, 1) of each latent's marginal posterior, mean over the images. For a hierarchy of
      latents, this and `active_units` are those of the top level;
    * `layer_rates`, for a hierarchy: KL from N(0, I) of each stochastic layer, top to bottom.

    Errors (`nll_error`, …) are standard errors over the examples; None for a single example. The noise is a function
    of the seed and the number of the image. `score_images` returns a row for each image and describes the memory.

    Args:
        model: a built `kvae.VAE`.
        data: the result of `kvae.data.load`; or a dataset of batches `x` or `(x, label)`, an array `(N, H, W, C)`, or
            a pair of arrays. Labels are the conditions of a conditional model; other models ignore them.
        num_samples: K.
        split: split of `data`, or the name of the data in the result.
        progress: whether to show a progress bar.
        seed: seed of the posterior samples.
        limit: number of first images to score, for the result of `kvae.data.load`.
        done, save: rows and function to resume an interrupted evaluation, see `score_images`.
        proposal: "posterior"; "refined" or "annealed" for `nll_refined` in addition; or "auto", for `nll_refined` if
            the median effective sample size of K >= 10 posterior samples is below 10 (not for a hierarchy, which
            takes too long).

    Returns:
        Dict with the values above, and `active_units`, `num_samples`, `seed`, `split`, `proposal`, `examples`;
        `event_shape`; `bounded`, whether x is in [0, 1] (otherwise, densities are in its units);
        `images`, a checksum of the images; `precision`, the precision of the decoder; `binarisation`, how the images
        became binary, if the likelihood is one of binary data; `outside_support`, the number of images outside the
        likelihood's support; `non_finite`, the number of images with an infinite value or NaN, by term.

    Raises:
        ValueError: if there is no data, num_samples < 1, or the proposal is unknown.

    Warns:
        CollapseWarning: if few or no latents are active.
        NonFiniteWarning: if some terms are not finite.
        WeightWarning: if the nll can't be trusted.

    Example:

        >>> import kvae
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> with warnings.catch_warnings(action="ignore"):  # the latents of an untrained model are inactive
        ...     scores = evaluate(vae, np.zeros((10, 8, 8, 1), "float32"), num_samples=8)
        >>> scores["examples"], scores["nll"] <= -scores["elbo"], scores["binarisation"]
        (10, True, 'binary images as given')
    """
    if proposal not in (*SAMPLERS, "auto"):
        known = ", ".join((*SAMPLERS, "auto"))
        raise ValueError(f"Argument `proposal` must be one of {known}. Received: proposal={proposal!r}")
    described = None
    if hasattr(data, "split"):
        described = data.binarisation
        data = data.split(split, labels=model.condition_dim is not None, limit=limit)
    elif limit is not None:
        raise ValueError(f"Argument `limit` requires data from `kvae.data.load`. Received: limit={limit}")
    done = done or {}
    refined_rows = {name: row for name, row in done.items() if name.startswith(PREFIXES)}
    of_posterior = {name: row for name, row in done.items() if name not in refined_rows}

    def save_with(others: Mapping[str, np.ndarray], prefix: str = "") -> Callable[[Rows], None] | None:
        return save and (lambda rows: save({**others, **{f"{prefix}{name}": row for name, row in rows.items()}}))

    rows = score_images(model, data, num_samples, seed, progress, of_posterior, save_with(refined_rows))
    if not rows:
        raise ValueError(f"Expected images to evaluate. Received: an empty {split} split")
    if proposal == "auto":
        # A pass for each latent, or hundreds for each image, take too long for a hierarchy.
        is_degenerate = not model.posterior.is_joint and num_samples >= ENOUGH and np.median(rows["ess"]) < ENOUGH
        proposal = best_proposal(model) if is_degenerate else "posterior"
    if proposal != "posterior":
        prefix = f"{proposal}_"
        of_proposal = {name.removeprefix(prefix): row for name, row in refined_rows.items() if name.startswith(prefix)}
        saving = save_with(rows, prefix)
        if saving:
            saving(of_proposal)
        refined = score_images(model, data, None, seed, progress, of_proposal, saving, proposal=proposal)
        rows |= {f"{name}_refined": refined[name] for name in ("nll", "ess", "samples")}
    with np.errstate(all="ignore"):  # values that aren't finite are counted by term
        summary = _summary(model, rows, described)
    scores = {**summary, "num_samples": num_samples, "seed": seed, "split": split, "proposal": proposal}
    for finding in diagnose(scores):
        if finding.name in WARNINGS:
            warnings.warn(finding.message, WARNINGS[finding.name], stacklevel=2)
    return scores


def best_proposal(model: VAE) -> str:
    """Return "refined", or "annealed" for a model of many latents."""
    return "refined" if model.latent_dim <= MOST_REFINED else "annealed"


def _summary(model: VAE, rows: Rows, described: str | None) -> dict[str, Any]:
    terms: Rows = {name: rows[name] for name in ("distortion", "rate", "nll", "nll_refined") if name in rows}
    terms["elbo"] = -(rows["distortion"] + rows["rate"])
    means = {name: float(np.mean(values)) for name, values in terms.items()}
    latents = latent_statistics(rows["mean"], rows["variance"])
    bits = math.log(2) * math.prod(model.event_shape)
    finite = {name: np.isfinite(rows[name].reshape(len(rows[name]), -1)).all(axis=1) for name in (*terms, "mean")
              if name in rows}  # fmt: skip
    binarisation = None
    if model.likelihood.support == "binary":
        binarisation = (described or BINARY) if rows["binary"].all() else GREY
    return {
        **means,
        **{f"{name}_error": standard_error(values) for name, values in terms.items()},
        "bits_per_dim": -means["elbo"] / bits,
        "bits_per_dim_nll": means["nll"] / bits,
        "active_units": int(latents.active.sum()),
        "kl_per_dimension": latents.kl.tolist(),
        **({"layer_rates": rows["layer_rates"].mean(axis=0).tolist()} if "layer_rates" in rows else {}),
        "ess_median": float(np.median(rows["ess"])),
        "ess_below_2": float(np.mean(rows["ess"] < FEW)),
        **(_refined(rows, bits) if "nll_refined" in rows else {}),
        "examples": len(rows["nll"]),
        "event_shape": list(model.event_shape),
        "bounded": model.bounded,
        "images": f"{zlib.crc32(rows['image'].tobytes()):08x}",
        "binarisation": binarisation,
        "support": model.likelihood.support,
        "precision": model.decoder.compute_dtype,
        "outside_support": int(rows["outside"].sum()),
        "non_finite": {name: int((~ok).sum()) for name, ok in finite.items() if not ok.all()},
    }


def _refined(rows: Rows, bits: float) -> dict[str, float]:
    return {
        "bits_per_dim_refined": float(np.mean(rows["nll_refined"])) / bits,
        "ess_refined_median": float(np.median(rows["ess_refined"])),
        "ess_refined_below_2": float(np.mean(rows["ess_refined"] < FEW)),
        "samples_refined": float(np.mean(rows["samples_refined"])),
    }


def standard_error(values: Any) -> float | None:
    """Return the standard error of the mean of independent values; None for a single value."""
    values = np.asarray(values, np.float64)
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
