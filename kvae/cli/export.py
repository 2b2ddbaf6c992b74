"""`kvae export`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kvae.cli.console import CommandError, say
from kvae.cli.options import DataDirOption, RunArgument, open_run
from kvae.cli.tables import show_directions, show_export

Precision = StrEnum("Precision", ["float32", "float16", "int8", "full_int8", "integer", "auto"])


def export(
    context: typer.Context,
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    precision: Annotated[
        list[Precision] | None,
        typer.Option(
            help="Precision of the files; may be repeated (default: float32 and int8). auto: the smallest file within "
            "--budget-nats that isn't much slower than the others."
        ),
    ] = None,
    budget_nats: Annotated[
        float | None,
        typer.Option(help="Largest loss of ELBO on validation images, for auto (default: half a nat)."),
    ] = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(help="Batch size of the signatures; may be repeated (default: 1 and 16).", min=1),
    ] = None,
    signatures: Annotated[
        str | None,
        typer.Option(
            help="Signatures of the whole-model files, such as decode,generate_16 (default: all, except explain for "
            "images). The first is subgraph 0."
        ),
    ] = None,
    encoder: Annotated[
        bool, typer.Option("--encoder", help="Write the encoder as a separate file, too, like the decoder.")
    ] = False,
    io: Annotated[
        Literal["float32", "uint8"],
        typer.Option(help="Images as float32 in [0, 1], or as uint8. Signatures with densities always use float32."),
    ] = "float32",
    accept_losses: Annotated[
        bool, typer.Option("--accept-losses", help="Keep files that differ from Keras by more than the tolerance.")
    ] = False,
    any_batch: Annotated[
        bool,
        typer.Option("--any-batch", help="Add signatures for any batch size, for Python. Browsers can't use them."),
    ] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX files, too (requires the extra `onnx`).")] = False,
    web: Annotated[
        Path | None,
        typer.Option(help="Folder for a web page that runs the suggested file in a browser."),
    ] = None,
    web_runtime: Annotated[
        Path | None,
        typer.Option(help="Folder with LiteRT.js for --web, if npm isn't installed."),
    ] = None,
    direction: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=CLASS",
            help="Embed the direction in latent space from all other images to those of a class (its name or number), "
            "such as smile=smiling, with a slider in the page; may be repeated.",
        ),
    ] = None,
    license: Annotated[Path | None, typer.Option(help="Text file with the licence to embed in the files.")] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Export a run as SavedModel and LiteRT files, each verified against Keras on real images.

    Example: kvae export runs/mnist --out phone --precision auto --web page
    """
    choices = [choice.value for choice in precision or ()]
    if "auto" in choices and len(choices) > 1:
        raise CommandError(f"Expected --precision auto alone. Received: {', '.join(choices)}")
    wanted = directions_of(direction or [])
    license_text = license.read_text(encoding="utf-8") if license else None
    opened = open_run(run, context.obj)
    if web is not None:
        from kvae.export.web import check_target, write

        check_target(web)  # fail before the export, not after it
    from tqdm import tqdm

    from kvae.export import Budgets, export as write_files
    from kvae.export.pipeline import BATCH_SIZES, DEFAULT_PRECISIONS
    from kvae.export.report.page import suggested_file

    data = opened.data(data_dir=data_dir)
    directions = find_directions(opened.model, data, wanted)
    with tqdm(total=0, bar_format="{desc}", leave=False, disable=None) as line:
        report = write_files(
            opened.model,
            out,
            data,
            precisions="auto" if choices == ["auto"] else choices or DEFAULT_PRECISIONS,
            budgets=Budgets() if budget_nats is None else Budgets(nats=budget_nats),
            batch_sizes=[*(batch_size or BATCH_SIZES), *([None] if any_batch else [])],
            signatures=None if signatures is None else [name.strip() for name in signatures.split(",")],
            networks=["decoder", *(["encoder"] if encoder else [])],
            io=io,
            accept_losses=accept_losses,
            with_onnx=onnx,
            directions=directions,
            license=license_text,
            on_step=line.set_description_str,
        )
        if web is not None:
            line.set_description_str("writing the page")
            write(out / str(suggested_file(report)), web, runtime=web_runtime)
    show_export(report, out)
    if web is not None:
        say(f"Serve the page with: python -m http.server -d {web}")
    if report["refused"]:
        raise typer.Exit(1)


def directions_of(given: list[str]) -> dict[str, str]:
    """Return the classes of the directions by name, from texts such as smile=smiling."""
    found = {}
    for text in given:
        name, _, label = (part.strip() for part in text.partition("="))
        if not name or not label:
            raise CommandError(f"Expected --direction NAME=CLASS, such as smile=smiling. Received: {text}")
        if name in found:
            raise CommandError(f"Expected --direction with different names. Received: {name} twice")
        found[name] = label
    return found


def find_directions(model: Any, data: Any, wanted: dict[str, str]) -> list[Any]:
    """Find the directions, and print a table of their checks."""
    if not wanted:
        return []
    from kvae.features import attribute_direction

    say("Finding directions …\n")
    found = [attribute_direction(model, data, label, name) for name, label in wanted.items()]
    show_directions(found)
    return found
