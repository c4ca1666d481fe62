from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from catdog import CatdogError
from catdog.config import EvaluateConfig
from catdog.evaluation.intervals import wilson
from catdog.inference.evaluate import Evaluation, evaluate_folder
from scripts import evaluate as script
from tests.conftest import tiny_picture
from tests.fake_classifier import ColourClassifier
from tests.sources import fill, pack


@pytest.fixture
def labelled(tmp_path, draw_folder) -> Path:
    """Five pictures of each class, a wrong one, one that is broken and one that is gone."""
    folder = draw_folder(tmp_path / "labelled", 5)
    tiny_picture("dog", 9).save(folder / "cat" / "wrong.jpg")
    (folder / "cat" / "broken.jpg").write_bytes(b"")
    (folder / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    return folder


def _evaluate(folder: Path) -> Evaluation:
    return evaluate_folder(ColourClassifier(), folder)


def test_a_labelled_folder_is_scored_with_intervals_and_left_as_it_is(labelled):
    before = sorted(labelled.rglob("*"))
    found = _evaluate(labelled)
    assert (found.scores.count, found.scores.accuracy) == (11, pytest.approx(10 / 11))
    assert {path.name: reason for path, reason in found.unreadable.items()} == {
        "broken.jpg": "the file is empty",
        "gone.jpg": "No such file or directory",
    }
    metrics = found.metrics
    ends = metrics["accuracy_score_ci_low"], metrics["accuracy_score_ci_high"]
    assert ends == wilson(10, 11)
    assert metrics["roc_auc_ci_low"] <= metrics["roc_auc"] <= metrics["roc_auc_ci_high"]
    assert sorted(labelled.rglob("*")) == before


@pytest.mark.parametrize("packed", ["folder", "zip", "tar.gz"])
@pytest.mark.parametrize(
    "names",
    [
        *("Cat/{}.jpg Dog/{}.jpg", "cats/{}.jpg DOGS/{}.jpg", "cat.{}.jpg dog_{}.jpg"),
        *("test_set/cat/{}.jpg Training/Dog/{}.jpg", "cat/{}.jpg again/cat/{}.jpg dog/{}.jpg"),
    ],
)
def test_labelled_photos_are_found_by_the_rules_of_preparing(tmp_path, names, packed):
    for name in names.split():  # the same name and class draw the same picture
        fill(tmp_path / "raw", *(name.format(n) for n in range(3)))
    found = _evaluate(pack(tmp_path / "raw", packed))
    assert (found.scores.count, found.scores.accuracy, found.unreadable) == (6, 1.0, {})
    assert found.copies == (3 if "again" in names else 0)


@pytest.mark.parametrize(
    ("names", "said"),
    [((), "does not exist"), (("cat/1.jpg",), "needs pictures in both cat/ and dog/")],
)
def test_what_holds_no_labelled_photos_is_one_sentence(tmp_path, names, said):
    with pytest.raises(CatdogError, match=said):
        _evaluate(fill(tmp_path / "raw", *names))


def test_photos_that_the_model_learned_from_are_counted(labelled):
    classifier = ColourClassifier()
    known = labelled / "cat" / "0.jpg"
    classifier.learned = frozenset([hashlib.sha256(known.read_bytes()).hexdigest()])
    found = evaluate_folder(classifier, labelled)
    assert found.learned == found.to_dict()["learned_count"] == 1
    assert _evaluate(labelled).learned == 0


def test_photos_are_sliced_by_what_a_table_in_the_folder_says(said, labelled):
    (labelled / "cat" / "metadata.csv").write_text("file_name,camera\nwrong.jpg,old\nno.jpg,old\n")
    found = _evaluate(labelled)
    (old,) = [row for row in found.slices if row.name == "camera = old"]
    assert (old.count, old.errors) == (1, 1)
    assert {row.group for row in found.slices} >= {"all", "class", "brightness"}
    assert said == ["Rows of metadata.csv that name no picture: 1, the first of them cat/no.jpg."]


def test_a_folder_of_unreadable_pictures_is_one_sentence(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"")
    with pytest.raises(CatdogError, match=r"no picture in .* can be read: the file is empty"):
        _evaluate(tmp_path)


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_script_prints_intervals_and_slices(said, labelled, monkeypatch, capsys, form):
    monkeypatch.setattr("catdog.registry.load.load_classifier", lambda *_, **__: ColourClassifier())
    assert script.main(EvaluateConfig(data=str(labelled), format=form)) == 1
    shown = capsys.readouterr()
    assert "\n".join(said).count("left out ") == 2
    if form == "json":
        answer = json.loads(shown.out)
        assert answer["accuracy_score"] == answer["accuracy"] == pytest.approx(10 / 11)
        assert answer["accuracy_score_ci_low"] < answer["accuracy"]
        assert answer["slices"][0]["count"] == answer["count"] == 11
    else:
        low, high = wilson(10, 11)
        assert f"accuracy_score           0.9091  {low:.4f} to {high:.4f}\n" in shown.out
        assert "example_count            11\n" in shown.out
        assert "\ncat " in shown.out
