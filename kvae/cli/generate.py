"""`kvae generate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kvae.cli.console import CommandError, say
from kvae.cli.options import RunArgument, open_run
from kvae.files import atomic_file


def generate(
    context: typer.Context,
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of images.")] = 64,
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
    out: Annotated[Path, typer.Option(help="File to write: .png for a grid, .npy for the array.")] = Path(
        "samples.png"
    ),
) -> None:
    """Generate images with the decoder, from latents drawn from the prior.

    Example: kvae generate runs/mnist -n 100 --seed 7 --out grid.png
    """
    if out.suffix.lower() not in (".png", ".npy"):
        raise CommandError(f"Expected --out to end in .png or .npy. Received: {out}")
    opened = open_run(run, context.obj)
    import numpy as np

    from kvae import plotting

    model, columns = opened.model, None
    c: Any = None if condition is None else _class(condition, opened.config.get("label_names") or ())
    if c is None and model.condition_dim is not None:
        c, columns = np.arange(n) % model.condition_dim, min(model.condition_dim, 20)
    images = np.asarray(model.generate(n, seed, temperature, c, pixel_noise))
    if out.suffix.lower() == ".npy":
        with atomic_file(out) as temporary:
            np.save(temporary, images)
    else:
        plotting.save(plotting.image_grid(images, columns), out)
    say(f"Wrote {out}: {n} images, seed {seed}")


def _class(text: str, names: Sequence[str]) -> int:
    """Return the number of a class that is given by name or number."""
    if text in names:
        return names.index(text)
    if text.isdecimal():
        return int(text)
    known = f", or one of {', '.join(names)}" if names else ""
    raise CommandError(f"Expected --condition to be the number of a class{known}. Received: {text}")
