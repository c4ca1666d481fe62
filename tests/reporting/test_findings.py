from __future__ import annotations

from dataclasses import replace

from catdog import CatdogError
from catdog.inference import explain
from catdog.inference.prediction import to_prediction
from catdog.reporting.findings import find
from catdog.training.judge import seen_in_training


def test_figures_are_given_with_the_excluded_photos_too(dataset, trained, findings):
    count = len(trained.judgement.labels)
    assert dataset.excluded == 1
    assert findings.metrics["val_example_count"] == count
    assert findings.other_metrics["val_raw_example_count"] == count + 1


def test_a_labelled_test_set_is_scored_and_sliced(findings):
    whole, *slices = findings.test_slices
    assert whole.count == findings.other_metrics["test_example_count"] == 8
    assert round(whole.accuracy, 6) == round(findings.other_metrics["test_accuracy_score"], 6) > 0.5
    assert {"class", "camera"} <= {row.group for row in slices}
    table = findings.tables()["tables/test_slices.csv"]
    assert list(table["count"]) == [row.count for row in findings.test_slices]


def test_every_slice_is_of_the_validation_photos(trained, findings):
    whole, *slices = findings.slices
    assert (whole.count, whole.errors) == (len(trained.judgement.labels), 1)
    assert {row.group for row in slices} >= {"class", "brightness", "camera"}
    assert all(row.count < whole.count for row in slices)


def test_the_wrong_answer_is_shown_as_it_is_served(dataset, trained, findings):
    (mistake,) = findings.mistakes
    row = dataset.rows("validation")[0]
    seen = seen_in_training(trained.classifier, trained.judgement)[0]
    answer = to_prediction(*seen, trained.classifier.about)
    assert (mistake.path, mistake.label) == (row["path"], row["label"])
    assert round(mistake.p_positive, 9) == round(answer.p_positive, 9)
    assert max(mistake.heat_map.size) <= 160


def test_a_backbone_without_a_map_is_reported_all_the_same(dataset, trained, monkeypatch):
    def fail(*_):
        raise CatdogError("this backbone has no map of features to show: leave out --explain.")

    monkeypatch.setattr(explain, "overlay", fail)
    (mistake,) = find(dataset, trained, seed=0).mistakes
    assert mistake.heat_map is None


def test_a_list_of_no_issues_keeps_its_header(findings):
    table = replace(findings, issues=()).tables()["data/audit.csv"]
    assert table.to_csv(index=False) == "path,issue,score,detail,sha256,other_sha256\n"
    assert table.columns.equals(findings.tables()["data/audit.csv"].columns)
