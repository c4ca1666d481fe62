"""A trained classifier → a registered version that is proven to answer alike."""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray
from safetensors import SafetensorError

from catdog import CatdogError
from catdog.config import TrainConfig
from catdog.data.dataset import Picture, PreparedDataset
from catdog.data.images import JPEG_START, decode, load
from catdog.data.transforms import evaluation_transform
from catdog.evaluation.comparison import Paired
from catdog.files import beside, put_in_place
from catdog.inference.classifier import CARD_FILE, Classifier
from catdog.inference.explain import as_jpeg
from catdog.inference.export import export
from catdog.inference.parity import Answer, Parity, compare
from catdog.inference.prediction import to_prediction
from catdog.registry import history, upload, versions
from catdog.registry.compare import Contest, Side, hold
from catdog.registry.history import as_champion
from catdog.registry.promotion import Candidate, Decision, comparable, decide
from catdog.registry.proof import FreshProcess, UnprovenError
from catdog.tracking.log import Run
from catdog.training.judge import (
    Trained,
    seen_in_training,
    spread,
)

logger = logging.getLogger(__name__)


PARITY_PHOTOS = 32
"""Validation photos on which the registered version is compared with the training process."""


@dataclass(frozen=True)
class Released:
    """A registered version, where it went, and the contest that this rests on."""

    version: ModelVersion
    decision: Decision
    contest: Contest


@dataclass(frozen=True)
class Saved:
    """A model on disk: its folder, the digest of what is in it, and its card in Markdown."""

    folder: Path
    digest: str
    card: str


def save(trained: Trained, card: str, folder: Path) -> Saved:
    """Save what was trained, with its card in Markdown, into `folder`.

    What lay there before goes when the new one is whole.

    Raises:
        CatdogError: the folder can't be written.
    """
    new = beside(folder)
    try:
        digest = trained.classifier.save(new)
        (new / CARD_FILE).write_text(card, encoding="utf-8")
        put_in_place(new, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)  # half a model helps nobody
        raise CatdogError(
            f"the model can't be written to {folder} ({error}): make room there, and go on."
        ) from error
    return Saved(folder, digest, card)


def register(
    config: TrainConfig,
    prepared: PreparedDataset,
    trained: Trained,
    saved: Saved,
    fresh: FreshProcess,
    run: Run,
) -> Released:
    """Register what was trained, prove that it answers alike, and give it its stage.

    A version that this run had registered before it was cut is used.

    Raises:
        CatdogError: the registry refuses.
    """
    best = trained.best
    candidate = Candidate(
        best.val.accuracy,
        prepared.validation_digest,
        prepared.drawn,
        trained.classifier.about.classes,
    )
    sample = spread(trained.validation, PARITY_PHOTOS)
    name = config.registered_model_name
    version = versions.version_of_run(name, run.id)
    if version is None:
        logged = upload.log_model(
            saved.folder,
            _as_jpeg(sample[0].path),
            run,
            step=best.number,
            tags=candidate.to_tags(),
            classes=candidate.classes,
        )
        version = versions.add(
            logged.model_uri, name, candidate, digest=saved.digest, card=saved.card
        )
    elif not version.description:  # the run was cut between the two
        versions.describe(version, saved.card)
    proof = _prove(trained, version, sample, fresh, run)
    proven = proof is not None and proof.holds
    history.attest(version, proven=proven)
    candidate = replace(candidate, status="approved" if proven else "rejected")
    decision, contest = history.settle(
        version,
        lambda champion: _contest(config, prepared, trained, candidate, champion),
        lambda held: decide(
            candidate,
            as_champion(held.champion),
            held.evidence,
            promote=config.promote,
            margin=config.promote_margin,
        ),
    )
    if isinstance(contest.evidence, Paired):
        run.log_metrics(contest.evidence.to_dict(history.PAIRED))
    return Released(version, decision, contest)


def _contest(
    config: TrainConfig,
    prepared: PreparedDataset,
    trained: Trained,
    candidate: Candidate,
    champion: ModelVersion | None,
) -> Contest:
    if champion is None or not comparable(candidate, as_champion(champion)):
        return Contest(champion)
    learned = np.zeros(len(trained.validation), dtype=bool)  # validation is what it never learned
    return hold(
        champion,
        Side(trained.judgement.calibrated, learned, trained.classifier.about.classes),
        trained.validation,
        Path(config.data_dir),
        digest=prepared.validation_digest,
        seed=config.seed,
    )


def _as_jpeg(path: Path) -> bytes:
    """The file as it is if it is a JPEG, else what it shows as one."""
    content = path.read_bytes()
    return content if content.startswith(JPEG_START) else as_jpeg(decode(content))


def _prove(
    trained: Trained, version: ModelVersion, sample: list[Picture], fresh: FreshProcess, run: Run
) -> Parity | None:
    """Compare the registered version with the training process; None when it can't be used."""
    classifier = trained.classifier
    seen = seen_in_training(classifier, trained.judgement)
    answers = {
        picture: to_prediction(*one, classifier.about)
        for picture, one in zip(trained.validation, seen, strict=True)
    }
    expected = [Answer(answers[one].p_positive, answers[one].familiarity) for one in sample]
    uri = f"models:/{version.name}/{version.version}"
    with tempfile.TemporaryDirectory() as scratch:
        exported = _exported(classifier, Path(scratch) / "export")
        pixels = Path(scratch) / "pixels.npy"
        np.save(pixels, _as_seen(classifier, sample))
        try:
            found = fresh.answers(uri, [one.path for one in sample], exported, pixels)
        except UnprovenError:
            raise  # the version stays as it is, and the run can go on
        except CatdogError as error:
            run.check_server()  # a server that has gone says nothing against the version
            logger.info(f"REJECTED: {error}")
            return None
    proof = compare(expected, found)
    run.log_metrics(
        {"parity_max_abs_diff": proof.max_abs_diff}
        | {f"parity_{way}_abs_diff": value for way, value in proof.differences.items()}
    )
    ways = ", ".join(f"{way} {difference:.1e}" for way, difference in proof.differences.items())
    logger.info(f"A fresh process answers alike to within {proof.max_abs_diff:.1e} ({ways})")
    return proof


def _exported(classifier: Classifier, folder: Path) -> Path | None:
    if classifier.engine.portable is None:
        return None
    try:
        return export(classifier, folder)
    except CatdogError as error:
        logger.info(f"The ONNX export is not checked: {error}")
        return None


def _as_seen(classifier: Classifier, pictures: list[Picture]) -> NDArray[np.uint8]:
    transform = evaluation_transform(classifier.preprocessing)
    return np.stack([transform(load(picture.path)).numpy() for picture in pictures])
