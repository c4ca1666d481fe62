from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from catdog.evaluation.calibration import predicted_labels, probability
from catdog.evaluation.metrics import (
    confusion_counts,
    estimates,
    metrics_of,
    operating_points,
    per_class_metrics,
    score,
)

INTERVALS = (
    *("accuracy_score", "precision_score", "recall_score", "f1_score", "roc_auc"),
    *("precision_recall_auc", "log_loss", "brier_score", "matthews_corrcoef"),
    "balanced_accuracy_score",
)
CELLS = ("true_negatives", "false_positives", "false_negatives", "true_positives")
COUNTS = ("example_count", *CELLS)
PAIRS = st.lists(
    st.tuples(st.integers(0, 1), st.floats(-60, 60, width=32)), min_size=1, max_size=40
)


def _arrays(pairs) -> tuple[np.ndarray, np.ndarray]:
    labels, logits = zip(*pairs, strict=True)
    return np.array(labels), np.array(logits, dtype=np.float64)


def _photos(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    return labels, rng.normal(size=count) * 2 + (2 * labels - 1) * 3


def test_dog_is_the_positive_class():
    counts = confusion_counts(np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 0, 1, 1, 1]))
    cells = dict(zip(CELLS, (2, 1, 1, 3), strict=True))
    assert counts.to_dict("val_") == {f"val_{name}": count for name, count in cells.items()}
    assert counts.matrix.tolist() == [[2, 1], [1, 3]]
    assert confusion_counts(np.array([1, 1]), np.array([1, 1])).matrix.tolist() == [[0, 0], [0, 2]]


@given(PAIRS)
def test_the_loss_is_the_one_that_training_minimises(pairs):
    labels, logits = _arrays(pairs)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits), torch.from_numpy(labels).double()
    )
    assert score(labels, logits).loss == pytest.approx(expected.item(), abs=1e-9)


def test_the_scores_of_a_known_case():
    scores = score(np.array([0, 0, 1, 1]), np.array([-2.0, 1.0, 0.5, 3.0]))
    assert (scores.accuracy, scores.roc_auc, scores.count) == (0.75, 0.75, 4)
    assert list(scores.to_dict()) == ["accuracy", "log_loss", "roc_auc", *CELLS, "count"]


def test_metrics_are_those_that_mlflow_computes_under_its_names_with_intervals():
    from mlflow.models.evaluation.evaluators import classifier

    labels, logits = _photos(300)
    found = metrics_of(labels, logits, prefix="val_")
    ends = [f"{name}_ci_{end}" for name in INTERVALS for end in ("low", "high")]
    assert set(found) == {f"val_{name}" for name in (*COUNTS, *INTERVALS, *ends)}
    found = {name.removeprefix("val_"): value for name, value in found.items()}
    p_dog = probability(logits)
    theirs = classifier._get_binary_classifier_metrics(
        y_true=labels,
        y_pred=predicted_labels(logits),
        y_proba=np.column_stack([1 - p_dog, p_dog]),
        labels=[0, 1],
    )
    for name, kind in (("roc_auc", "roc"), ("precision_recall_auc", "pr")):
        curve = classifier._gen_classifier_curve(True, labels, p_dog, [0, 1], 1, kind, None)
        theirs[name] = curve.auc
    assert {name: found[name] for name in theirs} == pytest.approx(theirs)
    assert found["brier_score"] == pytest.approx(metrics.brier_score_loss(labels, p_dog))


def test_photos_are_ranked_by_logits_and_measured_by_calibrated_ones():
    labels, logits = _photos(200)
    calibrated = logits / np.where(np.arange(200) % 2, 0.5, 3.0)
    found = metrics_of(labels, logits, calibrated=calibrated)
    raw = metrics_of(labels, logits)
    other = metrics_of(labels, calibrated)
    for name in ("log_loss", "brier_score"):
        assert found[name] == other[name] != raw[name]
    ranked = [name for name in found if not name.startswith(("log_loss", "brier_score"))]
    assert all(found[name] == raw[name] for name in ranked)
    assert found["roc_auc"] != other["roc_auc"]
    assert estimates(labels, logits) == {n: raw[n] for n in estimates(labels, logits)}


