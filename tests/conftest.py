"""Fixtures that draw what tests need: nothing is downloaded, nothing is shared between tests."""

from __future__ import annotations

import io
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]

COLOURS = {"cat": (200, 60, 40), "dog": (40, 60, 200)}
"""A tiny picture's class shows in its colour, so that a head learns it in a few steps."""

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def tiny_picture(name: str, seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A picture of the class's colour with a few seeded blots on it."""
    rng = random.Random(f"{name}{seed}")
    colour = tuple(channel + rng.randrange(-25, 25) for channel in COLOURS[name])
    picture = Image.new("RGB", size, colour)
    pen = ImageDraw.Draw(picture)
    for _ in range(4):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        pen.ellipse((x, y, x + 6, y + 6), fill=tuple(rng.randrange(256) for _ in range(3)))
    return picture


def encoded(picture: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    """The picture as the bytes of a file."""
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def tracking_store(tmp_path, monkeypatch):
    """A store of the test's own, named by MLFLOW_TRACKING_URI; made when first used."""
    for name in ("RUN_ID", "EXPERIMENT_ID", "EXPERIMENT_NAME", "REGISTRY_URI"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    yield uri
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None:
        mlflow.end_run()
        mlflow.set_tracking_uri(None)


@pytest.fixture
def draw_folder() -> Callable[..., Path]:
    """A function that fills folder/{cat,dog} with `count` tiny pictures each."""

    def draw(folder: Path, count: int = 6, *, start: int = 0) -> Path:
        for name in COLOURS:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in range(start, start + count):
                tiny_picture(name, number).save(folder / name / f"{number}.jpg", quality=90)
        return folder

    return draw


@pytest.fixture
def photos() -> Path:
    """The archive of real photos; the test is skipped where CATDOG_PHOTOS names none."""
    named = os.environ.get("CATDOG_PHOTOS", "")
    if not named or not Path(named).is_file():
        pytest.skip("set CATDOG_PHOTOS to a Kaggle-shaped archive of real photos")
    return Path(named).resolve()
