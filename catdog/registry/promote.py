"""Who shall serve, asked by itself: compare a version now, name one, go back, or look back."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException

from catdog import CatdogError, Classes
from catdog.config import PromoteConfig
from catdog.data import images
from catdog.data.classes import both
from catdog.data.dataset import VALIDATION, Picture, load_dataset
from catdog.data.loaders import LabelledFolder
from catdog.data.sources import locate
from catdog.inference.classifier import Classifier
from catdog.inference.prediction import About
from catdog.registry import history, versions
from catdog.registry.compare import (
    Comparison,
    answers_of,
    compare_with_champion,
    is_own_validation,
    judge,
)
from catdog.registry.history import Event, promote_by_evidence
from catdog.registry.promotion import PRODUCTION, STATUS_TAG, Candidate, Decision
from catdog.registry.versions import ModelVersion, number_of, uri_of
from catdog.tracking import store

logger = logging.getLogger(__name__)

LATEST, NONE, AUTO = "latest", "none", "auto"
LONGEST = 500
"""Characters of a reason: it becomes a line of the history and part of a description."""


@dataclass(frozen=True)
class Outcome:
    """What was decided about a version, and whether it serves now (or would, in a dry run)."""

    version: ModelVersion
    decision: Decision

    @property
    def serves(self) -> bool:
        """Whether the version is in Production after this."""
        return self.decision.stage == PRODUCTION


def promote(config: PromoteConfig) -> Outcome:
    """Do what the parameters ask for.

    Raises:
        CatdogError: there is no such version, it may never serve, or the registry refuses.
    """
    store.connect()
    if config.rollback == "yes" and config.to != NONE:
        raise CatdogError("--to and --rollback name two versions: give one of them.")
    if len(config.because) > LONGEST:
        raise CatdogError(f"--because has more than {LONGEST} characters: say it shorter.")
    try:
        if config.rollback == "yes":
            return _back(config, config.because or "rolled back")
        if config.to != NONE:
            version = _named(config.name, config.to)
            return _by_name(config, version, config.because or "promoted by hand")
        return _by_evidence(config)
    except MlflowException as error:
        told = store.without_password(error.message)
        raise CatdogError(f"the model registry refused to promote {config.name}: {told}") from error


def history_table(events: Sequence[Event]) -> str:
    """One line for each promotion, the newest first, for people."""
    rows = [("when (UTC)", "version", "before", "by", "run", "why")]
    rows += [
        (
            f"{event.when:%Y-%m-%d %H:%M:%S}",
            event.version,
            event.before or "-",
            event.who,
            event.run_id[:8] or "-",
            event.why,
        )
        for event in reversed(events)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return "\n".join(
        "  ".join([*map(str.ljust, row[:-1], widths), row[-1]])  # the reason may be long
        for row in rows
    )


def _back(config: PromoteConfig, why: str) -> Outcome:
    if config.dry_run == "no":
        return Outcome(*history.roll_back(config.name, why))
    return _by_name(config, history.predecessor(config.name), why)


def _by_name(config: PromoteConfig, version: ModelVersion, why: str) -> Outcome:
    if config.dry_run == "no":
        return Outcome(version, history.promote_to(version, why))
    return Outcome(version, history.may_not_serve(version) or Decision(PRODUCTION, why))


def _by_evidence(config: PromoteConfig) -> Outcome:
    version = _challenger(config)
    champion = versions.champion(config.name)
    candidate = Candidate.from_tags(version.tags)
    if number_of(champion) == number_of(version):
        return Outcome(version, Decision(PRODUCTION, "it is in Production already"))
    if candidate is not None and candidate.status == "pending":
        raise CatdogError(
            f"version {version.version} of {version.name} was never seen to answer as its training "
            f"did, or its run is at it now. Let that go on: mlflow run . -P resume={version.run_id}"
        )

    def compare(champion: ModelVersion) -> Comparison:
        challenger = Classifier.load(versions.fetch(uri_of(version)), device="cpu")
        pictures, digest = _pictures(config, challenger.about)
        own, data_dir = is_own_validation(version, digest), Path(config.data_dir)
        answers = answers_of(challenger, pictures, data_dir, own=own)
        return compare_with_champion(champion, answers, pictures, data_dir, digest=digest)

    if config.dry_run == "yes":
        return Outcome(version, judge(candidate, champion, compare, margin=config.margin)[0])
    decision, _ = promote_by_evidence(version, candidate, compare, margin=config.margin)
    return Outcome(version, decision)


def _pictures(config: PromoteConfig, about: About) -> tuple[list[Picture], str]:
    """What to compare on, and the digest of it where it is a validation set."""
    if config.data != NONE:
        return _labelled(Path(config.data).expanduser(), about.classes), ""
    data_dir, dataset = Path(config.data_dir), about.dataset
    if config.dataset != AUTO:
        dataset = locate(config.dataset, data_dir, seed=0).name
    prepared = load_dataset(data_dir / dataset)
    if prepared.classes != about.classes:
        raise CatdogError(
            f"{prepared.folder} holds pictures of {both(prepared.classes)}, and {config.name} "
            f"tells {both(about.classes)} apart: name others with --dataset or --data."
        )
    return prepared.pictures(VALIDATION), prepared.validation_digest


def _labelled(folder: Path, classes: Classes) -> list[Picture]:
    pictures = []
    for name, label in LabelledFolder(folder, classes=classes).samples:
        content = Path(name).read_bytes()
        try:
            images.check(content)
        except images.UnreadableImageError as error:
            logger.info(f"left out {name}: {error}")
            continue
        pictures.append(Picture(Path(name), label, hashlib.sha256(content).hexdigest()))
    return pictures


def _challenger(config: PromoteConfig) -> ModelVersion:
    """The version that is named, else the newest that may be compared, else the champion."""
    if config.version != LATEST:
        return _named(config.name, config.version)
    champion = versions.champion(config.name)
    others = [
        one
        for one in versions.versions(config.name)
        if one.tags.get(STATUS_TAG) not in ("pending", "rejected")
        and not history.was_rolled_back(one)
        and number_of(one) != number_of(champion)
    ]
    if others:
        return others[-1]
    if champion is not None:
        return champion
    raise CatdogError(
        f"the registry holds no version of {config.name} to promote: train one with: "
        f"{versions.training(config.name)}"
    )


def _named(name: str, number: str) -> ModelVersion:
    version = versions.numbered(name, number)
    if version is None:
        told = ", ".join(map(number_of, versions.versions(name))) or "none"
        raise CatdogError(f"{name} has no version {number!r}. It has: {told}.")
    return version
