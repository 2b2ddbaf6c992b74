"""The run folder that `kvae train` writes, and access to its model, numbers and data."""

import csv
import json
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvae.files import FIGURES_LIST, atomic_file

if TYPE_CHECKING:
    from kvae.data import Data
    from kvae.data.catalogue import Splits
    from kvae.models import VAE

MODEL, CONFIG, HISTORY, METRICS = "model.keras", "config.json", "history.csv", "metrics.json"
SPLITS = "splits.npz"  # fingerprints of the images in each split
REPORT = "report.html"


class RunError(ValueError):
    """A run folder that is missing or damaged, or can't be used as requested."""


@dataclass(frozen=True)
class RunFolder:
    """A folder made by `kvae train`, with its configuration, model, numbers and data.

    Args:
        path: path of the folder.

    Example:

        >>> RunFolder("runs/nowhere").config
        Traceback (most recent call last):
        ...
        kvae.run.RunError: Expected a folder made by `kvae train`, with config.json in it. Received: runs/nowhere (no such folder)
    """  # noqa: E501

    path: Path
    _loaded: dict[Any, "Data"] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    def __truediv__(self, name: str | Path) -> Path:
        return self.path / name

    # Configuration and model.

    def check(self) -> "RunFolder":
        """Raise a RunError unless the folder has a configuration and a model. Return the folder."""
        for name in (CONFIG, MODEL):
            if not (self / name).is_file():
                raise RunError(
                    f"Expected a folder made by `kvae train`, with {name} in it. Received: {self.path}"
                    + ("" if self.path.exists() else " (no such folder)")
                )
        return self

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of the training run. A RunError is raised if it is missing or damaged."""
        self.check()
        try:
            config = with_data_seed(json.loads((self / CONFIG).read_text(encoding="utf-8")))
            config["source"], config["binarize"], config["size"], config["grayscale"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"Expected the configuration that `kvae train` wrote. Received: {self / CONFIG} ({error})"
            ) from error
        return config

    @cached_property
    def model(self) -> "VAE":
        """The trained model. A RunError is raised if its file is damaged."""
        import kvae

        self.check()
        try:
            return kvae.load(self / MODEL)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise RunError(f"Expected a model that can be loaded. Received: {self / MODEL} ({reason})") from error

    # Numbers.

    @property
    def history(self) -> dict[str, list[float]]:
        """The training log as lists by column; empty if it is missing."""
        if not (self / HISTORY).is_file():
            return {}
        with open(self / HISTORY, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}

    @property
    def metrics(self) -> dict[str, Any]:
        """The scores of the test split; empty if they are missing or damaged, because they can be recomputed."""
        return _read_object(self / METRICS)

    @property
    def is_described(self) -> bool:
        """Whether the run has its scores, the figures that could be drawn, and its report."""
        figures = _read_object(self / FIGURES_LIST).get("drawn") or ["learning_curves"]  # older runs have no list
        files = [self / REPORT, *(self / FIGURES_LIST.with_name(f"{name}.png") for name in figures)]
        return "elbo" in self.metrics and all(file.is_file() for file in files)

    # Data.

    def is_own(self, source: str) -> bool:
        """Return whether the run was trained on this source."""
        return self.config["source"] in (source, str(Path(source).expanduser().resolve()))

    def data(
        self, source: str | None = None, data_dir: Path | None = None, whole: bool = False, key: str | None = None
    ) -> "Data":
        """Load the data of the training run in its splits, or another source with the same preprocessing.

        A `DataWarning` says what has changed since training.

        Args:
            source: another source; None for the source of the training run.
            data_dir: folder of prepared TensorFlow Datasets.
            whole: whether to keep all images in one split, unless the source has splits itself.
            key: entry of another `.npz` file.

        Raises:
            RunError: for images of another shape, or other classes of a conditional model.
            DataError: if the source can't be read.
        """
        wanted = source, data_dir, whole, key
        if wanted not in self._loaded:
            self._loaded[wanted] = self._load(*wanted)
        return self._loaded[wanted]

    def _load(self, source: str | None, data_dir: Path | None, whole: bool, key: str | None) -> "Data":
        from kvae import data
        from kvae.networks import kind_of

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
            value_range=config.get("value_range"),  # missing in older configurations, as the next two
            background=config.get("background") or "white",
            key=config.get("key") if own and key is None else key,
            data_dir=data_dir,
            kind=config.get("kind", "auto"),
            time=config.get("time"),
            series=config.get("series"),
            schema=config.get("schema"),
            validation_fraction=0.0 if whole else 0.1,
            test_fraction=0.0 if whole else 0.1,
        )
        if loaded.event_shape != self.model.event_shape:
            raise RunError(
                f"Expected {kind_of(self.model.event_shape)} of shape {self.model.event_shape}, as this run was "
                f"trained on. Received: {source} with {loaded.event_shape}"
            )
        classes = config.get("label_names")
        if self.model.condition_dim is not None and classes and loaded.label_names not in ((), tuple(classes)):
            raise RunError(
                f"Expected the classes that this conditional run was trained with: {', '.join(classes)}. "
                f"Received: {loaded.name} with {', '.join(loaded.label_names)}"
            )
        trained = None if whole else read_splits(self.path)
        if trained is None:
            return loaded
        return in_splits_of_training(loaded, trained) if own else _warn_of_overlap(loaded, trained)


def in_splits_of_training(loaded: "Data", trained: "Splits") -> "Data":
    """Return the data in the splits of the training run, and warn if the dataset has changed since."""
    from kvae.data import DataWarning
    from kvae.networks import kind_of

    one, many = (kind_of(loaded.event_shape, count) for count in (1, 2))
    changes = loaded.changes(trained)
    gone = [f"{count:,} of {len(trained[name]):,} {name}" for name, count in changes.missing.items() if count]
    found = loaded.with_splits(trained)
    if gone or changes.new:
        added = f"{one} is" if changes.new == 1 else f"{many} are"
        new = f"{changes.new:,} new {added} in no split (--split new selects them)"
        lost = f"{', '.join(gone)} {many} are missing or have changed"
        warnings.warn(
            f"{loaded.name} has changed since training; the splits of the training run are kept: "
            + "; ".join([*([new] if changes.new else []), *([lost] if gone else [])]),
            DataWarning, stacklevel=2,
        )  # fmt: skip
    return found


def _warn_of_overlap(loaded: "Data", trained: "Splits") -> "Data":
    """Return another source, and warn if its validation or test split has images that the run was trained on."""
    import numpy as np

    from kvae.data import DataWarning
    from kvae.networks import kind_of

    many = kind_of(loaded.event_shape)
    fingerprint = loaded.fingerprint()
    seen = {name: int(np.isin(fingerprint[name], trained["train"]).sum()) for name in ("validation", "test")}
    if found := [f"{count:,} of {len(fingerprint[name]):,} {name}" for name, count in seen.items() if count]:
        warnings.warn(
            f"{loaded.name}: the new splits contain {many} that the run was trained on: {' and '.join(found)} {many}",
            DataWarning, stacklevel=2,
        )  # fmt: skip
    return loaded


def write_splits(path: Path, images: "Data") -> None:
    """Write a fingerprint of each image, by split."""
    import numpy as np

    with atomic_file(path / SPLITS) as temporary:
        np.savez_compressed(temporary, **images.fingerprint())  # type: ignore[arg-type]


def read_splits(path: Path) -> "Splits | None":
    """Read the file of `write_splits`; return None for an older run without it."""
    import numpy as np

    file = path / SPLITS
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as stored:
            splits = {name: stored[name] for name in ("train", "validation", "test")}
        if any(keys.dtype != np.uint64 or keys.ndim != 1 for keys in splits.values()):
            raise ValueError("its arrays have another dtype or shape")
    except Exception as error:  # zipfile, zlib and NumPy raise nearly anything on damaged files
        raise RunError(
            f"Expected the splits that `kvae train` wrote. Received: {file} ({error}); remove this file to split the "
            "present images instead"
        ) from error
    return splits


def with_data_seed(config: dict[str, Any]) -> dict[str, Any]:
    """Add the data seed to a configuration; in older ones it equals the training seed."""
    return {"data_seed": config["seed"], **config}


def write_json(path: Path, content: Any) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
