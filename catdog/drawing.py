"""One drawn cat or dog, from paper to whiskers: the pictures of the sample, by ourselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from catdog import CLASSES, NEGATIVE

SIDE_PX = (200, 360)
"""The shortest and the longest side that a picture may have."""
SUPERSAMPLING = 2
"""Drawn at twice the size and halved, which smooths every edge."""

Colour = tuple[int, int, int]
Point = tuple[float, float]


def draw_animal(label: int, rng: Random) -> Image.Image:
    """Draw one RGB picture of a cat (label 0) or a dog (label 1).

    Size, pose, coat, place and light vary alike in both classes, and the ranges of ears
    and muzzles overlap, so that no single trait gives the class away.
    """
    canvas = _draw_place(rng)
    pose = rng.choice(POSES)
    left, top, right, bottom = pose.frame
    room = min(canvas.width / (right - left), canvas.height / (bottom - top))
    unit, flip = room * rng.uniform(0.62, 1.1), rng.choice((-1, 1))
    middle = canvas.width * rng.gauss(0.5, 0.07), canvas.height * rng.gauss(0.52, 0.05)
    centre = middle[0] - flip * unit * (left + right) / 2, middle[1] - unit * (top + bottom) / 2
    animal = Animal(CLASSES[label] == NEGATIVE, _dye(canvas.size, unit, rng), rng)
    _draw_body(Pen(canvas, centre, unit, rng.gauss(0, 3), flip), animal, pose)
    _draw_head(Pen(canvas, centre, unit, rng.gauss(0, 11), flip), animal)
    if rng.random() < 0.12:
        where = rng.uniform(0, canvas.width / canvas.height), 1.05
        _draw_plant(Pen(canvas, (0, 0), canvas.height), where, rng, length=0.4)
    return _photograph(canvas, rng)


def draw_scene(rng: Random) -> Image.Image:
    """Draw one RGB picture of the same kind of place with neither animal in it."""
    return _photograph(_draw_place(rng), rng)


def _photograph(canvas: Image.Image, rng: Random) -> Image.Image:
    """Halve the canvas and add what a camera does: light, contrast, colour, blur, noise."""
    image = canvas.reduce(SUPERSAMPLING)
    light = _noise(image.size, 2, rng).point(lambda value: 180 + value * 75 // 255)
    image = ImageChops.multiply(image, Image.merge("RGB", [light] * 3))
    contrast, brightness = rng.uniform(0.7, 1.2), rng.uniform(112, 150)
    levels = (np.arange(256) - 118) * contrast + brightness
    casts = rng.gauss(0, 6), 0.0, rng.gauss(0, 8)
    image = image.point(np.concatenate([levels + cast for cast in casts]).clip(0, 255).tolist())
    if rng.random() < 0.35:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.6)))
    strength = rng.uniform(0.02, 0.12)
    grain = Image.frombytes("L", image.size, rng.randbytes(image.width * image.height))
    grain = grain.point(lambda value: round(128 + (value - 128) * strength))
    return ImageChops.add(image, Image.merge("RGB", [grain] * 3), offset=-128)


# --- Pen and paint -------------------------------------------------------------------


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
        box = (left, top, right, bottom)
        mask = Image.new("L", (right - left, bottom - top))
        corners = (placed - (left, top)).ravel().tolist()
        ImageDraw.Draw(mask).polygon(corners, fill=round(255 * strength))
        if isinstance(paint, Coat):
            inside = mask.filter(ImageFilter.BoxBlur(self.unit * 0.22)).point(ROUNDNESS)
            fur = Image.composite(paint.light.crop(box), paint.shade.crop(box), inside)
            self.canvas.paste(fur, box, mask)
        else:
            self.canvas.paste(paint, box, mask)


ROUNDNESS = [min(255, max(0, value * 2 - 210)) for value in range(256)]
"""Share of light by how much of its neighbourhood a point of the coat has inside the outline."""


def _curve(points: Sequence[Point], closed: bool = True) -> np.ndarray:
    """Pass a smooth (Catmull-Rom) curve through the points."""
    before, after = ([points[-1]], points[:2]) if closed else ([points[0]], [points[-1]])
    knots = np.array([*before, *points, *after], dtype=float)
    a, b, c, d = (knots[i : len(knots) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return curve.reshape(-1, 2) if closed else np.vstack([curve.reshape(-1, 2), knots[-1:]])


def _stroke(points: Sequence[Point], start: float, end: float) -> np.ndarray:
    """Outline of a smooth line through the points; half its width goes from `start` to `end`."""
    line = _curve(points, closed=False)
    along = np.gradient(line, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.hypot(*along.T)[:, None]
    across *= np.linspace(start, end, len(line))[:, None]
    return np.vstack([line + across, (line - across)[::-1]])


def _oval(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    return (x, y) + CIRCLE * (rx, ry)


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


CIRCLE = np.array([(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 28)])


def _noise(size: tuple[int, int], cells: int, rng: Random) -> Image.Image:
    """Smooth clouds of grey, about `cells` of them along each side."""
    grid = Image.frombytes("L", (cells, cells), rng.randbytes(cells * cells))
    return grid.resize(size, Image.Resampling.BICUBIC)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _any_colour(rng: Random) -> Colour:
    return rng.randint(50, 235), rng.randint(50, 235), rng.randint(50, 235)


BLACK, WHITE, PINK = (28, 24, 26), (250, 248, 244), (226, 138, 140)


# --- The place -----------------------------------------------------------------------


def _draw_place(rng: Random) -> Image.Image:
    """Draw a room, a garden or a studio, more or less in focus, on a fresh canvas."""
    # At the picture's own size: blurred as it is, finer edges would be lost.
    place = Image.new("RGB", (rng.randint(*SIDE_PX), rng.randint(*SIDE_PX)))
    pen, aspect = Pen(place, (0, 0), place.height), place.width / place.height
    rng.choice((_draw_room, _draw_garden, _draw_studio))(pen, aspect, rng)
    for _ in range(rng.randrange(4)):
        where = rng.uniform(0, aspect), rng.uniform(0.6, 0.95)
        rng.choice((_draw_ball, _draw_cupboard, _draw_plant))(pen, where, rng)
    place = place.filter(ImageFilter.BoxBlur(rng.choice((0.5, rng.uniform(0.5, 3.5)))))
    width, height = place.width * SUPERSAMPLING, place.height * SUPERSAMPLING
    return place.resize((width, height), Image.Resampling.NEAREST)


def _cover(pen: Pen, top: float, paint: tuple[Colour, Colour], cells: int, rng: Random) -> None:
    """Cover the canvas below `top` with a cloudy mixture of two colours."""
    start = round(top * pen.unit)
    size = pen.canvas.width, pen.canvas.height - start
    one, other = (Image.new("RGB", size, colour) for colour in paint)
    pen.canvas.paste(Image.composite(one, other, _noise(size, cells, rng)), (0, start))


def _draw_room(pen: Pen, aspect: float, rng: Random) -> None:
    wall = _mix(_any_colour(rng), (228, 218, 204), rng.uniform(0.2, 0.7))
    floor = _mix((160, 115, 75), _any_colour(rng), rng.uniform(0, 0.5))
    x, y, horizon = rng.uniform(0, aspect), rng.uniform(0.02, 0.2), rng.uniform(0.5, 0.8)
    _cover(pen, 0, (wall, _mix(wall, WHITE, 0.25)), 3, rng)
    pen.fill(_box(x, y, x + 0.4, y + 0.35), _any_colour(rng))
    pen.fill(_box(x + 0.03, y + 0.03, x + 0.37, y + 0.32), _any_colour(rng))
    _cover(pen, horizon, (floor, _mix(floor, WHITE, 0.2)), 4, rng)
    pen.fill(_box(0, horizon - 0.02, aspect, horizon), _mix(wall, WHITE, 0.6))
    for x in np.arange(-1, aspect + 1, 0.17):
        gap = [(x, horizon), (x + 0.006, horizon), (2.2 * x - 0.6, 1), (2.2 * x - 0.62, 1)]
        pen.fill(np.array(gap), _mix(floor, BLACK, 0.3))


def _draw_garden(pen: Pen, aspect: float, rng: Random) -> None:
    sky = _mix((120, 180, 240), (225, 210, 200), rng.random())
    grass = _mix((95, 160, 65), (175, 165, 85), rng.random())
    horizon = rng.uniform(0.25, 0.7)
    _cover(pen, 0, (sky, WHITE), 4, rng)
    hills = [(x * aspect / 4, horizon - rng.uniform(0, 0.15)) for x in range(-1, 6)]
    pen.fill(_curve([*hills, (aspect * 1.5, 1), (-0.5, 1)]), _mix(grass, sky, 0.4))
    _cover(pen, horizon, (grass, _mix(grass, (30, 80, 20), 0.5)), 9, rng)
    for _ in range(70):
        x, y = rng.uniform(0, aspect), rng.uniform(horizon, 1.1)
        blade = [(x, y), (x + 0.01, y), (x + rng.gauss(0, 0.02), y - rng.uniform(0.03, 0.09))]
        pen.fill(np.array(blade), _mix(grass, (235, 240, 150), rng.uniform(0, 0.5)))


def _draw_studio(pen: Pen, aspect: float, rng: Random) -> None:
    _cover(pen, 0, (_any_colour(rng), _any_colour(rng)), rng.choice((2, 3)), rng)
    for _ in range(rng.choice((0, 12))):
        radius = rng.uniform(0.02, 0.1)
        spot = _oval(rng.uniform(0, aspect), rng.random(), radius, radius)
        pen.fill(spot, _mix(_any_colour(rng), WHITE, 0.5), 0.4)


def _draw_ball(pen: Pen, where: Point, rng: Random) -> None:
    radius, colour = rng.uniform(0.04, 0.12), _any_colour(rng)
    pen.fill(_oval(where[0], where[1] + radius, radius * 1.1, radius * 0.2), BLACK, 0.3)
    pen.fill(_oval(*where, radius, radius), colour)
    pen.fill(_oval(*where, radius * 0.35, radius), _mix(colour, WHITE, 0.5))


def _draw_cupboard(pen: Pen, where: Point, rng: Random) -> None:
    left, top, right = where[0] - 0.2, where[1] - 0.2, where[0] + rng.uniform(0, 0.4)
    colour = _mix(_any_colour(rng), (140, 100, 70), 0.4)
    pen.fill(_box(left, top, right, 1), colour)
    for row in np.arange(top, 1, rng.uniform(0.1, 0.3)):
        pen.fill(_box(left + 0.02, row + 0.02, right - 0.02, row + 0.08), _mix(colour, BLACK, 0.2))


def _draw_plant(pen: Pen, where: Point, rng: Random, length: float = 0.25) -> None:
    green = _mix((60, 130, 60), _any_colour(rng), 0.3)
    x, y = where
    for _ in range(8):
        tip = x + rng.gauss(0, 0.5 * length), y - length * rng.uniform(0.6, 1.5)
        bend = (x + tip[0]) / 2 + rng.gauss(0, 0.03), (y + tip[1]) / 2
        shine = _mix(green, rng.choice((BLACK, (220, 240, 160))), rng.uniform(0, 0.4))
        pen.fill(_stroke([where, bend, tip], 0.09 * length, 0.02 * length), shine)
    pot = [(x - 0.08, y - 0.05), (x + 0.08, y - 0.05), (x + 0.06, y + 0.12), (x - 0.06, y + 0.12)]
    pen.fill(np.array(pot), _mix((180, 90, 60), _any_colour(rng), 0.4))


# --- The animal ----------------------------------------------------------------------


def _mirrored(half: Sequence[Point]) -> list[Point]:
    """Complete the right half of an outline, given from its top to its bottom."""
    return [*half, *((-x, y) for x, y in reversed(half) if x)]


Leg = tuple[float, float, float, float]
"""Where a leg stands (x), where it begins and ends (y), and half its width at the top."""


class Pose(NamedTuple):
    """A body below its head. Unit: the head's radius; centre: the head's middle."""

    frame: tuple[float, float, float, float]
    trunk: Sequence[Point]
    bib: tuple[float, float, float, float]
    tail: Point | None = None
    legs_behind: Sequence[Leg] = ()
    haunches: Sequence[tuple[float, float, float, float]] = ()
    legs_before: Sequence[Leg] = ()


PORTRAIT = Pose(
    frame=(-1.4, -1.7, 1.4, 1.6),
    trunk=_mirrored([(0, 0.3), (0.7, 0.7), (1.15, 1.5), (1.35, 3.5), (0, 4)]),
    bib=(0, 1.6, 0.5, 0.75),
)
SITTING = Pose(
    frame=(-1.5, -1.6, 1.9, 3.6),
    trunk=_mirrored([(0, 0.4), (0.55, 0.8), (0.75, 1.7), (1.05, 2.7), (0.9, 3.35), (0, 3.4)]),
    bib=(0, 1.55, 0.38, 0.6),
    tail=(0.9, 3.1),
    haunches=[(-0.82, 2.9, 0.4, 0.55), (0.82, 2.9, 0.4, 0.55)],
    legs_before=[(-0.35, 1.9, 3.4, 0.24), (0.35, 1.9, 3.4, 0.24)],
)
STANDING = Pose(
    frame=(-1.2, -1.5, 4.3, 3.3),
    trunk=[(0, 0.2), (1, 0.4), (2.3, 0.45), (3.4, 0.7), (3.1, 2), (1.1, 2.1), (-0.2, 0.9)],
    bib=(0.1, 1.1, 0.3, 0.5),
    tail=(3.3, 0.9),
    legs_behind=[
        (0.95, 1.3, 3, 0.3),
        (2.7, 1.3, 3, 0.3),
        (0.4, 1.3, 3.2, 0.4),
        (3.2, 1.3, 3.2, 0.4),
    ],
)
LYING = Pose(
    frame=(-2.1, -1.5, 2.6, 2.3),
    trunk=_mirrored([(0, 0.3), (0.9, 0.5), (1.7, 1), (1.95, 1.7), (1.5, 2.05), (0, 2.05)]),
    bib=(0, 1.2, 0.4, 0.4),
    tail=(1.7, 1.8),
    haunches=[(-0.5, 1.95, 0.42, 0.24), (0.5, 1.95, 0.42, 0.24)],
)
POSES = (PORTRAIT, PORTRAIT, SITTING, STANDING, LYING)


EARS = ("pointed", "round", "folded", "floppy")


class Animal:
    """The traits that the parts of one animal share; where the classes overlap, it is here."""

    def __init__(self, cat: bool, coat: Coat, rng: Random) -> None:
        self.cat, self.coat, self.rng = cat, coat, rng
        self.ears = rng.choices(EARS, (86, 5, 9, 0) if cat else (4, 20, 16, 60))[0]
        self.muzzle = rng.gauss(0.15, 0.12) if cat else rng.gauss(0.88, 0.22)
        self.width = rng.gauss(1.0, 0.06) if cat else rng.gauss(0.87, 0.08)
        self.turn = rng.gauss(0, 0.26)
        self.fluff = rng.uniform(0.01, 0.05)
        self.white = rng.random() < 0.4

    def furry(self, outline: np.ndarray) -> np.ndarray:
        """Ruffle an outline."""
        hairs = np.frombuffer(self.rng.randbytes(outline.size), np.uint8) / 128 - 1
        return outline + self.fluff * hairs.reshape(outline.shape)


FURS: tuple[Colour, ...] = ((52, 47, 50), (240, 234, 224), (146, 144, 148), (224, 146, 74))
FURS += ((232, 205, 162), (132, 90, 58), (92, 74, 64), (200, 168, 132), (104, 112, 126))


def _dye(canvas_size: tuple[int, int], unit: float, rng: Random) -> Coat:
    """Dye fur plain, striped, patched or spotted, with a grain of hairs."""
    size = canvas_size[0] // SUPERSAMPLING, canvas_size[1] // SUPERSAMPLING
    across = max(canvas_size) / unit
    base, second = rng.sample(FURS, 2)
    pattern = rng.choice(("plain", "plain", "stripes", "patches", "spots"))
    mask = Image.new("L", size)
    if pattern == "stripes":
        bent = np.asarray(_noise(size, 5, rng)) / 36
        slope = np.arange(size[1])[:, None] * rng.uniform(-0.4, 0.4)
        waves = (np.arange(size[0]) + slope) * SUPERSAMPLING / unit * rng.uniform(9, 15)
        mask = Image.fromarray((np.sin(waves + bent) * 300).clip(0, 210).astype(np.uint8))
        second = _mix(base, second if sum(second) < sum(base) else BLACK, 0.6)
    elif pattern != "plain":
        cells, limit = (across, 140) if pattern == "patches" else (4.5 * across, 175)
        mask = _noise(size, round(cells) + 1, rng)
        mask = mask.point(lambda value: min(255, max(0, (value - limit) * 14)))
    light = Image.composite(Image.new("RGB", size, second), Image.new("RGB", size, base), mask)
    hairs = _noise(size, max(size) // 2, rng).point(lambda value: 205 + value * 50 // 255)
    light = ImageChops.multiply(light, Image.merge("RGB", [hairs] * 3))
    light = light.resize(canvas_size, Image.Resampling.NEAREST)
    return Coat(light, light.point(lambda value: value * 165 // 255), base)


def _draw_body(pen: Pen, animal: Animal, pose: Pose) -> None:
    coat = animal.coat
    if pose.tail:
        pen.fill(animal.furry(_tail(animal, *pose.tail)), coat)
    for leg in pose.legs_behind:
        _draw_leg(pen, animal, leg)
    pen.fill(animal.furry(_curve(pose.trunk)), coat)
    if animal.white:
        pen.fill(animal.furry(_oval(*pose.bib)), WHITE, 0.9)
    for haunch in pose.haunches:
        pen.fill(animal.furry(_oval(*haunch)), coat)
    for leg in pose.legs_before:
        _draw_leg(pen, animal, leg)
    if animal.rng.random() < (0.15 if animal.cat else 0.4):
        collar = _stroke([(-0.62, 0.72), (0, 1.08), (0.62, 0.72)], 0.1, 0.1)
        pen.fill(collar, _any_colour(animal.rng))
        pen.fill(_oval(0, 1.2, 0.11, 0.11), (230, 195, 80))


def _tail(animal: Animal, x: float, y: float) -> np.ndarray:
    """Outline a tail that grows at (x, y): a cat's is long and thin."""
    rng, root = animal.rng, (x - 0.3, y + 0.1)
    if animal.cat:
        height, swing = rng.uniform(0.8, 1.9), rng.gauss(0.6, 0.25)
        bends = [(x + 0.5, y), (x + 0.85, y - height / 2), (x + swing, y - height)]
        return _stroke([root, *bends], 0.13, 0.08)
    length = rng.uniform(0.3, 1.2)
    bends = [(x + length / 2, y - length / 4), (x + length * 0.8, y - length)]
    return _stroke([root, *bends], rng.uniform(0.15, 0.3), 0.07)


