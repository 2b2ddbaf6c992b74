"""Warnings about the pixels of a source, each shown once: transparent pixels, and values outside the range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kvae.data.catalogue import Splits
from kvae.data.decoding import Decoder, Picture
from kvae.data.depth import EIGHT_BIT, Range, format_value, is_outside, training_range
from kvae.data.errors import warn
from kvae.data.images import WHITE


class Notices:
    """Warnings about transparent and clipped pixels, each shown once for a source."""

    def __init__(self, name: str, decode: Decoder) -> None:
        self.name, self.decode = name, decode
        self.reported: set[str] = set()

    def transparent(self, where: str) -> None:
        """Warn once of transparent pixels; `where` is "" if there are none."""
        if where and "transparent" not in self.reported:
            self.reported.add("transparent")
            background = self.decode.background
            named = {WHITE: "white", (0, 0, 0): "black"}
            color = named.get(background) or "#" + "".join(f"{level:02x}" for level in background)
            warn(
                f"{self.name}: transparent pixels are replaced by {color}, {where} (background=, --background on the "
                "command line)"
            )

    def clipped(self, where: str) -> None:
        """Warn once of clipped values; `where` is "" if there are none."""
        if where and "clipped" not in self.reported and self.decode.value_range is not None:
            self.reported.add("clipped")
            warn_outside(self.name, self.decode.value_range, where)

    def by_split(self, transparent: np.ndarray, clipped: np.ndarray, splits: Splits) -> None:
        """Warn of images, given which ones have such pixels (N,) and the rows of each split."""
        self.transparent(count_by_split(transparent, splits))
        self.clipped(count_by_split(clipped, splits))

    def first(self, pictures: Sequence[Picture]) -> None:
        """Warn of the first images."""
        self.transparent(count_in_first([picture.is_transparent for picture in pictures]))
        self.clipped(count_in_first([picture.is_clipped for picture in pictures]))

    def check(self, pictures: Sequence[Picture]) -> None:
        """Warn of images that are decoded while streaming."""
        where = "in streamed images"
        self.transparent(where if any(picture.is_transparent for picture in pictures) else "")
        self.clipped(where if any(picture.is_clipped for picture in pictures) else "")

    def find_range(self, lows: np.ndarray, highs: np.ndarray, splits: Splits) -> None:
        """Set the value range of `decode` to that of the training images. Warn of images beyond it.

        Args:
            lows, highs: the lowest and the highest value of each image, (N,).
            splits: rows of the images of each split.
        """
        training = splits["train"]
        value_range = training_range(self.name, self.decode.depth, lows[training].min(), highs[training].max())
        self.decode = replace(self.decode, value_range=value_range)
        self.clipped(count_by_split(is_outside(lows, highs, value_range), splits))
        self.reported.add("clipped")  # all images are counted


def count_by_split(flags: np.ndarray, splits: Splits) -> str:
    """Return the number of flagged images (N,) by split as text; "" if there are none.

    Example:
        >>> splits = {"train": np.array([0, 2]), "validation": np.array([3]), "test": np.array([1])}
        >>> count_by_split(np.array([True, True, False, False]), splits)
        'in 1 of 2 train and 1 of 1 test images'
    """
    counts = {split: np.count_nonzero(flags[rows]) for split, rows in splits.items()}
    parts = [f"{count} of {len(splits[split])} {split}" for split, count in counts.items() if count]
    head = ", ".join(parts[:-1]) + " and " if len(parts) > 1 else ""
    return f"in {head}{parts[-1]} images" if parts else ""


def count_in_first(flags: Sequence[bool]) -> str:
    """Return the number of flagged images among the first ones as text; "" if there are none."""
    count = np.count_nonzero(flags)
    return f"in {count} of the first {len(flags)} images" if count else ""


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
