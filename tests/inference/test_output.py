from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from math import nan
from pathlib import Path

import pytest

from catdog import CLASSES, CatdogError
from catdog.inference import output as answers
from catdog.inference.output import Row, columns, open_output, to_row, write_rows
from catdog.inference.prediction import Prediction
from tests.conftest import ROOT
from tests.fake_classifier import failed

GOOD = to_row("1.jpg", Prediction("dog", 0.9, 0.9, 0.25))
BAD = to_row("2.jpg", failed("the file is empty"))
STRANGE = to_row("3.jpg", Prediction("neither", 0.6, 0.4, 0.0))


def _written(form: str, *rows: Row) -> str:
    stream = io.StringIO()
    write_rows(rows, stream, form)
    return stream.getvalue()


def test_json_lines_and_csv_hold_the_same_fields():
    good = {"path": "1.jpg", "label": "dog", "confidence": 0.9, "p_dog": 0.9, "familiarity": 0.25}
    expected = [
        good | {"error": None},
        dict.fromkeys(good) | {"path": "2.jpg", "error": "the file is empty"},
    ]
    assert json.loads(_written("json", GOOD, BAD)) == expected
    assert [json.loads(line) for line in _written("jsonl", GOOD, BAD).splitlines()] == expected
    read = list(csv.DictReader(io.StringIO(_written("csv", GOOD, BAD))))
    assert tuple(read[0]) == columns(CLASSES) == tuple(expected[0])
    assert (read[0]["label"], read[0]["p_dog"], read[0]["error"]) == ("dog", "0.9", "")
    assert (read[1]["label"], read[1]["familiarity"], read[1]["error"]) == ("", "", BAD.error)


@pytest.mark.parametrize("rows", [(), (GOOD,), (GOOD, BAD)])
def test_json_is_one_valid_list_however_many_rows(rows):
    assert len(json.loads(_written("json", *rows))) == len(rows)


def test_the_table_for_people_is_aligned_and_shows_trouble():
    header, good, bad, strange = _written("text", GOOD, BAD, STRANGE).splitlines()
    assert header.split() == ["label", "confidence", "p_dog", "familiarity", "path"]
    assert good.split() == ["dog", "90.0%", "0.9000", "0.250", "1.jpg"]
    assert strange.split() == ["neither", "60.0%", "0.4000", "0.000", "3.jpg"]
    assert bad.endswith("2.jpg: the file is empty")
    starts = {line.index(word) for line, word in [(header, "path"), (good, "1.j"), (bad, "2.j")]}
    assert len(starts) == 1


def test_a_model_that_knows_no_familiarity_shows_a_dash():
    row = to_row("1.jpg", Prediction("dog", 0.9, 0.9, nan))
    assert row.familiarity is None
    assert _written("text", row).splitlines()[1].split() == ["dog", "90.0%", "0.9000", "-", "1.jpg"]


def test_no_name_and_no_error_can_break_the_table_or_command_the_terminal():
    row = to_row("a\n\x1b[31mb.jpg", failed("first\n  second"))
    (_, line) = _written("text", row).splitlines()
    assert line.endswith(r"a\n\x1b[31mb.jpg: first second")
    assert json.loads(_written("jsonl", row))["path"] == "a\n\x1b[31mb.jpg"


def test_rows_are_counted_by_label_and_trouble():
    tally = write_rows([GOOD, BAD, STRANGE, GOOD], io.StringIO(), "csv")
    assert (tally.total, tally.failed) == (4, 1)
    assert str(tally) == "3 of 4 photos labelled (0 cat, 2 dog, 1 neither)"


def test_each_row_is_written_before_the_next_is_asked_for():
    stream, seen = io.StringIO(), []

    def rows():
        for number in range(3):
            seen.append(stream.getvalue().count("\n"))
            yield to_row(f"{number}.jpg", Prediction("dog", 0.9, 0.9, 0.25))

    for form, first in [("text", 1), ("jsonl", 0), ("csv", 1), ("kaggle", 1)]:
        stream.seek(0), stream.truncate(), seen.clear()
        write_rows(rows(), stream, form)
        assert seen == [first, first + 1, first + 2], form


