"""A challenger and the champion answer the same photos, of which neither has learned any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from catdog import CLASSES, CatdogError, Classes
from catdog.config import Promote
from catdog.data.classes import both, one
from catdog.data.dataset import Picture
from catdog.evaluation.calibration import Labels, Logits, cross_fitted
from catdog.evaluation.comparison import Paired, compare_answers
from catdog.evaluation.metrics import metrics_of
from catdog.inference.classifier import Classifier
from catdog.registry import versions
from catdog.registry.promotion import (
    AT_LEAST,
    Candidate,
    Champion,
    Decision,
    decide,
    refusal,
)
from catdog.registry.versions import ModelVersion, number_of
from catdog.training.feature_cache import open_cache
from catdog.training.features import extract


@dataclass(frozen=True)
class Answers:
    """One model's calibrated logits `(N,)` for N photos, and which of them it learned from.

    `learned` is `(N,)`; None where that is not known. `classes` are what it tells apart.
    """

    logits: Logits
    learned: NDArray[np.bool_] | None
    classes: Classes = CLASSES


@dataclass(frozen=True)
class Comparison:
    """A champion and how a challenger compares with it, or why that can't be said.

    `metrics` are the champion's, by name with `val_` before them, on those of the photos that it
    has not learned from, of which there are `count`.
    """

    champion: ModelVersion | None
    evidence: Paired | str = "there was no need to compare"
    metrics: Mapping[str, float] = field(default_factory=dict)
    count: int = 0

    def table(self) -> str:
        """The figures of the comparison as a table in Markdown; "" where there are none."""
        if self.champion is None or isinstance(self.evidence, str):
            return ""
        told = self.evidence
        points = [
            100 * value for value in (told.accuracy, told.accuracy_ci_low, told.accuracy_ci_high)
        ]
        nats = (told.log_loss, told.log_loss_ci_low, told.log_loss_ci_high)
        rows = [
            ("photos that neither learned from", f"{told.count:,}"),
            ("put right, made wrong", f"{told.fixed:,}, {told.broken:,}"),
            ("accuracy, points", "{:+.2f} ({:+.2f} to {:+.2f})".format(*points)),
            ("McNemar's p", f"{told.p_value:.2g}"),
            ("log-loss", "{:+.4f} ({:+.4f} to {:+.4f})".format(*nats)),
        ]
        head = f"| against version {self.champion.version} | difference (95 %) |\n|---|---|\n"
        return head + "".join(f"| {name} | {value} |\n" for name, value in rows)


NOT_COMPARED = Comparison(None)


def judge(
    candidate: Candidate | None,
    champion: ModelVersion | None,
    compare: Callable[[ModelVersion], Comparison],
    *,
    promote: Promote = "auto",
    margin: float,
) -> tuple[Decision, Comparison]:
    """What the rule says of a candidate, which is compared with the champion where that counts."""
    now, comparison = as_champion(champion), Comparison(champion)
    if champion is not None and refusal(candidate, now) is None:
        comparison = compare(champion)
    return decide(candidate, now, comparison.evidence, promote=promote, margin=margin), comparison


def as_champion(version: ModelVersion | None) -> Champion | None:
    """What the rule needs to know of the version that serves."""
    if version is None:
        return None
    return Champion(number_of(version), Candidate.from_tags(version.tags))


def compare_with_champion(
    champion: ModelVersion,
    challenger: Answers,
    pictures: Sequence[Picture],
    data_dir: Path,
    *,
    digest: str = "",
    seed: int = 0,
) -> Comparison:
    """Let the champion answer the pictures that the challenger has answered, and compare.

    `digest` is of the pictures, where they are a validation set as a whole.
    """
    try:
        folder = versions.fetch(versions.uri_of(champion))
        classifier = Classifier.load(folder, device="cpu")
        if classifier.about.classes != challenger.classes:
            return Comparison(champion, f"it tells {both(classifier.about.classes)} apart")
        own = is_own_validation(champion, digest)
        theirs = answers_of(classifier, pictures, data_dir, own=own)
    except CatdogError as error:
        return Comparison(champion, f"it can't be used any more ({str(error).rstrip('.')})")
    labels = np.array([picture.label for picture in pictures])
    evidence = compare_fairly(labels, theirs, challenger, seed=seed)
    if theirs.learned is None:
        return Comparison(champion, evidence)
    fresh = ~theirs.learned
    if np.bincount(labels[fresh], minlength=2).min() == 0:
        return Comparison(champion, evidence)
    metrics = metrics_of(labels[fresh], theirs.logits[fresh], prefix="val_", seed=seed)
    return Comparison(champion, evidence, metrics, int(fresh.sum()))


def is_own_validation(version: ModelVersion, digest: str) -> bool:
    """Whether the pictures of a digest are those that a version was validated on."""
    return bool(digest) and version.tags.get("validation_digest") == digest


def answers_of(
    classifier: Classifier, pictures: Sequence[Picture], data_dir: Path, *, own: bool = False
) -> Answers:
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
    return Answers(calibrated, learned, classifier.about.classes)


def compare_fairly(
    labels: Labels, champion: Answers, challenger: Answers, *, seed: int
) -> Paired | str:
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
