"""Pictures that are neither cat nor dog, and few other things: what a model must not be sure of.

Drawn scenes and textures, and crops of the photographs that scikit-image and scikit-learn
bring along. They test whether a model knows what it does not know; nothing learns from them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from random import Random

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from catdog import Classes
from catdog.data.classes import label_of
from catdog.data.images import decode
from catdog.files import disk_errors, new_folder
from catdog.sample.drawing import draw_scene

Grey = NDArray[np.float64]

RECIPE = 2
"""Raised when other pictures are made, so that old ones are not used."""

SCENES, TEXTURES, CROPS = 30, 18, 3
SIDE_PX = 256
QUALITY = 90

PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "cell",
    "clock",
    "coffee",
    "coins",
    "colorwheel",
    "grass",
    "gravel",
    "horse",
    "hubble_deep_field",
    "immunohistochemistry",
    "logo",
    "microaneurysms",
    "moon",
    "page",
    "retina",
    "rocket",
    "text",
)
"""Of `skimage.data`, those that its package holds; its cat is left out."""

SAMPLES = ("china", "flower")
"""Those of `sklearn.datasets`."""


def neither_pictures() -> list[tuple[str, bytes]]:
    """Names and JPEG bytes of pictures with neither animal in them, always the same ones."""
    made = (*_scenes(), *_textures(), *_photographs())
    return [(name, _encoded(picture)) for name, picture in made]


def _scenes() -> Iterator[tuple[str, Image.Image]]:
    for number in range(SCENES):
        yield f"scene-{number}", draw_scene(Random(f"scene {number}"))


def _textures() -> Iterator[tuple[str, Image.Image]]:
    kinds: tuple[Callable[[np.random.Generator], Grey], ...] = (_grain, _stripes, _clouds)
    for number in range(TEXTURES):
        kind = kinds[number % len(kinds)]
        rng = np.random.default_rng(number)
        grey = kind(rng)[..., None]
        dark, light = rng.uniform(0, 255, (2, 3))
        coloured = dark + (light - dark) * grey
        yield f"{kind.__name__[1:]}-{number}", Image.fromarray(coloured.astype(np.uint8))


def _grain(rng: np.random.Generator) -> Grey:
    return rng.random((SIDE_PX, SIDE_PX))


def _stripes(rng: np.random.Generator) -> Grey:
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX] * rng.uniform(0.02, 0.4)
    angle = rng.uniform(0, np.pi)
    waves: Grey = np.sin(rows * np.sin(angle) + columns * np.cos(angle))
    return 0.5 + 0.5 * waves


def _clouds(rng: np.random.Generator) -> Grey:
    cells = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
    large = cells.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    grey: Grey = np.asarray(large) / 255
    return grey


def _photographs() -> Iterator[tuple[str, Image.Image]]:
    from skimage import data

    whole = {name: np.asarray(getattr(data, name)()) for name in PHOTOGRAPHS}
    brought = resources.files("sklearn.datasets.images")
    for name in SAMPLES:
        whole[name] = np.asarray(decode((brought / f"{name}.jpg").read_bytes()))
    for name, pixels in whole.items():
        picture = Image.fromarray(pixels).convert("RGB")
        yield f"{name}-whole", picture
        rng = Random(name)
        for number in range(CROPS):
            yield f"{name}-{number}", _crop(picture, rng)


def _crop(picture: Image.Image, rng: Random) -> Image.Image:
    width, height = (max(32, round(side * rng.uniform(0.35, 0.7))) for side in picture.size)
    left = rng.randint(0, max(0, picture.width - width))
    top = rng.randint(0, max(0, picture.height - height))
    return picture.crop((left, top, left + width, top + height))


def _encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def _draw_all(folder: Path) -> None:
    with new_folder(folder) as new:
        for name, content in neither_pictures():
            (new / f"{name}.jpg").write_bytes(content)


def neither_folder(data_dir: Path, classes: Classes) -> list[Path]:
    """The same pictures as files below `data_dir`, drawn when they are not there yet.

    Left out are those whose names say that they show one of the classes, a flower say.

    Raises:
        CatdogError: the folder can't be written.
    """
    folder = data_dir / f"neither-{RECIPE}"
    with disk_errors(folder):
        if not folder.is_dir():
            data_dir.mkdir(parents=True, exist_ok=True)
            with FileLock(data_dir / f".{folder.name}.lock"):
                if not folder.is_dir():
                    _draw_all(folder)
    return [path for path in sorted(folder.iterdir()) if not label_of(path.name, classes)]
