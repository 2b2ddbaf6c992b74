"""The choice of precisions="auto": the smallest file within the budgets that is not too slow."""

from dataclasses import dataclass, field
from typing import Any

from kvae.arguments import real
from kvae.export.checks import Images
from kvae.export.errors import ExportError

#: Largest time relative to the fastest file. With transposed convolutions, int8 can be slower than float32.
SLOWER = 1.5


@dataclass(frozen=True)
class Budgets:
    """Largest losses that precisions="auto" accepts, on validation images.

    Attributes:
        nats: loss of the ELBO.
        accuracy: loss of accuracy of a classifier.

    Raises:
        ValueError: if a budget is not a finite number.

    Example:

        >>> Budgets(nats=0.1)
        Budgets(nats=0.1, accuracy=0.005)
    """

    nats: float = 0.5
    accuracy: float = 0.005

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, real(name, value))

    @property
    def by_loss(self) -> dict[str, float]:
        """The budgets by the name of the loss, an attribute of `kvae.export.behaviour.Behaviour`."""
        return {"nats_lost": self.nats, "accuracy_lost": self.accuracy}


@dataclass
class Choice:
    """Choice of the smallest file whose losses are within the budgets and which is not much slower than the others.

    Attributes:
        budgets: largest losses.
        images: images for the measurement of losses.
        apart: whether the numbers of the report are from other images.
        lost: losses by precision.
        bytes: size of the file with all requested signatures, by precision.
        latency_us: microseconds per call of its first signature on one thread, by precision.
        refused: reasons of files that failed the verification.
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
        """Choose on the validation images, if they measure as many losses as the test images."""
        known = [images for images in (apart, test) if images is not None and images.measures]
        if not known:
            raise ValueError(
                "Expected a `kvae.VAE` and images as `data`, or a classifier and a pair of images and labels: "
                "precisions='auto' compares ELBOs or accuracies. Received: neither"
            )
        images = max(known, key=lambda images: len(images.measures))
        return cls({name: budgets.by_loss[name] for name in sorted(images.measures)}, images, images is not test)

    @property
    def endpoints(self) -> list[str]:
        """Endpoints that measure the losses."""
        measured_by = {"nats_lost": "score", "accuracy_lost": "classify"}
        return [measured_by[name] for name in self.budgets]

    def best(self) -> str:
        """Return the precision of the smallest file within the budgets and at most 1.5 times as slow as the fastest.

        Raises:
            ExportError: if there is none.
        """
        good = [
            precision
            for precision, lost in self.lost.items()
            if all(lost[name] <= budget for name, budget in self.budgets.items())
        ]
        if not good:
            raise ExportError(
                f"Expected a precision that loses at most {_losses(self.budgets)}. Received: "
                + (", ".join(f"{name} loses {_losses(losses)}" for name, losses in self.lost.items()) or "none")
            )
        longest = SLOWER * min(self.latency_us[precision] for precision in good)
        fast = [precision for precision in good if self.latency_us[precision] <= longest]
        return min(fast, key=lambda precision: self.bytes[precision])

    def warnings(self) -> list[str]:
        if self.apart:
            return []
        pair = " and labels, as a pair" if "accuracy_lost" in self.budgets else ""
        return [
            "The precision was chosen on the test images, so the numbers of this report are too optimistic: "
            f"give `validation` images{pair}"
        ]

    def as_dict(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in ("budgets", "lost", "bytes", "latency_us", "refused")}
        return {"images": len(self.images.images), "of": "validation" if self.apart else "test", **found}


def _losses(losses: dict[str, float]) -> str:
    units = {"nats_lost": "nats", "accuracy_lost": "of accuracy"}
    return " and ".join(f"{loss:.3g} {units[name]}" for name, loss in losses.items())
