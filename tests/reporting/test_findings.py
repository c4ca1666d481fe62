from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catdog import CLASSES
from catdog.data.dataset import PreparedDataset
from catdog.data.images import load
from catdog.evaluation.audit import Issue
from catdog.evaluation.calibration import predicted_labels
from catdog.evaluation.metrics import estimates, metrics_of, score
from catdog.inference.classifier import Classifier
from catdog.inference.prediction import Options, to_prediction
from catdog.reporting.findings import PREFIX, Findings, find
from catdog.reporting.page import _audit, as_report
from catdog.reporting.report import digits, render
from catdog.training.judge import Evidence, Judgement, judge, seen_in_training
from catdog.training.loop import Epoch, Fit
from tests.conftest import tiny_classifier, tiny_picture
from tests.sources import prepare_pictures


def _features(classifier: Classifier, prepared: PreparedDataset, split: str) -> np.ndarray:
    import torch

    from catdog.data.transforms import evaluation_transform

    transform = evaluation_transform(classifier.preprocessing)
    paths = [prepared.folder / row["path"] for row in prepared.rows(split)]
    return classifier.engine.compute(torch.stack([transform(load(path)) for path in paths]))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> PreparedDataset:
    """Twelve pictures a class and labelled tests; one validation picture is excluded."""
    folder = tmp_path_factory.mktemp("findings")
    for part, first, count in (("train", 0, 15), ("test", 50, 4)):
        (folder / "raw" / part).mkdir(parents=True)
        for name in ("cat", "dog"):
            for number in range(first, first + count):
                picture = tiny_picture(name, number, (60 + number, 50))
                picture.save(folder / "raw" / part / f"{name}.{number}.jpg")
    known = [f"train/cat.{number}.jpg,{'old' if number % 2 else 'new'}" for number in range(15)]
    known += [f"test/dog.{number}.jpg,{'old' if number % 2 else 'new'}" for number in range(50, 54)]
    (folder / "raw" / "metadata.csv").write_text("\n".join(["file_name,camera", *known]))
    options = {"origin": "here", "val_fraction": 0.4, "seed": 0}
    whole = prepare_pictures(folder / "raw", folder / "whole", **options)
    gone = folder / "exclude.txt"
    gone.write_text(whole.rows("validation")[0]["sha256"] + "\n")
    return prepare_pictures(folder / "raw", folder / "data", exclude=str(gone), **options)


@pytest.fixture(scope="module")
def judged(prepared) -> tuple[Classifier, Judgement, Findings]:
    tiny = tiny_classifier()
    training, validation = (_features(tiny, prepared, s) for s in ("training", "validation"))
    labels = np.array([row["label"] == "dog" for row in prepared.rows("validation")]).astype(int)
    labels[0] = 1 - labels[0]  # one answer is wrong
    evidence = Evidence(training, validation, labels, training[:3] * 3 + 1)
    classifier, judgement = judge(
        tiny.network(), tiny.engine, tiny.about, evidence, keep=0.9, learned=()
    )
    metrics = metrics_of(labels, judgement.logits, calibrated=judgement.calibrated, prefix=PREFIX)
    features = (training, validation)
    return classifier, judgement, find(prepared, classifier, judgement, metrics, features, seed=0)


def test_figures_are_given_with_the_excluded_photos_too(prepared, judged):
    _, judgement, findings = judged
    assert prepared.excluded == 1
    count = len(judgement.labels)
    assert findings.metrics["val_example_count"] == count
    assert findings.others["val_raw_example_count"] == count + 1


def test_a_labelled_test_set_is_scored(prepared, judged):
    _, _, findings = judged
    assert findings.others["test_example_count"] == 8
    assert 0.5 < findings.others["test_accuracy_score"] <= 1
    whole, *slices = findings.test_slices
    assert (whole.count, round(whole.accuracy, 6)) == (
        8,
        round(findings.others["test_accuracy_score"], 6),
    )
    assert {"class", "camera"} <= {row.group for row in slices}
    table = findings.tables()["tables/test_slices.csv"]
    assert list(table["count"]) == [row.count for row in findings.test_slices]


