"""What is said of the pixels of a source, once: that some were transparent, or outside the range that became [0, 1]."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from kvae.data.decoding import Decoder, Picture
from kvae.data.depth import EIGHT_BIT, Range, shown
from kvae.data.errors import DataWarning
from kvae.data.images import WHITE, Color


class Notices:
    """What is said once of a source's pixels: that some were transparent, that some were clipped."""

    def __init__(self, name: str, decode: Decoder) -> None:
        self.name, self.decode = name, decode
        self.said: set[str] = set()

    def transparent(self, where: str) -> None:
        """Say it, if it wasn't said yet; where it is nowhere, say nothing."""
        if where and "transparent" not in self.said:
            self.said.add("transparent")
            warn_transparent(self.name, self.decode.background, where)

    def clipped(self, where: str) -> None:
        """As `transparent`."""
        if where and "clipped" not in self.said and self.decode.value_range is not None:
            self.said.add("clipped")
            warn_outside(self.name, self.decode.value_range, where)

    def met(self, pictures: Sequence[Picture]) -> None:
        """Say it of images that are read on the way."""
        where = "in images that are read on the way"
        self.transparent(where if any(picture.is_transparent for picture in pictures) else "")
        self.clipped(where if any(picture.is_clipped for picture in pictures) else "")


def where(flags: dict[str, np.ndarray]) -> str:
    """How many images are meant, by split; nothing if none are.

    Example:
        >>> where({"train": np.array([True, False]), "validation": np.array([False]), "test": np.array([True])})
        'in 1 of 2 train and 1 of 1 test images'
    """
    parts = [f"{np.count_nonzero(those)} of {len(those)} {split}" for split, those in flags.items() if those.any()]
    several = ", ".join(parts[:-1]) + " and " if len(parts) > 1 else ""
    return f"in {several}{parts[-1]} images" if parts else ""


def where_first(flags: Sequence[bool] | np.ndarray) -> str:
    """How many of the first images are meant; nothing if none are."""
    count = sum(map(bool, flags))
    return f"in {count} of the first {len(flags)} images" if count else ""


def warn_transparent(name: str, background: Color, where: str) -> None:
    """One warning that images were laid on a ground."""
    ground = {WHITE: "white", (0, 0, 0): "black"}.get(background) or "#" + "".join(f"{v:02x}" for v in background)
    warnings.warn(
        f"{name}: transparent pixels are laid on {ground}, {where} (background=, --background on the command)",
        DataWarning,
        stacklevel=3,
    )


def warn_outside(name: str, value_range: Range, where: str) -> None:
    """One warning that values are clipped, and where."""
    low, high = map(shown, value_range)
    warnings.warn(f"{name}: values outside {low}..{high} are clipped, {where}", DataWarning, stacklevel=3)


def warn_dark(name: str, kind: str, value_range: Range | None) -> None:
    """A warning where 8-bit images are given the range of deeper ones."""
    if kind == EIGHT_BIT and value_range is not None and (value_range[0] < 0 or value_range[1] > 255):
        low, high = map(shown, value_range)
        warnings.warn(
            f"{name}: the images are 8-bit, with values in 0..255, and value_range=({low}, {high}) is wider: "
            "they don't reach all of [0, 1]",
            DataWarning,
            stacklevel=3,
        )
