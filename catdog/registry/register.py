"""A trained classifier → a registered version that is proven to answer alike."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pandas as pd
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from PIL import Image
from safetensors import SafetensorError

import catdog
from catdog import CatdogError, Classes
from catdog.config import TrainConfig
from catdog.data.classes import probability_name
from catdog.data.dataset import Picture, PreparedDataset, if_readable
from catdog.data.images import check, decode
from catdog.evaluation.calibration import probability
from catdog.evaluation.comparison import Paired
from catdog.files import new_folder
from catdog.inference.classifier import CARD_FILE
from catdog.inference.explain import as_jpeg
from catdog.registry import versions
from catdog.registry.compare import Answers, Comparison, compare_with_champion
from catdog.registry.history import approve, promote_by_evidence
from catdog.registry.promotion import Candidate, Decision
from catdog.registry.proof import LIMIT, FreshProcess, UnprovenError
from catdog.registry.versions import ModelVersion, uri_of
from catdog.tracking import provenance
from catdog.tracking.log import Run
from catdog.tracking.run import MODEL
from catdog.tracking.store import ONCE, limits
from catdog.training.judge import Trained

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.models.model import ModelInfo

logger = logging.getLogger(__name__)

PROOF_PHOTOS = 32
"""Validation photos on which the registered version is compared with the training process."""


@dataclass(frozen=True)
class Released:
    """A registered version, where it went, and the comparison that this rests on."""

    version: ModelVersion
    decision: Decision
    comparison: Comparison


def save(trained: Trained, card: str, folder: Path) -> None:
    """Save what was trained, with its card in Markdown, into `folder`.

    What lay there before goes when the new one is whole.

    Raises:
        CatdogError: the folder can't be written.
    """
    try:
        with new_folder(folder) as new:
            trained.classifier.save(new)
            (new / CARD_FILE).write_text(card, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CatdogError(
            f"the model can't be written to {folder} ({error}): make room there, and go on."
        ) from error


def register(
    config: TrainConfig,
    dataset: PreparedDataset,
    trained: Trained,
    card: str,
    fresh: FreshProcess,
    run: Run,
) -> ModelVersion:
    """Register what was trained, and ask a fresh process what the version answers.

    What is registered lies in the run's folder, where `save` has put it. A version that this run
    had registered before it was cut is used.

    Raises:
        MlflowException: the registry refuses.
    """
    candidate = Candidate(
        dataset.validation_digest, dataset.drawn, trained.classifier.about.classes
    )
    version = _registered(config.registered_model_name, candidate, trained, card, run)
    kept = trained.metrics | trained.judgement.metrics(trained.classifier.about)
    run.log_model_metrics(str(version.source).removeprefix("models:/"), kept, dataset)
    fresh.ask(uri_of(version), _to_prove(trained.validation))
    return version


def release(
    config: TrainConfig,
    dataset: PreparedDataset,
    trained: Trained,
    version: ModelVersion,
    fresh: FreshProcess,
    run: Run,
) -> Released:
    """See whether the fresh process answers alike, and give the version the stage it earns.

    Raises:
        MlflowException: the registry refuses.
    """
    proven = _is_proven(trained, fresh, run)
    approve(version, proven=proven)

    def compare(champion: ModelVersion) -> Comparison:
        learned = np.zeros(len(trained.validation), dtype=bool)  # of validation it learned nothing
        return compare_with_champion(
            champion,
            Answers(trained.judgement.calibrated, learned),
            trained.validation,
            Path(config.data_dir),
            digest=dataset.validation_digest,
            seed=config.seed,
        )

    decision, comparison = promote_by_evidence(
        version, compare, promote=config.promote, margin=config.promote_margin
    )
    if isinstance(comparison.evidence, Paired):
        run.log_metrics(comparison.evidence.to_dict("vs_champion_"))
    return Released(version, decision, comparison)


def _example(pictures: Sequence[Picture]) -> bytes:
    """The first of the pictures that can be read; an empty one where none can any more."""
    found = (if_readable(picture.path, decode) for picture in pictures)
    return as_jpeg(next(filter(None, found), Image.new("RGB", (224, 224))))


def _to_prove(pictures: Sequence[Picture]) -> list[Path]:
    """The photos that the version is asked about: some of these, as far as they can be read."""
    count = len(pictures)
    places = np.linspace(0, count - 1, min(count, PROOF_PHOTOS)).round().astype(int)
    paths = [pictures[place].path for place in places]
    return [path for path in paths if if_readable(path, check)]


def _registered(
    name: str, candidate: Candidate, trained: Trained, card: str, run: Run
) -> ModelVersion:
    """The version of a run: the one that it had registered before it was cut, or a new one."""
    mine = [version for version in versions.versions(name) if version.run_id == run.id]
    if not mine:
        folder = run.folder / MODEL
        logged = log_model(
            folder,
            _example(trained.validation),
            run,
            candidate,
            step=trained.best.number,
        )
        return add(logged.model_uri, name, candidate, digest=versions.digest_of(folder), card=card)
    if not mine[-1].description:  # the run was cut between the two
        versions.describe(mine[-1], card)
    return mine[-1]


def _is_proven(trained: Trained, fresh: FreshProcess, run: Run) -> bool:
    """Whether the registered version answers as the training process, with the engine judged."""
    classifier, judgement = trained.classifier, trained.judgement
    expected = np.stack(
        [probability(judgement.logits / classifier.about.temperature), judgement.familiarity],
        axis=1,
    )
    try:
        found = fresh.answers()
    except UnprovenError:
        raise  # the version stays as it is, and the run can go on
    except CatdogError as error:
        run.check_server()  # a server that has gone says nothing against the version
        logger.info(f"REJECTED: {error}")
        return False
    places = {picture.path: place for place, picture in enumerate(trained.validation)}
    difference = found.difference(expected[[places[path] for path in fresh.asked]])
    run.log_metrics({"parity_max_abs_diff": difference})
    logger.info(f"A fresh process answers alike to within {difference:.1e} ({found.engine})")
    if not found.is_served_as_judged(classifier.engine):
        logger.info(f"REJECTED: it is served by {found.engine}, not by {classifier.engine.name}")
        return False
    return difference <= LIMIT


def add(model_uri: str, name: str, candidate: Candidate, *, digest: str, card: str) -> ModelVersion:
    """Register a logged model as a new version, which has no stage yet.

    Args:
        model_uri: of the logged model.
        name: in the registry.
        candidate: what the rule of promotion knows of it.
        digest: of the saved classifier; `versions.fetch` compares it.
        card: the model card, in Markdown, which becomes the version's description.
    """
    tags = candidate.to_tags() | {versions.DIGEST_TAG: digest}
    with limits(ONCE):  # where the answer is lost a run that goes on finds what was made
        version = mlflow.register_model(model_uri, name, tags=tags)
    versions.describe(version, card)
    return version


def log_model(
    folder: Path,
    example: bytes,
    run: Run,
    candidate: Candidate,
    *,
    step: int,
) -> ModelInfo:
    """Log a saved classifier as an MLflow model that takes picture bytes.

    One that the run had logged before, and was cut before it was registered, goes.

    Args:
        folder: what `Classifier.save` wrote.
        example: a JPEG, kept as the model's input example.
        run: the active one.
        candidate: what the rule of promotion knows of it.
        step: the epoch that the weights are from.
    """
    client, mine = MlflowClient(), f"source_run_id = '{run.id}'"
    for model in client.search_logged_models([run.experiment_id], filter_string=mine):
        if MLFLOW_MODEL_VERSIONS not in model.tags:
            client.delete_logged_model(model.model_id)
    logged: ModelInfo = mlflow.pyfunc.log_model(
        name="model",
        loader_module="catdog.inference.classifier",
        data_path=str(folder),
        code_paths=[str(Path(catdog.__file__).parent)],
        signature=signature_of(candidate.classes),
        input_example=pd.DataFrame({"image": [example]}),
        # 2.9.0+cu130 can't be installed from PyPI, 2.9.0 can.
        pip_requirements=[
            f"{name}=={version.split('+')[0]}" for name, version in provenance.installed().items()
        ],
        step=step,
        tags=candidate.to_tags(),
    )
    return logged


def signature_of(classes: Classes) -> ModelSignature:
    """What goes into the served model, and what comes out."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    columns = [
        ("string", "label"),
        ("double", "confidence"),
        ("double", probability_name(classes)),
        ("double", "familiarity"),
        ("string", "error"),
    ]
    params = [("reject", "boolean", True), ("threshold", "double", 0.5), ("tta", "boolean", False)]
    return ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema([ColSpec(*column) for column in columns]),
        params=ParamSchema([ParamSpec(*param) for param in params]),
    )
