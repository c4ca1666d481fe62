from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from catdog.evaluation.intervals import (
    newcombe,
    weighted_metrics,
)

cells = st.integers(0, 60)


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 4)), min_size=2, max_size=30
    )
)
def test_weighted_metrics_are_those_of_scikit_learn(rows):
    labels, logits, weights = (np.array(column) for column in zip(*rows, strict=True))
    if not {0, 1} <= set(labels[weights > 0].tolist()):
        return
    order = np.argsort(-logits, kind="stable")
    labels, logits, weights = labels[order], logits[order].astype(float), weights[order]
    found = weighted_metrics(labels, logits, weights[None].astype(float))
    called, weighed = logits > 0, {"sample_weight": weights}
    expected = {
        "f1_score": metrics.f1_score(labels, called, zero_division=0, **weighed),
        "roc_auc": metrics.roc_auc_score(labels, logits, **weighed),
        "precision_recall_auc": metrics.average_precision_score(labels, logits, **weighed),
        "matthews_corrcoef": metrics.matthews_corrcoef(labels, called, **weighed),
        "balanced_accuracy_score": metrics.balanced_accuracy_score(labels, called, **weighed),
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        expected, abs=1e-9
    )


def test_the_interval_is_the_one_that_newcombe_published():
    # Statistics in Medicine 17 (1998), 2635: 36, 12, 2 and 0 pairs, method 10.
    assert newcombe(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@given(both=cells, first=cells, second=cells, neither=cells)
def test_an_interval_holds_the_difference_and_turns_with_it(both, first, second, neither):
    count = both + first + second + neither
    if count == 0:
        return
    low, high = newcombe(both, first, second, neither)
    assert -1 - 1e-9 <= low <= (first - second) / count + 1e-9
    assert (first - second) / count - 1e-9 <= high <= 1 + 1e-9
    assert newcombe(both, second, first, neither) == pytest.approx((-high, -low), abs=1e-9)
