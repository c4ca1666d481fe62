"""What a trained model's owner should know: how good, where worse, and what is wrong with the data.

In: the judgement of a run, its pictures and their features. Out: `Findings`, and the `Report`
made of them. Reads pictures to look at them and to show them; writes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pandas as pd

from catdog import CLASSES, CatdogError, explain, report
from catdog.audit import KINDS, NEAR_DUPLICATE, TOLD, Issue, find_issues
from catdog.calibration import Labels, Logits, predicted_labels, probability
from catdog.classifier import Classifier, Seen, to_prediction
from catdog.engine import Features
from catdog.evaluate import (
    Promise,
    Scores,
    class_rows,
    confusion_counts,
    estimates,
    metrics_of,
    promises,
)
from catdog.judgement import Judgement
from catdog.prepare import EXCLUDED, TEST, TRAINING, VALIDATION, Prepared
from catdog.slices import SliceScore, look_at_all, make_slices, slice_table, worst_slice
from catdog.train import Fit

PREFIX = "val_"
WORST_ERRORS = 16
SHOWN = report.MOST_PICTURES

SHOWN_METRICS = {
    "accuracy_score": True,
    "precision_score": True,
    "recall_score": True,
    "f1_score": True,
    "roc_auc": False,
    "precision_recall_auc": False,
    "log_loss": False,
    "brier_score": False,
    "matthews_corrcoef": False,
}
"""In the report's table, in this order; whether it is shown as a percentage."""

LOWER_IS_BETTER = ("log_loss", "brier_score")


@dataclass(frozen=True)
class Findings:
    """Numbers about a kept epoch on the validation photos, and about all labelled photos.

    Attributes:
        metrics: by MLflow's names, with `val_` before them and 95 % intervals beside them.
        others: the same, `test_` where test pictures are labelled, and `val_raw_` with the
            excluded photos.
        classes: precision, recall, f1 and support of each class.
        promises: thresholds that keep the promise to miss at most a share of a class.
        slices: how photos with something in common do; the first row is all of them.
        worst: the slice with the lowest accuracy, and whether that may be chance.
        issues: what is wrong with the data, the surest of each kind first.
    """

    metrics: dict[str, float]
    others: dict[str, float]
    classes: list[dict[str, str | float]]
    promises: list[Promise]
    slices: list[SliceScore]
    worst: SliceScore | None
    issues: list[Issue]

    def tables(self) -> dict[str, pd.DataFrame]:
        """What is listed, by the name of its file; a table of nothing keeps its columns."""
        columns = ("class", "precision", "recall", "f1", "support")
        return {
            "tables/per_class_metrics.csv": pd.DataFrame(self.classes, columns=columns),
            "tables/thresholds.csv": _table(Promise, self.promises),
            "tables/slices.csv": _table(SliceScore, self.slices),
            "data/audit.csv": _table(Issue, self.issues),
        }


def _table(kind: type, rows: Sequence[Promise | SliceScore | Issue]) -> pd.DataFrame:
    return pd.DataFrame(map(asdict, rows), columns=[field.name for field in fields(kind)])


def find(
    prepared: Prepared,
    classifier: Classifier,
    judgement: Judgement,
    metrics: Mapping[str, float],
    features: tuple[Features, Features],
    *,
    seed: int,
) -> Findings:
    """All findings about a judged classifier and the data it was made of.

    Args:
        prepared: the pictures.
        classifier: answers for those that the judgement is not about.
        judgement: of the validation photos.
        metrics: of the same, by name.
        features: of the training and the validation pictures, `(N, D)`, in the manifest's order.
        seed: of what is drawn at random.

    Raises:
        CatdogError: a picture can't be read any more.
    """
    rows = {split: prepared.rows(split) for split in (TRAINING, VALIDATION)}
    both = [*rows[TRAINING], *rows[VALIDATION]]
    looks = look_at_all([prepared.folder / row["path"] for row in both])
    held = make_slices(rows[VALIDATION], looks[len(rows[TRAINING]) :])
    table = slice_table(held, judgement.labels, judgement.calibrated)
    issues = find_issues(
        [row["path"] for row in both],
        np.array([CLASSES.index(row["label"]) for row in both]),
        np.array([row["split"] == VALIDATION for row in both]),
        np.concatenate(features),
        looks,
        seed=seed,
    )
    return Findings(
        dict(metrics),
        _other_metrics(prepared, classifier, judgement, seed=seed),
        class_rows(judgement.labels, judgement.calibrated),
        promises(judgement.labels, judgement.logits / classifier.about.temperature),
        table,
        worst_slice(table),
        issues,
    )


