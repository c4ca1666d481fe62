"""How much the audit finds of what was planted in real photos, and how long it takes.

    python benchmarks/audit.py ARCHIVE [--rounds 3] [--wrong 0.02] [--twins 40]

In each round 2 % of the labels are turned, and of as many photos as `--twins` says copies of
each kind below are added to the other side of the split. The features of the photos are
computed once. The photos themselves are never written to.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageOps

from catdog import CLASSES
from catdog.config import PrepareConfig
from catdog.data import images
from catdog.data.dataset import TRAINING, VALIDATION, Picture, PreparedDataset, load_dataset
from catdog.data.prepare import prepare
from catdog.data.sources import Source
from catdog.evaluation.audit import NEAR_DUPLICATE, find_issues, other_label_probability
from catdog.evaluation.slices import Look, look_at_all
from catdog.models.engine import Features, pick_engine
from catdog.models.network import build_network
from catdog.training.feature_cache import FeatureCache
from catdog.training.features import extract


@dataclass(frozen=True)
class Options:
    """What to plant. `archive` may also be a folder that scripts/prepare.py made."""

    archive: tyro.conf.Positional[Path]
    rounds: int = 3
    wrong: float = 0.02
    twins: int = 40


@dataclass(frozen=True)
class Photos:
    """Prepared photos, N of them, as the audit sees them; `held` are of the validation."""

    pictures: list[Picture]
    labels: np.ndarray
    held: np.ndarray
    features: Features
    looks: list[Look]


Change = Callable[[Image.Image], bytes]
Compute = Callable[[Sequence[Picture]], Features]


def main(options: Options) -> None:
    """Plant and look for it, round by round, and print a table."""
    with tempfile.TemporaryDirectory() as scratch:
        network = build_network("tf_efficientnet_lite0").eval()
        engine = pick_engine(network, cores=2)
        cache = FeatureCache(Path(scratch) / "features")

        def compute(pictures: Sequence[Picture]) -> Features:
            return extract(list(pictures), network, engine, cache)[0][0]

        photos = _photos(_prepared(options.archive, Path(scratch)), compute)
        print(f"{len(photos.labels):,} photos, {photos.held.sum():,} of them held back\n")
        print("| planted | found | share |\n|---|---:|---:|")
        _wrong_labels(photos, options)
        _twins(photos, options, compute, Path(scratch))


def _prepared(archive: Path, scratch: Path) -> PreparedDataset:
    if archive.is_dir():
        return load_dataset(archive)
    source = Source("photos", "path", archive, "here")
    return prepare(source, PrepareConfig(data_dir=str(scratch)))


def _photos(prepared: PreparedDataset, compute: Compute) -> Photos:
    rows = prepared.rows(TRAINING) + prepared.rows(VALIDATION)
    pictures = prepared.pictures(TRAINING, VALIDATION)
    return Photos(
        pictures,
        np.array([picture.label for picture in pictures]),
        np.array([row["split"] == VALIDATION for row in rows]),
        compute(pictures),
        look_at_all([picture.path for picture in pictures]),
    )


def _wrong_labels(photos: Photos, options: Options) -> None:
    """Print how many of the turned labels stand in the first part of the list, twice as long."""
    count = round(options.wrong * len(photos.labels))
    found = []
    for seed in range(options.rounds):
        planted = np.random.default_rng(seed).choice(len(photos.labels), count, replace=False)
        labels = photos.labels.copy()
        labels[planted] ^= 1
        first = np.argsort(-other_label_probability(photos.features, labels))[: 2 * count]
        found.append(int(np.isin(planted, first).sum()))
    print(
        f"| wrong labels ({options.wrong:.0%}), among the first {2 * options.wrong:.0%}, "
        f"{options.rounds} rounds | {sum(found)} of {count * options.rounds} "
        f"| {sum(found) / count / options.rounds:.1%} |"
    )


def _twins(photos: Photos, options: Options, compute: Compute, scratch: Path) -> None:
    """Print how many copies of each kind are found, and what is called a twin and is none."""
    count = len(photos.labels)
    learned = np.flatnonzero(~photos.held)
    chosen = np.random.default_rng(1).choice(learned, options.twins, replace=False)
    planted = [(name, int(place)) for name in CHANGES for place in chosen]
    pictures = list(_planted(photos, planted, scratch))
    looks = photos.looks + look_at_all([picture.path for picture in pictures])
    features = np.concatenate([photos.features, compute(pictures)])
    labels = np.append(photos.labels, [picture.label for picture in pictures])
    held = np.append(photos.held, np.ones(len(planted), dtype=bool))
    rows = [
        {"path": str(number), "label": CLASSES[label], "sha256": str(number)}
        | {"split": VALIDATION if is_held else TRAINING}
        for number, (label, is_held) in enumerate(zip(labels, held, strict=True))
    ]
    start = time.perf_counter()
    issues = find_issues(rows, features, looks)
    seconds = time.perf_counter() - start
    pairs = {(int(i.path), int(i.detail)) for i in issues if i.issue == NEAR_DUPLICATE}
    right = {(place, count + number) for number, (_, place) in enumerate(planted)}
    for name in CHANGES:
        found = sum(planted[theirs - count][0] == name for _, theirs in pairs & right)
        print(f"| twins: {name} | {found} of {len(chosen)} | {found / len(chosen):.1%} |")
    false = {theirs for _, theirs in pairs - right}
    print(
        f"| nothing: held back pictures that are called a twin of another photo "
        f"| {len(false)} of {int(held.sum())} | {len(false) / held.sum():.2%} |"
    )
    print(f"\nAll issues of {len(rows):,} pictures with features and looks: {seconds:.1f} s")


def _planted(
    photos: Photos, planted: Iterable[tuple[str, int]], scratch: Path
) -> Iterable[Picture]:
    for number, (name, place) in enumerate(planted):
        content = CHANGES[name](images.decode(photos.pictures[place].path.read_bytes()))
        path = scratch / f"twin-{number}.jpg"
        path.write_bytes(content)
        yield Picture(path, int(photos.labels[place]), hashlib.sha256(content).hexdigest())


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _scaled(picture: Image.Image, scale: float) -> Image.Image:
    size = [max(8, round(side * scale)) for side in picture.size]
    return picture.resize(size, Image.Resampling.BICUBIC)


CHANGES: dict[str, Change] = {
    "quality 90": lambda it: _jpeg(it, 90),
    "quality 10": lambda it: _jpeg(it, 10),
    "half as wide": lambda it: _jpeg(_scaled(it, 0.5), 85),
    "a quarter as wide": lambda it: _jpeg(_scaled(it, 0.25), 75),
    "twice as wide": lambda it: _jpeg(_scaled(it, 2), 85),
    "pressed into a square": lambda it: _jpeg(it.resize((224, 224)), 85),
    "mirrored": lambda it: _jpeg(ImageOps.mirror(it), 85),
    "upside down": lambda it: _jpeg(ImageOps.flip(it), 85),
    "turned by 180 degrees": lambda it: _jpeg(it.rotate(180), 85),
    "mirrored, 0.3 as wide, quality 30": lambda it: _jpeg(_scaled(ImageOps.mirror(it), 0.3), 30),
    "upside down, 0.2 as wide, quality 30": lambda it: _jpeg(_scaled(ImageOps.flip(it), 0.2), 30),
}


if __name__ == "__main__":
    main(tyro.cli(Options))
