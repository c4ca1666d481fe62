from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from catdog import CLASSES
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


@pytest.mark.parametrize(
    ("labels", "logits"), [([], []), ([0, 1], [0.5]), ([0, 1], [0.5, float("nan")])]
)
def test_what_can_not_be_scored_is_refused(labels, logits):
    with pytest.raises(ValueError):
        score(np.array(labels), np.array(logits))


def test_metrics_are_those_that_mlflow_computes_under_its_names_with_intervals():
    from mlflow.models.evaluation.evaluators import classifier

    labels, logits = _photos(300)
    found = metrics_of(labels, logits, prefix="val_", replicates=10)
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
    found = metrics_of(labels, logits, calibrated=calibrated, replicates=30)
    raw = metrics_of(labels, logits, replicates=30)
    other = metrics_of(labels, calibrated, replicates=30)
    for name in ("log_loss", "brier_score"):
        assert found[name] == other[name] != raw[name]
    ranked = [name for name in found if not name.startswith(("log_loss", "brier_score"))]
    assert all(found[name] == raw[name] for name in ranked)
    assert found["roc_auc"] != other["roc_auc"]
    assert estimates(labels, logits) == {n: raw[n] for n in estimates(labels, logits)}


@given(PAIRS)
@settings(max_examples=40, deadline=None)
def test_every_interval_holds_its_metric_and_nothing_is_nan(pairs):
    found = metrics_of(*_arrays(pairs), replicates=30)
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
    truth = metrics_of(*_photos(200_000, seed=9), replicates=2)
    held = dict.fromkeys(INTERVALS, 0)
    for seed in range(100):
        found = metrics_of(*_photos(250, seed=seed), replicates=100)
        for name in INTERVALS:
            held[name] += found[f"{name}_ci_low"] <= truth[name] <= found[f"{name}_ci_high"]
    assert all(count >= 86 for count in held.values()), held


def test_per_class_metrics_of_a_known_case():
    labels, logits = np.array([0, 0, 0, 1, 1]), np.array([-1.0, -1.0, 2.0, 3.0, -1.0])
    rows = per_class_metrics(labels, logits, ("ant", "bee"))
    assert [row.pop("class") for row in rows] == ["ant", "bee"]
    assert [list(row.values()) for row in rows] == [
        pytest.approx([2 / 3, 2 / 3, 2 / 3, 3]),
        pytest.approx([0.5, 0.5, 0.5, 2]),
    ]


@given(PAIRS, st.lists(st.floats(0, 0.6), min_size=1, max_size=3))
def test_every_threshold_keeps_its_promise_and_the_next_would_not(pairs, shares):
    labels, logits = _arrays(pairs)
    if len(set(labels.tolist())) < 2:
        assert operating_points(labels, logits, shares, classes=CLASSES) == []
        return
    p_dog = probability(logits)
    for row in operating_points(labels, logits, shares, classes=CLASSES):
        called_dog = p_dog > row.threshold
        mine = labels == (row.kept == "dog")
        called_mine = called_dog if row.kept == "dog" else ~called_dog
        assert row.missed == np.sum(mine & ~called_mine) <= row.at_most * row.count + 1e-6
        assert row.mistaken == np.sum(~mine & called_mine)
        assert (row.count, row.other_count) == (mine.sum(), (~mine).sum())
        assert row.missed_share <= row.missed_ci_high
        # Any threshold that mistakes fewer misses too many.
        for cut in np.append(p_dog, 0.0):
            kept = p_dog > cut if row.kept == "dog" else p_dog <= cut
            if np.sum(~mine & kept) < row.mistaken:
                assert np.sum(mine & ~kept) > math.floor(row.at_most * row.count + 1e-9)


def test_operating_points_of_a_known_case():
    labels, logits = np.repeat([0, 1], 3), np.array([-3.0, -1.0, 2.0, -2.0, 1.0, 3.0])
    first, second = operating_points(labels, logits, (0.34,), classes=("ant", "bee"))
    assert (first.kept, first.missed, first.mistaken) == ("bee", 1, 1)
    assert probability(-1.0) <= first.threshold < probability(1.0)
    assert (second.kept, second.missed, second.mistaken) == ("ant", 1, 1)
    assert probability(-1.0) <= second.threshold < probability(1.0)
    assert first.threshold == 0.27


def test_a_promise_that_no_threshold_keeps_is_not_made():
    logits = np.array([-3.0, -1.0, -800.0, 2.0])
    rows = operating_points(np.array([0, 0, 1, 1]), logits, (0.01,), classes=CLASSES)
    assert {row.kept for row in rows} == {"cat"}
