"""The choice of precisions="auto": the smallest file that loses little enough and is no slow one."""

from dataclasses import dataclass, field
from typing import Any

from kvae.arguments import real
from kvae.export.checks import Images
from kvae.export.errors import ExportError

#: How much longer than the fastest file a smaller one may take: with transposed convolutions, int8 can be slower.
SLOWER = 1.5


@dataclass(frozen=True)
class Budgets:
    """Largest losses that precisions="auto" accepts, on images that the report isn't of.

    Attributes:
        nats: of the ELBO.
        accuracy: of a model that classifies.

    Raises:
        ValueError: for what isn't a finite number.

    Example:

        >>> Budgets(nats=0.1)
        Budgets(nats=0.1, accuracy=0.005)
    """

    nats: float = 0.5
    accuracy: float = 0.005

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, real(name, value))


@dataclass
class Choice:
    """For precisions="auto": the smallest file that loses no more than the budgets, and isn't much slower than others.

    Attributes:
        budgets: largest losses.
        images: what they are measured on.
        apart: whether the report's numbers are of other images.
        lost: what each precision loses.
        bytes: of a file with all that is wanted, in each precision.
        latency_us: of its first signature, in each precision: microseconds on one thread.
        refused: why a file was not even verified.
    """

    budgets: dict[str, float]
    images: Images
    apart: bool
    lost: dict[str, dict[str, float]] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    latency_us: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @classmethod
    def by(cls, budgets: Budgets, apart: Images | None, test: Images | None) -> "Choice":
        """On validation images, if they tell as much as the test images do."""
        known = [images for images in (apart, test) if images is not None and images.measures]
        if not known:
            raise ValueError(
                "precisions='auto' compares ELBOs or accuracies: it needs a `kvae.VAE`, and images as `data` to "
                "compute them on; or a model that classifies, and a pair of images and labels."
            )
        images = max(known, key=lambda images: len(images.measures))
        limits = {"nats_lost": budgets.nats, "accuracy_lost": budgets.accuracy}
        return cls({name: limits[name] for name in sorted(images.measures)}, images, images is not test)

    @property
    def endpoints(self) -> list[str]:
        """What tells the losses."""
        tells = {"nats_lost": "score", "accuracy_lost": "classify"}
        return [tells[name] for name in self.budgets]

    def best(self) -> str:
        """The precision of the smallest file within the budgets that takes at most 1.5 times as long as the fastest
        of them; ExportError if there is none.
        """
        good = [
            precision
            for precision, lost in self.lost.items()
            if all(lost[name] <= budget for name, budget in self.budgets.items())
        ]
        if not good:
            raise ExportError(
                f"Expected a precision that loses at most {_losses(self.budgets)}. Received: "
                + (", ".join(f"{name} loses {_losses(losses)}" for name, losses in self.lost.items()) or "none at all")
            )
        longest = SLOWER * min(self.latency_us[precision] for precision in good)
        fast = [precision for precision in good if self.latency_us[precision] <= longest]
        return min(fast, key=lambda precision: self.bytes[precision])

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
            "bytes": self.bytes,
            "latency_us": self.latency_us,
            "refused": self.refused,
        }


def _losses(losses: dict[str, float]) -> str:
    units = {"nats_lost": "nats", "accuracy_lost": "of accuracy"}
    return " and ".join(f"{loss:.3g} {units[name]}" for name, loss in losses.items())
