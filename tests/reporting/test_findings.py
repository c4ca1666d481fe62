from __future__ import annotations

from dataclasses import replace

import numpy as np

from catdog import CLASSES
from catdog.inference.prediction import Options, to_prediction
from catdog.reporting.findings import Findings, find
from catdog.reporting.report import digits
from catdog.training.judge import seen_in_training
from tests.conftest import tiny_picture
from tests.reporting.conftest import features_of
from tests.sources import prepare_pictures


def test_figures_are_given_with_the_excluded_photos_too(prepared, trained, findings):
    count = len(trained.judgement.labels)
    assert prepared.excluded == 1
    assert findings.metrics["val_example_count"] == count
    assert findings.other_metrics["val_raw_example_count"] == count + 1


def test_a_labelled_test_set_is_scored_and_sliced(findings):
    whole, *slices = findings.test_slices
    assert whole.count == findings.other_metrics["test_example_count"] == 8
    assert round(whole.accuracy, 6) == round(findings.other_metrics["test_accuracy_score"], 6) > 0.5
    assert {"class", "camera"} <= {row.group for row in slices}
    table = findings.tables()["tables/test_slices.csv"]
    assert list(table["count"]) == [row.count for row in findings.test_slices]


def test_without_labelled_tests_or_excluded_photos_there_is_nothing_of_them(trained, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for number in range(4):
            tiny_picture(name, number).save(tmp_path / "raw" / name / f"{number}.jpg")
    bare = prepare_pictures(tmp_path / "raw", tmp_path / "data", val_fraction=0.5)
    features = [features_of(trained.classifier, bare, s) for s in ("training", "validation")]
    first = {name: getattr(trained.judgement, name)[:4] for name in ("logits", "calibrated")}
    first["familiarity"] = trained.judgement.familiarity[:4]
    judgement = replace(trained.judgement, labels=np.array([0, 0, 1, 1]), **first)
    found = find(bare, replace(trained, judgement=judgement, pretrained=tuple(features)), seed=0)
    assert (found.other_metrics, found.test_slices) == ({}, [])
    assert "tables/test_slices.csv" not in found.tables()


def test_every_slice_is_of_the_validation_photos(trained, findings):
    whole, *slices = findings.slices
    assert (whole.count, whole.errors) == (len(trained.judgement.labels), 1)
    assert {row.group for row in slices} >= {"class", "brightness", "camera"}
    assert all(row.count < whole.count for row in slices)


def test_the_wrong_answer_is_shown_as_it_is_served(prepared, trained, findings):
    (mistake,) = findings.mistakes
    row = prepared.rows("validation")[0]
    seen = seen_in_training(trained.classifier, trained.judgement)[0]
    answer = to_prediction(*seen, trained.classifier.about)
    assert (mistake.path, mistake.label) == (row["path"], row["label"])
    assert round(mistake.p_positive, 9) == round(answer.p_positive, 9)
    assert max(mistake.heat_map.size) <= 160


def test_every_threshold_keeps_its_promise_when_the_served_model_is_given_it(trained, findings):
    judgement = trained.judgement
    assert {point.kept for point in findings.operating_points} == {"cat", "dog"}
    for point in findings.operating_points:
        options = Options(threshold=float(digits(point.threshold)), reject=False)
        answers = [
            to_prediction(*seen, trained.classifier.about, options).label
            for seen in seen_in_training(trained.classifier, judgement)
        ]
        mine = judgement.labels == CLASSES.index(point.kept)
        called = np.array([answer == point.kept for answer in answers])
        assert np.sum(mine & ~called) == point.missed <= point.at_most * point.count
        assert np.sum(~mine & called) == point.mistaken


def test_a_table_of_nothing_keeps_its_header(findings):
    empty, full = Findings().tables(), findings.tables()
    assert full.keys() == empty.keys() | {"tables/test_slices.csv"}
    for name, table in empty.items():
        assert table.to_csv(index=False) == ",".join(full[name].columns) + "\n"
    audited = ["path", "issue", "score", "detail", "sha256", "other_sha256"]
    assert list(full["data/audit.csv"]) == audited
    assert list(full["tables/per_class_metrics.csv"]) == list(findings.classes[0])
