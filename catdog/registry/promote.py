"""Who shall serve, asked by itself: compare a version now, name one, go back, or look back."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

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
from catdog.registry.compare import Contest, hold, sit
from catdog.registry.history import Event, as_champion
from catdog.registry.promotion import (
    PRODUCTION,
    STATUS_TAG,
    Candidate,
    Decision,
    comparable,
    decide,
)
from catdog.tracking import store

logger = logging.getLogger(__name__)


LATEST, NONE, AUTO = "latest", "none", "auto"
LONGEST = 500
"""Characters of a reason: it becomes a tag, a line of the history and part of a description."""


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
    _check(config)
    if config.rollback == "yes":
        return _back(config, config.because or "rolled back")
    if config.to != NONE:
        version = _named(config.name, config.to)
        return _by_name(config, version, config.because or "promoted by hand")
    return _by_evidence(config)


def history_table(events: Sequence[Event]) -> str:
    """One line for each promotion, the newest first, for people."""
    rows = [("when (UTC)", "version", "before", "by", "run", "why")]
    rows += [
        (
            event.when[:19].replace("T", " "),
            event.version,
            event.before or "-",
            event.who,
            event.run_id[:8] or "-",
            event.why,
        )
        for event in reversed(events)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]])
        for row in rows
    )


def _check(config: PromoteConfig) -> None:
    if config.rollback == "yes" and config.to != NONE:
        raise CatdogError("--to and --rollback name two versions: give one of them.")
    if len(config.because) > LONGEST:
        raise CatdogError(f"--because has more than {LONGEST} characters: say it shorter.")


def _back(config: PromoteConfig, why: str) -> Outcome:
    if config.dry_run == "no":
        return Outcome(*history.roll_back(config.name, why))
    return _by_name(config, history.predecessor(config.name), why)


def _by_name(config: PromoteConfig, version: ModelVersion, why: str) -> Outcome:
    if config.dry_run == "no":
        return Outcome(version, history.promote_to(version, why))
    refused = history.may_not(version)
    return Outcome(version, refused or Decision(PRODUCTION, why))


def _by_evidence(config: PromoteConfig) -> Outcome:
    version = _challenger(config)
    champion = versions.champion(config.name)
    if champion is not None and champion.version == version.version:
        if config.dry_run == "no":
            history.crown(version, "")  # its aliases may have been lost on the way
        return Outcome(version, Decision(PRODUCTION, "it is in Production already"))
    candidate = Candidate.from_tags(version.tags)
    if candidate is not None and candidate.status == "pending":
        raise CatdogError(
            f"version {version.version} of {version.name} was never seen to answer as its training "
            f"did, or its run is at it now. Let that go on: mlflow run . -P resume={version.run_id}"
        )

    def contest(champion: ModelVersion | None) -> Contest:
        if champion is None or not comparable(candidate, as_champion(champion)):
            return Contest(champion)
        return _hold(config, version, champion)

    def decided(held: Contest) -> Decision:
        now = as_champion(held.champion)
        return decide(candidate, now, held.evidence, margin=config.margin)

    if config.dry_run == "yes":
        return Outcome(version, decided(contest(champion)))
    return Outcome(version, history.settle(version, contest, decided)[0])


def _hold(config: PromoteConfig, version: ModelVersion, champion: ModelVersion) -> Contest:
    folder = versions.fetch(f"models:/{version.name}/{version.version}")
    challenger = Classifier.load(folder, device="cpu")
    data_dir = Path(config.data_dir)
    pictures, digest = _pictures(config, challenger.about)
    own = bool(digest) and version.tags.get("validation_digest") == digest
    side = sit(challenger, pictures, data_dir, own=own)
    return hold(champion, side, pictures, data_dir, digest=digest)


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
    if config.version != LATEST:
        return _named(config.name, config.version)
    champion = versions.champion(config.name)
    others = [
        one
        for one in versions.versions(config.name)
        if one.tags.get(STATUS_TAG) not in ("pending", "rejected")
        and not history.was_rolled_back(one)
        and (champion is None or one.version != champion.version)
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
    known = {str(version.version): version for version in versions.versions(name)}
    if number not in known:
        told = ", ".join(known) or "none"
        raise CatdogError(f"{name} has no version {number!r}. It has: {told}.")
    return known[number]
