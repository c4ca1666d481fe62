from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

from catdog import CatdogError, predict
from catdog.classifier import About, Classifier
from catdog.model import build_network
from catdog.predict import FIELDS, Row, classify, evaluate_folder, find_photos, write_rows
from catdog.train import seed_everything
from tests.conftest import encoded, tiny_picture

GOOD = Row("a.jpg", "dog", 0.9, 0.9, None)
BAD = Row("b.jpg", None, None, None, "the file is empty")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    seed_everything(0)
    network = build_network("test_resnet", weights="none")
    return Classifier(network, About("test_resnet", "pets", "sample:seed=0", 3, 0.75))


def _draw(folder, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(tiny_picture("dog", number)))


def test_folders_are_searched_to_the_bottom_in_the_order_people_number_photos(tmp_path):
    _draw(tmp_path, "10.jpg", "2.jpg", "deep/er/1.jpg", "._2.jpg")
    (tmp_path / "notes.txt").write_text("no photo")
    found = [str(path.relative_to(tmp_path)) for path in find_photos([str(tmp_path)])]
    assert found == ["2.jpg", "10.jpg", "deep/er/1.jpg"]


def test_files_folders_and_globs_can_be_mixed(tmp_path):
    _draw(tmp_path, "a.jpg", "b/1.jpg", "c/x.png", "c/y.jpg")
    named = [str(tmp_path / "a.jpg"), str(tmp_path / "b"), str(tmp_path / "c" / "*.png")]
    assert [path.name for path in find_photos(named)] == ["a.jpg", "1.jpg", "x.png"]


def test_a_file_with_brackets_in_its_name_is_that_file(tmp_path):
    _draw(tmp_path, "me[1].jpg")
    assert [path.name for path in find_photos([str(tmp_path / "me[1].jpg")])] == ["me[1].jpg"]


@pytest.mark.parametrize("name", ["empty", "*.jpg"])
def test_a_folder_or_glob_without_a_photo_is_named_before_any_answer(tmp_path, name):
    _draw(tmp_path / "full", "1.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatdogError, match="holds no picture"):
        find_photos([str(tmp_path / "full"), str(tmp_path / name)])


def test_what_can_not_be_read_gives_a_row_and_the_others_are_labelled(tmp_path, classifier):
    _draw(tmp_path, "1.jpg", "4.jpg")
    (tmp_path / "2.jpg").write_bytes(b"")
    (tmp_path / "3.jpg").write_text("<html>not found</html>")
    paths = [tmp_path / f"{number}.jpg" for number in range(1, 6)]  # there is no fifth
    rows = list(classify(classifier, paths, batch_size=2))
    assert [row.path for row in rows] == [str(path) for path in paths]
    assert [row.error for row in rows][1:3] == [
        "the file is empty",
        "not a picture in a format that can be read",
    ]
    assert rows[4].error == "No such file or directory"
    assert rows[4].label is None
    assert rows[0].label in ("cat", "dog")
    assert rows[3].error is None


def test_the_batch_size_does_not_change_the_answers(tmp_path, classifier):
    _draw(tmp_path, *(f"{number}.jpg" for number in range(7)))
    paths = list(find_photos([str(tmp_path)]))
    one = [row.p_dog for row in classify(classifier, paths, batch_size=1)]
    assert [row.p_dog for row in classify(classifier, paths, batch_size=5)] == pytest.approx(one)


def _written(form: str, rows=(GOOD, BAD)) -> str:
    stream = io.StringIO()
    assert write_rows(rows, stream, form) == (len(rows), sum(row.error is not None for row in rows))
    return stream.getvalue()


def test_json_lines_and_csv_hold_the_same_fields():
    expected = [
        {"path": "a.jpg", "label": "dog", "confidence": 0.9, "p_dog": 0.9, "error": None},
        {"path": "b.jpg", "label": None, "confidence": None, "p_dog": None, "error": BAD.error},
    ]
    assert json.loads(_written("json")) == expected
    assert [json.loads(line) for line in _written("jsonl").splitlines()] == expected
    read = list(csv.DictReader(io.StringIO(_written("csv"))))
    assert list(read[0]) == list(FIELDS)
    assert (read[0]["label"], read[0]["p_dog"], read[0]["error"]) == ("dog", "0.9", "")
    assert (read[1]["label"], read[1]["error"]) == ("", BAD.error)


@pytest.mark.parametrize("rows", [(), (GOOD,), (GOOD, BAD)])
def test_json_is_one_valid_list_however_many_rows(rows):
    assert len(json.loads(_written("json", rows))) == len(rows)


def test_the_table_for_people_shows_label_confidence_and_trouble():
    _, good, bad = _written("text").splitlines()
    assert good.split() == ["dog", "90.0%", "0.9000", "a.jpg"]
    assert bad.endswith("b.jpg: the file is empty")


def test_an_output_file_is_replaced_only_when_the_answer_is_whole(tmp_path):
    target = tmp_path / "answer.csv"
    target.write_text("before")
    with pytest.raises(RuntimeError), predict.open_output(str(target)) as stream:
        stream.write("half")
        raise RuntimeError("killed")
    assert target.read_text() == "before"
    with predict.open_output(str(target)) as stream:
        stream.write("whole")
    assert target.read_text() == "whole"
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_device_file_is_written_to_and_not_replaced():
    with predict.open_output(os.devnull) as stream:
        stream.write("gone")
    assert not Path(os.devnull).is_file()


def test_an_output_in_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(CatdogError, match=r"output=.*can't be written: No such file"):  # noqa: SIM117
        with predict.open_output(str(tmp_path / "no" / "answer.csv")):
            pass


def test_a_labelled_folder_is_scored_with_the_answers_that_predict_gives(
    tmp_path, classifier, draw_folder
):
    draw_folder(tmp_path, 5)
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"")
    scores, unreadable = evaluate_folder(classifier, tmp_path, batch_size=3)
    rows = list(classify(classifier, find_photos([str(tmp_path)])))
    right = [row.label == row.path.split("/")[-2] for row in rows if row.error is None]
    assert scores.count == len(right) == 10
    assert scores.accuracy == sum(right) / 10
    assert [row.path for row in unreadable] == [str(tmp_path / "cat" / "broken.jpg")]


def test_a_folder_of_unreadable_pictures_is_one_sentence(tmp_path, classifier):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"")
    with pytest.raises(CatdogError, match=r"no picture in .* can be read: the file is empty"):
        evaluate_folder(classifier, tmp_path)


def test_a_saved_folder_can_be_named_in_place_of_a_registered_model(tmp_path, classifier):
    classifier.save(tmp_path / "model")
    loaded = predict.load_classifier(str(tmp_path / "model"), device="cpu")
    assert loaded.about == classifier.about
