"""A RUN: the folder that holds one training."""

import csv
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvae.cli.console import CommandError, our_warnings, start_tensorflow
from kvae.files import FIGURES_LIST, atomic_file

if TYPE_CHECKING:
    from kvae.data import Data
    from kvae.data.catalogue import Splits
    from kvae.models import VAE

SPLITS = "splits.npz"  # of a RUN: which images were in which split
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
    _loaded: dict[Any, "Data"] = field(default_factory=dict, repr=False, compare=False)

    def is_own(self, source: str) -> bool:
        """Whether the run was trained on this source."""
        return self.config["source"] in (source, str(Path(source).expanduser().resolve()))

    def data(
        self, source: str | None = None, data_dir: Path | None = None, whole: bool = False, key: str | None = None
    ) -> "Data":
        """The data that the run was trained on, in its splits, or another source prepared in the same way.

        A warning says what has changed since training. `whole` data has no splits but those that the source has itself;
        `key` is the entry of another `.npz` file.
        """
        wanted = source, data_dir, whole, key
        if wanted not in self._loaded:
            self._loaded[wanted] = self._load(*wanted)
        return self._loaded[wanted]

    def _load(self, source: str | None, data_dir: Path | None, whole: bool, key: str | None) -> "Data":
        from kvae import data

        config = self.config
        own = source is None or self.is_own(source)
        if source is None:
            source, data_dir = config["source"], data_dir or config.get("data_dir")
        loaded = data.load(
            source,
            batch_size=256,
            seed=config["data_seed"],
            binarize=config["binarize"],
            size=config["size"],
            grayscale=config["grayscale"],
            value_range=config.get("value_range"),  # these three aren't in older configurations
            background=config.get("background") or "white",
            key=config.get("key") if own and key is None else key,
            data_dir=data_dir,
            validation_fraction=0.0 if whole else 0.1,
            test_fraction=0.0 if whole else 0.1,
        )
        if loaded.image_shape != self.model.image_shape:
            raise CommandError(
                f"Expected images of shape {self.model.image_shape}, as this run was trained on. "
                f"Received: {source} with {loaded.image_shape}"
            )
        classes = config.get("label_names")
        if self.model.condition_dim is not None and classes and loaded.label_names not in ((), tuple(classes)):
            raise CommandError(
                f"Expected the classes that this conditional run was trained with: {', '.join(classes)}. "
                f"Received: {loaded.name} with {', '.join(loaded.label_names)}"
            )
        trained = None if whole else read_splits(self.path)
        if trained is None:
            return loaded
        return as_trained(loaded, trained) if own else _warn_of_trained(loaded, trained)


def as_trained(loaded: "Data", trained: "Splits") -> "Data":
    """The data in the splits of training, with a warning of what has changed since."""
    from kvae.data import DataWarning

    changes = loaded.changes(trained)
    gone = [f"{count:,} of {len(trained[name]):,} {name}" for name, count in changes.missing.items() if count]
    found = loaded.with_splits(trained)
    if gone or changes.new:
        new = f"{changes.new:,} new image{'s are' if changes.new != 1 else ' is'} in no split (--split new has them)"
        lost = f"{', '.join(gone)} images are gone, or others now"
        warnings.warn(
            f"{loaded.name} has changed since training, whose splits are kept: "
            + "; ".join([*([new] if changes.new else []), *([lost] if gone else [])]),
            DataWarning, stacklevel=2,
        )  # fmt: skip
    return found


def _warn_of_trained(loaded: "Data", trained: "Splits") -> "Data":
    """Another source, with a warning of images that it holds back and that were trained on."""
    import numpy as np

    from kvae.data import DataWarning

    fingerprint = loaded.fingerprint()
    seen = {name: int(np.isin(fingerprint[name], trained["train"]).sum()) for name in ("validation", "test")}
    if found := [f"{count:,} of {len(fingerprint[name]):,} {name}" for name, count in seen.items() if count]:
        warnings.warn(
            f"{loaded.name}: the run was trained on {' and '.join(found)} images of the split that is cut here",
            DataWarning, stacklevel=2,
        )  # fmt: skip
    return loaded


def write_splits(path: Path, images: "Data") -> None:
    """Write down which images are in which split: a number for each, made of its content."""
    import numpy as np

    with atomic_file(path / SPLITS) as temporary:
        np.savez_compressed(temporary, **images.fingerprint())  # type: ignore[arg-type]


def read_splits(path: Path) -> "Splits | None":
    """What `write_splits` wrote; None for a run from before it did."""
    import numpy as np

    file = path / SPLITS
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as stored:
            splits = {name: stored[name] for name in ("train", "validation", "test")}
        if any(keys.dtype != np.uint64 or keys.ndim != 1 for keys in splits.values()):
            raise ValueError("other arrays")
    except Exception as error:  # zipfile, zlib and NumPy raise nearly anything on damaged files
        raise CommandError(
            f"Expected the splits that `kvae train` wrote. Received: {file} ({error}); without this file, splits are "
            "cut from the images of today"
        ) from error
    return splits


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
