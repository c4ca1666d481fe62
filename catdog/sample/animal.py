"""One cat or dog on a canvas, from tail to whiskers."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops

from catdog.sample.pen import (
    BLACK,
    PINK,
    SUPERSAMPLING,
    WHITE,
    Coat,
    Colour,
    Pen,
    Point,
    any_colour,
    curve,
    mix,
    noise,
    oval,
    stroke,
)


def put_animal(canvas: Image.Image, cat: bool, rng: Random) -> None:
    """Draw a cat or a dog somewhere near the middle of the canvas."""
    pose = rng.choice(POSES)
    left, top, right, bottom = pose.frame
    room = min(canvas.width / (right - left), canvas.height / (bottom - top))
    unit, flip = room * rng.uniform(0.62, 1.1), rng.choice((-1, 1))
    middle = canvas.width * rng.gauss(0.5, 0.07), canvas.height * rng.gauss(0.52, 0.05)
    centre = middle[0] - flip * unit * (left + right) / 2, middle[1] - unit * (top + bottom) / 2
    animal = Animal(cat, _dye(canvas.size, unit, rng), rng)
    _draw_body(Pen(canvas, centre, unit, rng.gauss(0, 3), flip), animal, pose)
    _draw_head(Pen(canvas, centre, unit, rng.gauss(0, 11), flip), animal)


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
        bent = np.asarray(noise(size, 5, rng)) / 36
        slope = np.arange(size[1])[:, None] * rng.uniform(-0.4, 0.4)
        waves = (np.arange(size[0]) + slope) * SUPERSAMPLING / unit * rng.uniform(9, 15)
        mask = Image.fromarray((np.sin(waves + bent) * 300).clip(0, 210).astype(np.uint8))
        second = mix(base, second if sum(second) < sum(base) else BLACK, 0.6)
    elif pattern != "plain":
        cells, limit = (across, 140) if pattern == "patches" else (4.5 * across, 175)
        mask = noise(size, round(cells) + 1, rng)
        mask = mask.point(lambda value: min(255, max(0, (value - limit) * 14)))
    light = Image.composite(Image.new("RGB", size, second), Image.new("RGB", size, base), mask)
    hairs = noise(size, max(size) // 2, rng).point(lambda value: 205 + value * 50 // 255)
    light = ImageChops.multiply(light, Image.merge("RGB", [hairs] * 3))
    light = light.resize(canvas_size, Image.Resampling.NEAREST)
    return Coat(light, light.point(lambda value: value * 165 // 255), base)


def _draw_body(pen: Pen, animal: Animal, pose: Pose) -> None:
    coat = animal.coat
    if pose.tail:
        pen.fill(animal.furry(_tail(animal, *pose.tail)), coat)
    for leg in pose.legs_behind:
        _draw_leg(pen, animal, leg)
    pen.fill(animal.furry(curve(pose.trunk)), coat)
    if animal.white:
        pen.fill(animal.furry(oval(*pose.bib)), WHITE, 0.9)
    for haunch in pose.haunches:
        pen.fill(animal.furry(oval(*haunch)), coat)
    for leg in pose.legs_before:
        _draw_leg(pen, animal, leg)
    if animal.rng.random() < (0.15 if animal.cat else 0.4):
        collar = stroke([(-0.62, 0.72), (0, 1.08), (0.62, 0.72)], 0.1, 0.1)
        pen.fill(collar, any_colour(animal.rng))
        pen.fill(oval(0, 1.2, 0.11, 0.11), (230, 195, 80))


def _tail(animal: Animal, x: float, y: float) -> np.ndarray:
    """Outline a tail that grows at (x, y): a cat's is long and thin."""
    rng, root = animal.rng, (x - 0.3, y + 0.1)
    if animal.cat:
        height, swing = rng.uniform(0.8, 1.9), rng.gauss(0.6, 0.25)
        bends = [(x + 0.5, y), (x + 0.85, y - height / 2), (x + swing, y - height)]
        return stroke([root, *bends], 0.13, 0.08)
    length = rng.uniform(0.3, 1.2)
    bends = [(x + length / 2, y - length / 4), (x + length * 0.8, y - length)]
    return stroke([root, *bends], rng.uniform(0.15, 0.3), 0.07)


def _draw_leg(pen: Pen, animal: Animal, leg: Leg) -> None:
    x, top, foot, thick = leg
    knee = x + animal.rng.gauss(0, 0.06), (top + foot) / 2
    pen.fill(animal.furry(stroke([(x, top), knee, (x, foot)], thick, 0.18)), animal.coat)
    pen.fill(oval(x, foot + 0.04, 0.28, 0.15), WHITE if animal.white else animal.coat)