def test_without_labelled_tests_there_is_nothing_of_them(prepared, judged, tmp_path):
    classifier, judgement, _ = judged
    for name in ("cat", "dog"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for number in range(4):
            tiny_picture(name, number).save(tmp_path / "raw" / name / f"{number}.jpg")
    bare = prepare_pictures(tmp_path / "raw", tmp_path / "data", val_fraction=0.5)
    features = tuple(_features(classifier, bare, split) for split in ("training", "validation"))
    found = find(
        bare,
        classifier,
        replace(
            judgement,
            labels=np.array([0, 0, 1, 1]),
            **{name: getattr(judgement, name)[:4] for name in ("logits", "calibrated")},
        ),
        {},
        features,
        seed=0,
    )
    assert (found.others, found.test_slices) == ({}, [])
    assert "tables/test_slices.csv" not in found.tables()


def test_every_slice_is_of_the_validation_photos(judged):
    _, judgement, findings = judged
    whole, *slices = findings.slices
    assert (whole.count, whole.errors) == (
        len(judgement.labels),
        int(np.sum(predicted_labels(judgement.calibrated) != judgement.labels)),
    )
    assert {row.group for row in slices} >= {"class", "brightness", "camera"}
    assert all(row.count < whole.count for row in slices)


def test_every_threshold_keeps_its_promise_when_the_served_model_is_given_it(judged):
    classifier, judgement, findings = judged
    assert {promise.kept for promise in findings.promises} == {"cat", "dog"}
    for promise in findings.promises:
        options = Options(threshold=float(digits(promise.threshold)), reject=False)
        answers = [
            to_prediction(*seen, classifier.about, options).label
            for seen in seen_in_training(classifier, judgement)
        ]
        mine = judgement.labels == CLASSES.index(promise.kept)
        called = np.array([answer == promise.kept for answer in answers])
        assert np.sum(mine & ~called) == promise.missed <= promise.at_most * promise.count
        assert np.sum(~mine & called) == promise.mistaken


def test_a_table_of_nothing_keeps_its_header(judged):
    _, _, findings = judged
    findings = replace(findings, test_slices=[])
    empty = replace(findings, classes=[], promises=[], slices=[], issues=[]).tables()
    full = findings.tables()
    assert full.keys() == empty.keys()
    for name, table in empty.items():
        assert table.to_csv(index=False) == ",".join(full[name].columns) + "\n"
    audited = ["path", "issue", "score", "detail", "sha256", "other_sha256"]
    assert list(full["data/audit.csv"]) == audited
    assert list(full["tables/per_class_metrics.csv"]) == list(findings.classes[0])


def test_the_report_shows_the_wrong_answer_with_its_reasons(prepared, judged):
    classifier, judgement, findings = judged
    scores = score(judgement.labels, judgement.logits)
    other = score(judgement.labels, -judgement.logits)  # by another engine, say
    epoch = Epoch(1, other, other, 0.1, 1.0, 10.0, True)
    page = as_report(
        findings,
        title="pets version 7",
        prepared=prepared,
        classifier=classifier,
        judgement=judgement,
        fit=Fit((epoch,), epoch, stopped_early=False),
        baseline=scores,
        baseline_logits=judgement.logits[::-1],
        production={"val_accuracy_score": 0.5, "val_accuracy_score_ci_low": 0.4},
        decision="version 7 went to Staging: it is worse",
        parameters={"epochs": 1},
        versions={"python": "3"},
        reproduce=(),
        use=(),
        run="run 123, today",
    )
    wrong = prepared.rows("validation")[0]["path"]
    assert wrong in [mistake.path for mistake in page.mistakes]
    assert all(mistake.heat_map for mistake in page.mistakes)
    assert page.metrics[0].production == 0.5
    assert page.metrics[0].production_low == 0.4
    untrained = {metric.name: metric.baseline for metric in page.metrics}
    assert untrained == pytest.approx(
        {name: estimates(judgement.labels, judgement.logits[::-1]).get(name) for name in untrained}
    )
    assert page.ranking.baseline is not None
    assert page.ranking.scores is judgement.logits
    assert page.confusion.tolist() == scores.confusion.matrix.tolist()
    assert "right on test photos" in page.about
    assert page.raw.startswith(f"With the excluded photos, {len(judgement.labels) + 1} in all")
    assert page.test.count == 8
    assert page.test.metrics[0].value == findings.others["test_accuracy_score"]
    assert page.test.metrics[0].low == findings.others["test_accuracy_score_ci_low"]
    assert {"camera = old", "camera = new"} <= {row.name for row in page.test.slices.rows}
    assert page.about.endswith("; run 123, today")
    text = render(page)
    for name in ("camera = old", "camera = new", "camera = (empty)"):
        assert name in text
        assert name in set(findings.tables()["tables/slices.csv"]["name"])
    assert Path(wrong).name in text
    assert "version 7 went to Staging: it is worse" in text


def test_what_the_audit_points_at_says_what_is_meant(prepared, judged):
    rows = prepared.rows("training")
    (path, digest), (twin, other) = (
        (row["path"], row["sha256"]) for row in (rows[0], prepared.rows("validation")[0])
    )
    issues = [
        Issue(path, "wrong_label", 0.9, "dog", digest),
        Issue(path, "near_duplicate", 0.9, twin, digest, other),
        Issue(path, "unlike_others", 0.9, twin, digest, other),
    ]
    suspects = _audit(issues, prepared).suspects
    assert [suspect.detail for suspect in suspects] == [
        "looks like a dog",
        f"repeats {twin}",
        f"least unlike {twin}",
    ]
    assert {suspect.line for suspect in suspects} == {f"{rows[0]['sha256'][:16]}  # {path}"}
    assert suspects[1].twin_line == f"{other[:16]}  # {twin}"
    assert not suspects[2].twin_line.strip()
