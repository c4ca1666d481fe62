"""Fixtures that draw what tests need: nothing is downloaded, nothing is shared between tests."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from PIL import Image, ImageDraw

import catdog  # noqa: F401  which keeps MLflow to itself, so it comes before MLflow

if TYPE_CHECKING:
    from catdog.inference.classifier import Classifier

pytest_plugins = ["tests.browser", "tests.kaggle_server"]

ROOT = Path(__file__).resolve().parents[1]

COLOURS = {"cat": (200, 60, 40), "dog": (40, 60, 200)}
"""A tiny picture's class shows in its colour, so that a head learns it in a few steps."""

OTHER_COLOURS = {"ant": (40, 160, 60), "bee": (220, 60, 200)}
"""Those of another pair."""


# In CI the same examples each time: what fails there fails of the change, and not of chance.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")


def tiny_picture(name: str, seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A picture of the class's colour with a few seeded blots on it."""
    rng = random.Random(f"{name}{seed}")
    colour = tuple(channel + rng.randrange(-25, 25) for channel in (COLOURS | OTHER_COLOURS)[name])
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


def tiny_classifier() -> Classifier:
    """A classifier with a small random backbone, fitted to the colours of tiny pictures."""
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression

    from catdog.data.images import to_tensor
    from catdog.data.transforms import evaluation_transform
    from catdog.evaluation.novelty import NoveltyDetector
    from catdog.inference.classifier import Classifier, ScoringHead
    from catdog.inference.prediction import About
    from catdog.models.engine import pick_engine
    from catdog.models.network import build_network
    from catdog.training.loop import seed_everything

    seed_everything(0)
    network = build_network("test_resnet", weights="none").eval()
    engine = pick_engine(network, cores=1)
    transform = evaluation_transform(network.preprocessing)
    photos = [encoded(tiny_picture(name, seed)) for name in COLOURS for seed in range(100, 120)]
    pixels = torch.stack([transform(to_tensor(photo)) for photo in photos])
    features = engine.compute(pixels)
    labels = np.repeat([0, 1], 20)
    fitted = LogisticRegression(C=1e4, max_iter=2000).fit(features, labels)
    with torch.no_grad():
        network.head.linear.weight.copy_(torch.from_numpy(fitted.coef_))
        network.head.linear.bias.copy_(torch.from_numpy(fitted.intercept_))
    about = About("test_resnet", "pets", "sample:seed=0", 3, 0.75, 1.5, 0.01)
    known = torch.from_numpy(features)
    novelty = NoveltyDetector.fit(known[::2], known[1::2])
    head = ScoringHead(network.head.linear.weight[0], network.head.linear.bias, novelty)
    return Classifier(about, network.preprocessing, engine, head, network.eval)


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    """A tiny classifier for all tests that ask; not to be changed."""
    return tiny_classifier()


@pytest.fixture(autouse=True)
def store_uri(tmp_path, monkeypatch):
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
        # Else the next test's runs would have to be of this one's experiment.
        mlflow.tracking.fluent._active_experiment_id = None


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """The lines that catdog logs while inside, as they come."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("catdog")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The lines that catdog has logged in the test."""
    with heard() as lines:
        yield lines


def child_environment(**extra: str) -> dict[str, str]:
    """The environment of a process that runs our code from whatever folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **extra}


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long anybody wanted to sleep between tries; nobody does."""
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


@pytest.fixture(scope="session")
def store_with_tables(tmp_path_factory) -> Path:
    """A SQLite store with MLflow's tables and nothing in them: they take seconds to make."""
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    engine = create_sqlalchemy_engine(f"sqlite:///{path}")
    _initialize_tables(engine)
    engine.dispose()
    return path


@pytest.fixture
def tracking_store(tmp_path, store_uri, store_with_tables) -> str:
    """The URI of the test's own store, which has its tables."""
    shutil.copy(store_with_tables, tmp_path / "mlflow.db")
    return store_uri


@pytest.fixture
def logged_model(tmp_path, tracking_store) -> str:
    """The URI of a model that is logged in the store and holds no more than its description."""
    import mlflow

    mlflow.set_tracking_uri(tracking_store)
    saved = tmp_path / "classifier"
    saved.mkdir()
    (saved / "model.json").write_text("{}")
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="model",
            loader_module="catdog.inference.classifier",
            data_path=str(saved),
            pip_requirements=["mlflow"],
        )
    return info.model_uri


@pytest.fixture(scope="session")
def draw_folder() -> Callable[..., Path]:
    """A function that fills folder/{cat,dog} with `count` tiny pictures each, or other `names`."""

    def draw(
        folder: Path, count: int = 6, *, start: int = 0, names: Iterable[str] = COLOURS
    ) -> Path:
        for name in names:
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browsers and real photos are slow, and set apart."""
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.slow)
            # It shares the machine's few cores, so it gets a second chance.
            item.add_marker(pytest.mark.flaky(reruns=2))
        if "photos" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
