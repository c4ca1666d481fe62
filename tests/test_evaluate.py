from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from catdog.calibration import predicted_labels, probability
from catdog.evaluate import confusion_counts, score


def test_dog_is_the_positive_class():
    counts = confusion_counts(np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 0, 1, 1, 1]))
    assert counts.to_dict("val_") == {
        "val_true_negatives": 2,
        "val_false_positives": 1,
        "val_false_negatives": 1,
        "val_true_positives": 3,
    }
    assert counts.matrix.tolist() == [[2, 1], [1, 3]]


def test_a_confusion_has_four_cells_even_when_one_class_is_absent():
    assert confusion_counts(np.array([1, 1]), np.array([1, 1])).matrix.tolist() == [[0, 0], [0, 2]]


@given(
    st.lists(st.tuples(st.integers(0, 1), st.floats(-60, 60, width=32)), min_size=1, max_size=40)
)
def test_the_loss_is_the_one_that_training_minimises(pairs):
    labels = np.array([label for label, _ in pairs])
    logits = np.array([logit for _, logit in pairs], dtype=np.float64)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits), torch.from_numpy(labels).double()
    )
    assert score(labels, logits).loss == pytest.approx(expected.item(), abs=1e-9)


def test_the_scores_of_a_known_case():
    scores = score(np.array([0, 0, 1, 1]), np.array([-2.0, 1.0, 0.5, 3.0]))
    assert scores.accuracy == 0.75
    assert scores.roc_auc == 0.75
    assert scores.count == 4
    expected = [math.log1p(math.exp(-2)), math.log1p(math.e), math.log1p(math.exp(-0.5))]
    assert scores.loss == pytest.approx((sum(expected) + math.log1p(math.exp(-3))) / 4)
    assert list(scores.to_dict()) == [
        "accuracy",
        "log_loss",
        "roc_auc",
        "true_negatives",
        "false_positives",
        "false_negatives",
        "true_positives",
        "count",
    ]


@given(st.floats(-700, 700))
def test_the_label_is_the_more_probable_class(logit):
    assert predicted_labels(logit) == (probability(logit) > 0.5) or abs(logit) < 1e-12


@pytest.mark.parametrize(
    ("labels", "logits"), [([], []), ([0, 1], [0.5]), ([0, 1], [0.5, float("nan")])]
)
def test_what_can_not_be_scored_is_refused(labels, logits):
    with pytest.raises(ValueError):
        score(np.array(labels), np.array(logits))
