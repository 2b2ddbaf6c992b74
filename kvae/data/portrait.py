"""The drawing of a face: from factors in [−1, 1] to pixels, layer by layer from the background to the hair.

Lengths are in units of half an image. The head leans about a point of the neck; before that, its centre is at (0, Y).
A turn of the head moves each feature by its depth: the nose more than the eyes, and the hair the other way.
"""

from __future__ import annotations

from functools import cache, cached_property

import numpy as np

from kvae.data.canvas import Canvas, Frame, Values, Window, bump, ellipse, squared

TILT, TURN = 0.26, 0.42  # radians, largest
Y, NECK = -0.06, 0.62  # centre of the head and point about which it turns
A, B = 0.53, 0.66  # half width and half height of the face

#: Colours along a factor, from −1 to 1, at equal distances
SKIN = ("#f8d6be", "#f2c39d", "#e8ac80", "#c98a5c", "#99623d", "#6b4029")
HAIR = ("#1f1a1e", "#3d2619", "#6e4023", "#a9562a", "#d99a4e", "#efcf8f", "#dcd5d2")
EYES = ("#3a2417", "#4a2c18", "#6b4423", "#3f7a4c", "#3b7fb5", "#4a8cc4", "#6b8a99")  # go with the hair
BACK = ("#f6b7a8", "#fbd9a0", "#c9e3a8", "#a5dcd0", "#a9d0f2", "#c8bdf0")
CLOTHES = ("#2f7f86", "#4656a6", "#8a4f9e", "#d9605a", "#e39a3b", "#3f9a6b")


def _colour(code: str) -> np.ndarray:
    """Return (3, 1, 1, 1), float32 in [0, 1], of a code such as #ff8000."""
    return np.array([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)], np.float32).reshape(3, 1, 1, 1)


LIPS, MOUTH, TONGUE, TEETH = map(_colour, ("#d13340", "#5c171f", "#d95c61", "#faf7f0"))
LASHES, PUPIL, WHITE = map(_colour, ("#241717", "#0d0d0d", "#ffffff"))


def draw(f: dict[str, np.ndarray], side: int) -> np.ndarray:
    """Draw faces.

    Args:
        f: for each factor its values (B,), float32.
        side: height and width in pixels.

    Returns:
        (B, side, side, 3) uint8.
    """
    return Portrait({name: value[:, np.newaxis, np.newaxis] for name, value in f.items()}, side).pixels()


