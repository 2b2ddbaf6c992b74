"""Series on the report's page: each one a small chart of lines, as SVG."""

import base64
from typing import Any

import numpy as np

PANEL = 180, 84  # CSS pixels
GAP = 12
# Petroff 2021, https://arxiv.org/abs/2107.02270: colours chosen for people with any colour vision.
COLOURS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
SHOWN = 5  # series in a row


def strip(series: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """Return an SVG of series `(N, T, F)` side by side, and its page size.

    Args:
        series: finite values; the first `SHOWN` are drawn.
        low, high: `(F,)`, the values at the bottom and at the top of a panel.

    Example:

        >>> drawn = strip(np.zeros((2, 4, 1)), np.zeros(1), np.ones(1))
        >>> drawn["type"], drawn["width"], base64.b64decode(drawn["data"]).count(b"<polyline")
        ('image/svg+xml', 372, 2)
    """
    series = series[:SHOWN]
    width, height = PANEL
    place = np.clip((series - low) / np.where(high > low, high - low, 1), -0.05, 1.05)
    x = np.linspace(0, width, series.shape[1])
    parts = []
    for number, lines in enumerate(place):
        left = number * (width + GAP)
        parts.append(f'<rect x="{left}" width="{width}" height="{height}" fill="#8881" rx="3"/>')
        for feature in range(lines.shape[1]):
            y = 4 + (height - 8) * (1 - lines[:, feature])
            points = " ".join(f"{left + a:.1f},{b:.1f}" for a, b in zip(x, y))
            colour = COLOURS[feature % len(COLOURS)]
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
    total = len(series) * (width + GAP) - GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height}" width="{total}" height="{height}">'
    text = head + "".join(parts) + "</svg>"
    data = base64.b64encode(text.encode()).decode()
    return {"data": data, "type": "image/svg+xml", "width": total, "height": height}
