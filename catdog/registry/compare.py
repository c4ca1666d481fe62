"""A challenger and the champion answer the same photos, of which neither has learned any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from catdog import CLASSES, CatdogError, Classes
from catdog.data.classes import both, one
from catdog.data.dataset import Picture
from catdog.evaluation.calibration import Labels, Logits, cross_fitted
from catdog.evaluation.comparison import Paired, compare_answers
from catdog.evaluation.metrics import metrics_of
from catdog.inference.classifier import Classifier
from catdog.registry import versions
from catdog.registry.promotion import AT_LEAST
from catdog.training.feature_cache import open_cache
from catdog.training.features import extract


@dataclass(frozen=True)
class Side:
    """One who answers: its calibrated logits `(N,)` for N photos, and which it learned from.

    `learned` is `(N,)`; None where that is not known. `classes` are what it tells apart.
    """

    logits: Logits
    learned: NDArray[np.bool_] | None
    classes: Classes = CLASSES


@dataclass(frozen=True)
class Contest:
    """A champion and how a challenger compares with it, or why that can't be said.

    `metrics` are the champion's, by name with `val_` before them, on those of the photos that it
    has not learned from, of which there are `count`.
    """

    champion: ModelVersion | None
    evidence: Paired | str = "there was no need to compare"
    metrics: Mapping[str, float] = field(default_factory=dict)
    count: int = 0


def hold(
    champion: ModelVersion,
    challenger: Side,
    pictures: Sequence[Picture],
    data_dir: Path,
    *,
    digest: str = "",
    seed: int = 0,
) -> Contest:
    """Let the champion answer the pictures that the challenger has answered, and compare.

    `digest` is of the pictures, where they are a validation set as a whole.

    Raises:
        CatdogError: a picture is gone, or the feature cache can't be written.
    """
    labels = np.array([picture.label for picture in pictures])
    theirs = _sit_version(champion, pictures, data_dir, digest=digest)
    if isinstance(theirs, str):
        return Contest(champion, theirs)
    if theirs.classes != challenger.classes:
        return Contest(champion, f"it tells {both(theirs.classes)} apart")
    evidence = compare_sides(labels, theirs, challenger, seed=seed)
    if theirs.learned is None:
        return Contest(champion, evidence)
    fresh = ~theirs.learned
    if np.bincount(labels[fresh], minlength=2).min() == 0:
        return Contest(champion, evidence)
    metrics = metrics_of(labels[fresh], theirs.logits[fresh], prefix="val_", seed=seed)
    return Contest(champion, evidence, metrics, int(fresh.sum()))


def sit(
    classifier: Classifier, pictures: Sequence[Picture], data_dir: Path, *, own: bool = False
) -> Side:
    """Let a classifier answer, from the features that are there or that it computes now.

    Where the pictures are its `own` validation, which set its temperature, each is answered with
    the temperature that the others set: no photo has a say in how it is judged.

    Raises:
        CatdogError: a picture is gone, or the cache can't be written.
    """
    network = classifier.network()
    cache = open_cache(data_dir, network)
    features, _ = extract(pictures, network, classifier.engine, cache)
    logits = classifier.head.logits(torch.from_numpy(features[0])).numpy()
    labels = np.array([picture.label for picture in pictures])
    learned = classifier.learned_from(picture.sha256 for picture in pictures)
    if own and learned is None:
        learned = np.zeros(len(pictures), dtype=bool)
    calibrated = cross_fitted(labels, logits) if own else logits / classifier.about.temperature
    return Side(calibrated, learned, classifier.about.classes)


def compare_sides(labels: Labels, champion: Side, challenger: Side, *, seed: int) -> Paired | str:
    """The comparison on the photos that neither learned from; a clause of why not, else."""
    if champion.learned is None or challenger.learned is None:
        return "which photos it learned from is not known"
    fresh = ~(champion.learned | challenger.learned)
    counts = np.bincount(labels[fresh], minlength=2)
    if counts.min() < AT_LEAST:
        each = zip(counts, champion.classes, strict=True)
        told = both(f"{n} of {one(name)}" for n, name in each)
        return f"of {len(labels):,} photos only {told} were learned by neither"
    return compare_answers(
        labels[fresh], champion.logits[fresh], challenger.logits[fresh], seed=seed
    )


def _sit_version(
    version: ModelVersion, pictures: Sequence[Picture], data_dir: Path, *, digest: str = ""
) -> Side | str:
    """The same for a registered version; a clause of why not, where it can't be used.

    `digest` is of the pictures: they are the version's own validation when it was of the same.
    """
    own = bool(digest) and version.tags.get("validation_digest") == digest
    try:
        folder = versions.fetch(f"models:/{version.name}/{version.version}")
        return sit(Classifier.load(folder, device="cpu"), pictures, data_dir, own=own)
    except CatdogError as error:
        return f"it can't be used any more ({str(error).rstrip('.')})"
