"""A block of colour images on which anti-aliased areas are painted.

Coordinates are −1 … 1 over an image, x to the right and y downwards, in a frame that each image turns about a point.
An area is given by a signed distance, negative inside. Its edge is a ramp one pixel wide, so that images of any size
show the same picture.

Every operation works on a window: the smallest rectangle of pixels that contains the area in all images of the block.
Pixels outside an area are not changed at all, so an image doesn't depend on the others in its block.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

import numpy as np

WARMTH = np.array((0.9, 1.1, 1.2), np.float32)  # how much light and shadow change red, green and blue

Values = np.ndarray  # (B, 1, 1), one number per image, or (B, h, w), one per pixel of a window; float32


class Canvas:
    """B images of the same side.

    Args:
        background: colours (3, B, 1, 1) in [0, 1].
        side: height and width in pixels.
    """

    def __init__(self, background: np.ndarray, side: int) -> None:
        self.side = side
        self.planes = np.empty((*background.shape[:2], side, side), np.float32)
        self.planes[:] = background
        axis = ((np.arange(side) + 0.5) * (2 / side) - 1).astype(np.float32)
        self._x, self._y = axis, axis[:, np.newaxis]

    def window(
        self,
        frame: Frame,
        x: Values | float,
        y: Values | float,
        half_width: Values | float,
        half_height: Values | float,
    ) -> Window:
        """Return the window around boxes of a frame, given by centre and half sides, with a margin of a pixel."""
        centre_x, centre_y = frame.to_image(x, y)
        sin = np.abs(frame.sin)
        reach_x = frame.cos * half_width + sin * half_height
        reach_y = sin * half_width + frame.cos * half_height
        rows = self._pixels(centre_y, reach_y)
        columns = self._pixels(centre_x, reach_x)
        return Window(self, frame, rows, columns)

    def _pixels(self, centre: Values, reach: Values) -> slice:
        low, high = (centre - reach).min().item(), (centre + reach).max().item()
        first, last = floor((low + 1) * self.side / 2) - 1, ceil((high + 1) * self.side / 2) + 1
        start = min(max(first, 0), self.side - 1)
        return slice(start, max(min(last, self.side), start + 1))

    def pixels(self) -> np.ndarray:
        """Return the images as (B, side, side, 3) uint8."""
        pixels = np.empty((*self.planes.shape[1:], 3), np.uint8)
        for channel, plane in enumerate(self.planes):
            levels = plane * np.float32(255)
            levels += np.float32(0.5)
            np.clip(levels, 0, 255.5, out=levels)
            pixels[..., channel] = levels
        return pixels


class Frame:
    """Coordinates that are turned by an angle about a point of the image, which keeps its coordinates.

    Args:
        angle: (B, 1, 1) radians, clockwise, less than a right angle.
        x, y: the point.
    """

    def __init__(self, angle: Values, x: float, y: float) -> None:
        self.cos, self.sin = np.cos(angle), np.sin(angle)
        self.x, self.y = np.float32(x), np.float32(y)

    def to_image(self, x: Values | float, y: Values | float) -> tuple[Values, Values]:
        """Return the coordinates in the image of a point of the frame."""
        right, down = x - self.x, y - self.y
        return self.x + self.cos * right - self.sin * down, self.y + self.sin * right + self.cos * down


class Window:
    """A rectangle of pixels of all images: `x` and `y` are the coordinates (B, h, w) of its pixels in a frame."""

    def __init__(self, canvas: Canvas, frame: Frame, rows: slice, columns: slice) -> None:
        self._planes = canvas.planes[:, :, rows, columns]
        self._scale = np.float32(canvas.side / 2)
        right, down = canvas._x[columns] - frame.x, canvas._y[rows] - frame.y
        self.x = (frame.cos * right + frame.x) + frame.sin * down
        self.y = (frame.cos * down + frame.y) - frame.sin * right

    def inside(self, distance: Values) -> Values:
        """Return the share of each pixel that lies in an area, given a signed distance; the array is reused."""
        distance *= -self._scale
        distance += np.float32(0.5)
        return np.clip(distance, 0, 1, out=distance)

    def paint(self, share: Values, colour: np.ndarray | Sequence[Values]) -> None:
        """Blend a colour, three channels, into the images by a share of each pixel."""
        for plane, value in zip(self._planes, colour):
            change = value - plane
            change *= share
            plane += change

    def shade(self, share: Values, colour: np.ndarray, shade: Values | float) -> None:
        """Blend a colour (3, B, 1, 1) times 1 + shade into the images; shadows are warm."""
        for plane, value, gain in zip(self._planes, colour, WARMTH):
            change = shade * (gain * value)
            change += value
            change = change - plane if change.shape != plane.shape else np.subtract(change, plane, out=change)
            change *= share
            plane += change

    def multiply(self, share: Values, factors: Sequence[float]) -> None:
        """Scale the channels of the images by 1 + share × factor."""
        for plane, factor in zip(self._planes, factors):
            change = share * np.float32(factor)
            change *= plane
            plane += change


def ellipse(x: Values, y: Values, a: Values | float, b: Values | float) -> Values:
    """Return the distance from the ellipse (x/a)² + (y/b)² = 1, near its edge, for a and b that differ little."""
    f = squared(x, y, a, b)
    np.sqrt(f, out=f)
    f -= 1
    f *= np.sqrt(np.float32(a * b))
    return f


def squared(x: Values, y: Values, a: Values | float, b: Values | float) -> Values:
    """Return (x/a)² + (y/b)²."""
    u, v = x * (1 / a), y * (1 / b)
    u *= u
    v *= v
    u += v
    return u


def bump(x: Values, y: Values, a: Values | float, b: Values | float) -> Values:
    """Return a soft spot: (1 − (x/a)² − (y/b)²)², 0 outside the ellipse."""
    u = squared(x, y, a, b)
    np.subtract(1, u, out=u)
    np.clip(u, 0, 1, out=u)
    u *= u
    return u
