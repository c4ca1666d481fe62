"""What a trained model's owner should know: how good, where worse, and what is wrong with the data.

In: what training left, its pictures and their features. Out: `Findings`. Reads pictures to look at
them; writes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL.Image import Image

from catdog import CatdogError, parallel
from catdog.data.dataset import EXCLUDED, TEST, TRAINING, VALIDATION, PreparedDataset, if_readable
from catdog.evaluation.audit import Issue, find_issues, table_of_issues
from catdog.evaluation.calibration import Labels, Logits, predicted_labels
from catdog.evaluation.metrics import (
    OperatingPoint,
    metrics_of,
    operating_points,
    per_class_metrics,
)
from catdog.evaluation.slices import SliceScore, look_at_all, make_slices, slice_table
from catdog.inference import explain
from catdog.inference.classifier import Classifier
from catdog.inference.prediction import Prediction, to_prediction
from catdog.models.engine import pick_engine
from catdog.models.network import Network
from catdog.training.feature_cache import open_cache
from catdog.training.features import extract
from catdog.training.judge import Judgement, Trained, seen_in_training

logger = logging.getLogger(__name__)

PREFIX, RAW_PREFIX, TEST_PREFIX = "val_", "val_raw_", "test_"
WORST_ERRORS = 16
THUMBNAIL_PX = 160


@dataclass(frozen=True)
class Mistake:
    """A validation photo that is answered wrong.

    `path` and `label` are as in the manifest; `heat_map` is the photo, small, and warm where the
    model looked: None where the backbone does not tell.
    """

    path: str
    label: str
    p_positive: float
    heat_map: Image | None


@dataclass(frozen=True)
class Findings:
    """Numbers about a kept epoch on the validation photos, and about all labelled photos.

    Attributes:
        metrics: by MLflow's names, with `val_` before them and 95 % intervals beside them.
        other_metrics: the same, `test_` where test pictures are labelled, and `val_raw_` with the
            excluded photos.
        classes: precision, recall, f1 and support of each class.
        operating_points: thresholds that keep the promise to miss at most a share of a class.
        slices: how photos with something in common do; the first row is all of them.
        issues: what is wrong with the data, the surest of each kind first.
        test_slices: as `slices`, of labelled test photos; empty where there are none.
        mistakes: the surest of the wrong answers, the surest first.
    """

    metrics: Mapping[str, float]
    other_metrics: Mapping[str, float]
    classes: pd.DataFrame
    operating_points: Sequence[OperatingPoint]
    slices: Sequence[SliceScore]
    issues: Sequence[Issue]
    test_slices: Sequence[SliceScore]
    mistakes: Sequence[Mistake]

    def tables(self) -> dict[str, pd.DataFrame]:
        """What is listed, by the name of its file."""
        tables = {
            "tables/per_class_metrics.csv": self.classes,
            "tables/thresholds.csv": pd.DataFrame(self.operating_points),
            "tables/slices.csv": pd.DataFrame(self.slices),
            "data/audit.csv": table_of_issues(self.issues),
        }
        if self.test_slices:
            tables["tables/test_slices.csv"] = pd.DataFrame(self.test_slices)
        return tables


def find(dataset: PreparedDataset, trained: Trained, *, seed: int) -> Findings:
    """All findings about a judged classifier and the data it was made of.

    The features of `trained` are of the labelled pictures, in the manifest's order. `seed` is of
    what is drawn at random.

    What can't be read any more is left out, and named in a warning.
    """
    classifier, judgement = trained.classifier, trained.judgement
    training, validation = dataset.rows(TRAINING), dataset.rows(VALIDATION)
    rows = training + validation
    looks = look_at_all([dataset.folder / row["path"] for row in rows])
    slices = make_slices(validation, looks[len(training) :])
    on_test, test_slices = _on_test(dataset, classifier, seed=seed)
    served = judgement.logits / classifier.about.temperature
    return Findings(
        metrics=trained.metrics,
        other_metrics=on_test | _raw_metrics(dataset, classifier, judgement, seed=seed),
        classes=per_class_metrics(judgement.labels, judgement.calibrated, dataset.classes),
        operating_points=operating_points(judgement.labels, served, classes=dataset.classes),
        slices=slice_table(slices, judgement.labels, judgement.calibrated),
        issues=find_issues(
            rows, np.concatenate(trained.pretrained), looks, classes=dataset.classes, seed=seed
        ),
        test_slices=test_slices,
        mistakes=_mistakes(dataset, classifier, judgement),
    )


def audit(
    dataset: PreparedDataset, network: Network, data_dir: Path, *, seed: int = 0
) -> list[Issue]:
    """All issues of a prepared data set; features come from the cache, or are computed.

    Raises:
        CatdogError: a picture is gone, unreadable, or not the one that was prepared.
    """
    rows = dataset.rows(TRAINING) + dataset.rows(VALIDATION)
    pictures = dataset.pictures(TRAINING, VALIDATION)
    engine = pick_engine(network, cores=parallel.cores())
    features, computed = extract(pictures, network, engine, open_cache(data_dir, network))
    logger.info(f"Features: {computed:,} computed, {len(pictures) - computed:,} found")
    looks = look_at_all([picture.path for picture in pictures])
    return find_issues(rows, features[0], looks, classes=dataset.classes, seed=seed)


def _on_test(
    dataset: PreparedDataset, classifier: Classifier, *, seed: int
) -> tuple[dict[str, float], list[SliceScore]]:
    """Metrics and slices of the labelled test photos; none where there are none."""
    rows = [row for row in dataset.rows(TEST) if row["label"]]
    if not rows:
        return {}, []
    rows, labels, logits = _scored(dataset, classifier, rows)
    if not rows:
        return {}, []
    slices = make_slices(rows, look_at_all([dataset.folder / row["path"] for row in rows]))
    return (
        metrics_of(labels, logits, prefix=TEST_PREFIX, seed=seed),
        slice_table(slices, labels, logits),
    )


def _raw_metrics(
    dataset: PreparedDataset, classifier: Classifier, judgement: Judgement, *, seed: int
) -> dict[str, float]:
    """Metrics of the validation photos with the excluded ones among them, where there are any."""
    excluded = dataset.rows(f"{EXCLUDED}-{VALIDATION}")
    if not excluded:
        return {}
    excluded, labels, logits = _scored(dataset, classifier, excluded)
    if not excluded:
        return {}
    raw_labels = np.append(judgement.labels, labels)
    # All by one temperature where they are ranked; each by its own where it is measured.
    ranked = np.append(judgement.logits / classifier.about.temperature, logits)
    calibrated = np.append(judgement.calibrated, logits)
    return metrics_of(raw_labels, ranked, calibrated=calibrated, prefix=RAW_PREFIX, seed=seed)


def _scored(
    dataset: PreparedDataset, classifier: Classifier, rows: list[dict[str, str]]
) -> tuple[list[dict[str, str]], Labels, Logits]:
    """Those of the rows whose photos can be read, and their labels and logits."""
    readable, logits = [], []
    for row, outputs in classifier.outputs(
        rows, lambda row: (dataset.folder / row["path"]).read_bytes()
    ):
        if isinstance(outputs, str):
            logger.warning(f"{row['path']} can't be read any more, it is left out ({outputs})")
        else:
            readable.append(row)
            logits.append(outputs[0])
    labels = [dataset.classes.index(row["label"]) for row in readable]
    return readable, np.array(labels), np.array(logits)


def _mistakes(
    dataset: PreparedDataset, classifier: Classifier, judgement: Judgement
) -> list[Mistake]:
    """The surest wrong answers, each with the reason for it."""
    rows, answers = dataset.rows(VALIDATION), seen_in_training(classifier, judgement)
    wrong = np.flatnonzero(predicted_labels(judgement.logits) != judgement.labels)
    mistakes = []
    for place in wrong[np.argsort(-np.abs(judgement.logits[wrong]))][:WORST_ERRORS].tolist():
        row, (logit, familiarity) = rows[place], answers[place]
        answer = to_prediction(logit, familiarity, classifier.about)
        heat_map = _heat_map(classifier, dataset.folder / row["path"], answer)
        mistakes.append(Mistake(row["path"], row["label"], answer.p_positive, heat_map))
    return mistakes


def _heat_map(classifier: Classifier, photo: Path, answer: Prediction) -> Image | None:
    try:
        picture = if_readable(photo, lambda content: explain.overlay(classifier, content, answer))
    except CatdogError:  # the backbone has no map
        return None
    if picture is not None:
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return picture
