"""The choice of precisions="auto": the smallest file that loses little enough."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvae.export.checks import Images
from kvae.export.errors import ExportError
from kvae.export.reference import Run
from kvae.export.verify import Artifact


@dataclass(frozen=True)
class Made:
    """A LiteRT file that was verified, and is open."""

    path: Path
    artifact: Artifact
    run: Run

    def opened(self) -> Run:
        return self.run


@dataclass
class Choice:
    """For precisions="auto": the smallest file that loses no more than the budgets.

    Attributes:
        budgets: largest losses.
        images: what they are measured on.
        apart: whether the report's numbers are of other images.
        lost: what each file loses.
        refused: why a file was not even verified.
    """

    budgets: dict[str, float]
    images: Images
    apart: bool
    lost: dict[str, dict[str, float]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @classmethod
    def by(cls, budgets: dict[str, float], apart: Images | None, test: Images | None) -> "Choice":
        """On validation images, if they tell as much as the test images do."""
        known = [images for images in (apart, test) if images is not None and images.measures]
        if not known:
            raise ValueError(
                "precisions='auto' compares ELBOs or accuracies: it needs a `kvae.VAE`, and `images` to compute them "
                "on; or a model that classifies, `images` and `labels`."
            )
        images = max(known, key=lambda images: len(images.measures))
        return cls({name: budgets[name] for name in sorted(images.measures)}, images, images is not test)

    def smallest(self, files: list[Made]) -> Made:
        """The smallest within the budgets; ExportError if there is none."""
        good = [
            file
            for file in files
            if all(self.lost[file.path.name][name] <= budget for name, budget in self.budgets.items())
        ]
        if not good:
            raise ExportError(
                f"Expected a file that loses at most {_losses(self.budgets)}. Received: "
                + (", ".join(f"{path} loses {_losses(losses)}" for path, losses in self.lost.items()) or "none at all")
            )
        return min(good, key=lambda file: file.artifact.bytes)

    def warnings(self) -> list[str]:
        if self.apart:
            return []
        pair = " and labels, as a pair" if "accuracy_lost" in self.budgets else ""
        return [
            "The precision was chosen on the images that the numbers of this report are of, so that they flatter it: "
            f"give `validation` images{pair}"
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "images": len(self.images.images),
            "of": "validation" if self.apart else "test",
            "budgets": self.budgets,
            "lost": self.lost,
            "refused": self.refused,
        }


def _losses(losses: dict[str, float]) -> str:
    units = {"nats_lost": "nats", "accuracy_lost": "of accuracy"}
    return " and ".join(f"{loss:.3g} {units[name]}" for name, loss in losses.items())
