"""Labels and logits → numbers. Pure: no files, no model, no MLflow; scikit-learn computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from catdog.calibration import Labels, Logits, log_loss, predicted_labels


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
        return np.array(
            [
                [self.true_negatives, self.false_positives],
                [self.false_negatives, self.true_positives],
            ]
        )

    def to_dict(self, prefix: str = "") -> dict[str, int]:
        """The four counts by name, `prefix` before each name."""
        return {
            f"{prefix}true_negatives": self.true_negatives,
            f"{prefix}false_positives": self.false_positives,
            f"{prefix}false_negatives": self.false_negatives,
            f"{prefix}true_positives": self.true_positives,
        }


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
    labels, logits = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    if labels.shape != logits.shape or labels.size == 0:
        raise ValueError(f"labels {labels.shape} and logits {logits.shape} can't be scored")
    if not np.isfinite(logits).all():
        raise ValueError("a logit is not finite")
    predictions = predicted_labels(logits)
    both = len(np.unique(labels)) == 2
    return Scores(
        loss=log_loss(labels, logits),
        accuracy=float(metrics.accuracy_score(labels, predictions)),
        roc_auc=float(metrics.roc_auc_score(labels, logits)) if both else float("nan"),
        confusion=confusion_counts(labels, predictions),
        count=int(labels.size),
    )