def _other_metrics(
    prepared: Prepared, classifier: Classifier, judgement: Judgement, *, seed: int
) -> dict[str, float]:
    """`test_` metrics where test pictures are labelled; `val_raw_` with the excluded ones."""
    found: dict[str, float] = {}
    tests = [row for row in prepared.rows(TEST) if row["label"]]
    if tests:
        found |= metrics_of(*_scored(prepared, classifier, tests), prefix="test_", seed=seed)
    excluded = prepared.rows(f"{EXCLUDED}-{VALIDATION}")
    if excluded:
        labels, logits = _scored(prepared, classifier, excluded)
        raw_labels = np.append(judgement.labels, labels)
        # All by one temperature where they are ranked; each by its own where it is measured.
        ranked = np.append(judgement.logits / classifier.about.temperature, logits)
        calibrated = np.append(judgement.calibrated, logits)
        found |= metrics_of(raw_labels, ranked, calibrated=calibrated, prefix="val_raw_", seed=seed)
    return found


def _scored(
    prepared: Prepared, classifier: Classifier, rows: Sequence[Mapping[str, str]]
) -> tuple[Labels, Logits]:
    photos = (prepared.folder / row["path"] for row in rows)
    logits = classifier.logits(photo.read_bytes() for photo in photos)
    unreadable = [
        row["path"] for row, logit in zip(rows, logits, strict=True) if not isinstance(logit, float)
    ]
    if unreadable:
        raise CatdogError(
            f"{prepared.folder / unreadable[0]} can't be read any more: delete prepared.json "
            "beside the manifest and run scripts/prepare.py again."
        )
    return np.array([CLASSES.index(row["label"]) for row in rows]), np.array(logits)


def as_report(  # noqa: PLR0913
    findings: Findings,
    *,
    title: str,
    prepared: Prepared,
    classifier: Classifier,
    judgement: Judgement,
    fit: Fit,
    baseline: Scores | None,
    baseline_logits: Logits | None = None,
    production: Mapping[str, float],
    decision: str,
    parameters: Mapping[str, object],
    versions: Mapping[str, str],
    reproduce: Sequence[report.Command],
    use: Sequence[report.Command],
) -> report.Report:
    """The page about a run, with pictures.

    `production` holds the metrics of that version, and `baseline_logits` those of the
    validation photos, `(N,)`, with nothing trained.
    """
    metrics = _metrics(
        findings.metrics, _untrained(judgement, baseline, baseline_logits), production
    )
    photos = [prepared.folder / row["path"] for row in prepared.rows(VALIDATION)]
    both = len(np.unique(judgement.labels)) == 2
    return report.Report(
        title=title,
        verdict=report.verdict(metrics[0], len(judgement.labels), decision),
        about=_about(findings, prepared, fit),
        metrics=metrics,
        confusion=confusion_counts(judgement.labels, predicted_labels(judgement.logits)).matrix,
        ranking=report.Ranking(judgement.labels, judgement.logits, baseline_logits)
        if both
        else None,
        thresholds=[_threshold(promise) for promise in findings.promises],
        calibration=_calibration(judgement, classifier),
        slices=_slices(findings),
        familiarity=report.Familiarity(
            np.log10(judgement.familiarity),
            np.log10(np.maximum(judgement.others, 1e-12)),
            float(np.log10(max(classifier.about.reject_below, 1e-12))),
            judgement.neither_roc_auc,
            scale="familiarity, powers of ten",
        ),
        mistakes=_mistakes(photos, prepared.folder, classifier, judgement),
        audit=_audit(findings.issues, prepared),
        learning=_learning(fit, baseline),
        data=_data(prepared),
        parameters=parameters,
        versions=versions,
        reproduce=reproduce,
        use=use,
    )


def _untrained(
    judgement: Judgement, baseline: Scores | None, logits: Logits | None
) -> dict[str, float]:
    if logits is not None:
        return estimates(judgement.labels, logits)
    if baseline is None:
        return {}
    return {
        "accuracy_score": baseline.accuracy,
        "log_loss": baseline.loss,
        "roc_auc": baseline.roc_auc,
    }


def _metrics(
    found: Mapping[str, float], untrained: Mapping[str, float], production: Mapping[str, float]
) -> list[report.Metric]:
    return [
        report.Metric(
            name=name,
            value=found[PREFIX + name],
            low=found.get(f"{PREFIX}{name}_ci_low", np.nan),
            high=found.get(f"{PREFIX}{name}_ci_high", np.nan),
            baseline=untrained.get(name),
            production=production.get(PREFIX + name),
            production_low=production.get(f"{PREFIX}{name}_ci_low", np.nan),
            production_high=production.get(f"{PREFIX}{name}_ci_high", np.nan),
            percent=percent,
            higher_is_better=name not in LOWER_IS_BETTER,
        )
        for name, percent in SHOWN_METRICS.items()
        if PREFIX + name in found
    ]


