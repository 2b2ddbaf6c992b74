"""The drawing of a face: from factors in [−1, 1] to pixels, layer by layer from the background to the hair.

Lengths are in units of half an image. The frame of the head turns about the neck, with the centre of the head at (0, Y).
A turn of the head moves each feature by its depth: the nose more than the eyes, the hair at the back the other way.
"""

from __future__ import annotations

import numpy as np

from kvae.data.canvas import Canvas, Frame, Values, Window, bump, ellipse

TILT, TURN = 0.26, 0.42  # radians, largest
Y, NECK = -0.06, 0.62  # centre of the head and point about which it turns
A, B = 0.53, 0.66  # half width and half height of the face

#: Colours along a factor, from −1 to 1, at equal distances
SKIN = ("#ffe2cd", "#f7c9a4", "#e8ac80", "#c98a5c", "#99623d", "#6b4029")
HAIR = ("#1f1a1e", "#3d2619", "#6e4023", "#a9562a", "#d99a4e", "#efcf8f", "#dcd5d2")
EYES = ("#3a2417", "#4a2c18", "#6b4423", "#3f7a4c", "#3b7fb5", "#4a8cc4", "#6b8a99")  # go with the hair
BACK = ("#f6b7a8", "#fbd9a0", "#c9e3a8", "#a5dcd0", "#a9d0f2", "#c8bdf0")
CLOTHES = ("#2f7f86", "#4656a6", "#8a4f9e", "#d9605a", "#e39a3b", "#3f9a6b")


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
        self.f, self.side = f, side
        self.skin, self.hair = _along(SKIN, f["skin"]), _along(HAIR, f["hair_color"])
        self.canvas = Canvas(_along(BACK, f["background"])[..., 0, 0].T, side)
        self.still = Frame(0 * f["tilt"], 0, NECK)
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
        for eye in (-1, 1):
            self.eye(eye)
        self.hair_in_front()
        for eye in (-1, 1):
            self.brow(eye)
        return self.canvas.pixels()

    def at(self, x: float, depth: float) -> tuple[Values, Values]:
        """Return where a point of the face appears after the turn, and how much it is foreshortened there."""
        bulge = np.sqrt(1 - (x / A) ** 2)
        scale = self.cos - self.sin * np.float32(depth * x / (A**2 * bulge))
        return (x * self.cos + np.float32(depth * bulge) * self.sin) * (self.a / A), scale * (self.a / A)

    def box(self, x: Values | float, y: Values | float, half_width: Values | float, half_height: Values | float) -> Window:
        return self.canvas.window(self.head, x, y + Y, half_width, half_height)

    def background(self) -> None:
        """A soft glow on the side of the light."""
        w = self.canvas.window(self.still, 0, 0, 1, 1)
        glow = bump(w.x - self.light, w.y + 0.5, 2.2, 2.2)
        glow -= 0.75
        w.multiply(glow, (0.2, 0.2, 0.2))

    def body(self) -> None:
        clothes = _along(CLOTHES, self.f["background"])
        w = self.canvas.window(self.still, 0, 0.95, 0.85, 0.32)
        x = w.x + 0
        shade = x * self.light
        shade *= 0.5
        distance = ellipse(x, w.y - 1.2, np.float32(0.82), np.float32(0.5))
        w.paint(w.inside(distance), [c * (1 + shade) for c in clothes])
        # Neck: a column that ends in a round neckline, in the shadow of the chin.
        w = self.canvas.window(self.still, 0, 0.68, 0.28, 0.26)
        column = np.abs(w.x) - (0.2 + 0.02 * self.f["face_width"])
        neckline = ellipse(w.x, w.y - 0.7, np.float32(0.27), np.float32(0.19))
        np.maximum(neckline, 0.72 - w.y, out=neckline)
        column = np.maximum(column, w.y - 0.75, out=column)
        shade = w.x * (0.7 * self.light)
        shade -= 0.2
        w.paint(w.inside(np.minimum(column, neckline)), _shaded(self.skin, shade))

    # Hair ------------------------------------------------------------------------------------------------------------

    def hair_distance(self, w: Window) -> Values:
        """The outline of the hair: a cap around the skull that long hair extends to the shoulders."""
        x, y = w.x + 0.05 * self.sin, w.y - (Y - 0.1)
        volume = 0.045 + 0.08 * self.length
        below = np.maximum(y, 0)
        below *= 0.12 + 0.1 * self.length  # long hair hangs down, it doesn't follow the skull
        x *= 1 / (1 + below)
        top = np.minimum(y, 0)
        top += np.maximum(y - 0.72 * self.length, 0)
        return ellipse(x, top, self.a + volume, 0.6 + volume)

    def hair_behind(self) -> None:
        bottom = 0.0 + 0.8 * self.length
        w = self.box(0, 0.0, 0.78, 0.98)
        distance = self.hair_distance(w)
        distance = _both(distance, w.y - (Y + bottom), 0.03 + 0.1 * self.length)
        shade = w.y * -0.2
        shade -= 0.28
        w.paint(w.inside(distance), _shaded(self.hair, shade))

    def hair_in_front(self) -> None:
        w = self.box(0, -0.1, 0.78, 0.9)
        distance = self.hair_distance(w)
        # The opening for the face: an ellipse below a fringe that is swept to one side.
        shift = self.sin * 0.22
        x, y = w.x - shift, w.y - Y
        opening = ellipse(x, y - 0.16, (0.97 - 0.08 * self.length) * self.a * (0.5 + 0.5 * self.cos), np.float32(0.7))
        part = self.f["hair_part"]
        line = x * (0.6 * part)
        line += 0.44 - 0.05 * self.length
        line += y
        bend = x + 0.25 * part
        bend *= bend
        bend *= 0.55
        line -= bend
        np.maximum(opening, -line, out=opening)
        ends = -0.1 + 0.86 * self.length
        distance = _both(distance, y - ends, 0.03 + 0.1 * self.length)
        np.maximum(distance, -opening, out=distance)
        # A band of gloss follows the skull.
        u, v = x - 0.3 * self.light, y + 0.1
        u *= u
        v *= v
        radius = u
        radius += v
        np.sqrt(radius, out=radius)
        radius -= 0.49
        radius *= 1 / 0.1
        gloss = bump(radius, np.float32(0), 1, 1)
        gloss *= np.clip(0.6 - y * 1.4, 0, 1) * 0.22
        shade = x * (0.6 * self.light)
        shade -= y * 0.1
        shade += gloss
        w.paint(w.inside(distance), _shaded(self.hair, shade))

    # Face ------------------------------------------------------------------------------------------------------------

    def ears(self) -> None:
        for side in (-1, 1):
            x = side * (self.a - 0.01) * self.cos - 0.1 * self.sin
            w = self.box(x, 0.06, 0.12, 0.17)
            u, v = w.x - x, w.y - (Y + 0.06)
            shade = np.zeros_like(u) + (side * 0.3 * self.light - 0.06)
            w.paint(w.inside(ellipse(u, v, np.float32(0.1), np.float32(0.15))), _shaded(self.skin, shade))
            inner = bump(u - side * 0.01, v, 0.07, 0.11)
            w.multiply(inner, (-0.14, -0.22, -0.24))

    def face(self) -> None:
        w = self.box(0, 0, self.a + 0.05, B + 0.02)
        y = w.y - Y
        x = w.x - (self.sin * 0.16) * y - 0.05 * self.sin
        taper = y * 0.2
        taper += 1
        x *= taper
        x *= 1 / self.a
        v = y * np.float32(1 / B)
        # A fuller outline than an ellipse: exponent 2.3 by a correction in fourth powers.
        f = x * x
        f += v * v
        corner = x * v
        corner *= corner
        corner *= 0.28
        f -= corner
        distance = np.sqrt(f)
        distance -= 1
        distance *= np.float32(0.55)
        # Light from one side and from above, on a rounded surface.
        shade = x * np.float32(1)
        shade *= 0.26 * self.light
        down = v * 0.09
        shade -= down
        np.minimum(f, 1, out=f)
        f *= f
        f *= 0.12
        shade -= f
        shade += 0.05
        w.paint(w.inside(distance), _shaded(self.skin, shade))
        for side in (-1, 1):
            at, scale = self.at(side * 0.3, 0.44)
            w = self.box(at, 0.2, 0.2, 0.14)
            blush = bump(w.x - at, w.y - (Y + 0.2), 0.17 * scale, 0.12)
            w.multiply(blush, (0.02, -0.16, -0.14))

    def nose(self) -> None:
        at, scale = self.at(0, 0.58)
        w = self.box(at, 0.1, 0.17, 0.2)
        x, y = w.x - at, w.y - (Y + 0.12)
        # Shadow under the tip and on the side away from the light.
        shade = bump(x + 0.07 * self.light + 0.03 * self.sin, y - 0.01, 0.1, 0.13)
        w.multiply(shade, (-0.16, -0.22, -0.24))
        under = bump(x, y - 0.055, 0.1 * scale, 0.045)
        w.multiply(under, (-0.3, -0.38, -0.4))
        tip = bump(x - 0.02 * self.light, y + 0.0, 0.075, 0.07)
        w.multiply(tip, (0.16, 0.2, 0.22))

    def mouth(self) -> None:
        smile, opening = self.f["smile"], (0.5 + 0.5 * self.f["mouth"]) ** 2
        at, scale = self.at(0, 0.48)
        half = (0.205 + 0.03 * smile) * scale
        w = self.box(at, 0.36, half + 0.05, 0.24)
        x, y = w.x - at, w.y - (Y + 0.345)
        x *= 1 / half
        q = x * x
        arch = 1 - q  # 1 in the middle, 0 at the corners
        middle = (q - 0.45) * (-0.125 * smile)  # a smile raises the corners
        slope = np.abs(x) * (0.25 * np.abs(smile) / half)
        slope *= slope
        slope += 1
        np.sqrt(slope, out=slope)
        lift = 0.012 + (0.06 - 0.035 * smile) * opening
        drop = 0.012 + (0.11 + 0.05 * smile) * opening
        full = np.maximum(arch, 0)
        y -= middle
        upper = -y - lift * full
        lower = y - drop * full
        np.maximum(upper, lower, out=upper)
        upper /= slope
        ends = np.abs(x)
        ends -= 1
        ends *= half
        lips = np.maximum(upper - (0.008 + 0.028 * full), ends - 0.02)
        colour = [0.68 * s + 0.32 * c for s, c in zip(self.skin, (0.82, 0.2, 0.25))]
        shade = y * -0.8
        shade -= 0.06
        w.paint(w.inside(lips), _shaded(colour, shade))
        inner = np.maximum(upper - 0.006, ends)
        share = w.inside(inner)
        w.paint(share, (np.float32(0.36), np.float32(0.09), np.float32(0.12)))
        # Teeth and tongue, inside the open mouth only.
        tongue = w.inside(ellipse(x * 0.16, y - drop * 1.05, np.float32(0.1), np.float32(0.07)))
        w.paint(tongue * share, (np.float32(0.85), np.float32(0.36), np.float32(0.38)))
        teeth = y - (0.35 * drop - 0.6 * lift) * full - 0.004
        teeth = np.maximum(teeth, ends + 0.03, out=teeth)
        w.paint(w.inside(teeth) * share, (np.float32(0.98), np.float32(0.97), np.float32(0.94)))

    def eye(self, side: int) -> None:
        at, scale = self.at(side * 0.215, 0.44)
        wide = 0.5 + 0.5 * self.f["eyes"]
        a = 0.125 * scale
        w = self.box(at, -0.07, a + 0.04, 0.18)
        x, y = w.x - at, w.y - (Y - 0.05)
        q = x * (1 / a)
        q *= q
        arch = 1 - q
        upper = 0.02 + 0.115 * wide  # height of the lids above and below the middle
        lower = 0.025 + 0.06 * wide
        # Between the lids, whose distance is taken along y and corrected for their slope.
        slope = q * ((2 * upper / a) ** 2)
        slope += 1
        np.sqrt(slope, out=slope)
        lid = -y - upper * arch
        lid /= slope
        distance = np.maximum(lid, (y - lower * arch) / slope)
        white = w.inside(distance + 0)
        shade = lid * 1.5
        np.clip(shade, -0.12, 0, out=shade)
        shade += 0.12  # the shadow of the upper lid
        shade *= -1.6
        w.paint(white, [c * (1 + shade) for c in (np.float32(0.99), np.float32(0.99), np.float32(0.99))])
        u = x - 0.05 * self.f["gaze"] * scale
        u *= 1 / np.maximum(scale, 0.6)
        v = y + 0.012
        radius = np.sqrt(u * u + v * v)
        w.paint(w.inside(radius - 0.078) * white, _along(EYES, self.f["hair_color"]))
        w.paint(w.inside(radius - 0.042) * white, (np.float32(0.05),) * 3)
        glint = bump(u - 0.03, v + 0.032, 0.034, 0.034)
        np.minimum(glint * 2.5, 1, out=glint)
        w.paint(glint * white, (np.float32(1),) * 3)
        # Lashes along the upper lid, thicker in the middle.
        lashes = np.abs(lid + 0.004)
        lashes -= 0.011 + 0.007 * np.maximum(arch, 0)
        ends = np.abs(x)
        ends -= a + 0.01
        np.maximum(lashes, ends, out=lashes)
        w.paint(w.inside(lashes), (np.float32(0.14), np.float32(0.09), np.float32(0.09)))

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
        w.paint(w.inside(distance), [0.6 * c for c in self.hair])


def _both(one: Values, other: Values, radius: Values) -> Values:
    """Return the distance from what two areas share, with the corner rounded."""
    u, v = np.maximum(one + radius, 0), np.maximum(other + radius, 0)
    u *= u
    v *= v
    u += v
    np.sqrt(u, out=u)
    u += np.minimum(np.maximum(one, other), -radius)
    return u


def _along(colours: tuple[str, ...], factor: Values) -> np.ndarray:
    """Return the colours at a factor in [−1, 1], (3, B, 1, 1)."""
    stops = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    knots = np.linspace(-1, 1, len(colours))
    return np.stack([np.interp(factor, knots, channel) for channel in stops.T]).astype(np.float32)


def _shaded(colour: np.ndarray, shade: Values) -> list[Values]:
    """Return a colour times 1 + shade; shadows are warm."""
    return [c * (1 + gain * shade) for c, gain in zip(colour, (0.9, 1.1, 1.2))]
