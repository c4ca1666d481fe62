"""Cats and dogs drawn by ourselves: pictures to train on without an account or a network.

In: a seed. Out: folder/train/{cat,dog}.N.jpg and folder/test/N.jpg, named as Kaggle names
its own. First how a set is kept, then how one picture is drawn, from paper to whiskers.
"""

from __future__ import annotations

import errno
import io
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from filelock import FileLock
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from catdog import CLASSES, NEGATIVE, CatdogError, __version__

SIDES_PX = (200, 400)
"""The shortest and the longest side that a picture may have."""
SUPERSAMPLING = 2
"""Drawn at twice the size and halved, which smooths every edge."""
LABEL_NAME = ".drawn.json"

Colour = tuple[int, int, int]
Point = tuple[float, float]


def draw_sample(folder: Path, *, seed: int, count: int = 400, test_count: int = 40) -> Path:
    """Draw `count` labelled pictures into folder/train and `test_count` others into folder/test.

    The labelled are named {cat,dog}.N.jpg, N from 0, half of each class; the others N.jpg,
    N from 1. The same seed gives the same bytes (with the same Pillow and numpy), and a
    picture depends on the seed and its own name alone, not on how many are drawn.

    The folder appears whole or not at all. A finished one is left untouched; one drawn
    with other arguments is replaced. Processes asking at the same time wait for the first.

    Returns:
        `folder`.

    Raises:
        CatdogError: the folder cannot be written, the disk is full, or something else
            than a drawn sample is already there.
    """
    folder = Path(folder)
    label = {"version": __version__, "seed": seed, "count": count, "test_count": test_count}
    try:
        if not _is_finished(folder, label):
            folder.parent.mkdir(parents=True, exist_ok=True)
            # The system frees the lock of a killed process, so whoever holds it is alone.
            with FileLock(folder.parent / f".{folder.name}.lock"):
                if not _is_finished(folder, label):
                    _redraw(folder, label)
    except OSError as error:
        reason = error.strerror or error
        remedy = "free some space, or " if error.errno == errno.ENOSPC else ""
        raise CatdogError(
            f"cannot write the drawn sample to {folder} ({reason}): "
            f"{remedy}choose another with --data_dir"
        ) from error
    return folder


def _is_finished(folder: Path, label: dict[str, str | int]) -> bool:
    try:
        found = json.loads((folder / LABEL_NAME).read_text())
    except (OSError, ValueError):
        return False
    return found == label and all((folder / name).is_file() for name, *_ in _plan(label))


def _plan(label: dict) -> Iterator[tuple[str, int, Random]]:
    """Yield each picture's name, class and own source of randomness."""
    for split, count in (("train", label["count"]), ("test", label["test_count"])):
        for index in range(count):
            rng = Random(f"{label['seed']}/{split}/{index}")
            if split == "train":
                kind = index % 2
                yield f"train/{CLASSES[kind]}.{index // 2}.jpg", kind, rng
            else:
                yield f"test/{index + 1}.jpg", rng.randrange(2), rng


def _redraw(folder: Path, label: dict) -> None:
    """Draw beside `folder` and rename at the end; needs the lock."""
    if folder.exists() and any(folder.iterdir()) and not (folder / LABEL_NAME).exists():
        raise CatdogError(
            f"{folder} holds something else than a drawn sample: "
            "move it away, or choose another with --data_dir"
        )
    prefix = f".{folder.name}.drawing-"
    for leftover in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover)
    workplace = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        _fill(workplace / "new", label)
        if folder.exists():
            folder.rename(workplace / "old")
        (workplace / "new").rename(folder)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _fill(folder: Path, label: dict) -> None:
    for name, kind, rng in _plan(label):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = io.BytesIO()
        draw_animal(kind, rng).save(picture, "JPEG", quality=rng.randint(85, 92))
        path.write_bytes(picture.getvalue())
    (folder / LABEL_NAME).write_text(json.dumps(label))


# --- One picture -------------------------------------------------------------------------


