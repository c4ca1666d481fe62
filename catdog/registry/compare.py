"""A challenger and the champion answer the same photos, of which neither has learned any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from catdog import CatdogError
from catdog.data.dataset import Picture, if_readable
from catdog.data.images import upright_size
from catdog.evaluation.calibration import Labels, Logits, cross_fitted
from catdog.evaluation.comparison import Paired, compare_answers
from catdog.evaluation.metrics import metrics_of
from catdog.inference.classifier import Classifier
from catdog.registry import versions
from catdog.registry.promotion import AT_LEAST, GONE
from catdog.registry.versions import ModelVersion
from catdog.training.feature_cache import open_cache
from catdog.training.features import extract


@dataclass(frozen=True)
class Answers:
    """One model's calibrated logits `(N,)` for N photos, and which of them it learned from.

    `learned` is `(N,)`; None where that is not known.
    """

    logits: Logits
    learned: NDArray[np.bool_] | None


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


NOT_COMPARED = Comparison(None)


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

    `digest` is of the pictures, where they are a validation set as a whole. Those that can't be
    read any more are left out.
    """
    there = [i for i, it in enumerate(pictures) if if_readable(it.path, upright_size)]
    learned = None if challenger.learned is None else challenger.learned[there]
    challenger, pictures = Answers(challenger.logits[there], learned), [pictures[i] for i in there]
    try:
        folder = versions.fetch(versions.uri_of(champion))
        classifier = Classifier.load(folder, device="cpu")
        own = is_own_validation(champion, digest)
        theirs = answers_of(classifier, pictures, data_dir, own=own)
    except versions.FilesGoneError:
        return Comparison(champion, GONE)
    except CatdogError as error:
        return Comparison(champion, f"it can't be used any more ({str(error).rstrip('.')})")
    labels = np.array([picture.label for picture in pictures])
    evidence = compare_fairly(labels, theirs, challenger, seed=seed)
    fresh = np.zeros(len(labels), bool) if theirs.learned is None else ~theirs.learned
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
    return Answers(calibrated, learned)


def compare_fairly(
    labels: Labels, champion: Answers, challenger: Answers, *, seed: int
) -> Paired | str:
    """The comparison on the photos that neither learned from; a clause of why not, else."""
    if champion.learned is None or challenger.learned is None:
        return "which photos it learned from is not known"
    fresh = ~(champion.learned | challenger.learned)
    counts = np.bincount(labels[fresh], minlength=2)
    if counts.min() < AT_LEAST:
        return (
            f"of {len(labels):,} photos only {counts[0]} and {counts[1]} of the two kinds were "
            "learned by neither"
        )
    return compare_answers(
        labels[fresh], champion.logits[fresh], challenger.logits[fresh], seed=seed
    )
