"""Warnings about the pixels of a source, each shown once: transparent pixels, and values outside the range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvae.data.decoding import Decoder, Picture
from kvae.data.depth import EIGHT_BIT, Range, format_value
from kvae.data.errors import warn
from kvae.data.images import WHITE, Color


class Notices:
    """Warnings about transparent and clipped pixels, each shown once for a source."""

    def __init__(self, name: str, decode: Decoder) -> None:
        self.name, self.decode = name, decode
        self.reported: set[str] = set()

    def transparent(self, where: str) -> None:
        """Warn once of transparent pixels; `where` is "" if there are none."""
        if where and "transparent" not in self.reported:
            self.reported.add("transparent")
            warn_transparent(self.name, self.decode.background, where)

    def clipped(self, where: str) -> None:
        """Warn once of clipped values; `where` is "" if there are none."""
        if where and "clipped" not in self.reported and self.decode.value_range is not None:
            self.reported.add("clipped")
            warn_outside(self.name, self.decode.value_range, where)

    def check(self, pictures: Sequence[Picture]) -> None:
        """Warn of images that are decoded while streaming."""
        where = "in streamed images"
        self.transparent(where if any(picture.is_transparent for picture in pictures) else "")
        self.clipped(where if any(picture.is_clipped for picture in pictures) else "")


def count_by_split(flags: dict[str, np.ndarray]) -> str:
    """Return the number of flagged images by split as text; "" if there are none.

    Example:
        >>> flags = {"train": [True, False], "validation": [False], "test": [True]}
        >>> count_by_split({split: np.array(part) for split, part in flags.items()})
        'in 1 of 2 train and 1 of 1 test images'
    """
    parts = [f"{np.count_nonzero(part)} of {len(part)} {split}" for split, part in flags.items() if part.any()]
    head = ", ".join(parts[:-1]) + " and " if len(parts) > 1 else ""
    return f"in {head}{parts[-1]} images" if parts else ""


def count_in_first(flags: Sequence[bool] | np.ndarray) -> str:
    """Return the number of flagged images among the first ones as text; "" if there are none."""
    count = sum(map(bool, flags))
    return f"in {count} of the first {len(flags)} images" if count else ""


def warn_transparent(name: str, background: Color, where: str) -> None:
    """Warn that transparent pixels are replaced by the background."""
    color = {WHITE: "white", (0, 0, 0): "black"}.get(background) or "#" + "".join(f"{v:02x}" for v in background)
    warn(f"{name}: transparent pixels are replaced by {color}, {where} (background=, --background on the command line)")


def warn_outside(name: str, value_range: Range, where: str) -> None:
    """Warn that values are clipped."""
    low, high = map(format_value, value_range)
    warn(f"{name}: values outside {low}..{high} are clipped, {where}")


def warn_dark(name: str, kind: str, value_range: Range | None) -> None:
    """Warn if the value range given for 8-bit images is wider than 0..255."""
    if kind == EIGHT_BIT and value_range is not None and (value_range[0] < 0 or value_range[1] > 255):
        low, high = map(format_value, value_range)
        warn(
            f"{name}: the images are 8-bit, with values in 0..255, but value_range=({low}, {high}) is wider: "
            "their values don't cover [0, 1]"
        )
