"""`kvae features`, and the linear probe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvae.cli.console import CommandError, say, table
from kvae.cli.run import DataDirOption, RunArgument, open_run

if TYPE_CHECKING:
    from kvae.data import Data
    from kvae.models import VAE

PROBE_TRAIN, PROBE_TEST = 2000, 5000


def features(
    context: typer.Context,
    run: RunArgument,
    source: Annotated[str, typer.Argument(help="Images to encode, as for `kvae train`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The .npz or .parquet file to write.")] = Path("features.npz"),
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    hidden: Annotated[bool, typer.Option(help="Write the encoder's last hidden layer, too.")] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.", show_default=False)] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Encode on Ray Data: the address of a cluster, or local. SOURCE is a folder of images, Parquet or "
            "TFRecord files then, and --out a folder of Parquet files.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="On Ray: actors.")] = 2,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="On Ray: GPUs of each actor.")] = 0,
    probe: Annotated[
        bool, typer.Option(help="Try the features on a linear classifier, where there are labels.")
    ] = True,
    data_dir: DataDirOption = None,
) -> None:
    """Encode images: z mean, its variance and the encoder's last hidden layer, with ids and labels.

    It streams: memory doesn't grow with the images. When it is stopped, the same command goes on where it was.

    Example: kvae features runs/mnist mnist --split test --out features.parquet
    """
    if out.suffix.lower() not in (".npz", ".parquet"):
        raise CommandError(f"Expected --out to end in .npz or .parquet. Received: {out}")
    if ray is not None and (out.suffix.lower() == ".npz" or split != "train" or limit is not None):
        raise CommandError("On Ray the whole SOURCE goes to Parquet: --out FOLDER.parquet, without --split and --limit")
    opened = open_run(run, context.obj)
    if ray is not None:
        from kvae.features.ray import write_features_on_ray

        binarize, model = opened.config["binarize"], run / "model.keras"
        rows = write_features_on_ray(model, source, out, hidden, binarize, ray, workers, gpus_per_worker)
        say(f"Wrote {out}: {rows:,} rows")
        return
    from kvae.features.streaming import checksum, write_features

    data = opened.data(source, data_dir)
    rows = write_features(
        opened.model,
        data,
        out,
        split,
        hidden,
        limit,
        identity=checksum(run / "model.keras"),
        progress=True,
        on_resume=lambda done: say(f"Going on behind the {done:,} images that are done."),
    )
    say(f"Wrote {out}: {rows:,} rows")
    if probe and opened.model.condition_dim is not None:
        say("No linear probe: the encoder of a conditional run is told the label.")
    elif probe and data.has_labels:
        show_probe(probe_run(opened.model, data))


def probe_run(model: "VAE", data: "Data") -> list[dict[str, Any]]:
    """The linear probe with its controls, on a few thousand labels of the training and test splits."""
    import numpy as np

    from kvae.evaluation import probe_with_controls
    from kvae.features import extract

    train_images, train_labels = data.arrays("train", limit=PROBE_TRAIN)
    test_images, test_labels = data.arrays("test", limit=PROBE_TEST)
    train = {**extract(model, train_images), "label": np.asarray(train_labels)}
    test = {**extract(model, test_images), "label": np.asarray(test_labels)}
    rows = probe_with_controls(train, train_images, test, test_images)
    return [{**row._asdict(), "labels": len(train_images)} for row in rows]


def show_probe(rows: list[dict[str, Any]]) -> None:
    table(
        [f"linear probe, {rows[0]['labels']:,} labels", "size", "test accuracy"],
        [[row["features"], row["size"], row["accuracy"]] for row in rows],
    )
