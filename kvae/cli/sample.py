"""`kvae sample`."""

from pathlib import Path
from typing import Annotated

import typer

from kvae.cli.console import CommandError, say
from kvae.cli.run import RunArgument, open_run
from kvae.files import atomic_file


def sample(
    context: typer.Context,
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", min=1, help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same images, as in an exported file.")] = 0,
    temperature: Annotated[float, typer.Option(help="Scale of the prior's noise.", min=0.0)] = 1.0,
    out: Annotated[Path, typer.Option(help="A .png grid, or .npy for the array.")] = Path("samples.png"),
) -> None:
    """Generate images with the decoder alone, from latents drawn from the prior.

    Example: kvae sample runs/mnist -n 100 --seed 7 --out grid.png
    """
    if out.suffix.lower() not in (".png", ".npy"):
        raise CommandError(f"Expected --out to end in .png or .npy. Received: {out}")
    opened = open_run(run, context.obj)
    import numpy as np

    from kvae import plotting

    images = np.asarray(opened.model.sample(n, seed=seed, temperature=temperature))
    if out.suffix.lower() == ".npy":
        with atomic_file(out) as temporary:
            np.save(temporary, images)
    else:
        plotting.save(plotting.image_grid(images), out)
    say(f"Wrote {out}: {n} images, seed {seed}")
