"""Labels and logits → numbers. Pure: no files, no model, no MLflow; scikit-learn computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

Labels = NDArray[np.int64]
Logits = NDArray[np.float64]
Probabilities = NDArray[np.float64]


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


def probability(logits: Logits | float) -> Probabilities:
    """Of each logit, the probability of a dog, in [0, 1].

    >>> probability(np.array([0.0, 800.0, -800.0])).tolist()
    [0.5, 1.0, 0.0]
    """
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, dtype=np.float64)))


def predicted_labels(logits: Logits | float) -> Labels:
    """Of each logit, the label: 1 (dog) above zero, else 0 (cat)."""
    return (np.asarray(logits) > 0).astype(np.int64)


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
        loss=_binary_cross_entropy(labels, logits),
        accuracy=float(metrics.accuracy_score(labels, predictions)),
        roc_auc=float(metrics.roc_auc_score(labels, logits)) if both else float("nan"),
        confusion=confusion_counts(labels, predictions),
        count=int(labels.size),
    )


def _binary_cross_entropy(labels: Labels, logits: Logits) -> float:
    # From logits, as BCEWithLogitsLoss does: scikit-learn's log_loss clips the probability
    # of a logit beyond 36, and a confident mistake would look milder than it is.
    return float(np.mean(np.logaddexp(0.0, np.where(labels == 1, -logits, logits))))
