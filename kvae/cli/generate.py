"""`kvae generate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kvae.cli.console import CommandError, say
from kvae.cli.options import RunArgument, open_run
from kvae.files import atomic_file

PICTURES, TABLES = (".png", ".npy"), (".csv", ".parquet")


def generate(
    context: typer.Context,
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of images, series or rows.")] = 64,
    seed: Annotated[
        int, typer.Option(help="Seed of the latents. An exported file gives the same images for the same seed.")
    ] = 0,
    temperature: Annotated[float, typer.Option(help="Scale of the prior's noise.", min=0.0)] = 1.0,
    condition: Annotated[
        str | None,
        typer.Option(help="Class of a conditional run, by number or name (default: all classes in turn)."),
    ] = None,
    pixel_noise: Annotated[
        bool, typer.Option("--pixel-noise", help="Sample pixels from p(x|z) instead of showing its mean.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .png for a picture, .npy for the array; .csv or .parquet for the rows of a table "
            "(default: samples.png, or samples.csv for a table)."
        ),
    ] = None,
) -> None:
    """Generate images, series or rows of a table with the decoder, from latents drawn from the prior.

    Rows are samples of p(x|z).

    Example: kvae generate runs/mnist -n 100 --seed 7 --out grid.png
    """
    if out is not None and out.suffix.lower() not in (*PICTURES, *TABLES):
        raise CommandError(f"Expected --out to end in .png, .npy, .csv or .parquet. Received: {out}")
    opened = open_run(run, context.obj)
    import numpy as np

    from kvae import plotting
    from kvae.distributions import Columns
    from kvae.networks import kind_of

    model, columns = opened.model, None
    c: Any = None if condition is None else _class(condition, opened.config.get("label_names") or ())
    if c is None and model.condition_dim is not None:
        c, columns = np.arange(n) % model.condition_dim, min(model.condition_dim, 20)
    noun, is_table = kind_of(model.event_shape), isinstance(model.likelihood, Columns)
    out = out or Path("samples.csv" if is_table else "samples.npy" if noun in ("rows", "volumes") else "samples.png")
    suffix = out.suffix.lower()
    allowed = TABLES if is_table else PICTURES if noun in ("images", "series") else (".npy",)
    if suffix not in (*allowed, ".npy"):
        raise CommandError(f"Expected --out to end in {' or '.join(allowed)} for {noun}. Received: {out}")
    if noun == "series" and suffix == ".png":
        plotting.save(plotting.series_samples(model, min(n, 4), seed, c), out)
        say(f"Wrote {out}: {min(n, 4)} series, seed {seed}")
        return
    images = np.asarray(model.generate(n, seed, temperature, c, pixel_noise or is_table))
    if suffix in TABLES:
        from kvae.data.tables import TableSchema

        frame = TableSchema.from_json(model.likelihood.describe()).decode(images)
        with atomic_file(out) as temporary:
            (frame.to_parquet if suffix == ".parquet" else frame.to_csv)(temporary, index=False)
    elif suffix == ".npy":
        with atomic_file(out) as temporary:
            np.save(temporary, images)
    else:
        plotting.save(plotting.image_grid(images, columns), out)
    say(f"Wrote {out}: {n} {noun}, seed {seed}")


def _class(text: str, names: Sequence[str]) -> int:
    """Return the number of a class that is given by name or number."""
    if text in names:
        return names.index(text)
    if text.isdecimal():
        return int(text)
    known = f", or one of {', '.join(names)}" if names else ""
    raise CommandError(f"Expected --condition to be the number of a class{known}. Received: {text}")
