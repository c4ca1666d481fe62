"""Who shall serve, asked by itself: compare a version now, name one, go back, or look back."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mlflow.exceptions import MlflowException

from catdog import CatdogError, Classes
from catdog.config import PromoteConfig
from catdog.data.classes import both
from catdog.data.dataset import VALIDATION, Picture, load_dataset
from catdog.data.ingest import LabelledSource, ingest
from catdog.data.sources import locate
from catdog.data.split import settle_duplicates
from catdog.inference.classifier import Classifier
from catdog.inference.prediction import About
from catdog.registry import history, versions
from catdog.registry.compare import (
    Comparison,
    answers_of,
    compare_with_champion,
    is_own_validation,
)
from catdog.registry.history import Event
from catdog.registry.promotion import STATUS_TAG, Decision
from catdog.registry.versions import ModelVersion, is_same, number_of, uri_of
from catdog.tracking import store
from catdog.tracking.run import RUNS, resume_command

logger = logging.getLogger(__name__)

LATEST, NONE, AUTO = "latest", "none", "auto"


def promote(config: PromoteConfig) -> tuple[ModelVersion, Decision]:
    """Do what the parameters ask for, or say what would be done in a dry run.

    Returns:
        The version, and the stage that it has now (or would have), with the reason.

    Raises:
        CatdogError: there is no such version, it may never serve, or the registry refuses.
    """
    store.connect()
    if config.rollback == "yes" and config.to != NONE:
        raise CatdogError("--to and --rollback name two versions: give one of them.")
    with _refusals(config.name, "to promote"):
        dry_run = config.dry_run == "yes"
        if config.rollback == "yes":
            why = config.because or "rolled back"
            return history.roll_back(config.name, why, dry_run=dry_run)
        if config.to != NONE:
            version, why = _existing(config.name, config.to), config.because or "promoted by hand"
            return version, history.promote_to(version, why, dry_run=dry_run)
        return _promote_by_evidence(config)


def look_back(name: str) -> tuple[str, str]:
    """A table of all promotions for people, and the number of the version that serves.

    Raises:
        CatdogError: there was none, or the registry refuses.
    """
    store.connect()
    with _refusals(name, "to tell the history of"):
        events = history.history(name)
        serving = number_of(versions.champion(name)) or "none"
    if not events:
        raise CatdogError(f"the registry knows of no promotion of {name!r}.")
    return _table(events), serving


@contextlib.contextmanager
def _refusals(name: str, what: str) -> Iterator[None]:
    """Raise what the registry refuses of a model as one sentence."""
    try:
        yield
    except MlflowException as error:
        reason = store.without_password(error.message)
        raise CatdogError(f"the model registry refused {what} {name}: {reason}") from error


def _table(events: Sequence[Event]) -> str:
    """One line for each promotion, the newest first, for people."""
    form = "{:19}  {:7}  {:6}  {:12}  {:8}  {}"
    rows = [form.format("when (UTC)", "version", "before", "by", "run", "why")]
    for event in reversed(events):
        when, before, run = f"{event.when:%Y-%m-%d %H:%M:%S}", event.before, event.run_id[:8]
        rows.append(
            form.format(when, event.version, before or "-", event.who, run or "-", event.why)
        )
    return "\n".join(rows)


def _promote_by_evidence(config: PromoteConfig) -> tuple[ModelVersion, Decision]:
    version = _challenger(config)
    if version.tags.get(STATUS_TAG) == "pending":
        folder = Path(config.data_dir) / RUNS / str(version.run_id)
        raise CatdogError(
            f"version {version.version} of {version.name} was never seen to answer as its training "
            f"did, or its run is at it now. Let that go on: {resume_command(folder)}"
        )

    def compare(champion: ModelVersion) -> Comparison:
        challenger = Classifier.load(versions.fetch(uri_of(version)), device="cpu")
        with tempfile.TemporaryDirectory() as staging:
            pictures, digest = _pictures(config, challenger.about, Path(staging))
            own, data_dir = is_own_validation(version, digest), Path(config.data_dir)
            answers = answers_of(challenger, pictures, data_dir, own=own)
            return compare_with_champion(champion, answers, pictures, data_dir, digest=digest)

    decision, _ = history.promote_by_evidence(
        version, compare, margin=config.margin, dry_run=config.dry_run == "yes"
    )
    return version, decision


def _pictures(config: PromoteConfig, about: About, staging: Path) -> tuple[list[Picture], str]:
    """What to compare on, and the digest of it where it is a validation set."""
    if config.data != NONE:
        return _labelled(Path(config.data), about.classes, staging), ""
    data_dir, name = Path(config.data_dir), about.dataset
    if config.dataset != AUTO:
        name = locate(config.dataset, data_dir, seed=0).name
    dataset = load_dataset(data_dir / name)
    if dataset.classes != about.classes:
        raise CatdogError(
            f"{dataset.folder} holds pictures of {both(dataset.classes)}, and {config.name} "
            f"tells {both(about.classes)} apart: name others with --dataset or --data."
        )
    return dataset.pictures(VALIDATION), dataset.validation_digest


def _labelled(folder: Path, classes: Classes, staging: Path) -> list[Picture]:
    """The distinct pictures of a labelled folder or archive, copied to `staging`."""
    source = LabelledSource(folder, classes)
    source.require_both()
    found, left_out = ingest(source, staging)
    labelled = [replace(picture, split="") for picture in found if picture.label]
    pictures, copies = settle_duplicates(labelled)
    for name, reason in left_out + copies:
        logger.info(f"left out {source.where(name)}: {reason}")
    return [Picture(one.staged, classes.index(one.label), one.sha256) for one in pictures]


def _challenger(config: PromoteConfig) -> ModelVersion:
    """The version that is named, else the newest that may be compared, else the champion."""
    if config.version != LATEST:
        return _existing(config.name, config.version)
    champion = versions.champion(config.name)
    for version in reversed(versions.versions(config.name)):
        unproven = version.tags.get(STATUS_TAG) in ("pending", "rejected")
        if not (unproven or history.was_rolled_back(version) or is_same(version, champion)):
            return version
    if champion is not None:
        return champion
    raise CatdogError(
        f"the registry holds no version of {config.name} to promote: train one with: "
        f"{versions.training(config.name)}"
    )


def _existing(name: str, number: str) -> ModelVersion:
    version = versions.numbered(name, number)
    if version is None:
        numbers = ", ".join(map(number_of, versions.versions(name))) or "none"
        raise CatdogError(f"{name} has no version {number!r}. It has: {numbers}.")
    return version
