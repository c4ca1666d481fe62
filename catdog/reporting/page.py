"""Findings about a run → the report of it.

In: what `catdog.reporting.findings` found, and the pictures that are worth a look. Out: the
parts of a `catdog.reporting.report.Report`. Reads pictures to show them; writes nothing.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from PIL import Image

from catdog.data import images
from catdog.data.dataset import TRAINING, VALIDATION, PreparedDataset
from catdog.evaluation.audit import KINDS, NEAR_DUPLICATE, Issue, told
from catdog.evaluation.calibration import Logits, predicted_labels, probability
from catdog.evaluation.metrics import (
    Promise,
    Scores,
    confusion_counts,
    estimates,
)
from catdog.evaluation.slices import SliceScore, worst_slice
from catdog.inference import explain
from catdog.inference.classifier import Classifier
from catdog.inference.prediction import to_prediction
from catdog.reporting import report
from catdog.reporting.findings import PREFIX, RAW_PREFIX, TEST_PREFIX, Findings
from catdog.training.judge import Judgement
from catdog.training.loop import Fit

THUMBNAIL_PX = 160
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


def as_report(  # noqa: PLR0913
    findings: Findings,
    *,
    title: str,
    prepared: PreparedDataset,
    classifier: Classifier,
    judgement: Judgement,
    fit: Fit,
    baseline: Scores | None,
    baseline_logits: Logits | None = None,
    production: Mapping[str, float],
    production_is: str = "Production",
    champion: str = "",
    decision: str,
    parameters: Mapping[str, object],
    versions: Mapping[str, str],
    reproduce: Sequence[report.Command],
    use: Sequence[report.Command],
    run: str = "",
) -> report.Report:
    """The page about a run, with pictures; `run` says which and when.

    `production` holds the metrics of that version, called `production_is`, `champion` says how this
    one compares with it, and `baseline_logits` those of the
    validation photos, `(N,)`, with nothing trained; `run` says which run and when.
    """
    metrics = _metrics(
        findings.metrics, _untrained(judgement, baseline, baseline_logits), production
    )
    photos = [prepared.folder / row["path"] for row in prepared.rows(VALIDATION)]
    both = len(np.unique(judgement.labels)) == 2
    return report.Report(
        title=title,
        classes=prepared.classes,
        verdict=verdict(metrics[0], len(judgement.labels), decision),
        about="; ".join(filter(None, [_about(findings, prepared, fit), run])),
        metrics=metrics,
        production=production_is,
        champion=champion,
        raw=raw_figures(findings.others),
        confusion=confusion_counts(judgement.labels, predicted_labels(judgement.logits)).matrix,
        ranking=report.Ranking(judgement.labels, judgement.logits, baseline_logits)
        if both
        else None,
        thresholds=[_threshold(promise) for promise in findings.promises],
        calibration=_calibration(judgement, classifier),
        slices=_slices(findings.slices),
        test=_tested(findings),
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
    found: Mapping[str, float],
    untrained: Mapping[str, float],
    production: Mapping[str, float],
    prefix: str = PREFIX,
) -> list[report.Metric]:
    return [
        report.Metric(
            name=name,
            value=found[prefix + name],
            low=found.get(f"{prefix}{name}_ci_low", np.nan),
            high=found.get(f"{prefix}{name}_ci_high", np.nan),
            baseline=untrained.get(name),
            production=production.get(prefix + name),
            production_low=production.get(f"{prefix}{name}_ci_low", np.nan),
            production_high=production.get(f"{prefix}{name}_ci_high", np.nan),
            percent=percent,
            higher_is_better=name not in LOWER_IS_BETTER,
        )
        for name, percent in SHOWN_METRICS.items()
        if prefix + name in found
    ]


def _tested(findings: Findings) -> report.OnTest | None:
    if not findings.test_slices:
        return None
    return report.OnTest(
        findings.test_slices[0].count,
        _metrics(findings.others, {}, {}, TEST_PREFIX),
        _slices(findings.test_slices),
    )


def raw_figures(others: Mapping[str, float]) -> str:
    """Figures with the excluded photos among the others, in a sentence; "" without any."""
    if f"{RAW_PREFIX}accuracy_score" not in others:
        return ""
    accuracy, low, high = (
        report.share(others[f"{RAW_PREFIX}accuracy_score{end}"])
        for end in ("", "_ci_low", "_ci_high")
    )
    return (
        f"With the excluded photos, {others[f'{RAW_PREFIX}example_count']:,.0f} in all: accuracy "
        f"{accuracy} ({low} to {high}), log-loss {others[f'{RAW_PREFIX}log_loss']:.4f}."
    )


def _about(findings: Findings, prepared: PreparedDataset, fit: Fit) -> str:
    told = f"{prepared.folder.name}, kept epoch {fit.best.number} of {len(fit.epochs)}"
    on_test = findings.others.get(f"{TEST_PREFIX}accuracy_score")
    return told if on_test is None else f"{told}; {report.share(on_test)} right on test photos"


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
        judgement.p_positive,
        classifier.about.temperature,
        [(told, measured[f"{key}_uncalibrated"], measured[key]) for told, key in named.items()],
    )


def _slices(table: Sequence[SliceScore]) -> report.Slices | None:
    whole, *rows = table
    if not rows:
        return None
    worst = worst_slice(table)
    return report.Slices(
        [
            report.Slice(row.label, row.count, row.errors, row.accuracy, row.low, row.high)
            for row in rows
        ],
        whole.accuracy,
        worst.label if worst else "",
        worst.verdict if worst else "",
    )


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
    answer = to_prediction(logit / classifier.about.temperature, familiarity, classifier.about)
    drawn = explain.as_jpeg(explain.warm(classifier, content, answer))
    return report.Mistake(
        path=photo.relative_to(folder).as_posix(),
        label=classifier.about.classes[label],
        p_positive=answer.p_positive,
        thumbnail=thumbnail(content),
        heat_map=thumbnail(drawn),
    )


def _audit(issues: Sequence[Issue], prepared: PreparedDataset) -> report.Audit | None:
    if not issues:
        return None
    shown = chain.from_iterable(
        islice((issue for issue in issues if issue.issue == kind), SHOWN) for kind in KINDS
    )
    return report.Audit(
        [_suspect(issue, prepared.folder) for issue in shown],
        Counter(issue.issue for issue in issues),
    )


def _suspect(issue: Issue, folder: Path) -> report.Suspect:
    twin = issue.detail if issue.issue == NEAR_DUPLICATE else ""
    return report.Suspect(
        issue.path,
        issue.issue,
        issue.score,
        told(issue),
        thumbnail((folder / issue.path).read_bytes()),
        twin,
        thumbnail((folder / twin).read_bytes()) if twin else b"",
        issue.sha256,
        issue.other_sha256 if twin else "",
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


def _data(prepared: PreparedDataset) -> report.Data:
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


def verdict(accuracy: report.Metric, photos: int, decision: str = "") -> str:
    """The result in a sentence.

    Args:
        accuracy: on held back photos, with its interval, and the baseline where known.
        photos: how many were held back.
        decision: what became of the model: "version 3 went to Staging because ..."
    """
    sentence = f"Right on {report.share(accuracy.value)} of {photos:,} held back photos"
    if math.isfinite(accuracy.low) and math.isfinite(accuracy.high):
        sentence += f" (95 % sure: {report.share(accuracy.low)} to {report.share(accuracy.high)})"
    if accuracy.baseline is not None and math.isfinite(accuracy.baseline):
        gap = accuracy.value - accuracy.baseline
        than = "better than" if gap > 0 else "worse than" if gap < 0 else "as good as"
        sentence += f", {than} ImageNet's classes untrained ({report.share(accuracy.baseline)})"
    return f"{sentence}; {decision.rstrip('.')}." if decision else f"{sentence}."


def thumbnail(content: bytes, px: int = THUMBNAIL_PX) -> bytes:
    """A small JPEG of a picture: upright, at most `px` pixels wide and high.

    Raises:
        UnreadableImageError: the bytes don't decode.
    """
    picture = images.decode(content)
    picture.thumbnail((px, px), Image.Resampling.BICUBIC, reducing_gap=2.0)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=75, optimize=True)
    return stream.getvalue()
