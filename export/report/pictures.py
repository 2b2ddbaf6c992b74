"""Images on the report's page: the outputs of Keras and of each file, side by side."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvae.export.report import lines

AMPLIFIED = 10  # factor for differences between images
STRIP_VALUES = 96 * 1024  # pixels times channels of a row of images; keeps the page small
STRIP_WIDTH = 930  # CSS pixels


@dataclass(frozen=True)
class Pictures:
    """Outputs of Keras or of a file: `(N, H, W, C)`, or `(N, *event)`, each, or None.

    `units` are the sizes of one standardised unit.
    """

    title: str
    images: np.ndarray | None
    reconstructions: np.ndarray | None
    samples: np.ndarray | None
    units: Any = 1.0


def groups(pictures: list[Pictures]) -> list[dict[str, Any]]:
    """Return groups of rows: images with their reconstructions, and samples; differences are separate rows.

    Series are drawn as lines. Rows of tables and volumes aren't drawn.
    """
    found: list[dict[str, Any]] = []
    for name in ("reconstructions", "samples"):
        drawn = [(shown.title, getattr(shown, name)) for shown in pictures if getattr(shown, name) is not None]
        if not drawn:
            continue
        by_keras, of_keras = drawn[0]
        if of_keras.ndim != 4:
            if of_keras.ndim == 3:
                found.append(
                    _lines(name, drawn, pictures[0].images if name == "reconstructions" else None, pictures[0])
                )
            continue
        keras = _pixels(of_keras)
        count = min(len(keras), max(4, STRIP_VALUES // keras[0].size))
        rows, differences = [], []
        if name == "reconstructions" and pictures[0].images is not None:
            rows.append({"title": "Test images", "text": "", **_strip(_pixels(pictures[0].images)[:count])})
        for title, images in drawn:
            off = np.abs(_pixels(images).astype(int) - keras)
            text = "" if title == by_keras else _levels(off)
            rows.append({"title": title, "text": text, **_strip(_pixels(images)[:count])})
            if off.max() > 1:
                change = _channels(np.nan_to_num(images[:count])) - _channels(np.nan_to_num(of_keras[:count]))
                differences.append({"title": title, "text": "", **_strip(_pixels(0.5 + AMPLIFIED * change))})
        found.append({"name": name, "count": count, "rows": rows, "differences": differences})
    return found


def _lines(
    name: str, drawn: list[tuple[str, np.ndarray]], originals: np.ndarray | None, of_keras: Pictures
) -> dict[str, Any]:
    """Return a group of rows of series, with the same axes in all rows."""
    keras = drawn[0][1]
    axes = np.concatenate([keras, *([] if originals is None else [originals])])[: 2 * len(keras)]
    low, high = np.nanmin(axes, axis=(0, 1)), np.nanmax(axes, axis=(0, 1))
    rows = [] if originals is None else [{"title": "Test series", "text": "", **lines.strip(originals, low, high)}]
    for number, (title, series) in enumerate(drawn):
        off = np.abs(series - keras) / of_keras.units
        text = (
            f"differs by at most {off.max():.2g} standard deviations, by {off.mean():.2g} on average" if number else ""
        )
        rows.append({"title": title, "text": text, **lines.strip(np.nan_to_num(series), low, high)})
    return {"name": name, "count": min(len(keras), lines.SHOWN), "rows": rows, "differences": []}


def _levels(off: np.ndarray) -> str:
    if off.max() == 0:
        return "every pixel equals Keras in 8 bits"
    levels = "1 level" if off.max() == 1 else f"{off.max()} levels"
    mean = "less than 0.01" if off.mean() < 0.01 else f"{off.mean():.2f}"
    return f"differs by at most {levels} of 255, by {mean} on average"


def _channels(images: np.ndarray) -> np.ndarray:
    """Return grey or RGB images; for other numbers of channels, the first channel."""
    return images if images.shape[-1] in (1, 3) else images[..., :1]


def _pixels(images: np.ndarray) -> np.ndarray:
    return (255 * np.clip(np.nan_to_num(_channels(images)), 0, 1)).round().astype(np.uint8)


def _strip(pixels: np.ndarray) -> dict[str, Any]:
    """Return a PNG of images `(N, H, W, 1 or 3)` side by side, one transparent pixel apart, and its page size."""
    from PIL import Image

    count, height, width, channels = pixels.shape
    canvas = np.zeros((height, count * (width + 1) - 1, channels + 1), np.uint8)
    for i, image in enumerate(pixels):
        left = i * (width + 1)
        canvas[:, left : left + width, :-1], canvas[:, left : left + width, -1] = image, 255
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "PNG", optimize=True)
    scale = max(1, STRIP_WIDTH // canvas.shape[1])
    return {
        "data": base64.b64encode(file.getvalue()).decode(),
        "type": "image/png",
        "width": scale * canvas.shape[1],
        "height": scale * height,
    }
