"""Logits → probabilities that mean what they say: of photos called 90 % dog, nine in ten are.

One number does it, a temperature that every logit is divided by, fitted on validation photos
(Guo et al., "On Calibration of Modern Neural Networks", 2017). It never changes a label.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Logits = NDArray[np.float64]
Probabilities = NDArray[np.float64]

COLDEST, HOTTEST = 0.25, 10.0
"""The bounds of a temperature; what fits outside of them says that something else is wrong."""

FOLDS = 5


def probability(logits: Logits | float) -> Probabilities:
    """Of each logit, the probability of a dog, in [0, 1].

    >>> probability(np.array([0.0, 800.0, -800.0])).tolist()
    [0.5, 1.0, 0.0]
    """
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, dtype=np.float64)))


def predicted_labels(logits: Logits | float) -> Labels:
    """Of each logit, the label: 1 (dog) above zero, else 0 (cat)."""
    return (np.asarray(logits) > 0).astype(np.int64)


def log_losses(labels: Labels, logits: Logits) -> NDArray[np.float64]:
    """Each photo's binary cross-entropy in nats, `(N,)`.

    From logits, as BCEWithLogitsLoss does: from probabilities it would have to clip, and a
    confident mistake would look milder than it is.
    """
    return np.logaddexp(0.0, np.where(np.asarray(labels) == 1, -1, 1) * logits)


def log_loss(labels: Labels, logits: Logits) -> float:
    """The mean of `log_losses`."""
    return float(log_losses(labels, logits).mean())


def fit_temperature(labels: Labels, logits: Logits) -> float:
    """The temperature that makes the log-loss of `logits` `(N,)` smallest.

    Without a single mistake among them, that would be the coldest there is. Then each class is
    taken to hold one more photo that was mistaken (Platt, "Probabilistic Outputs for Support
    Vector Machines", 1999): the more photos were right, the surer.
    """
    from scipy.optimize import minimize_scalar

    dog = np.asarray(labels, dtype=np.float64)
    if np.array_equal(predicted_labels(logits), labels):
        cats, dogs = np.bincount(labels, minlength=2)
        dog = np.where(labels == 1, (dogs + 1) / (dogs + 2), 1 / (cats + 2))

    def loss(cold: float) -> float:
        divided = logits / np.exp(cold)
        losses = dog * np.logaddexp(0, -divided) + (1 - dog) * np.logaddexp(0, divided)
        return float(losses.mean())

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def cross_fitted(labels: Labels, logits: Logits) -> Logits:
    """Each logit divided by the temperature that fits the other folds, `(N,)`.

    What is measured on these is honest: no photo had a say in its own temperature. With fewer
    photos of a class than folds there is nothing to fit, and the logits come back.
    """
    from sklearn.model_selection import StratifiedKFold

    if np.bincount(labels, minlength=2).min() < FOLDS:
        return logits.copy()
    calibrated = np.empty_like(logits)
    parts = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(logits, labels)
    for fitted, held in parts:
        calibrated[held] = logits[held] / fit_temperature(labels[fitted], logits[fitted])
    return calibrated


def expected_calibration_error(labels: Labels, p_positive: Probabilities) -> float:
    """How far confidence is from accuracy, on average over the photos, in [0, 1].

    Photos are put in 15 bins by the confidence of their label (Naeini et al., 2015).
    """
    confidence = np.maximum(p_positive, 1 - p_positive)
    right = (p_positive > 0.5) == labels
    gaps = np.bincount(_bins(confidence, 15), weights=right - confidence)
    return float(np.abs(gaps).sum() / len(labels))


def reliability(
    labels: Labels, p_positive: Probabilities
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Photos in 10 bins by their probability of a dog, for a reliability plot.

    Returns:
        For each bin with a photo in it the mean probability of a dog, the share of dogs, and the
        number of photos.
    """
    _, places, count = np.unique(_bins(p_positive, 10), return_inverse=True, return_counts=True)
    predicted = np.bincount(places, weights=p_positive) / count
    observed = np.bincount(places, weights=labels) / count
    return predicted, observed, count


def _bins(shares: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    return np.minimum((shares * bins).astype(np.int64), bins - 1)