def _about(findings: Findings, prepared: Prepared, fit: Fit) -> str:
    told = f"{prepared.folder.name}, kept epoch {fit.best.number} of {len(fit.epochs)}"
    for prefix, photos in (("val_raw_", "with the excluded photos"), ("test_", "on test photos")):
        if f"{prefix}accuracy_score" in findings.others:
            share = report.share(findings.others[f"{prefix}accuracy_score"])
            told += f"; {share} right {photos}"
    return told


def _threshold(promise: Promise) -> report.Threshold:
    return report.Threshold(
        promise.kept,
        promise.at_most,
        promise.threshold,
        promise.missed,
        promise.count,
        promise.mistaken,
        promise.other_count,
    )


def _calibration(judgement: Judgement, classifier: Classifier) -> report.Calibration:
    measured = judgement.metrics(classifier.about)
    named = {"calibration error": "val_ece", "Brier score": "val_brier_score"}
    named["log-loss"] = "val_log_loss"
    return report.Calibration(
        judgement.labels,
        probability(judgement.logits),
        judgement.p_dog,
        classifier.about.temperature,
        [(told, measured[f"{key}_uncalibrated"], measured[key]) for told, key in named.items()],
    )


def _slices(findings: Findings) -> report.Slices | None:
    whole, *rows = findings.slices
    if not rows:
        return None
    return report.Slices(
        [
            report.Slice(_named(row), row.count, row.errors, row.accuracy, row.low, row.high)
            for row in rows
        ],
        whole.accuracy,
        _named(findings.worst) if findings.worst else "",
        findings.worst.verdict if findings.worst else "",
    )


def _named(row: SliceScore) -> str:
    return row.name if row.group in row.name else f"{row.group}: {row.name}"


def _mistakes(
    photos: Sequence[Path], folder: Path, classifier: Classifier, judgement: Judgement
) -> list[report.Mistake]:
    """The surest wrong answers, each with the reasons for it."""
    wrong = np.flatnonzero(predicted_labels(judgement.logits) != judgement.labels)
    surest = wrong[np.argsort(-np.abs(judgement.logits[wrong]))][:WORST_ERRORS]
    return [
        _mistake(
            photos[place],
            folder,
            int(judgement.labels[place]),
            classifier,
            float(judgement.logits[place]),
            float(judgement.familiarity[place]),
        )
        for place in surest
    ]


def _mistake(
    photo: Path, folder: Path, label: int, classifier: Classifier, logit: float, familiarity: float
) -> report.Mistake:
    content = photo.read_bytes()
    seen = Seen(logit / classifier.about.temperature, familiarity)
    answer = to_prediction(seen, classifier.about)
    drawn = explain.as_jpeg(explain.warm(classifier, content, answer))
    return report.Mistake(
        path=photo.relative_to(folder).as_posix(),
        label=CLASSES[label],
        p_dog=answer.p_dog,
        thumbnail=report.thumbnail(content),
        heat_map=report.thumbnail(drawn),
    )


def _audit(issues: Sequence[Issue], prepared: Prepared) -> report.Audit | None:
    if not issues:
        return None
    digests = {
        row["path"]: row["sha256"]
        for split in (TRAINING, VALIDATION)
        for row in prepared.rows(split)
    }
    shown = chain.from_iterable(
        islice((issue for issue in issues if issue.issue == kind), SHOWN) for kind in KINDS
    )
    return report.Audit(
        [_suspect(issue, prepared.folder, digests) for issue in shown],
        Counter(issue.issue for issue in issues),
    )


def _suspect(issue: Issue, folder: Path, digests: Mapping[str, str]) -> report.Suspect:
    twin = issue.detail if issue.issue == NEAR_DUPLICATE else ""
    return report.Suspect(
        issue.path,
        issue.issue,
        issue.score,
        TOLD[issue.issue].format(issue.detail),
        report.thumbnail((folder / issue.path).read_bytes()),
        twin,
        report.thumbnail((folder / twin).read_bytes()) if twin else b"",
        digests[issue.path],
        digests.get(twin, ""),
    )


def _learning(fit: Fit, baseline: Scores | None) -> report.Learning:
    return report.Learning(
        [epoch.train.loss for epoch in fit.epochs],
        [epoch.val.loss for epoch in fit.epochs],
        [epoch.train.accuracy for epoch in fit.epochs],
        [epoch.val.accuracy for epoch in fit.epochs],
        fit.best.number,
        baseline.loss if baseline else None,
        baseline.accuracy if baseline else None,
    )


def _data(prepared: Prepared) -> report.Data:
    splits = {split: prepared.rows(split) for split in (TRAINING, VALIDATION)}
    return report.Data(
        prepared.folder.name,
        prepared.origin,
        {split: Counter(row["label"] for row in rows) for split, rows in splits.items()},
        prepared.digest,
        prepared.validation_digest,
        [(row["path"], row["reason"]) for row in prepared.left_out()],
        [
            row["path"]
            for split in (TRAINING, VALIDATION)
            for row in prepared.rows(f"excluded-{split}")
        ],
    )
