"""Fixtures that draw what tests need: nothing is downloaded, nothing is shared between tests."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from PIL import Image, ImageDraw

from tests.kaggle_server import KaggleServer

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from selenium.webdriver.remote.webdriver import WebDriver

    from catdog.inference.classifier import Classifier
    from tests.project import Project

ROOT = Path(__file__).resolve().parents[1]

COLOURS = {"cat": (200, 60, 40), "dog": (40, 60, 200)}
"""A tiny picture's class shows in its colour, so that a head learns it in a few steps."""

OTHER_COLOURS = {"ant": (40, 160, 60), "bee": (220, 60, 200)}
"""Those of another pair."""

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
)

SCROLLED_SIDEWAYS = """
return [...document.querySelectorAll("html, html *")]
  .filter((element) => element.scrollWidth > element.clientWidth + 1)
  .filter((element) => element === document.documentElement
    || ["auto", "scroll"].includes(getComputedStyle(element).overflowX))
  .map((element) => element.className);
"""
"""Classes of what can be scrolled sideways in a page, the page itself among it."""

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

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
    from catdog.inference.classifier import Classifier
    from catdog.inference.head import ScoringHead
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
def empty_home(tmp_path, monkeypatch) -> Path:
    """An empty home: nobody's own Kaggle token is ever used."""
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def kaggle(empty_home, monkeypatch) -> Iterator[KaggleServer]:
    """Kaggle, on loopback, with the user logged in by a token and 3 MB to download."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(3):
            archive.writestr(f"train/cat.{number}.jpg", random.Random(number).randbytes(1_000_000))
    with KaggleServer(stream.getvalue()) as state:
        point_kaggle_client_to(state.url, monkeypatch)
        monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_planted_0123456789")
        yield state


def point_kaggle_client_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Kaggle's client in this process talk to `url`."""
    from kagglesdk import kaggle_env

    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, url)


PLANTED = {"KAGGLE_API_TOKEN": "KGAT_planted_0123456789", "KAGGLE_KEY": "planted9876543210"}
"""Kaggle credentials that must be found nowhere."""

REDIRECT = """
import importlib.util, os
if "TEST_KAGGLE_URL" in os.environ and importlib.util.find_spec("kagglesdk"):
    from kagglesdk import kaggle_env
    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.LOCAL] = os.environ["TEST_KAGGLE_URL"]
"""
"""Run by each Python process that finds it as sitecustomize.py."""


@dataclass(frozen=True)
class TwoAtOnce:
    """Two `mlflow run` that were started together in one project, and how they ended."""

    project: Project
    server: KaggleServer
    ended: list[subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def two_at_once(tmp_path_factory) -> Iterator[TwoAtOnce]:
    """Two runs that download the same data set with planted credentials."""
    from tests.project import copied

    root = tmp_path_factory.mktemp("two")
    project = copied(root)
    with contextlib.chdir(root):  # two that make MLflow's tables at once fail within MLflow
        project.client.search_experiments()
    (root / "site").mkdir()
    (root / "site" / "sitecustomize.py").write_text(REDIRECT)
    (root / "home" / ".kaggle").mkdir()
    login = {"username": "somebody", "key": PLANTED["KAGGLE_KEY"]}
    (root / "home" / ".kaggle" / "kaggle.json").write_text(json.dumps(login))
    (root / "home" / ".kaggle" / "kaggle.json").chmod(0o600)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in COLOURS:
            for number in range(6):
                photo = encoded(tiny_picture(name, number))
                archive.writestr(f"train/{name}.{number}.jpg", photo)
    with KaggleServer(stream.getvalue()) as server:
        environment = project.environment(
            KAGGLE_API_ENVIRONMENT="LOCALHOST",
            KAGGLE_API_TOKEN=PLANTED["KAGGLE_API_TOKEN"],
            TEST_KAGGLE_URL=server.url,
            PYTHONPATH=f"{root}{os.pathsep}{root / 'site'}",
        )
        wanted = [
            "dataset=kaggle:somebody/pets",
            "backbone=test_resnet",
            "weights=none",
            "epochs=2",
        ]
        command = ["mlflow", "run", ".", "--env-manager=local"]
        command += [word for pair in wanted for word in ("-P", pair)]
        both = []
        for _ in range(2):
            both.append(
                subprocess.Popen(
                    command,
                    cwd=root,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        shown = [process.communicate(timeout=400) for process in both]
        ended = [
            subprocess.CompletedProcess(process.args, process.returncode, *texts)
            for process, texts in zip(both, shown, strict=True)
        ]
        yield TwoAtOnce(project, server, ended)


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


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    """Spark on this machine, with two workers."""
    from catdog.serving.spark import spark_session

    with spark_session("local[2]") as session:
        yield session


@pytest.fixture
def photos() -> Path:
    """The archive of real photos; the test is skipped where CATDOG_PHOTOS names none."""
    named = os.environ.get("CATDOG_PHOTOS", "")
    if not named or not Path(named).is_file():
        pytest.skip("set CATDOG_PHOTOS to a Kaggle-shaped archive of real photos")
    return Path(named).resolve()


@pytest.fixture
def chromium(tmp_path) -> Iterator[WebDriver]:
    """A browser without a window; the test is skipped where none is installed."""
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip("needs chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    profile = tmp_path / "profile"
    for flag in [*CHROMIUM_FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    browser.implicitly_wait(20)
    yield browser
    browser.quit()
    shutil.rmtree(profile, ignore_errors=True)


def as_phone(browser: WebDriver) -> None:
    """Give the browser the screen of a phone, 390 pixels wide."""
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)


COSTLY = {"project", "trained", "here", "unbroken", "spark", "page", "server", "two_at_once"}
"""Fixtures that take long to make: of two processes that test, one makes and uses each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together who shares a costly fixture; set browsers and real photos apart."""
    for item in items:
        used = COSTLY & set(getattr(item, "fixturenames", ()))
        if used:
            group = "two_at_once" if "two_at_once" in used else item.module.__name__
            item.add_marker(pytest.mark.xdist_group(group))
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.slow)
            # It shares the machine's few cores, so it gets a second chance.
            item.add_marker(pytest.mark.flaky(reruns=2))
        if "photos" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
