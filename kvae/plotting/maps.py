"""Maps of anomaly scores beside their images."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from kvae.plotting.style import rgb_of, tiled

SHOWN = 99.9  # percentile of the maps that has the brightest colour
OUTLINE = "#00e5ff"  # no colour of the map


def anomaly_maps(
    images: Any, reconstructions: Any, maps: Any, masks: Any = None, labels: Sequence[str] = (), gap: int = 2
) -> Figure:
    """Draw images, their reconstructions and the maps of their anomaly scores with the outlines of known defects.

    All maps share one scale of colours, from the median of all scores (black) to their 99.9 % quantile (yellow).

    Args:
        images: `(N, H, W, C)` in [0, 1], one in each column.
        reconstructions: `(N, H, W, C)`.
        maps: anomaly score of each pixel, `(N, H, W)`.
        masks: whether each pixel is defective, `(N, H, W)`; None draws no outlines.
        labels: texts above the columns, such as p-values.
        gap: pixels between two images.

    Raises:
        ValueError: if the shapes differ.

    Example:

        >>> images, maps = np.full((3, 8, 8, 1), 0.5), np.zeros((3, 8, 8))
        >>> maps[1, 2:5, 2:5] = 1.0
        >>> figure = anomaly_maps(images, images, maps, maps > 0, labels=["p 0.5", "p 0.01", "p 0.7"])
        >>> figure.axes[0].images[0].get_array().shape  # 3 × 3 images, gaps of two pixels, RGB
        (28, 28, 3)
    """
    images, maps = np.asarray(images), np.asarray(maps, "float64")
    masks = np.zeros(maps.shape, bool) if masks is None else np.asarray(masks, bool)
    shapes = [np.shape(array) for array in (images, reconstructions, maps, masks)]
    right = [images.shape] * 2 + [images.shape[:3]] * 2
    if images.ndim != 4 or not len(images) or shapes != right:
        raise ValueError(
            "Expected images and reconstructions (N, H, W, C), maps and masks (N, H, W). "
            f"Received: shapes {', '.join(map(str, shapes))}"
        )
    low, high = np.percentile(maps, [50, SHOWN])
    scaled = np.clip((maps - low) / max(high - low, np.finfo("float64").tiny), 0, 1)
    colours = matplotlib.colormaps["inferno"](scaled)[..., :3]
    tiles = np.stack([rgb_of(images), rgb_of(reconstructions, like=images), colours])  # (3, N, H, W, 3)
    figure = tiled(tiles, ["image", "reconstruction", "map"], labels, gap=gap, channels=images.shape[-1])
    _, height, width, _ = images.shape
    for column, mask in enumerate(masks):
        if mask.any():
            left, top = column * (width + gap), 2 * (height + gap)
            # A border of zeros closes the outlines of defects at the edge of the image.
            figure.axes[0].contour(
                left + np.arange(-1, width + 1), top + np.arange(-1, height + 1), np.pad(mask, 1).astype(float), [0.5],
                colors=OUTLINE, linewidths=1.0,
            )  # fmt: skip
    return figure
