"""A RUN: the folder that holds one training."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvae.cli.console import CommandError, our_warnings, start_tensorflow
from kvae.files import FIGURES_LIST, atomic_file

if TYPE_CHECKING:
    from kvae.data import Data
    from kvae.models import VAE

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder made by `kvae train`.", show_default=False)]
DataDirOption = Annotated[
    Path | None,
    typer.Option(help="Where TensorFlow Datasets keeps prepared sets (else TFDS_DATA_DIR).", show_default=False),
]


@dataclass(frozen=True)
class Run:
    """A trained model with what is needed to use it: its configuration and its data."""

    path: Path
    config: dict[str, Any]
    model: "VAE"

    def is_own(self, source: str) -> bool:
        """Whether the run was trained on this source."""
        return self.config["source"] in (source, str(Path(source).expanduser().resolve()))

    def data(self, source: str | None = None, data_dir: Path | None = None, whole: bool = False) -> "Data":
        """The data that the run was trained on, or another source prepared in the same way.

        `whole` data has no splits but those that the source has itself.
        """
        from kvae import data

        config = self.config
        if source is None:
            source, data_dir = config["source"], data_dir or config.get("data_dir")
        loaded = data.load(
            source,
            batch_size=256,
            seed=config["data_seed"],
            binarize=config["binarize"],
            size=config["size"],
            grayscale=config["grayscale"],
            data_dir=data_dir,
            validation_fraction=0.0 if whole else 0.1,
            test_fraction=0.0 if whole else 0.1,
        )
        if loaded.image_shape != self.model.image_shape:
            raise CommandError(
                f"Expected images of shape {self.model.image_shape}, as this run was trained on. "
                f"Received: {source} with {loaded.image_shape}"
            )
        return loaded


def open_run(path: Path, debug: bool = False) -> Run:
    """Load a run; CommandError if the folder isn't one or its files are damaged."""
    for name in ("config.json", "model.keras"):
        if not (path / name).is_file():
            raise CommandError(
                f"Expected a folder made by `kvae train`, with {name} in it. Received: {path}"
                + ("" if path.exists() else " (no such folder)")
            )
    try:
        config = with_data_seed(json.loads((path / "config.json").read_text(encoding="utf-8")))
        config["source"], config["binarize"], config["size"], config["grayscale"]
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(
            f"Expected the configuration that `kvae train` wrote. Received: {path}/config.json ({error})"
        ) from error
    start_tensorflow(debug)
    our_warnings()
    import kvae

    try:
        model = kvae.load(path / "model.keras")
    except Exception as error:
        if debug:
            raise
        reason = " ".join(str(error).split())[:200]
        raise CommandError(f"{path / 'model.keras'} can't be loaded: is it damaged? ({reason})") from error
    return Run(path, config, model)


def with_data_seed(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration from before there was a seed of the data: it was that of training."""
    return {"data_seed": config["seed"], **config}


def read_history(run: Path) -> dict[str, list[float]]:
    """history.csv as lists by column; nothing where it is missing."""
    if not (run / "history.csv").is_file():
        return {}
    with open(run / "history.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}


def read_metrics(run: Path) -> dict[str, Any]:
    """metrics.json; nothing where it is missing or damaged: it can be made again."""
    return _read_object(run / "metrics.json")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_described(run: Path) -> bool:
    """Whether a trained run has its scores, the figures that could be drawn, and its report."""
    figures = _read_object(run / FIGURES_LIST).get("drawn") or ["learning_curves"]  # an earlier version had no list
    files = [run / "report.html", *(run / FIGURES_LIST.with_name(f"{name}.png") for name in figures)]
    return "elbo" in read_metrics(run) and all(file.is_file() for file in files)


def write_json(path: Path, content: Any) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
