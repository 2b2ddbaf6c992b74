"""The tables that commands print."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvae.cli.console import optional_steps, say, table

ROWS = {
    "distortion": "distortion  −E log p(x|z)",
    "rate": "rate        KL(q ‖ p)",
    "elbo": "−ELBO",
    "nll": "NLL, importance-weighted, K={num_samples}",
    "nll_refined": "NLL, {proposal} proposals",
}


def show_scores(scores: dict[str, Any]) -> None:
    from kvae.evaluation.latents import parts_of_the_rate
    from kvae.networks import kind_of

    one, many = (kind_of(scores["event_shape"], count) for count in (1, 2))
    table(
        [f"{scores['split']}, {scores['examples']:,} {many}", f"nats per {one}", f"± over {many}"],
        [[label.format(**scores), *value_and_error(scores, name)] for name, label in ROWS.items() if name in scores],
    )
    bits = f"{scores['bits_per_dim']:.3f} bits/dim from the ELBO, {scores['bits_per_dim_nll']:.3f} from the NLL"
    if scores["support"] not in ("binary", "levels"):
        bits += f" (a density of x in {_units(scores)})"
    say(
        ("" if one == "row" else f"{bits} · ")  # the columns of a row have different units
        + f"{scores['active_units']} of {len(scores['kl_per_dimension'])} latents active"
        + (" in the top level" if "layer_rates" in scores else "")
    )
    if "layer_rates" in scores:
        say(f"rate of each layer, from the top: {', '.join(f'{rate:.1f}' for rate in scores['layer_rates'])} nats")
    say(f"effective samples: median {scores['ess_median']:.1f}, below 2 for {scores['ess_below_2']:.1%} of the {many}")
    if "nll_refined" in scores:
        say(
            f"with {scores['proposal']} proposals: median {scores['ess_refined_median']:.1f} of "
            f"{scores['samples_refined']:.0f}, below 2 for {scores['ess_refined_below_2']:.1%}"
        )
    if "marginal_kl" in scores:
        say(parts_of_the_rate(scores))
    if scores["binarisation"]:
        say(f"images: {scores['binarisation']}")
    say()


def _units(scores: dict[str, Any]) -> str:
    return "[0, 1]" if scores["bounded"] else "its units"


def value_and_error(scores: dict[str, Any], name: str) -> tuple[float, float | str]:
    """Return the value of a term as it is shown (the ELBO as −ELBO), and its error."""
    error = scores[f"{name}_error"]
    return -scores[name] if name == "elbo" else scores[name], "" if error is None else error


def show_probe(rows: list[dict[str, Any]]) -> None:
    table(
        [f"linear probe, {rows[0]['labels']:,} labels", "size", "test accuracy"],
        [[row["features"], row["size"], row["accuracy"]] for row in rows],
    )


def show_directions(found: Sequence[Any]) -> None:
    from kvae.arguments import decimal

    table(
        ["direction", "distance", "range, steps", "accuracy", "larger class", "AUROC", "flips"],
        [
            [a.name, a.distance, f"{decimal(a.low)} to {decimal(a.high)}", a.accuracy, a.majority, a.auroc, a.flips]
            for a in found
        ],
    )


def show_export(report: dict[str, Any], out: Path) -> None:
    rows = []
    for artifact in report["artifacts"]:
        behaviour = artifact["behaviour"] or {}
        decode = behaviour.get("latency_us", {}).get(f"decode_{min(report['model']['batch_sizes'])}", {}).get("1")
        images = [
            check["max_abs_error"] / (255 if check["dtype"] == "uint8" else 1)
            for signature in artifact["signatures"].values()
            for name, check in signature["outputs"].items()
            if name in ("image", "reconstruction")
        ]
        rows.append(
            [
                artifact["path"],
                artifact["bytes"],
                _number(max(images, default=None), 1, "e"),
                _number(behaviour.get("elbo"), 2),
                _number(behaviour.get("nats_lost"), 3),
                _number(behaviour.get("psnr"), 1),
                _number(behaviour.get("probe_accuracy"), 3),
                _number(decode, 0),
            ]
        )
    table(["file", "bytes", "max |error|", "ELBO", "nats lost", "PSNR dB", "probe", "decode µs"], rows)
    for warning in report["warnings"]:
        say(f"warning: {warning}")
    for name, reason in report["refused"].items():
        say(f"left out: {name}. {reason}")
    say(f"All files are verified against Keras. Wrote {out}/export.html, {out}/report.json")


def _number(value: float | None, digits: int, form: str = "f") -> str:
    return "–" if value is None else f"{value:.{digits}{form}}"


def describe(run: Path, data: Any, samples: int, debug: bool) -> Any:
    """Score, probe and plot a trained run, print the results, and return the model."""
    from kvae.training.describe import describe_run

    say("Scoring the test split …\n")
    return describe_run(
        run,
        data,
        samples,
        lambda: optional_steps(debug),
        show_scores,
        show_probe,
        on_warning=lambda text: say(f"Warning: {text}\n"),
    )
