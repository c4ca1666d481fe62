"""The feature pass and predicting at two commits, in turns: is the later one slower?

    git worktree add /tmp/before COMMIT
    python benchmarks/two_commits.py ARCHIVE --before /tmp/before [--count 500] [--rounds 5]

The earlier commit trains and saves a model, which both then load and answer with. Seconds are of
processors, all threads together, the least of the rounds: they tell on a busy machine, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

NOW = Path(__file__).resolve().parents[1]

CHILD = """
import hashlib, json, sys, tempfile, time
from pathlib import Path
from catdog.inference.classifier import Classifier
from catdog.inference.inputs import Photo, find_photos
from catdog.training import features
try:
    from catdog.data.dataset import Picture
    from catdog.training.feature_cache import FeatureCache
except ImportError:
    Picture, FeatureCache = features.Picture, features.FeatureCache

model, folder = sys.argv[1:]
classifier = Classifier.load(Path(model), device="cpu")
paths = sorted(Path(folder).glob("*.jpg"))
pictures = [Picture(path, 0, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]
names = [str(path) for path in paths]
network = classifier.network()
list(classifier.stream(find_photos(names[:20]), Photo.read))
start = time.process_time()
answers = [a.p_positive for _, a in classifier.stream(find_photos(names), Photo.read)]
predicted = time.process_time()
with tempfile.TemporaryDirectory() as scratch:
    features.extract(pictures, network, classifier.engine, FeatureCache(Path(scratch)))
passed = time.process_time()
print(json.dumps([predicted - start, passed - predicted, answers]))
"""

TRAIN = """
import sys
from pathlib import Path
from catdog.registry.versions import fetch
from catdog.tracking import store
store.connect()
print(fetch("models:/catdog/Production"))
"""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    archive: tyro.conf.Positional[Path]
    before: Path
    count: int = 500
    rounds: int = 5


def main(options: Options) -> None:
    """Train at the earlier commit, measure both, and print a table."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = _train(options, folder)
        photos = folder / "photos"
        photos.mkdir()
        found = sorted((folder / "data").glob("*/*/*/*.jpg"))
        for number, path in enumerate(found[: options.count]):
            (photos / f"{number}.jpg").hardlink_to(path)
        trees = {"before": options.before, "now": NOW}
        rounds = [
            {name: _measure(tree, model, photos) for name, tree in trees.items()}
            for _ in range(options.rounds)
        ]
    count = len(rounds[0]["now"][2])
    print("| | before, s | now, s | now / before |\n|---|---|---|---|")
    for place, what in enumerate(("predict", "feature pass")):
        before, now = (min(each[name][place] for each in rounds) for name in trees)
        print(f"| {what}, {count} photos | {before:.2f} | {now:.2f} | {now / before:.3f} |")
    pairs = zip(rounds[0]["before"][2], rounds[0]["now"][2], strict=True)
    print(f"\nAnswers of the same model differ by {max(abs(a - b) for a, b in pairs):.1e} at most.")


def _train(options: Options, folder: Path) -> str:
    script = str(options.before / "scripts" / "main.py")
    arguments = ["--dataset", str(options.archive.resolve()), "--epochs", "3"]
    _run(options.before, folder, script, *arguments)
    return _run(options.before, folder, "-c", TRAIN).splitlines()[-1]


def _measure(tree: Path, model: str, photos: Path) -> tuple[float, float, list[float]]:
    predicting, passing, answers = json.loads(
        _run(tree, photos, "-c", CHILD, model, str(photos)).splitlines()[-1]
    )
    return predicting, passing, answers


def _run(tree: Path, folder: Path, *arguments: str) -> str:
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return ended.stdout


if __name__ == "__main__":
    main(tyro.cli(Options, use_underscores=True))