def draw_animal(label: int, rng: Random) -> Image.Image:
    """Draw one RGB picture of a cat (label 0) or a dog (label 1).

    Size, pose, coat, place and light vary; the two classes share ranges for all of them,
    so that no single trait gives the class away.
    """
    canvas = _background(rng)
    look = _choose_look(label, rng)
    left, top, right, bottom = POSES[look.pose]
    unit = rng.uniform(0.62, 1.1) * min(
        canvas.width / (right - left), canvas.height / (bottom - top)
    )
    flip = rng.choice((-1, 1))
    middle = np.array(canvas.size) * (rng.gauss(0.5, 0.07), rng.gauss(0.52, 0.05))
    centre = middle - unit * np.array([flip * (left + right) / 2, (top + bottom) / 2])
    coat = _coat(canvas.size, unit, rng)
    _draw_body(Pen(canvas, centre, unit, rng.gauss(0, 3), flip), look, coat, rng)
    _draw_head(Pen(canvas, centre, unit, rng.gauss(0, 11), flip), look, coat, rng)
    if rng.random() < 0.2:
        _draw_leaves(Pen(canvas, (0, canvas.height), canvas.height), rng, canvas.width)
    return _photograph(canvas, rng)


def draw_scene(rng: Random) -> Image.Image:
    """Draw one RGB picture of the same kind of place with neither animal in it."""
    return _photograph(_background(rng), rng)


def _photograph(canvas: Image.Image, rng: Random) -> Image.Image:
    """Halve the canvas and give it a camera's faults: light, contrast, colour, blur, noise."""
    image = canvas.reduce(SUPERSAMPLING)
    shade = _noise(image.size, 2, rng).point(lambda value: 150 + value * 105 // 255)
    image = ImageChops.multiply(image, Image.merge("RGB", [shade] * 3))
    contrast, brightness = rng.uniform(0.65, 1.15), rng.uniform(100, 150)
    tables: list[int] = []
    for cast in (rng.gauss(0, 7), 0.0, rng.gauss(0, 9)):
        levels = (np.arange(256) - 118) * contrast + brightness + cast
        tables += levels.clip(0, 255).astype(int).tolist()
    image = image.point(tables)
    if rng.random() < 0.35:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.8)))
    strength = rng.uniform(0.02, 0.16)
    grain = Image.frombytes("L", image.size, rng.randbytes(image.width * image.height))
    grain = grain.point(lambda value: round(128 + (value - 128) * strength))
    return ImageChops.add(image, Image.merge("RGB", [grain] * 3), offset=-128)


# --- Paper, pen and paint ----------------------------------------------------------------


@dataclass(frozen=True)
class Coat:
    """Fur of one animal as large as the canvas, in the light and in the shade."""

    light: Image.Image
    shade: Image.Image
    base: Colour
    second: Colour


class Pen:
    """Fills outlines, given in units of its own around a centre (y down), on a canvas."""

    def __init__(
        self,
        canvas: Image.Image,
        centre: Sequence[float] | np.ndarray,
        unit: float,
        tilt_degrees: float = 0.0,
        flip: int = 1,
    ) -> None:
        cos, sin = math.cos(math.radians(tilt_degrees)), math.sin(math.radians(tilt_degrees))
        self.canvas, self.unit, self.centre = canvas, unit, np.asarray(centre)
        self.matrix = unit * np.array([[flip * cos, sin], [-flip * sin, cos]])

    def fill(self, outline: np.ndarray, paint: Colour | Coat, strength: float = 1.0) -> None:
        """Fill a closed outline, shape (n, 2); a coat is shaded round towards its edge."""
        placed = outline @ self.matrix + self.centre
        left, top = np.floor(placed.min(axis=0)).clip(0).astype(int).tolist()
        right, bottom = np.ceil(placed.max(axis=0)).clip(max=self.canvas.size).astype(int).tolist()
        if right <= left or bottom <= top:
            return
        box = (left, top, right, bottom)
        mask = Image.new("L", (right - left, bottom - top))
        corners = (placed - (left, top)).ravel().tolist()
        ImageDraw.Draw(mask).polygon(corners, fill=round(255 * strength))
        if isinstance(paint, Coat):
            roundness = mask.filter(ImageFilter.BoxBlur(self.unit * 0.22))
            roundness = roundness.point(lambda value: min(255, max(0, value * 2 - 210)))
            fur = Image.composite(paint.light.crop(box), paint.shade.crop(box), roundness)
            self.canvas.paste(fur, box, mask)
        else:
            self.canvas.paste(paint, box, mask)