def _draw_leg(pen: Pen, animal: Animal, leg: Leg) -> None:
    x, top, foot, thick = leg
    knee = x + animal.rng.gauss(0, 0.06), (top + foot) / 2
    pen.fill(animal.furry(_stroke([(x, top), knee, (x, foot)], thick, 0.18)), animal.coat)
    pen.fill(_oval(x, foot + 0.04, 0.28, 0.15), WHITE if animal.white else animal.coat)


def _draw_head(pen: Pen, animal: Animal) -> None:
    hanging = animal.ears in ("folded", "floppy")
    if not hanging:
        _draw_ears(pen, animal)
    long, wide, turn = animal.muzzle, animal.width, animal.turn
    half = [(0, -0.86), (0.45 * wide, -0.8), (0.86 * wide, -0.4), (wide, 0.1)]
    half += [((0.86 - 0.15 * long) * wide, 0.5), (0.45 * wide, 0.8 + 0.15 * long)]
    half += [(0, 0.88 + 0.2 * long)]
    pen.fill(animal.furry(_curve(_mirrored(half))), animal.coat)
    if animal.white and animal.rng.random() < 0.6:
        blaze = [(turn * 0.2, -0.8), (turn * 0.4, -0.2), (turn * 0.5, 0.3)]
        pen.fill(_stroke(blaze, 0.09, 0.2), WHITE, 0.9)
    if hanging:
        _draw_ears(pen, animal)
    _draw_eyes(pen, animal)
    _draw_muzzle(pen, animal)