class Portrait:
    """A block of faces."""

    def __init__(self, f: dict[str, Values], side: int) -> None:
        self.f = f
        self.skin, self.hair = _along(SKIN, f["skin"]), _along(HAIR, f["hair_color"])
        self.canvas = Canvas(_along(BACK, f["background"]), side)
        self.still = Frame(np.zeros((1, 1, 1), np.float32), 0, NECK)
        self.head = Frame(TILT * f["tilt"], 0, NECK)
        self.cos, self.sin = np.cos(TURN * f["turn"]), np.sin(TURN * f["turn"])
        self.light = 0.85 * f["light"]
        self.a = A * (1 + 0.13 * f["face_width"])
        self.length = 0.5 + 0.5 * f["hair_length"]  # 0 … 1

    def pixels(self) -> np.ndarray:
        self.background()
        self.hair_behind()
        self.body()
        self.ears()
        self.face()
        self.nose()
        self.mouth()
        self.eye(-1)
        self.eye(1)
        self.hair_in_front()
        self.brow(-1)
        self.brow(1)
        return self.canvas.pixels()

    def at(self, x: float, depth: float) -> tuple[Values, Values]:
        """Return where a point of the face appears after the turn, and how much it is foreshortened there."""
        bulge = np.sqrt(1 - (x / A) ** 2)
        scale = self.cos - self.sin * np.float32(depth * x / (A**2 * bulge))
        return (x * self.cos + np.float32(depth * bulge) * self.sin) * (self.a / A), scale * (self.a / A)

    def box(
        self, x: Values | float, y: Values | float, half_width: Values | float, half_height: Values | float
    ) -> Window:
        return self.canvas.window(self.head, x, y + Y, half_width, half_height)

    def background(self) -> None:
        """A soft glow on the side of the light."""
        w = self.canvas.window(self.still, 0, 0, 1, 1)
        near = 1.06 - 0.28 * ((w.x[:, :1] - self.light) / 2.6) ** 2 - 0.28 * ((w.y[:, :, :1] + 0.5) / 2.6) ** 2
        for plane in self.canvas.planes:
            plane *= near

    def body(self) -> None:
        w = self.canvas.window(self.still, 0, 0.95, 0.9, 0.32)
        shoulders = w.inside(ellipse(w.x, w.y - 1.2, 0.82, 0.5))
        w.shade(shoulders, _along(CLOTHES, self.f["background"]), w.x * (0.5 * self.light))
        # The neck: a column that ends in a round neckline, in the shadow of the chin.
        w = self.canvas.window(self.still, 0, 0.66, 0.28, 0.24)
        column = np.abs(w.x) - (0.2 + 0.02 * self.f["face_width"])
        np.maximum(column, w.y - 0.75, out=column)
        neckline = np.maximum(ellipse(w.x, w.y - 0.7, 0.27, 0.19), 0.72 - w.y)
        np.minimum(column, neckline, out=column)
        np.maximum(column, 0.42 - w.y, out=column)
        w.shade(w.inside(column), self.skin, w.x * (0.7 * self.light) - 0.2)

    # Hair ------------------------------------------------------------------------------------------------------------

    @cached_property
    def hair_window(self) -> Window:
        top, bottom = 0.76 + 0.08 * self.length, 0.8 * self.length
        return self.box(0, 0.5 * (bottom - top), self.a + 0.1 + 0.2 * self.length, 0.5 * (bottom + top))

    @cached_property
    def outline(self) -> Values:
        """The distance from all hair: a cap around the skull that long hair extends to the shoulders."""
        w = self.hair_window
        x, y = w.x + 0.05 * self.sin, w.y - (Y - 0.1)
        volume = 0.045 + 0.08 * self.length
        wider = np.clip(y, 0, 2)  # long hair hangs down, it doesn't follow the skull
        wider *= 0.12 + 0.1 * self.length
        wider += 1
        x /= wider
        np.maximum(y - 0.72 * self.length, np.clip(y, -2, 0, out=wider), out=y)
        return ellipse(x, y, self.a + volume, 0.6 + volume)

    def hair_behind(self) -> None:
        """The hair beside the neck, and a little beside a face that is turned away; other hair covers the rest."""
        w, bottom = self.hair_window, 0.8 * self.length
        distance = _both(self.outline, w.y - (Y + bottom), 0.03 + 0.1 * self.length)
        w.shade(w.inside(distance), self.hair, -0.34)

    def hair_in_front(self) -> None:
        w, ends = self.hair_window, 0.86 * self.length - 0.1
        x, y = w.x - 0.22 * self.sin, w.y - Y
        # The opening for the face: an ellipse below a fringe that is swept to one side.
        part = self.f["fringe"]
        width = (0.97 - 0.08 * self.length) * self.a * (0.5 + 0.5 * self.cos)
        opening = ellipse(x, y - 0.16, width, 0.7)
        fringe = x + 0.25 * part
        fringe *= fringe
        fringe *= 0.55
        fringe -= y
        fringe -= 0.44 - 0.05 * self.length
        fringe -= x * (0.6 * part)
        np.maximum(opening, fringe, out=opening)
        distance = _both(self.outline, y - ends, 0.03 + 0.1 * self.length)
        np.maximum(distance, np.negative(opening, out=opening), out=distance)
        # A band of gloss follows the skull; it fades downwards.
        gloss = squared(x - 0.3 * self.light, y + 0.1, 1, 1)
        np.sqrt(gloss, out=gloss)
        gloss -= 0.49
        gloss *= 1 / 0.1
        gloss *= gloss
        np.subtract(1, gloss, out=gloss)
        np.clip(gloss, 0, 1, out=gloss)
        gloss *= 0.15 - 0.2 * np.clip(y, -2, 0, out=fringe)
        x *= 0.6 * self.light
        gloss += x
        w.shade(w.inside(distance), self.hair, gloss)

    # Face ------------------------------------------------------------------------------------------------------------

    def ears(self) -> None:
        for side in (-1, 1):
            x = side * (self.a - 0.01) * self.cos - 0.1 * self.sin
            w = self.box(x, 0.06, 0.1, 0.15)
            u, v = w.x - x, w.y - (Y + 0.06)
            share = w.inside(ellipse(u, v, 0.1, 0.15))
            u -= side * 0.01
            w.shade(share, self.skin, bump(u, v, 0.07, 0.11) * -0.16 + (side * 0.3 * self.light - 0.06))

    def face(self) -> None:
        w = self.box(0, 0, self.a + 0.05, B)
        y = w.y - Y
        x = w.x - 0.05 * self.sin
        x -= y * (0.16 * self.sin)
        taper = y * 0.2
        taper += 1
        x *= taper
        x *= 1 / self.a
        y *= 1 / B
        f = x * x
        f += y * y
        corner = x * y
        corner *= corner
        corner *= 0.28  # fuller than an ellipse
        f -= corner
        # Light from one side and from above on a rounded surface.
        shade = x
        shade *= 0.24 * self.light
        y *= 0.09
        shade -= y
        shade += 0.02
        np.multiply(f, f, out=y)
        y *= 0.12
        shade -= y
        np.sqrt(f, out=f)
        f -= 1
        f *= 0.59
        w.shade(w.inside(f), self.skin, shade)
        for side in (-1, 1):
            at, scale = self.at(side * 0.3, 0.44)
            w = self.box(at, 0.2, 0.17 * scale, 0.12)
            w.multiply(bump(w.x - at, w.y - (Y + 0.2), 0.17 * scale, 0.12), (0.0, -0.13, -0.11))

    def nose(self) -> None:
        at, scale = self.at(0, 0.58)
        w = self.box(at, 0.1, 0.17, 0.2)
        x, y = w.x - at, w.y - (Y + 0.12)
        # Shadow under the tip and on the side away from the light.
        shade = bump(x + 0.07 * self.light + 0.03 * self.sin, y - 0.01, 0.1, 0.13)
        w.multiply(shade, (-0.16, -0.22, -0.24))
        under = bump(x, y - 0.055, 0.1 * scale, 0.045)
        w.multiply(under, (-0.3, -0.38, -0.4))
        tip = bump(x - 0.02 * self.light, y, 0.075, 0.07)
        w.multiply(tip, (0.16, 0.2, 0.22))

    def mouth(self) -> None:
        smile, opening = self.f["smile"], (0.5 + 0.5 * self.f["mouth_open"]) ** 1.5
        at, scale = self.at(0, 0.48)
        half = (0.22 + 0.02 * smile) * scale
        w = self.box(at, 0.36, half + 0.05, 0.24)
        x, y = w.x - at, w.y - (Y + 0.345)
        x *= 1 / half
        q = x * x
        arch = 1 - q  # 1 in the middle, 0 at the corners
        middle = (q - 0.45) * (-0.125 * smile - 0.01 * smile * smile)  # a smile raises the corners
        slope = np.abs(x) * (0.25 * np.abs(smile) / half)
        slope *= slope
        slope += 1
        np.sqrt(slope, out=slope)
        lift = 0.012 + (0.06 - 0.035 * smile) * opening
        drop = 0.012 + (0.11 + 0.05 * smile) * opening
        full = np.clip(arch, 0, 1)
        y -= middle
        upper = -y - lift * full
        lower = y - drop * full
        np.maximum(upper, lower, out=upper)
        upper /= slope
        ends = np.abs(x)
        ends -= 1
        ends *= half
        lips = np.maximum(upper - (0.008 + 0.028 * full), ends - 0.02)
        colour = 0.68 * self.skin + 0.32 * LIPS
        shade = y * -0.8
        shade -= 0.06
        w.shade(w.inside(lips), colour, shade)
        share = w.inside(np.maximum(upper - 0.006, ends))
        w.paint(share, MOUTH)
        # The tongue, then the upper teeth, which a frown hides.
        tongue = w.inside(ellipse(x * half, y - drop * 1.1, 0.11, 0.07))
        tongue *= share * np.clip(3 * opening - 0.9, 0, 1)
        w.paint(tongue, TONGUE)
        bite = 0.6 * np.clip(1.2 * smile + 0.7, 0, 1) * np.clip(6 * opening, 0, 1)
        teeth = y - (bite * (lift + drop) - lift) * full
        np.maximum(teeth, ends + 0.03, out=teeth)
        share *= w.inside(teeth) * np.clip(8 * opening, 0, 1)
        w.paint(share, TEETH)

    def eye(self, side: int) -> None:
        at, scale = self.at(side * 0.215, 0.44)
        wide = 0.5 + 0.5 * self.f["eye_open"]
        a = 0.13 * scale
        w = self.box(at, -0.07, a + 0.05, 0.2)
        x, y = w.x - at, w.y - (Y - 0.05)
        q = x * (1 / a)
        q *= q
        arch = 1 - q
        upper = 0.035 + 0.105 * wide  # height of the lids above and below the middle
        lower = 0.03 + 0.055 * wide
        # Between the lids, whose distance is taken along y and corrected for their slope.
        slope = np.clip(q, 0, 1) * ((2 * upper / a) ** 2)
        slope += 1
        np.sqrt(slope, out=slope)
        lid = -y - upper * arch
        lid /= slope
        distance = np.maximum(lid, (y - lower * arch) / slope)
        white = w.inside(distance)
        shade = lid * 1.5
        np.clip(shade, -0.12, 0, out=shade)
        shade += 0.12  # the shadow of the upper lid
        shade *= -1.6
        shade += 1
        w.paint(white, (shade,) * 3)
        u = x - 0.058 * self.f["gaze"] * scale
        u *= 1 / np.maximum(scale, 0.6)
        v = y + 0.012
        radius = np.sqrt(u * u + v * v)
        w.paint(w.inside(radius - 0.08) * white, _along(EYES, self.f["hair_color"]))
        w.paint(w.inside(radius - 0.042) * white, PUPIL)
        glint = bump(u - 0.035 * self.light, v + 0.032, 0.034, 0.034)
        np.minimum(glint * 2.5, 1, out=glint)
        w.paint(glint * white, WHITE)
        # Lashes along the upper lid, thicker in the middle.
        lashes = np.abs(lid + 0.004)
        lashes -= 0.011 + 0.007 * np.clip(arch, 0, 1)
        ends = np.abs(x)
        ends -= a + 0.01
        np.maximum(lashes, ends, out=lashes)
        np.maximum(lashes, y - 0.06, out=lashes)
        w.paint(w.inside(lashes), LASHES)

    def brow(self, side: int) -> None:
        at, scale = self.at(side * 0.225, 0.46)
        half = 0.135 * scale
        height = -0.255 - 0.055 * self.f["brow_height"]
        w = self.box(at, height, half + 0.03, 0.13)
        x, y = (w.x - at) * (side / half), w.y - (Y + height)
        y += x * (0.06 * self.f["brow_slant"] - 0.012)
        y -= x * x * 0.03
        distance = np.abs(y)
        distance -= 0.03 - 0.01 * x
        np.maximum(distance, (np.abs(x) - 1) * half, out=distance)
        w.paint(w.inside(distance), 0.6 * self.hair)


def _both(one: Values, other: Values, radius: Values) -> Values:
    """Return the distance from what two areas share, with the corner rounded."""
    u, v = np.clip(one + radius, 0, 9), np.clip(other + radius, 0, 9)
    u *= u
    v *= v
    u += v
    np.sqrt(u, out=u)
    u += np.minimum(np.maximum(one, other), -radius)
    return u


def _along(colours: tuple[str, ...], factor: Values) -> np.ndarray:
    """Return the colours at a factor in [−1, 1], (3, B, 1, 1)."""
    knots, stops = _stops(colours)
    return np.stack([np.interp(factor, knots, channel) for channel in stops]).astype(np.float32)


@cache
def _stops(colours: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the values (K,) of a factor that have the K colours, and the colours (3, K)."""
    return np.linspace(-1, 1, len(colours)), np.stack([_colour(code).ravel() for code in colours], axis=1)
