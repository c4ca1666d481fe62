from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from math import nan
from pathlib import Path

import pytest
from PIL import Image

from catdog import CLASSES, CatdogError, cli
from catdog.config import PredictConfig
from catdog.inference import predict
from catdog.inference.inputs import Photo
from catdog.inference.output import PIPE_CLOSED, Answered
from catdog.inference.prediction import Options, Prediction, unanswered
from catdog.registry import load
from scripts import predict as script
from tests.conftest import child_environment, encoded, tiny_picture
from tests.fake_classifier import ColourClassifier

CAT = Prediction("cat", 0.9, 0.1, 0.5)
DOG = Prediction("dog", 0.9, 0.9, 0.5)
NEITHER = Prediction("neither", nan, 0.5, 0.0)


def _draw(folder: Path, **pictures: str) -> None:
    """Files of the given names: a cat, a dog, or the green of neither."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, kind) in enumerate(pictures.items()):
        green = Image.new("RGB", (32, 32), (20, 200, 30))
        picture = green if kind == "neither" else tiny_picture(kind, number)
        (folder / f"{name.strip('_')}.jpg").write_bytes(encoded(picture))


def _sort(target: Path, answers: list[Answered]) -> list[str]:
    assert list(predict.sort(answers, target, CLASSES)) == answers
    return sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())


def test_photos_are_copied_into_the_folder_of_their_label(tmp_path):
    source = tmp_path / "a.jpg"
    source.write_bytes(b"cat")
    os.utime(source, (1_000_000, 1_000_000))
    found = _sort(
        tmp_path / "sorted",
        [
            (Photo(str(source), content=b"cat"), CAT),
            (Photo("https://example.org/b%20c.jpg?size=9", content=b"dog"), DOG),
            (Photo("x.jpg", content=b"house"), NEITHER),
            (Photo("broken.jpg"), unanswered("the file is empty")),
        ],
    )
    assert found == ["cat/a.jpg", "dog/b c.jpg", "neither/x.jpg"]
    copy = tmp_path / "sorted" / "cat" / "a.jpg"
    assert copy.read_bytes() == source.read_bytes() == b"cat"
    assert copy.stat().st_mtime == 1_000_000


def test_another_photo_of_the_same_name_gets_a_number_and_the_same_photo_nothing(tmp_path):
    contents = [b"one", b"two", b"one", b"three"]
    answers = [(Photo(f"{n}/1.jpg", content=one), CAT) for n, one in enumerate(contents)]
    expected = ["cat/1-2.jpg", "cat/1-3.jpg", "cat/1.jpg"]
    assert _sort(tmp_path, answers) == expected
    assert _sort(tmp_path, answers) == expected
    assert [(tmp_path / name).read_bytes() for name in expected] == [b"two", b"three", b"one"]


def test_what_lies_there_is_never_overwritten(tmp_path):
    folder = tmp_path / "cat"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(b"mine")
    (folder / "2.jpg").symlink_to(folder / "nowhere")
    answers = [(Photo(name, content=b"x"), CAT) for name in ("1.jpg", "2.jpg")]
    assert _sort(tmp_path, answers) == ["cat/1-2.jpg", "cat/1.jpg", "cat/2-2.jpg"]
    assert (folder / "1.jpg").read_bytes() == b"mine"
    assert (folder / "2.jpg").is_symlink()


def test_a_copy_that_fails_leaves_nothing_behind_and_shows_no_half(tmp_path, monkeypatch):
    shown = []

    def full(*_, **__):  # all its bytes are written
        shown.extend((tmp_path / "cat").glob("[!.]*"))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "utime", full)
    with pytest.raises(CatdogError, match=r"sort_into=.* No space left on device"):
        _sort(tmp_path, [(Photo(__file__, content=b"x"), CAT)])
    assert list((tmp_path / "cat").iterdir()) == shown == []


def test_a_target_inside_a_folder_that_is_labelled_is_refused(tmp_path):
    source = tmp_path / "holiday"
    source.mkdir()
    (tmp_path / "link").symlink_to(source)
    for inside, labelled in ((".", "holiday"), ("sorted", "link"), ("a/../sorted", "link")):
        names = ["x.jpg", str(tmp_path / labelled)]
        with pytest.raises(CatdogError, match=r"lies inside .*Name a folder outside"):
            predict.refuse_inside(source / inside, names, flag="explain")
    predict.refuse_inside(tmp_path / "holiday-sorted", [str(source), "*.jpg", "-"], flag="explain")


@pytest.fixture
def labelled(monkeypatch) -> ColourClassifier:
    """The script labels with this classifier, whatever model is named."""
    classifier = ColourClassifier()
    monkeypatch.setattr(load, "load_classifier", lambda *_, **__: classifier)
    return classifier


def _run(*arguments: str) -> int:
    return cli.run(script.main, PredictConfig, list(arguments))


def test_answers_go_to_stdout_and_the_count_to_stderr(tmp_path, labelled, capsys):
    _draw(tmp_path, _1="cat", _2="dog", _10="neither")
    assert _run(str(tmp_path), "--format", "jsonl", "--model-uri", "models:/pets/1") == 0
    shown = capsys.readouterr()
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert [(Path(row["path"]).name, row["label"]) for row in rows] == [
        *(("1.jpg", "cat"), ("10.jpg", "neither"), ("2.jpg", "dog")),
    ]
    assert shown.err.splitlines() == [
        "3 of 3 photos labelled (1 cat, 1 dog, 1 neither) by models:/pets/1"
    ]


def test_a_photo_that_can_not_be_read_gives_status_1_and_the_others_are_labelled(
    tmp_path, labelled, capsys
):
    _draw(tmp_path, _1="cat")
    (tmp_path / "2.jpg").write_text("<html>not found</html>")
    assert _run(str(tmp_path), str(tmp_path / "gone.jpg"), "--batch-size", "1") == 1
    shown = capsys.readouterr()
    good, bad, gone = shown.out.splitlines()[1:]
    assert good.startswith("cat ")
    assert bad.endswith("2.jpg: not a picture in a format that can be read")
    assert gone.endswith("gone.jpg: No such file or directory")
    assert "1 of 3 photos labelled" in shown.err


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ((), Options()),
        (("--no-reject", "--threshold", "0.2", "--tta"), Options(False, 0.2, True)),
    ],
)
def test_flags_say_how_to_answer(tmp_path, labelled, monkeypatch, flags, options):
    _draw(tmp_path, _1="cat")
    seen, stream = [], labelled.stream
    monkeypatch.setattr(
        labelled, "stream", lambda *given, **more: seen.append(given[2]) or stream(*given, **more)
    )
    assert _run(str(tmp_path), *flags) == 0
    assert seen == [options]


def test_photos_named_on_stdin_become_a_submission(tmp_path, labelled, monkeypatch):
    _draw(tmp_path, _1="cat", _2="dog")
    listed = io.TextIOWrapper(
        io.BytesIO(f"{tmp_path}/2.jpg\0{tmp_path}/1.jpg\0".encode()), encoding="utf-8"
    )
    monkeypatch.setattr(sys, "stdin", listed)
    output = tmp_path / "submission.csv"
    assert _run("-", "--format", "kaggle", "--output", str(output)) == 0
    assert output.read_text().splitlines() == ["id,label", "2,0.995000", "1,0.005000"]


def test_photos_are_sorted_and_each_is_read_once(tmp_path, labelled, monkeypatch, capsys):
    _draw(tmp_path / "holiday", _1="cat", _3="neither")
    asked, dog = [], encoded(tiny_picture("dog", 1))
    monkeypatch.setattr("catdog.inference.inputs.fetch", lambda url: asked.append(url) or dog)
    names = str(tmp_path / "holiday"), "https://example.org/2.jpg"
    assert _run(*names, "--sort-into", str(tmp_path / "sorted")) == 0
    assert asked == [names[1]]
    copies = sorted(path for path in (tmp_path / "sorted").rglob("*.jpg"))
    assert [str(path.relative_to(tmp_path / "sorted")) for path in copies] == [
        *("cat/1.jpg", "dog/2.jpg", "neither/3.jpg"),
    ]
    assert sorted(path.name for path in (tmp_path / "holiday").iterdir()) == ["1.jpg", "3.jpg"]
    capsys.readouterr()
    assert _run(str(tmp_path), "--sort-into", str(tmp_path / "sorted")) == 2
    shown = capsys.readouterr()
    assert "lies inside" in shown.err
    assert shown.out == ""


def test_each_answer_is_explained_beside_it_and_no_picture_is_overwritten(
    tmp_path, classifier, draw_folder, monkeypatch, capsys
):
    monkeypatch.setattr(load, "load_classifier", lambda *_, **__: classifier)
    draw_folder(tmp_path, 1)
    (tmp_path / "cat" / "3.jpg").write_bytes(b"")
    photos = str(tmp_path / "cat"), str(tmp_path / "dog")
    assert _run(*photos, "--explain", str(tmp_path / "why")) == 1  # one can't be read
    drawn = sorted(path.name for path in (tmp_path / "why").iterdir())
    assert drawn == ["0-2.png", "0.png"]
    for target, reason in (("cat/why", "lies inside"), ("dog/0.jpg/why", "can't be written")):
        assert _run(photos[0], "--explain", str(tmp_path / target)) == 2
        assert reason in capsys.readouterr().err


def test_a_reader_who_has_had_enough_ends_the_program_quietly(
    tmp_path, labelled, monkeypatch, capsys
):
    _draw(tmp_path, _1="cat")
    readable, writable = os.pipe()
    os.close(readable)
    with os.fdopen(writable, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert _run(str(tmp_path)) == PIPE_CLOSED == 141
    assert capsys.readouterr().err == ""


def test_labelling_a_photo_imports_nothing_that_only_training_needs(tmp_path, classifier):
    classifier.save(tmp_path / "model")
    (tmp_path / "a.jpg").write_bytes(encoded(tiny_picture("cat", 1)))
    code = (
        "import sys; from scripts import predict; from catdog import cli\n"
        "from catdog.config import PredictConfig\n"
        "arguments = ['--model-uri', sys.argv[1], sys.argv[2]]\n"
        "status = cli.run(predict.main, PredictConfig, arguments)\n"
        "heavy = {'mlflow', 'timm', 'sklearn', 'scipy', 'matplotlib', 'pandas', 'requests'}\n"
        "ours = {f'catdog.{room}' for room in ('training', 'tracking', 'reporting')}\n"
        "print(status, sorted((heavy | ours) & set(sys.modules)))\n"
    )
    command_line = [sys.executable, "-c", code, str(tmp_path / "model"), str(tmp_path / "a.jpg")]
    ended = subprocess.run(
        command_line, env=child_environment(), capture_output=True, text=True, check=False
    )
    assert ended.stdout.splitlines()[-1] == "0 []", ended.stderr