def _draw_ears(pen: Pen, animal: Animal) -> None:
    size, lean = animal.rng.uniform(0.85, 1.2), animal.rng.gauss(0, 0.08)
    tip = 0.8 + lean, -0.75 - 0.75 * size
    lining = None
    if animal.ears == "pointed":
        ear = np.array([(0.93, -0.2), tip, (0.2, -0.8)])
        lining = np.array([(0.84, -0.45), (tip[0] - 0.03, tip[1] + 0.2), (0.4, -0.8)])
    elif animal.ears == "round":
        knots = [(0.95, -0.2), (0.98, -0.9 * size), (0.74 + lean, -1.35 * size)]
        ear = _curve([*knots, (0.4, -1.1), (0.2, -0.6)])
        lining = (ear - (0.68, -0.8)) * 0.6 + (0.7, -0.82)
    elif animal.ears == "folded":
        ear = np.array([(0.97, -0.3), (0.8 + lean, -1.1 * size), (0.3, -0.86), (0.62 + lean, -0.4)])
    else:
        knots = [(0.4, -0.84), (0.9, -0.72), (1.22, 0), (1.15 + lean, 0.35 + 0.4 * size)]
        ear = _curve([*knots, (0.86, 0.5 * size), (0.76, -0.1)])
    for side in (-animal.width, animal.width):
        pen.fill(animal.furry(ear * (side, 1)), animal.coat)
        if lining is None:
            pen.fill(ear * (side, 1), BLACK, 0.25)
        else:
            pen.fill(lining * (side, 1), _mix(PINK, animal.coat.base, 0.4))


