"""`kvae evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kvae.cli.console import say, table
from kvae.cli.run import DataDirOption, RunArgument, open_run, write_json


def evaluate(
    context: typer.Context,
    run: RunArgument,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    samples: Annotated[int, typer.Option(min=1, help="Posterior samples K per image, for the nll.")] = 64,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.", show_default=False)] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers to this file.", show_default=False)] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Score a run: ELBO, rate, distortion and an importance-weighted likelihood, in nats per example.

    Example: kvae evaluate runs/mnist --samples 64 --json scores.json
    """
    opened = open_run(run, context.obj)
    from kvae.evaluation import evaluate as score

    data = opened.data(data_dir=data_dir)
    scores = score(opened.model, data.split(split, limit=limit), samples, split, progress=True)
    show_scores(scores, opened.model.latent_dim)
    if json is not None:
        write_json(json, scores)
        say(f"Wrote {json}")


def show_scores(scores: dict[str, Any], latent_dim: int) -> None:
    k = scores["num_samples"]
    table(
        [f"{scores['split']}, {scores['examples']:,} images", "nats per image"],
        [
            ["distortion  −E log p(x|z)", scores["distortion"]],
            ["rate        KL(q ‖ p)", scores["rate"]],
            ["−ELBO", -scores["elbo"]],
            [f"NLL, importance-weighted, K={k}", scores["nll"]],
        ],
    )
    say(f"{scores['bits_per_dim']:.3f} bits/dim · {scores['active_units']} of {latent_dim} latents active\n")
