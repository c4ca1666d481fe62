"""What the sample is drawn with: outlines, and paint to fill them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SUPERSAMPLING = 2
"""Drawn at twice the size and halved, which smooths every edge."""

Colour = tuple[int, int, int]
Point = tuple[float, float]

BLACK, WHITE, PINK = (28, 24, 26), (250, 248, 244), (226, 138, 140)


class Coat(NamedTuple):
    """The fur of one animal, as large as the canvas, in light and in shade."""

    light: Image.Image
    shade: Image.Image
    base: Colour


class Pen:
    """Fills outlines on a canvas, given in units around a centre, y down."""

    def __init__(
        self, canvas: Image.Image, centre: Point, unit: float, tilt: float = 0.0, flip: int = 1
    ) -> None:
        cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
        self.canvas, self.centre, self.unit = canvas, centre, unit
        self.matrix = unit * np.array([[flip * cos, sin], [-flip * sin, cos]])

    def fill(self, outline: np.ndarray, paint: Colour | Coat, strength: float = 1.0) -> None:
        """Fill a closed outline, shape (n, 2); a coat darkens towards it, as if round."""
        placed = outline @ self.matrix + self.centre
        left, top = np.floor(placed.min(axis=0)).clip(0).astype(int).tolist()
        ends = np.ceil(placed.max(axis=0)).clip(max=self.canvas.size)
        right, bottom = ends.astype(int).tolist()
        if right <= left or bottom <= top:
            return
        frame = (left, top, right, bottom)
        mask = Image.new("L", (right - left, bottom - top))
        corners = (placed - (left, top)).ravel().tolist()
        ImageDraw.Draw(mask).polygon(corners, fill=round(255 * strength))
        if isinstance(paint, Coat):
            inside = mask.filter(ImageFilter.BoxBlur(self.unit * 0.22)).point(ROUNDNESS)
            fur = Image.composite(paint.light.crop(frame), paint.shade.crop(frame), inside)
            self.canvas.paste(fur, frame, mask)
        else:
            self.canvas.paste(paint, frame, mask)


ROUNDNESS = [min(255, max(0, value * 2 - 210)) for value in range(256)]
"""Share of light by how much of its neighbourhood a point of the coat has inside the outline."""


def curve(points: Sequence[Point], closed: bool = True) -> np.ndarray:
    """A smooth (Catmull-Rom) curve through the points, shape (n, 2)."""
    before, after = ([points[-1]], points[:2]) if closed else ([points[0]], [points[-1]])
    knots = np.array([*before, *points, *after], dtype=float)
    a, b, c, d = (knots[i : len(knots) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    line = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return line.reshape(-1, 2) if closed else np.vstack([line.reshape(-1, 2), knots[-1:]])


def stroke(points: Sequence[Point], start: float, end: float) -> np.ndarray:
    """Outline of a smooth line through the points; half its width goes from `start` to `end`."""
    line = curve(points, closed=False)
    along = np.gradient(line, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.hypot(*along.T)[:, None]
    across *= np.linspace(start, end, len(line))[:, None]
    return np.vstack([line + across, (line - across)[::-1]])


def oval(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """Outline of an oval around (x, y)."""
    return (x, y) + CIRCLE * (rx, ry)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Outline of a rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


CIRCLE = np.array([(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 28)])


def noise(size: tuple[int, int], cells: int, rng: Random) -> Image.Image:
    """Smooth clouds of grey, about `cells` of them along each side."""
    grid = Image.frombytes("L", (cells, cells), rng.randbytes(cells * cells))
    return grid.resize(size, Image.Resampling.BICUBIC)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """The colour between two, `share` of the way to the other."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def any_colour(rng: Random) -> Colour:
    """A colour that is neither very dark nor very light."""
    return rng.randint(50, 235), rng.randint(50, 235), rng.randint(50, 235)