def test_a_submission_holds_each_id_with_a_probability_that_is_never_sure(said):
    sure = [
        to_row("test/12.jpg", Prediction("dog", 1.0, 1.0, 1.0)),
        to_row("test/007.jpg", Prediction("cat", 1.0, 0.0, 1.0)),
        to_row("test/3.jpg", Prediction("neither", 0.6, 0.75, 0.0)),
    ]
    assert _written("kaggle", *sure, BAD).splitlines() == [
        *("id,label", "12,0.995000", "7,0.005000", "3,0.750000", "2,0.500000"),
    ]
    (told,) = said
    assert told.startswith("2.jpg: the file is empty; it gets 0.5")


@pytest.mark.parametrize("name", ["photo.jpg", "1-2.jpg", "-1.jpg", "٣.jpg"])
def test_a_photo_without_a_number_can_not_be_submitted(name):
    with pytest.raises(CatdogError, match=r"can't be in a Kaggle submission"):
        _written("kaggle", to_row(name, Prediction("dog", 0.9, 0.9, 0.25)))


def test_an_id_that_comes_twice_is_refused():
    with pytest.raises(CatdogError, match=r"each id once, and b/1\.jpg is the second"):
        _written("kaggle", GOOD, to_row("b/1.jpg", Prediction("dog", 0.9, 0.9, 0.25)))


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


def test_a_device_file_is_written_to_and_not_replaced():
    with open_output(os.devnull) as stream:
        stream.write("gone")
    assert not Path(os.devnull).is_file()


def test_an_output_in_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(CatdogError, match=r"output=.*can't be written: No such file"):  # noqa: SIM117
        with open_output(str(tmp_path / "no" / "answer.csv")):
            pass


def test_a_name_that_is_no_text_is_written_and_read_back_from_json(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    with open_output(str(tmp_path / "answer.json")) as stream:
        write_rows([to_row(name, Prediction("dog", 0.9, 0.9, 0.25))], stream, "json")
    (row,) = json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))
    assert row["path"] == name


def _printing(rows: int, **options) -> subprocess.Popen:
    code = (
        "import sys\n"
        "from catdog import CLASSES, CatdogError; from catdog.inference import output\n"
        f"rows = (output.Row(str(n), 'dog', .9, .9, .5, None) for n in range({rows}))\n"
        "try:\n"
        "    with output.open_output('-') as stream: output.write_rows(rows, stream, 'csv')\n"
        "except BrokenPipeError: sys.exit(output.PIPE_CLOSED)\n"
        "except CatdogError as error: sys.exit(f'error: {error}')\n"
    )
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=buffered,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("rows", [3, 100_000])
def test_a_reader_who_has_had_enough_ends_the_program_quietly(rows):
    readable, writable = os.pipe()
    os.close(readable)
    with _printing(rows, stdout=writable) as program:
        os.close(writable)
        assert program.stderr.read() == ""
    assert program.returncode == answers.PIPE_CLOSED == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has such a device")
def test_a_full_disk_behind_standard_output_is_one_sentence():
    with (
        Path("/dev/full").open("w", encoding="utf-8") as full,
        _printing(3, stdout=full) as program,
    ):
        assert "error: the answer can't be written: No space left" in program.stderr.read()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stderr", "stdout", "output", "shown"),
    [
        (_Terminal, io.StringIO, "-", True),
        (_Terminal, _Terminal, "answers.csv", True),
        (_Terminal, _Terminal, "-", False),
        (io.StringIO, io.StringIO, "-", False),
    ],
)
def test_progress_is_for_a_terminal_that_does_not_show_the_answers(
    monkeypatch, stderr, stdout, output, shown
):
    monkeypatch.setattr(sys, "stderr", stderr())
    monkeypatch.setattr(sys, "stdout", stdout())
    assert list(answers.with_progress([GOOD, BAD], output=output)) == [GOOD, BAD]
    assert ("photos" in sys.stderr.getvalue()) == shown
    assert sys.stdout.getvalue() == ""