def _draw_head(pen: Pen, animal: Animal) -> None:
    hanging = animal.ears in ("folded", "floppy")
    if not hanging:
        _draw_ears(pen, animal)
    long, wide, turn = animal.muzzle, animal.width, animal.turn
    half = [(0, -0.86), (0.45 * wide, -0.8), (0.86 * wide, -0.4), (wide, 0.1)]
    half += [((0.86 - 0.15 * long) * wide, 0.5), (0.45 * wide, 0.8 + 0.15 * long)]
    half += [(0, 0.88 + 0.2 * long)]
    pen.fill(animal.furry(curve(_mirrored(half))), animal.coat)
    if animal.white and animal.rng.random() < 0.6:
        blaze = [(turn * 0.2, -0.8), (turn * 0.4, -0.2), (turn * 0.5, 0.3)]
        pen.fill(stroke(blaze, 0.09, 0.2), WHITE, 0.9)
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
        ear = curve([*knots, (0.4, -1.1), (0.2, -0.6)])
        lining = (ear - (0.68, -0.8)) * 0.6 + (0.7, -0.82)
    elif animal.ears == "folded":
        ear = np.array([(0.97, -0.3), (0.8 + lean, -1.1 * size), (0.3, -0.86), (0.62 + lean, -0.4)])
    else:
        knots = [(0.4, -0.84), (0.9, -0.72), (1.22, 0), (1.15 + lean, 0.35 + 0.4 * size)]
        ear = curve([*knots, (0.86, 0.5 * size), (0.76, -0.1)])
    for side in (-animal.width, animal.width):
        pen.fill(animal.furry(ear * (side, 1)), animal.coat)
        if lining is None:
            pen.fill(ear * (side, 1), BLACK, 0.25)
        else:
            pen.fill(lining * (side, 1), mix(PINK, animal.coat.base, 0.4))


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
        pen.fill(oval(x, y, radius * 1.2, tall * 1.2), BLACK)
        pen.fill(oval(x, y, radius, tall), iris)
        pen.fill(oval(x, y, radius * slit, tall * (0.95 if animal.cat else 0.8)), BLACK)
        pen.fill(oval(x + radius * 0.3, y - tall * 0.35, radius / 4, radius / 4), WHITE)


def _draw_muzzle(pen: Pen, animal: Animal) -> None:
    rng, long, base = animal.rng, animal.muzzle, animal.coat.base
    x, y = animal.turn * (0.5 + 0.35 * long), 0.36 + 0.12 * long
    if rng.random() < (0.04 if animal.cat else 0.45):
        tongue = [(x, y + 0.2), (x + 0.03, y + 0.5), (x, y + 0.62 + 0.2 * long)]
        pen.fill(stroke(tongue, 0.16, 0.14), (225, 100, 115))
    pale = WHITE if animal.white else mix(base, WHITE, 0.35)
    puff = 0.24 + 0.12 * long
    for side in (-1, 1):
        cheek = oval(x + side * puff * 0.75, y + 0.12, puff, 0.2 + 0.15 * long)
        pen.fill(animal.furry(cheek), pale)
    pen.fill(animal.furry(oval(x, y - 0.02, 0.2 + 0.14 * long, 0.22 + 0.2 * long)), pale)
    nose, bridge = 0.11 + 0.12 * long, y - 0.1 - 0.05 * long
    half = [(0, -0.65), (1, -0.5), (0, 0.7)]
    pink = animal.cat and rng.random() < 0.6
    pen.fill(curve(_mirrored(half)) * nose + (x, bridge), PINK if pink else BLACK)
    whiskers = rng.uniform(0.5, 1.0) if animal.cat else rng.choice((0.0, 0.0, 0.3))
    for side in (-1, 1):
        lips = [(0, bridge + nose / 2), (0.04, y + 0.2), (puff * 0.9, y + 0.2 + 0.1 * long)]
        pen.fill(stroke(lips, 0.022, 0.015) * (side, 1) + (x, 0), BLACK)
        for row in (-1, 0, 1) if whiskers else ():
            hair = [(0.25, 0.1 + row * 0.07), (0.25 + whiskers / 2, row * 0.15)]
            hair += [(0.25 + whiskers, 0.1 + row * 0.28)]
            colour = WHITE if sum(base) < 500 else BLACK
            pen.fill(stroke(hair, 0.014, 0.006) * (side, 1) + (x, y), colour)
