"""Labels and logits → numbers. Pure: no files, no model, no MLflow; scikit-learn computes.

`score` gives the few numbers of an epoch; `metrics_of`, `per_class_metrics` and
`operating_points` give what a kept model is judged by, with intervals that say how much of it is
luck.
"""

from __future__ import annotations

import math
from dataclasses import asdict, astuple, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import metrics

from catdog import CLASSES, Classes
from catdog.evaluation.calibration import (
    Labels,
    Logits,
    log_loss,
    log_losses,
    predicted_labels,
    probability,
)
from catdog.evaluation.intervals import bootstrap, wilson


@dataclass(frozen=True)
class Confusion:
    """Counts of pictures; positive means dog."""

    true_negatives: int
    false_positives: int
    false_negatives: int
    true_positives: int

    @property
    def matrix(self) -> NDArray[np.int64]:
        """The counts as `(2, 2)`: row = truth, column = prediction, cat before dog."""
        return np.reshape(astuple(self), (2, 2))

    def to_dict(self, prefix: str = "") -> dict[str, int]:
        """The four counts by name, `prefix` before each name."""
        return {f"{prefix}{name}": count for name, count in asdict(self).items()}


@dataclass(frozen=True)
class Scores:
    """How well logits fit labels. `loss` is the mean binary cross-entropy in nats."""

    loss: float
    accuracy: float
    roc_auc: float
    confusion: Confusion
    count: int

    def to_dict(self) -> dict[str, float]:
        """The scores under the names that `scripts/evaluate.py` answers with."""
        return {
            "accuracy": self.accuracy,
            "log_loss": self.loss,
            "roc_auc": self.roc_auc,
            **self.confusion.to_dict(),
            "count": self.count,
        }


def confusion_counts(labels: Labels, predictions: Labels) -> Confusion:
    """Count each kind of right and wrong prediction.

    >>> confusion_counts(np.array([0, 1, 1]), np.array([0, 0, 1]))
    Confusion(true_negatives=1, false_positives=0, false_negatives=1, true_positives=1)
    """
    cells = metrics.confusion_matrix(labels, predictions, labels=[0, 1])
    return Confusion(*(int(cell) for cell in cells.ravel()))


def score(labels: Labels, logits: Logits) -> Scores:
    """Score logits `(N,)` against labels `(N,)`, 0 = cat and 1 = dog.

    `roc_auc` is nan when only one class is present.

    Raises:
        ValueError: the shapes differ, there is nothing to score, or a logit is not finite.
    """
    labels, logits = _checked(labels, logits)
    predictions = predicted_labels(logits)
    both = len(np.unique(labels)) == 2
    return Scores(
        loss=log_loss(labels, logits),
        accuracy=float(metrics.accuracy_score(labels, predictions)),
        roc_auc=float(metrics.roc_auc_score(labels, logits)) if both else float("nan"),
        confusion=confusion_counts(labels, predictions),
        count=int(labels.size),
    )


def metrics_of(
    labels: Labels,
    logits: Logits,
    *,
    calibrated: Logits | None = None,
    prefix: str = "",
    seed: int = 0,
) -> dict[str, float]:
    """All metrics of logits `(N,)`, under the names that MLflow's classifier evaluator uses.

    Where `calibrated` logits `(N,)` are given, `log_loss` and `brier_score` are theirs. The
    rest is not: calibrated by another temperature in each fold, logits change their order.

    `<name>_ci_low` and `<name>_ci_high` enclose 95 %: Wilson's interval for accuracy,
    precision and recall, which are shares of counted pictures; for the others the
    percentiles of a bootstrap, widened to the metric itself where a handful of pictures
    leaves it outside. What is undefined, as `roc_auc` is with one class, is left out.
    `precision_recall_auc` is the average precision, and `log_loss` is in nats.

    Raises:
        ValueError: as `score` does.
    """
    labels, logits = _checked(labels, logits)
    means = _means(labels, logits if calibrated is None else calibrated)
    cells = confusion_counts(labels, predicted_labels(logits))
    values = estimates(labels, logits, calibrated)
    intervals = _wilson_intervals(cells)
    if len(np.unique(labels)) == 2:
        for name, drawn in bootstrap(labels, logits, means, seed=seed).items():
            low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
            intervals[name] = min(low, values[name]), max(high, values[name])
    found = {"example_count": float(labels.size), **cells.to_dict()}
    for name, value in values.items():
        found[name] = value
        if name in intervals:
            found[f"{name}_ci_low"], found[f"{name}_ci_high"] = intervals[name]
    return {f"{prefix}{name}": value for name, value in found.items()}


