"""Cats and dogs drawn by ourselves: pictures to train on without an account or a network.

In: a seed. Out: folder/train/{cat,dog}.N.jpg and folder/test/N.jpg, named as Kaggle names
its own.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from filelock import FileLock

from catdog import CLASSES, CatdogError, __version__
from catdog.files import new_folder
from catdog.sample.drawing import draw_animal

RECIPE_NAME = ".drawn.json"


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
        CatdogError: the folder cannot be written, the disk is full, or something other
            than a drawn sample is already there.
    """
    recipe = {"version": __version__, "seed": seed, "count": count, "test_count": test_count}
    if _is_finished(folder, recipe):
        return folder  # before anything is written, as it may lie where nothing can be
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not _is_finished(folder, recipe):
                _check_is_ours(folder)
                with new_folder(folder) as new:
                    _fill(new, recipe)
    except OSError as error:
        remedy = "free some space or " if error.errno == errno.ENOSPC else ""
        raise CatdogError(
            f"cannot write the drawn sample to {folder} ({error.strerror or error}): "
            f"{remedy}choose another with --data_dir"
        ) from error
    return folder


def _is_finished(folder: Path, recipe: dict[str, Any]) -> bool:
    try:
        drawn = json.loads((folder / RECIPE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return drawn == recipe and all((folder / name).is_file() for name, *_ in _plan(recipe))


def _plan(recipe: dict[str, Any]) -> Iterator[tuple[str, int, Random]]:
    """Yield each picture's name, label and own source of randomness."""
    for index in range(recipe["count"]):
        label = index % len(CLASSES)
        name = f"train/{CLASSES[label]}.{index // len(CLASSES)}.jpg"
        yield name, label, Random(f"{recipe['seed']}/train/{index}")
    for index in range(1, recipe["test_count"] + 1):
        rng = Random(f"{recipe['seed']}/test/{index}")
        yield f"test/{index}.jpg", rng.randrange(len(CLASSES)), rng


def _check_is_ours(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / RECIPE_NAME).exists():
        raise CatdogError(
            f"{folder} holds something other than a drawn sample: "
            "move it away, or choose another folder with --data_dir"
        )


def _fill(folder: Path, recipe: dict[str, Any]) -> None:
    for split in ("train", "test"):
        (folder / split).mkdir()
    for name, label, rng in _plan(recipe):
        with (folder / name).open("wb") as stream:
            draw_animal(label, rng).save(stream, "JPEG", quality=rng.randint(85, 92))
    (folder / RECIPE_NAME).write_text(json.dumps(recipe), encoding="utf-8")