@given(PAIRS)
@settings(max_examples=40, deadline=None)
def test_every_interval_holds_its_metric_and_nothing_is_nan(pairs):
    found = metrics_of(*_arrays(pairs))
    assert all(math.isfinite(value) for value in found.values())
    for name in INTERVALS:
        if f"{name}_ci_low" in found:
            assert found[f"{name}_ci_low"] <= found[name] <= found[f"{name}_ci_high"]


@pytest.mark.parametrize("label", [0, 1])
def test_what_one_class_alone_does_not_define_is_left_out(label):
    found = metrics_of(np.full(5, label), np.array([-2.0, -1.0, -3.0, -1.0, 4.0]))
    undefined = {"roc_auc", "precision_recall_auc", "matthews_corrcoef", "balanced_accuracy_score"}
    if label == 0:
        undefined |= {"recall_score"}
        assert found["precision_score"] == 0
    else:
        assert found["recall_score"] == pytest.approx(0.2)
    names = {name.split("_ci_")[0] for name in found}
    assert names == {*COUNTS, *INTERVALS} - undefined
    never_dog = metrics_of(np.array([0, 1, 1]), np.array([-1.0, -2.0, -3.0]))
    assert "precision_score" not in never_dog
    assert never_dog["recall_score"] == 0


def test_nineteen_of_twenty_intervals_hold_the_true_value():
    truth = estimates(*_photos(200_000, seed=9))
    held = dict.fromkeys(INTERVALS, 0)
    for seed in range(100):
        found = metrics_of(*_photos(250, seed=seed))
        for name in INTERVALS:
            held[name] += found[f"{name}_ci_low"] <= truth[name] <= found[f"{name}_ci_high"]
    assert all(count >= 86 for count in held.values()), held


def test_per_class_metrics_of_a_known_case():
    labels, logits = np.array([0, 0, 0, 1, 1]), np.array([-1.0, -1.0, 2.0, 3.0, -1.0])
    table = per_class_metrics(labels, logits, ("ant", "bee")).set_index("class")
    assert list(table.loc["ant"]) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 3])
    assert list(table.loc["bee"]) == pytest.approx([0.5, 0.5, 0.5, 2])


@given(st.integers(0, 10_000), st.integers(2, 150), st.integers(2, 150))
def test_every_threshold_keeps_its_promise_and_the_next_would_not(seed, cats, dogs):
    labels = np.repeat([0, 1], [cats, dogs])
    logits = np.random.default_rng(seed).normal(scale=3, size=len(labels)).round(1)
    p_dog = probability(logits)
    for row in operating_points(labels, logits):
        mine = labels == (row.kept == "dog")
        called_mine = (p_dog > row.threshold) == (row.kept == "dog")
        assert row.missed == np.sum(mine & ~called_mine) <= row.at_most * row.count + 1e-6
        assert row.mistaken == np.sum(~mine & called_mine)
        assert (row.count, row.other_count) == (mine.sum(), (~mine).sum())
        assert row.missed / row.count <= row.missed_ci_high
        # Any threshold that mistakes fewer misses too many.
        for cut in np.append(p_dog, 0.0):
            kept = (p_dog > cut) == (row.kept == "dog")
            if np.sum(~mine & kept) < row.mistaken:
                assert np.sum(mine & ~kept) > math.floor(row.at_most * row.count + 1e-9)


def test_a_threshold_is_written_with_few_digits():
    cats, dogs = [-3.0] * 18 + [-1.0, 2.0], [-2.0, 1.0] + [3.0] * 18
    points = operating_points(np.repeat([0, 1], 20), np.array(cats + dogs), classes=("ant", "bee"))
    found = [(it.kept, it.threshold, it.missed, it.mistaken) for it in points if it.at_most == 0.05]
    assert found == [("bee", 0.27, 1, 1), ("ant", 0.27, 1, 1)]  # from p(-1) to p(1)


def test_where_no_threshold_keeps_a_promise_the_count_says_so():
    first, *_ = operating_points(np.array([0, 0, 1, 1]), np.array([-3.0, -1.0, -800.0, 2.0]))
    assert (first.kept, first.missed, first.count) == ("dog", 1, 2)