def _curve(points: Sequence[Point] | np.ndarray, closed: bool = True) -> np.ndarray:
    """Pass a smooth (Catmull-Rom) curve through the points."""
    knots = np.asarray(points, dtype=float)
    knots = (
        np.concatenate([knots[-1:], knots, knots[:2]])
        if closed
        else np.concatenate([knots[:1], knots, knots[-1:]])
    )
    a, b, c, d = (knots[i : len(knots) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, knots[-1:]])


def _both_sides(half: Sequence[Point]) -> np.ndarray:
    """Close a smooth outline whose right half runs from the top middle to the bottom middle."""
    mirrored = [(-x, y) for x, y in reversed(half) if x]
    return _curve([*half, *mirrored])


def _oval(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    angles = np.linspace(0, 2 * math.pi, 28, endpoint=False)
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def _ribbon(points: Sequence[Point], start: float, end: float) -> np.ndarray:
    """Outline of a smooth stroke through the points, from half width `start` to `end`."""
    line = _curve(points, closed=False)
    along = np.gradient(line, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.hypot(*along.T)[:, None]
    across *= np.linspace(start, end, len(line))[:, None]
    return np.concatenate([line + across, (line - across)[::-1]])


def _furry(outline: np.ndarray, fluff: float, rng: Random) -> np.ndarray:
    noise = np.array([rng.gauss(0, fluff) for _ in range(outline.size)])
    return outline + noise.reshape(outline.shape)


def _noise(size: tuple[int, int], cells: int, rng: Random) -> Image.Image:
    """Smooth clouds of grey, about `cells` of them along each side."""
    grid = Image.frombytes("L", (cells, cells), rng.randbytes(cells * cells))
    return grid.resize(size, Image.Resampling.BICUBIC)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _any_colour(rng: Random) -> Colour:
    return rng.randint(40, 230), rng.randint(40, 230), rng.randint(40, 230)


# --- The place ---------------------------------------------------------------------------


def _background(rng: Random) -> Image.Image:
    """Draw a room, a garden or a studio at `SUPERSAMPLING` times the picture's size."""
    size = rng.randint(*SIDES_PX) * SUPERSAMPLING, rng.randint(*SIDES_PX) * SUPERSAMPLING
    canvas = Image.new("RGB", size)
    aspect = size[0] / size[1]
    pen = Pen(canvas, (0, 0), size[1])
    rng.choice((_draw_room, _draw_garden, _draw_studio))(pen, rng, aspect)
    for _ in range(rng.randrange(4)):
        rng.choice((_draw_ball, _draw_box, _draw_plant))(pen, rng, aspect)
    if rng.random() < 0.6:
        canvas = canvas.filter(ImageFilter.BoxBlur(rng.uniform(1, 7)))
    return canvas


def _clouds(pen: Pen, one: Colour, other: Colour, top: float, cells: int, rng: Random) -> None:
    """Cover the canvas below `top` with a cloudy mixture of two colours."""
    offset = round(top * pen.unit)
    size = pen.canvas.width, pen.canvas.height - offset
    mask = _noise(size, cells, rng)
    pen.canvas.paste(
        Image.composite(Image.new("RGB", size, one), Image.new("RGB", size, other), mask),
        (0, offset),
    )


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _draw_room(pen: Pen, rng: Random, aspect: float) -> None:
    wall, floor = _any_colour(rng), _mix((150, 105, 65), _any_colour(rng), rng.random() * 0.6)
    _clouds(pen, wall, _mix(wall, (255, 255, 255), 0.25), 0, 3, rng)
    if rng.random() < 0.6:
        x, y, width = rng.uniform(0, aspect), rng.uniform(0.02, 0.2), rng.uniform(0.2, 0.5)
        frame, inside = _any_colour(rng), _any_colour(rng)
        pen.fill(_box(x, y, x + width, y + 0.35), frame)
        pen.fill(_box(x + 0.03, y + 0.03, x + width - 0.03, y + 0.32), inside)
    horizon = rng.uniform(0.5, 0.8)
    _clouds(pen, floor, _mix(floor, (255, 255, 255), 0.2), horizon, 4, rng)
    pen.fill(_box(0, horizon - 0.02, aspect, horizon), _mix(wall, (255, 255, 255), 0.6))
    for x in np.arange(-1, aspect + 1, 0.17):
        board = [(x, horizon), (x + 0.006, horizon), (2.2 * x - 0.6, 1), (2.2 * x - 0.62, 1)]
        pen.fill(np.array(board), _mix(floor, (0, 0, 0), 0.3))


def _draw_garden(pen: Pen, rng: Random, aspect: float) -> None:
    sky = _mix((120, 175, 235), (220, 200, 190), rng.random())
    grass = _mix((85, 150, 60), (165, 155, 75), rng.random())
    _clouds(pen, sky, (245, 245, 250), 0, 4, rng)
    horizon = rng.uniform(0.25, 0.7)
    hills = [(x * aspect / 4, horizon - rng.uniform(0, 0.15)) for x in range(-1, 6)]
    pen.fill(_curve([*hills, (aspect * 1.5, 1), (-0.5, 1)]), _mix(grass, sky, 0.4))
    _clouds(pen, grass, _mix(grass, (30, 70, 20), 0.5), horizon, 9, rng)
    for _ in range(130):
        x, y = rng.uniform(0, aspect), rng.uniform(horizon, 1.1)
        blade = [(x, y), (x + 0.008, y), (x + rng.gauss(0, 0.02), y - rng.uniform(0.03, 0.09))]
        pen.fill(np.array(blade), _mix(grass, (235, 240, 150), rng.random() * 0.5))


def _draw_studio(pen: Pen, rng: Random, aspect: float) -> None:
    _clouds(pen, _any_colour(rng), _any_colour(rng), 0, rng.choice((2, 3)), rng)
    light = _any_colour(rng)
    for _ in range(rng.choice((0, 12))):
        radius = rng.uniform(0.02, 0.1)
        spot = _oval(rng.uniform(0, aspect), rng.uniform(0, 1), radius, radius)
        pen.fill(spot, _mix(light, (255, 255, 255), rng.random()), 0.4)


def _draw_ball(pen: Pen, rng: Random, aspect: float) -> None:
    x, y, radius = rng.uniform(0, aspect), rng.uniform(0.6, 1), rng.uniform(0.04, 0.12)
    colour = _any_colour(rng)
    pen.fill(_oval(x, y + radius, radius * 1.1, radius * 0.2), (20, 20, 20), 0.3)
    pen.fill(_oval(x, y, radius, radius), colour)
    pen.fill(_oval(x, y, radius * 0.35, radius), _mix(colour, (255, 255, 255), 0.5))


def _draw_box(pen: Pen, rng: Random, aspect: float) -> None:
    """Draw a cupboard, a sofa, a crate: some piece of furniture with drawers."""
    x, y = rng.uniform(-0.2, aspect), rng.uniform(0.3, 0.8)
    width, colour = rng.uniform(0.2, 0.6), _any_colour(rng)
    pen.fill(_box(x, y, x + width, 1), colour)
    for row in np.arange(y, 1, rng.uniform(0.1, 0.3)):
        drawer = _box(x + 0.02, row + 0.02, x + width - 0.02, row + 0.08)
        pen.fill(drawer, _mix(colour, (0, 0, 0), 0.2))


def _draw_plant(pen: Pen, rng: Random, aspect: float) -> None:
    x, y = rng.uniform(0, aspect), rng.uniform(0.7, 1)
    green = _mix((40, 110, 50), _any_colour(rng), 0.3)
    for _ in range(9):
        tip = x + rng.gauss(0, 0.14), y - rng.uniform(0.15, 0.4)
        bend = (x + tip[0]) / 2 + rng.gauss(0, 0.03), (y + tip[1]) / 2
        leaf = _ribbon([(x, y - 0.05), bend, tip], 0.025, 0.004)
        pen.fill(leaf, _mix(green, (220, 240, 160), rng.random() * 0.4))
    pot = np.array(
        [(x - 0.08, y - 0.1), (x + 0.08, y - 0.1), (x + 0.06, y + 0.1), (x - 0.06, y + 0.1)]
    )
    pen.fill(pot, _mix((180, 90, 60), _any_colour(rng), 0.4))


def _draw_leaves(pen: Pen, rng: Random, width: float) -> None:
    """Hide part of what was drawn behind leaves that hang into the picture from below."""
    green = _mix((50, 120, 50), _any_colour(rng), 0.3)
    middle = rng.uniform(0, width / pen.unit)
    for _ in range(7):
        foot, tip = middle + rng.gauss(0, 0.15), middle + rng.gauss(0, 0.3)
        leaf = [(foot, 0.05), ((foot + tip) / 2, -0.15), (tip, -rng.uniform(0.2, 0.55))]
        pen.fill(_ribbon(leaf, 0.04, 0.01), _mix(green, (20, 40, 20), rng.random() * 0.6))


# --- The animal --------------------------------------------------------------------------

FURS: tuple[Colour, ...] = (
    (44, 40, 44),
    (240, 234, 224),
    (140, 138, 142),
    (220, 142, 70),
    (230, 202, 158),
    (124, 82, 50),
    (86, 68, 58),
    (196, 164, 128),
    (98, 106, 120),
)
POSES: dict[str, tuple[float, float, float, float]] = {
    "portrait": (-1.4, -1.7, 1.4, 1.6),
    "sit": (-1.5, -1.6, 1.9, 3.6),
    "stand": (-1.2, -1.5, 4.3, 3.3),
    "lie": (-2.1, -1.5, 2.6, 2.3),
}
"""Left, top, right and bottom of each pose, in head radii around the head's middle."""
BLACK, WHITE, PINK = (28, 24, 26), (250, 248, 244), (226, 138, 140)


@dataclass(frozen=True)
class Look:
    """The traits of one animal. `dog` 0 is all cat and 1 all dog; real ones lie around them."""

    label: int
    pose: str
    ears: str
    muzzle: float
    width: float
    turn: float
    slit: float
    whiskers: float
    fluff: float
    iris: Colour
    tongue: bool
    collar: Colour | None
    bib: bool
    blaze: bool


def _choose_look(label: int, rng: Random) -> Look:
    cat = CLASSES[label] == NEGATIVE
    eyes = (
        ((150, 180, 70), (225, 175, 50), (110, 170, 210)) if cat else ((96, 58, 32), (70, 44, 30))
    )
    if rng.random() < 0.15:
        eyes = ((110, 150, 190), (150, 110, 50))
    return Look(
        label=label,
        pose=rng.choice(("portrait", "portrait", "sit", "stand", "lie")),
        ears=rng.choices(
            ("pointed", "round", "floppy", "folded"), (84, 6, 0, 10) if cat else (14, 22, 50, 14)
        )[0],
        muzzle=rng.gauss(0.15, 0.13) if cat else rng.gauss(0.75, 0.25),
        width=rng.gauss(1.0, 0.06) if cat else rng.gauss(0.86, 0.08),
        turn=rng.gauss(0, 0.28),
        slit=rng.uniform(0.2, 1.0) if cat else 1.0,
        whiskers=rng.uniform(0.5, 1.0) if cat else rng.choice((0.0, 0.0, 0.3)),
        fluff=rng.uniform(0.005, 0.03),
        iris=rng.choice(eyes),
        tongue=rng.random() < (0.04 if cat else 0.45),
        collar=_any_colour(rng) if rng.random() < (0.15 if cat else 0.4) else None,
        bib=rng.random() < 0.4,
        blaze=rng.random() < 0.25,
    )


def _coat(size: tuple[int, int], unit: float, rng: Random) -> Coat:
    """Dye fur: plain, striped, patched or spotted, with a grain of hairs."""
    base, second = rng.sample(FURS, 2)
    pattern = rng.choice(("plain", "plain", "stripes", "patches", "spots"))
    mask = Image.new("L", size)
    if pattern == "stripes":
        bent = np.asarray(_noise(size, 5, rng), dtype=np.float32) / 255
        y, x = np.mgrid[: size[1], : size[0]].astype(np.float32) / unit
        waves = np.sin((x + y * rng.uniform(-0.4, 0.4)) * rng.uniform(9, 15) + 7 * bent)
        mask = Image.fromarray((waves * 300).clip(0, 210).astype(np.uint8))
        second = _mix(base, second if sum(second) < sum(base) else BLACK, 0.6)
    elif pattern != "plain":
        cells = round(max(size) / unit * (1.0 if pattern == "patches" else 4.5)) + 1
        limit = 140 if pattern == "patches" else 175
        mask = _noise(size, cells, rng)
        mask = mask.point(lambda value: min(255, max(0, (value - limit) * 14)))
    light = Image.composite(Image.new("RGB", size, second), Image.new("RGB", size, base), mask)
    hairs = _noise((size[0] // 2, size[1] // 2), max(size) // 5, rng).resize(size)
    hairs = hairs.point(lambda value: 200 + value * 55 // 255)
    light = ImageChops.multiply(light, Image.merge("RGB", [hairs] * 3))
    shade = light.point(lambda value: value * 165 // 255)
    return Coat(light, shade, base, second)


def _draw_body(pen: Pen, look: Look, coat: Coat, rng: Random) -> None:
    """Draw everything below the neck, the tail first because it lies behind."""
    cat = CLASSES[look.label] == NEGATIVE
    draw = {"portrait": _bust, "sit": _sitting, "stand": _standing, "lie": _lying}[look.pose]
    draw(pen, look, coat, rng)
    if look.collar:
        pen.fill(_ribbon([(-0.62, 0.72), (0, 1.08), (0.62, 0.72)], 0.1, 0.1), look.collar)
        pen.fill(_oval(0, 1.2, 0.11, 0.11), (230, 195, 80))
    del cat


def _tail(pen: Pen, look: Look, coat: Coat, rng: Random, root: Point) -> None:
    x, y = root
    if CLASSES[look.label] == NEGATIVE:
        height = rng.uniform(0.8, 1.9)
        path = [
            (x - 0.3, y + 0.1),
            (x + 0.5, y),
            (x + 0.85, y - height / 2),
            (x + 0.6 + rng.gauss(0, 0.25), y - height),
        ]
        thick, end = 0.13, 0.08
    else:
        length = rng.uniform(0.3, 1.2)
        path = [
            (x - 0.3, y + 0.1),
            (x + length / 2, y - length / 4),
            (x + length * 0.8, y - length),
        ]
        thick, end = rng.uniform(0.15, 0.3), 0.07
    pen.fill(_furry(_ribbon(path, thick, end), look.fluff, rng), coat)


def _bust(pen: Pen, look: Look, coat: Coat, rng: Random) -> None:
    chest = _both_sides([(0, 0.3), (0.7, 0.7), (1.15, 1.5), (1.35, 3.5), (0, 4)])
    pen.fill(_furry(chest, look.fluff, rng), coat)
    if look.bib:
        pen.fill(_furry(_oval(0, 1.6, 0.5, 0.75), 0.03, rng), WHITE, 0.9)


def _sitting(pen: Pen, look: Look, coat: Coat, rng: Random) -> None:
    _tail(pen, look, coat, rng, (0.9, 3.1))
    body = _both_sides([(0, 0.4), (0.55, 0.8), (0.75, 1.7), (1.05, 2.7), (0.9, 3.35), (0, 3.4)])
    pen.fill(_furry(body, look.fluff, rng), coat)
    if look.bib:
        pen.fill(_furry(_oval(0, 1.55, 0.38, 0.6), 0.03, rng), WHITE, 0.9)
    for side in (-1, 1):
        pen.fill(_furry(_oval(side * 0.82, 2.9, 0.4, 0.55), look.fluff, rng), coat)
        leg = [(side * 0.33, 1.7), (side * 0.36, 2.5), (side * 0.35, 3.35)]
        pen.fill(_furry(_ribbon(leg, 0.26, 0.19), look.fluff, rng), coat)
        pen.fill(_oval(side * 0.37, 3.42, 0.28, 0.16), WHITE if look.bib else coat)


def _standing(pen: Pen, look: Look, coat: Coat, rng: Random) -> None:
    _tail(pen, look, coat, rng, (3.3, 0.9))
    for x in (0.85, 2.75):
        leg = [(x, 1.5), (x + rng.gauss(0, 0.1), 2.4), (x, 3.1)]
        pen.fill(_ribbon(leg, 0.3, 0.16), coat.shade.getpixel((0, 0)))
    trunk = [(0, 0.2), (1.0, 0.4), (2.3, 0.45), (3.3, 0.65), (3.55, 1.3), (3.1, 2.0)]
    trunk += [(2.2, 1.8), (1.1, 2.1), (0.3, 1.8), (-0.2, 0.9)]
    pen.fill(_furry(_curve(trunk), look.fluff, rng), coat)
    for x in (0.45, 3.15):
        leg = [(x, 1.3), (x + rng.gauss(0, 0.1), 2.4), (x, 3.15)]
        pen.fill(_furry(_ribbon(leg, 0.38, 0.17), look.fluff, rng), coat)
        pen.fill(_oval(x - 0.08, 3.2, 0.27, 0.14), WHITE if look.bib else coat)


def _lying(pen: Pen, look: Look, coat: Coat, rng: Random) -> None:
    _tail(pen, look, coat, rng, (1.7, 1.8))
    body = _both_sides([(0, 0.3), (0.9, 0.5), (1.7, 1.0), (1.95, 1.7), (1.5, 2.05), (0, 2.05)])
    pen.fill(_furry(body, look.fluff, rng), coat)
    for side in (-1, 1):
        pen.fill(
            _furry(_oval(side * 0.5, 1.95, 0.42, 0.24), look.fluff, rng),
            WHITE if look.bib else coat,
        )


def _draw_head(pen: Pen, look: Look, coat: Coat, rng: Random) -> None:
    if look.ears in ("pointed", "round"):
        _ears(pen, look, coat, rng)
    long, wide = look.muzzle, look.width
    head = [(0, -0.86), (0.45 * wide, -0.8), (0.86 * wide, -0.4), (1.0 * wide, 0.1)]
    head += [((0.86 - 0.15 * long) * wide, 0.5), (0.45 * wide, 0.8 + 0.15 * long)]
    head += [(0, 0.88 + 0.2 * long)]
    pen.fill(_furry(_both_sides(head), look.fluff, rng), coat)
    face = look.turn
    if look.blaze:
        stripe = _ribbon([(face * 0.2, -0.8), (face * 0.4, -0.2), (face * 0.5, 0.3)], 0.09, 0.2)
        pen.fill(stripe, WHITE, 0.9)
    if look.ears in ("floppy", "folded"):
        _ears(pen, look, coat, rng)
    _eyes(pen, look)
    _muzzle(pen, look, coat, rng)


def _ears(pen: Pen, look: Look, coat: Coat, rng: Random) -> None:
    size, lean = rng.uniform(0.85, 1.2), rng.gauss(0, 0.08)
    for side in (-1, 1):
        if look.ears == "pointed":
            tip = (0.82 + lean, -0.75 - 0.75 * size)
            outer, inner = (
                [(0.93, -0.2), tip, (0.2, -0.8)],
                [(0.84, -0.45), (tip[0] - 0.03, tip[1] + 0.2), (0.4, -0.8)],
            )
            shape, lining = np.array(outer), np.array(inner)
            shape = np.repeat(shape, 1, axis=0)
        elif look.ears == "round":
            shape = _curve(
                [
                    (0.95, -0.2),
                    (0.98, -0.9 * size),
                    (0.74 + lean, -1.35 * size),
                    (0.4, -1.1),
                    (0.2, -0.6),
                ]
            )
            lining = (shape - (0.68, -0.8)) * 0.6 + (0.7, -0.82)
        elif look.ears == "floppy":
            shape = _curve(
                [
                    (0.4, -0.84),
                    (0.9, -0.72),
                    (1.22, 0.0),
                    (1.15 + lean, 0.35 + 0.4 * size),
                    (0.86, 0.5 * size),
                    (0.76, -0.1),
                ]
            )
            lining = None
        else:
            shape = np.array(
                [(0.95, -0.35), (0.75 + lean, -1.0 * size), (0.28, -0.84), (0.62 + lean, -0.42)]
            )
            lining = None
        shape = shape * (side * look.width, 1)
        dark = look.ears in ("floppy", "folded")
        if dark:
            pen.fill(shape * 1.03, BLACK, 0.25)
        pen.fill(_furry(shape, look.fluff / 2, rng), coat)
        if dark:
            pen.fill(shape, BLACK, 0.18)
        if lining is not None:
            pen.fill(lining * (side * look.width, 1), _mix(PINK, coat.base, 0.4))


def _eyes(pen: Pen, look: Look) -> None:
    cat = CLASSES[look.label] == NEGATIVE
    radius = 0.2 if cat else 0.15
    for side in (-1, 1):
        x = side * (0.4 - 0.05 * abs(look.turn)) * look.width + look.turn * 0.4
        y = -0.08 - 0.08 * look.muzzle
        tall = radius * (0.85 if cat else 0.95)
        pen.fill(_oval(x, y, radius * 1.2, tall * 1.2), BLACK)
        pen.fill(_oval(x, y, radius, tall), look.iris)
        pen.fill(_oval(x, y, radius * 0.75 * look.slit, tall * (0.95 if cat else 0.75)), BLACK)
        pen.fill(_oval(x + radius * 0.3, y - tall * 0.35, radius * 0.25, radius * 0.25), WHITE)


def _muzzle(pen: Pen, look: Look, coat: Coat, rng: Random) -> None:
    long = look.muzzle
    x, y = look.turn * (0.5 + 0.35 * long), 0.36 + 0.12 * long
    pale = WHITE if look.bib or look.blaze else _mix(coat.base, WHITE, 0.35)
    nose_y = y - 0.1 - 0.05 * long
    if look.tongue:
        pen.fill(
            _ribbon([(x, y + 0.2), (x + 0.03, y + 0.5), (x, y + 0.62 + 0.2 * long)], 0.16, 0.14),
            (225, 100, 115),
        )
    puff = 0.24 + 0.12 * long
    for side in (-1, 1):
        pen.fill(
            _furry(
                _oval(x + side * puff * 0.75, y + 0.12, puff, 0.2 + 0.15 * long),
                look.fluff / 2,
                rng,
            ),
            pale,
        )
    pen.fill(
        _furry(_oval(x, y - 0.02, 0.2 + 0.14 * long, 0.22 + 0.2 * long), look.fluff / 2, rng), pale
    )
    nose = 0.11 + 0.12 * long
    colour = PINK if CLASSES[look.label] == NEGATIVE and rng.random() < 0.6 else BLACK
    pen.fill(
        _curve(
            [
                (x - nose, nose_y - nose * 0.5),
                (x, nose_y - nose * 0.65),
                (x + nose, nose_y - nose * 0.5),
                (x, nose_y + nose * 0.7),
            ]
        ),
        colour,
    )
    for side in (-1, 1):
        lips = [
            (x, nose_y + nose * 0.5),
            (x + side * 0.04, y + 0.2),
            (x + side * puff * 0.9, y + 0.2 + 0.1 * long),
        ]
        pen.fill(_ribbon(lips, 0.022, 0.015), BLACK)
    for side in (-1, 1):
        for row in (-1, 0, 1):
            reach = 1.0 * look.whiskers
            hair = [
                (x + side * 0.25, y + 0.1 + row * 0.07),
                (x + side * (0.25 + reach / 2), y + row * 0.15),
                (x + side * (0.25 + reach), y + 0.1 + row * 0.28),
            ]
            if reach:
                pen.fill(_ribbon(hair, 0.014, 0.006), WHITE if sum(coat.base) < 500 else BLACK)
