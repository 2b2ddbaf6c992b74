"""`kvae export`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvae.cli.console import say, table
from kvae.cli.run import DataDirOption, RunArgument, open_run

if TYPE_CHECKING:
    from kvae.data import Data
    from kvae.models import VAE

VERIFIED = 256  # real images that every file is run on


class Precision(StrEnum):
    float32 = "float32"
    int8 = "int8"


def export(
    context: typer.Context,
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    precision: Annotated[
        list[Precision] | None, typer.Option(help="May be given twice; both, if left out.", show_default=False)
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Export a run as SavedModel and LiteRT files, each verified against Keras on real images.

    Example: kvae export runs/mnist --out phone
    """
    precisions = [choice.value for choice in precision or Precision]
    opened = open_run(run, context.obj)
    show_export(export_run(opened.model, opened.data(data_dir=data_dir), out, precisions), out)


def export_run(model: "VAE", data: "Data", out: Path, precisions: list[str]) -> dict[str, Any]:
    from kvae.export import export as write

    images, _ = data.arrays("test", limit=VERIFIED)
    return write(model, out, images=images, precisions=tuple(precisions))


def show_export(report: dict[str, Any], out: Path) -> None:
    rows = []
    for artifact in report["artifacts"]:
        for name, check in artifact["signatures"].items():
            rows.append(
                [
                    artifact["path"],
                    artifact["bytes"],
                    name,
                    f"{check['max_abs_error']:.1e}",
                    f"{check['mean_abs_error']:.1e}",
                ]
            )
    table(["file", "bytes", "signature", "max |error|", "mean |error|"], rows)
    say(f"Verified against Keras. Wrote {out}/report.json")
