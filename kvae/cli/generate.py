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
    n: Annotated[int, typer.Option("-n", min=1, help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same images, as in an exported file.")] = 0,
    temperature: Annotated[float, typer.Option(help="Scale of the prior's noise.", min=0.0)] = 1.0,
    condition: Annotated[
        str | None,
        typer.Option(
            help="Class of a conditional run: its number or name (else one after the other).", show_default=False
        ),
    ] = None,
    pixel_noise: Annotated[
        bool, typer.Option("--pixel-noise", help="Draw pixels from p(x|z); without it, images are its mean.")
    ] = False,
    out: Annotated[Path, typer.Option(help="A .png grid, or .npy for the array.")] = Path("samples.png"),
) -> None:
    """Generate images with the decoder alone, from latents drawn from the prior.

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
    """The number of a class that is given by name or number."""
    if text in names:
        return names.index(text)
    if text.isdecimal():
        return int(text)
    known = f", or one of {', '.join(names)}" if names else ""
    raise CommandError(f"Expected --condition as the number of a class{known}. Received: {text}")