def estimates(labels: Labels, logits: Logits, calibrated: Logits | None = None) -> dict[str, float]:
    """The metrics of `metrics_of` without counts and intervals; what is undefined is left out."""
    predictions = predicted_labels(logits)
    means = _means(labels, logits if calibrated is None else calibrated)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predictions, average="binary", zero_division=np.nan
    )
    values = {
        "accuracy_score": metrics.accuracy_score(labels, predictions),
        "precision_score": precision,
        "recall_score": recall,
        "f1_score": f1,
        **{name: each.mean() for name, each in means.items()},
    }
    if len(np.unique(labels)) == 2:
        values |= {
            "roc_auc": metrics.roc_auc_score(labels, logits),
            "precision_recall_auc": metrics.average_precision_score(labels, logits),
            "matthews_corrcoef": metrics.matthews_corrcoef(labels, predictions),
            "balanced_accuracy_score": metrics.balanced_accuracy_score(labels, predictions),
        }
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def per_class_metrics(labels: Labels, logits: Logits, classes: Classes = CLASSES) -> pd.DataFrame:
    """For each class: class, precision, recall, f1 (nan where undefined) and support."""
    columns = metrics.precision_recall_fscore_support(
        labels, predicted_labels(logits), labels=[0, 1], zero_division=np.nan
    )
    names = ("class", "precision", "recall", "f1", "support")
    return pd.DataFrame(dict(zip(names, (classes, *columns), strict=True)))


AT_MOST = (0.001, 0.01, 0.05)
"""Shares of a class that a threshold may promise to miss no more of."""


@dataclass(frozen=True)
class OperatingPoint:
    """The threshold that keeps the promise "miss at most this share of one class".

    A picture is called a dog when `p_positive > threshold`, else a cat. `missed` of the `count`
    pictures of class `kept` are called the other class; in return `mistaken` of the
    `other_count` pictures of the other class are called `kept`. `missed_ci_high` is how
    large the missed share may really be: the upper end of Wilson's interval.
    """

    kept: str
    at_most: float
    threshold: float
    missed: int
    count: int
    missed_ci_high: float
    mistaken: int
    other_count: int


def operating_points(
    labels: Labels, logits: Logits, *, classes: Classes = CLASSES
) -> list[OperatingPoint]:
    """For each class and each share in `AT_MOST`, the threshold that misses no more.

    Of all such thresholds it is one that mistakes the fewest of the other class, and of these
    the one that is written with the fewest digits. Where `p_positive` is 0 for too many dogs,
    no threshold keeps the promise, and `missed` says so.

    Args:
        labels: `(N,)`, 0 = cat and 1 = dog, both present.
        logits: `(N,)`, divided by the temperature that the served model divides by.
        classes: what they are called.
    """
    p_positive = probability(logits)
    cats, dogs = np.sort(p_positive[labels == 0]), np.sort(p_positive[labels == 1])
    points = []
    for kept, mine, theirs in ((classes[1], dogs, cats), (classes[0], cats, dogs)):
        for share in AT_MOST:
            allowed = math.floor(share * len(mine) + 1e-9)
            if mine is dogs:
                high = dogs[allowed]
                low = np.max(p_positive, initial=0.0, where=p_positive < high)
            else:
                low = cats[-1 - allowed]
                high = np.min(p_positive, initial=1.0, where=p_positive > low)
            threshold = _rounded(low, high)
            wrong = [int(np.sum(cats > threshold)), int(np.sum(dogs <= threshold))]
            missed, mistaken = reversed(wrong) if mine is dogs else wrong
            points.append(
                OperatingPoint(
                    kept=kept,
                    at_most=share,
                    threshold=threshold,
                    missed=missed,
                    count=len(mine),
                    missed_ci_high=wilson(missed, len(mine))[1],
                    mistaken=mistaken,
                    other_count=len(theirs),
                )
            )
    return points


def _rounded(low: float, high: float) -> float:
    """`low`, rounded up to as few digits as keep it below `high`.

    Every number between the two divides the photos alike: what people read is what was counted.
    """
    for digits in range(2, 17):
        scale = 10.0**digits
        found = math.ceil(low * scale) / scale
        if low <= found < high:
            return found
    return float(low)


def _checked(labels: Labels, logits: Logits) -> tuple[Labels, Logits]:
    labels, logits = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    if labels.shape != logits.shape or labels.size == 0:
        raise ValueError(f"labels {labels.shape} and logits {logits.shape} can't be scored")
    if not np.isfinite(logits).all():
        raise ValueError("a logit is not finite")
    return labels, logits


def _means(labels: Labels, logits: Logits) -> dict[str, NDArray[np.float64]]:
    """The metrics that are the mean of a number for each picture, as these numbers, `(N,)`."""
    return {
        "log_loss": log_losses(labels, logits),
        "brier_score": (probability(logits) - labels) ** 2,
    }


def _wilson_intervals(cells: Confusion) -> dict[str, tuple[float, float]]:
    right = cells.true_negatives + cells.true_positives
    shares = {
        "accuracy_score": (right, int(cells.matrix.sum())),
        "precision_score": (cells.true_positives, cells.true_positives + cells.false_positives),
        "recall_score": (cells.true_positives, cells.true_positives + cells.false_negatives),
    }
    return {name: wilson(*share) for name, share in shares.items() if share[1]}