IRISES = {
    True: ((150, 185, 75), (230, 180, 55), (110, 170, 210)),
    False: ((96, 58, 32), (70, 44, 30), (150, 110, 50)),
}
"""Colours of the eyes of cats (True) and of dogs."""


def _draw_eyes(pen: Pen, animal: Animal) -> None:
    rng = animal.rng
    iris = rng.choice(IRISES[animal.cat != (rng.random() < 0.1)])
    radius, slit = (0.2, rng.uniform(0.15, 0.8)) if animal.cat else (0.15, 0.75)
    tall = radius * 0.88
    for side in (-1, 1):
        x = side * (0.4 - 0.05 * abs(animal.turn)) * animal.width + animal.turn * 0.4
        y = -0.08 - 0.08 * animal.muzzle
        pen.fill(_oval(x, y, radius * 1.2, tall * 1.2), BLACK)
        pen.fill(_oval(x, y, radius, tall), iris)
        pen.fill(_oval(x, y, radius * slit, tall * (0.95 if animal.cat else 0.8)), BLACK)
        pen.fill(_oval(x + radius * 0.3, y - tall * 0.35, radius / 4, radius / 4), WHITE)


def _draw_muzzle(pen: Pen, animal: Animal) -> None:
    rng, long, base = animal.rng, animal.muzzle, animal.coat.base
    x, y = animal.turn * (0.5 + 0.35 * long), 0.36 + 0.12 * long
    if rng.random() < (0.04 if animal.cat else 0.45):
        tongue = [(x, y + 0.2), (x + 0.03, y + 0.5), (x, y + 0.62 + 0.2 * long)]
        pen.fill(_stroke(tongue, 0.16, 0.14), (225, 100, 115))
    pale = WHITE if animal.white else _mix(base, WHITE, 0.35)
    puff = 0.24 + 0.12 * long
    for side in (-1, 1):
        cheek = _oval(x + side * puff * 0.75, y + 0.12, puff, 0.2 + 0.15 * long)
        pen.fill(animal.furry(cheek), pale)
    pen.fill(animal.furry(_oval(x, y - 0.02, 0.2 + 0.14 * long, 0.22 + 0.2 * long)), pale)
    nose, bridge = 0.11 + 0.12 * long, y - 0.1 - 0.05 * long
    half = [(0, -0.65), (1, -0.5), (0, 0.7)]
    pink = animal.cat and rng.random() < 0.6
    pen.fill(_curve(_mirrored(half)) * nose + (x, bridge), PINK if pink else BLACK)
    whiskers = rng.uniform(0.5, 1.0) if animal.cat else rng.choice((0.0, 0.0, 0.3))
    for side in (-1, 1):
        lips = [(0, bridge + nose / 2), (0.04, y + 0.2), (puff * 0.9, y + 0.2 + 0.1 * long)]
        pen.fill(_stroke(lips, 0.022, 0.015) * (side, 1) + (x, 0), BLACK)
        for row in (-1, 0, 1) if whiskers else ():
            hair = [(0.25, 0.1 + row * 0.07), (0.25 + whiskers / 2, row * 0.15)]
            hair += [(0.25 + whiskers, 0.1 + row * 0.28)]
            colour = WHITE if sum(base) < 500 else BLACK
            pen.fill(_stroke(hair, 0.014, 0.006) * (side, 1) + (x, y), colour)
