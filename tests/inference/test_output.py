from __future__ import annotations

import csv
import io
import json
from math import nan

import pytest

from catdog import CLASSES, CatdogError
from catdog.inference import output
from catdog.inference.inputs import Photo
from catdog.inference.output import Answered, open_output, record, write_answers
from catdog.inference.prediction import Prediction, unanswered

SURE = Prediction("dog", 0.9, 0.9, 0.25)
GOOD = Photo("1.jpg"), SURE
BAD = Photo("2.jpg"), unanswered("the file is empty")
STRANGE = Photo("3.jpg"), Prediction("neither", nan, 0.4, 0.0)


def _written(form: str, *answers: Answered) -> str:
    stream = io.StringIO()
    write_answers(answers, stream, form)
    return stream.getvalue()


def test_json_lines_and_csv_hold_the_same_fields():
    good = {"path": "1.jpg", "label": "dog", "confidence": 0.9, "p_dog": 0.9, "familiarity": 0.25}
    expected = [
        good | {"error": None},
        dict.fromkeys(good) | {"path": "2.jpg", "error": "the file is empty"},
    ]
    assert [record(photo.name, one, CLASSES) for photo, one in (GOOD, BAD)] == expected
    for count in (0, 1, 2):  # one valid list, however many
        assert json.loads(_written("json", *(GOOD, BAD)[:count])) == expected[:count]
    assert [json.loads(line) for line in _written("jsonl", GOOD, BAD).splitlines()] == expected
    read = list(csv.DictReader(io.StringIO(_written("csv", GOOD, BAD))))
    assert list(read[0]) == list(expected[0])
    assert list(read[0].values()) == ["1.jpg", "dog", "0.9", "0.9", "0.25", ""]
    assert list(read[1].values()) == ["2.jpg", "", "", "", "", "the file is empty"]


def test_the_table_for_people_is_aligned_and_shows_trouble():
    header, good, bad, strange = _written("text", GOOD, BAD, STRANGE).splitlines()
    assert header.split() == ["label", "confidence", "p_dog", "familiarity", "path"]
    assert good.split() == ["dog", "90.0%", "0.9000", "0.250", "1.jpg"]
    assert strange.split() == ["neither", "-", "0.4000", "0.000", "3.jpg"]
    assert bad.split() == ["-", "-", "-", "-", "2.jpg:", "the", "file", "is", "empty"]
    starts = {line.index(word) for line, word in [(header, "path"), (good, "1.j"), (bad, "2.j")]}
    assert len(starts) == 1


def test_no_name_and_no_error_can_break_the_table_or_command_the_terminal():
    evil = Photo("a\n\x1b[31mb.jpg"), unanswered("first\n  second")
    (_, line) = _written("text", evil).splitlines()
    assert line.endswith(r"a\n\x1b[31mb.jpg: first second")
    assert json.loads(_written("jsonl", evil))["path"] == "a\n\x1b[31mb.jpg"


def test_answers_are_counted_by_label_and_trouble():
    counts = write_answers([GOOD, BAD, STRANGE, GOOD], io.StringIO(), "csv")
    assert counts == {"dog": 2, "neither": 1, "": 1}
    summary = output.summary(counts, CLASSES)
    assert summary == "3 of 4 photos labelled (0 cat, 2 dog, 1 neither)"


@pytest.mark.parametrize(("form", "first"), [("text", 1), ("jsonl", 0), ("csv", 1), ("kaggle", 1)])
def test_each_answer_is_written_before_the_next_is_asked_for(form, first):
    stream, seen = io.StringIO(), []

    def answers():
        for number in range(3):
            seen.append(stream.getvalue().count("\n"))
            yield Photo(f"{number}.jpg"), SURE

    write_answers(answers(), stream, form)
    assert seen == [first, first + 1, first + 2]


def test_a_submission_holds_each_id_with_a_probability_that_is_never_sure(said):
    sure = [
        (Photo("test/12.jpg"), Prediction("dog", 1.0, 1.0, 1.0)),
        (Photo("test/007.jpg"), Prediction("cat", 1.0, 0.0, 1.0)),
        (Photo("test/3.jpg"), Prediction("neither", nan, 0.75, 0.0)),
    ]
    assert _written("kaggle", *sure, BAD).splitlines() == [
        *("id,label", "12,0.995000", "7,0.005000", "3,0.750000", "2,0.500000"),
    ]
    assert [line.split(",")[0] for line in said] == ["2.jpg: the file is empty; it gets 0.5"]


@pytest.mark.parametrize("name", ["-1.jpg", "٣.jpg"])
def test_a_photo_without_a_number_can_not_be_submitted(name):
    with pytest.raises(CatdogError, match="can't be in a Kaggle submission"):
        _written("kaggle", GOOD, (Photo(name), SURE))


def test_an_output_file_is_replaced_only_when_the_answer_is_whole(tmp_path):
    target = tmp_path / "answer.csv"
    target.write_text("before")
    with pytest.raises(RuntimeError), open_output(str(target)) as stream:
        stream.write("half")
        raise RuntimeError("killed")
    assert target.read_text() == "before"
    with open_output(str(target)) as stream:
        stream.write("whole")
    assert target.read_text() == "whole"
    assert [path.name for path in tmp_path.glob(".*")] == []
