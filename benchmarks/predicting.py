"""Predicting beside the feature pass, and how long the first answer of a cold start takes.

    python benchmarks/predicting.py ARCHIVE [--count 2000] [--repeats 3]

A model is trained on the archive first. Predicting is timed from the paths of photos to their
answers, the feature pass from the same files to features, in turns; a cold start is a process of
its own that labels one photo, with the model named as in the registry, and as a folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from catdog import pipeline
from catdog.config import PrepareConfig, TrainConfig
from catdog.data.dataset import PreparedDataset
from catdog.data.prepare import prepare
from catdog.data.sources import Source
from catdog.inference.classifier import Classifier
from catdog.inference.inputs import Photo, find_photos
from catdog.registry.versions import fetch
from catdog.tracking import store
from catdog.tracking.run import start_run
from catdog.training.feature_cache import FeatureCache
from catdog.training.features import extract

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "predict.py"


@dataclass(frozen=True)
class Measured:
    """What to measure."""

    archive: tyro.conf.Positional[str]
    count: int = 2000
    repeats: int = 3


def main(options: Measured) -> None:
    """Train, measure, and print a table."""
    archive = Path(options.archive).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{scratch}/mlflow.db"
        os.chdir(scratch)
        prepared = prepare(Source("x", "path", archive, ""), PrepareConfig(data_dir=scratch))
        store.connect()
        with start_run("benchmark") as run:
            pipeline.train_and_register(TrainConfig(data_dir=scratch), prepared, run)
        saved = fetch("models:/catdog/Production")
        stages = _stages(Classifier.load(saved, device="cpu"), prepared, options.count)
        best = dict.fromkeys(stages, float("inf"))
        for _ in range(options.repeats):
            for name, stage in stages.items():
                best[name] = min(best[name], _timed(stage))
        photo = str(prepared.pictures("validation")[0].path)
        cold = {
            f"cold start, {name}": min(
                _timed(lambda uri=uri: _one_photo(uri, photo)) for _ in range(options.repeats)
            )
            for name, uri in (("registry", "models:/catdog/Production"), ("folder", str(saved)))
        }
        os.chdir("/")
    _print_table(best | cold, options.count)


def _stages(
    classifier: Classifier, prepared: PreparedDataset, count: int
) -> dict[str, Callable[[], object]]:
    pictures = prepared.pictures("training", "validation")[:count]
    names = [str(picture.path) for picture in pictures]

    def feature_pass() -> None:
        with tempfile.TemporaryDirectory() as folder:
            cache = FeatureCache(Path(folder))
            extract(pictures, classifier.network(), classifier.engine, cache)

    def predicting() -> None:
        for _ in classifier.stream(find_photos(names), Photo.read):
            pass

    return {"feature pass": feature_pass, "predict": predicting}


def _one_photo(uri: str, photo: str) -> None:
    command = [sys.executable, str(SCRIPT), "--model-uri", uri, photo]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _print_table(seconds: dict[str, float], count: int) -> None:
    print("| | seconds | photos/s | times the feature pass |")
    print("|---|---|---|---|")
    for name, value in seconds.items():
        many = name in ("feature pass", "predict")
        speed = f"{count / value:.0f}" if many else ""
        ratio = f"{value / seconds['feature pass']:.2f}" if many else ""
        print(f"| {name} | {value:.2f} | {speed} | {ratio} |")


if __name__ == "__main__":
    main(tyro.cli(Measured, use_underscores=True))
