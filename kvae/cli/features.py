"""`kvae features`, and the linear probe."""

from pathlib import PurePath
from typing import Annotated

import typer

from kvae.cli.console import CommandError, optional_steps, say
from kvae.cli.options import DataDirOption, RunArgument, open_run
from kvae.cli.tables import show_probe

SPLITS = (None, "all", "train", "validation", "test", "new")


def features(
    context: typer.Context,
    run: RunArgument,
    source: Annotated[str, typer.Argument(help="Images to encode, as for `kvae train`.")],
    out: Annotated[
        str, typer.Option(help="File to write, .npz or .parquet; with --ray, also an address such as s3://….")
    ] = "features.npz",
    split: Annotated[
        str | None,
        typer.Option(
            help="all: every image of SOURCE, in its order. train, validation, test: the splits of the training run, "
            "in their shuffled order. new: images added to RUN's own SOURCE since training. Default: train if RUN was "
            "trained on SOURCE, otherwise all."
        ),
    ] = None,
    hidden: Annotated[bool, typer.Option(help="Write the encoder's last hidden layer, too.")] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of images (default: all).")] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Address of a Ray cluster to encode on, or local. SOURCE is then a folder of images, Parquet or "
            "TFRecord files, all of which are encoded, and --out is a folder of Parquet files."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of Ray actors.")] = 2,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="GPUs of each Ray actor.")] = 0,
    probe: Annotated[bool, typer.Option(help="Train a linear classifier on the features, if there are labels.")] = True,
    key: Annotated[str | None, typer.Option(metavar="NAME", help="Entry of an .npz file with the images.")] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Encode images: mean and variance of z and the encoder's last hidden layer, with ids and labels.

    Images are streamed: memory doesn't grow with their number.

    The same command resumes an encoding that was stopped.

    Example: kvae features runs/mnist mnist --split test --out features.parquet
    """
    if PurePath(out).suffix.lower() not in (".npz", ".parquet"):
        raise CommandError(f"Expected --out to end in .npz or .parquet. Received: {out}")
    if split not in SPLITS:
        raise CommandError(f"Expected --split to be all, train, validation, test or new. Received: {split}")
    if ray is None and "://" in out:
        raise CommandError(f"Expected --out to be a file; addresses such as s3://… require --ray. Received: {out}")
    if ray is not None and (out.lower().endswith(".npz") or split not in (None, "all") or limit is not None):
        raise CommandError(
            "On Ray the whole SOURCE is encoded to Parquet: pass --out FOLDER.parquet, without --split and --limit"
        )
    opened = open_run(run, context.obj)
    if ray is not None:
        from kvae.features.ray import write_features_on_ray

        config = opened.config
        rows = write_features_on_ray(
            run / "model.keras", source, out, hidden, config["binarize"], ray, workers, gpus_per_worker,
            size=config["size"], grayscale=config["grayscale"], value_range=config.get("value_range"),
            background=config.get("background") or "white",
        )  # fmt: skip
        say(f"Wrote {out}: {rows:,} rows")
        return
    from kvae.features.streaming import write_features
    from kvae.files import checksum

    split = split or ("train" if opened.is_own(source) else "all")
    data = opened.data(source, data_dir, whole=split == "all", key=key)
    rows = write_features(
        opened.model,
        data,
        out,
        split,
        hidden,
        limit,
        identity=checksum(run / "model.keras"),
        progress=True,
        on_resume=lambda done: say(f"Resuming after {done:,} images."),
    )
    say(f"Wrote {out}: {rows:,} rows")
    if probe and opened.model.condition_dim is not None:
        say("No linear probe: the encoder of a conditional run receives the label.")
    elif probe and data.has_labels:
        from kvae.training.describe import probe_run

        with optional_steps(context.obj)("No linear probe", ": "):  # it requires a test split
            show_probe(probe_run(opened.model, data if data.num_test else opened.data(source, data_dir, key=key)))
