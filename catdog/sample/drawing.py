"""One drawn picture: a place, an animal in it, and what a camera makes of them. By ourselves."""

from __future__ import annotations

from random import Random

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from catdog import CLASSES, NEGATIVE
from catdog.sample.animal import put_animal
from catdog.sample.pen import (
    BLACK,
    SUPERSAMPLING,
    WHITE,
    Colour,
    Pen,
    Point,
    any_colour,
    box,
    curve,
    mix,
    noise,
    oval,
    stroke,
)

SIDE_PX = (200, 360)
"""The shortest and the longest side that a picture may have."""


def draw_animal(label: int, rng: Random) -> Image.Image:
    """Draw one RGB picture of a cat (label 0) or a dog (label 1).

    Size, pose, coat, place and light vary alike in both classes, and the ranges of ears
    and muzzles overlap, so that no single trait gives the class away.
    """
    canvas = _draw_place(rng)
    put_animal(canvas, CLASSES[label] == NEGATIVE, rng)
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
    light = noise(image.size, 2, rng).point(lambda value: 180 + value * 75 // 255)
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
    pen.canvas.paste(Image.composite(one, other, noise(size, cells, rng)), (0, start))


def _draw_room(pen: Pen, aspect: float, rng: Random) -> None:
    wall = mix(any_colour(rng), (228, 218, 204), rng.uniform(0.2, 0.7))
    floor = mix((160, 115, 75), any_colour(rng), rng.uniform(0, 0.5))
    x, y, horizon = rng.uniform(0, aspect), rng.uniform(0.02, 0.2), rng.uniform(0.5, 0.8)
    _cover(pen, 0, (wall, mix(wall, WHITE, 0.25)), 3, rng)
    pen.fill(box(x, y, x + 0.4, y + 0.35), any_colour(rng))
    pen.fill(box(x + 0.03, y + 0.03, x + 0.37, y + 0.32), any_colour(rng))
    _cover(pen, horizon, (floor, mix(floor, WHITE, 0.2)), 4, rng)
    pen.fill(box(0, horizon - 0.02, aspect, horizon), mix(wall, WHITE, 0.6))
    for x in np.arange(-1, aspect + 1, 0.17):
        gap = [(x, horizon), (x + 0.006, horizon), (2.2 * x - 0.6, 1), (2.2 * x - 0.62, 1)]
        pen.fill(np.array(gap), mix(floor, BLACK, 0.3))


def _draw_garden(pen: Pen, aspect: float, rng: Random) -> None:
    sky = mix((120, 180, 240), (225, 210, 200), rng.random())
    grass = mix((95, 160, 65), (175, 165, 85), rng.random())
    horizon = rng.uniform(0.25, 0.7)
    _cover(pen, 0, (sky, WHITE), 4, rng)
    hills = [(x * aspect / 4, horizon - rng.uniform(0, 0.15)) for x in range(-1, 6)]
    pen.fill(curve([*hills, (aspect * 1.5, 1), (-0.5, 1)]), mix(grass, sky, 0.4))
    _cover(pen, horizon, (grass, mix(grass, (30, 80, 20), 0.5)), 9, rng)
    for _ in range(70):
        x, y = rng.uniform(0, aspect), rng.uniform(horizon, 1.1)
        blade = [(x, y), (x + 0.01, y), (x + rng.gauss(0, 0.02), y - rng.uniform(0.03, 0.09))]
        pen.fill(np.array(blade), mix(grass, (235, 240, 150), rng.uniform(0, 0.5)))


def _draw_studio(pen: Pen, aspect: float, rng: Random) -> None:
    _cover(pen, 0, (any_colour(rng), any_colour(rng)), rng.choice((2, 3)), rng)
    for _ in range(rng.choice((0, 12))):
        radius = rng.uniform(0.02, 0.1)
        spot = oval(rng.uniform(0, aspect), rng.random(), radius, radius)
        pen.fill(spot, mix(any_colour(rng), WHITE, 0.5), 0.4)


def _draw_ball(pen: Pen, where: Point, rng: Random) -> None:
    radius, colour = rng.uniform(0.04, 0.12), any_colour(rng)
    pen.fill(oval(where[0], where[1] + radius, radius * 1.1, radius * 0.2), BLACK, 0.3)
    pen.fill(oval(*where, radius, radius), colour)
    pen.fill(oval(*where, radius * 0.35, radius), mix(colour, WHITE, 0.5))


def _draw_cupboard(pen: Pen, where: Point, rng: Random) -> None:
    left, top, right = where[0] - 0.2, where[1] - 0.2, where[0] + rng.uniform(0, 0.4)
    colour = mix(any_colour(rng), (140, 100, 70), 0.4)
    pen.fill(box(left, top, right, 1), colour)
    for row in np.arange(top, 1, rng.uniform(0.1, 0.3)):
        pen.fill(box(left + 0.02, row + 0.02, right - 0.02, row + 0.08), mix(colour, BLACK, 0.2))


def _draw_plant(pen: Pen, where: Point, rng: Random, length: float = 0.25) -> None:
    green = mix((60, 130, 60), any_colour(rng), 0.3)
    x, y = where
    for _ in range(8):
        tip = x + rng.gauss(0, 0.5 * length), y - length * rng.uniform(0.6, 1.5)
        bend = (x + tip[0]) / 2 + rng.gauss(0, 0.03), (y + tip[1]) / 2
        shine = mix(green, rng.choice((BLACK, (220, 240, 160))), rng.uniform(0, 0.4))
        pen.fill(stroke([where, bend, tip], 0.09 * length, 0.02 * length), shine)
    pot = [(x - 0.08, y - 0.05), (x + 0.08, y - 0.05), (x + 0.06, y + 0.12), (x - 0.06, y + 0.12)]
    pen.fill(np.array(pot), mix((180, 90, 60), any_colour(rng), 0.4))
