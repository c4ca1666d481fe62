from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import types
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from catdog import cli
from catdog.config import PredictConfig
from catdog.inference import predict
from catdog.inference.inputs import Photo, find_photos
from catdog.inference.output import PIPE_CLOSED, to_row, write_rows
from catdog.inference.predict import answer_photos
from catdog.inference.prediction import Options, Prediction
from catdog.inference.sorting import Sorter
from catdog.registry import load
from scripts import predict as script
from tests.conftest import ROOT, encoded, tiny_classifier, tiny_picture
from tests.fake_classifier import ColourClassifier


def _draw(folder: Path, **pictures: str) -> None:
    """Files of the given names: a cat, a dog, or the green of neither."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, kind) in enumerate(pictures.items()):
        green = Image.new("RGB", (32, 32), (20, 200, 30))
        picture = green if kind == "neither" else tiny_picture(kind, number)
        (folder / f"{name.strip('_')}.jpg").write_bytes(encoded(picture))


def _answers(classifier, folder: Path, **options) -> list[predict.Answer]:
    return list(answer_photos(classifier, find_photos([str(folder)]), Options(), **options))


def test_what_can_not_be_read_gives_an_error_and_the_others_are_labelled(tmp_path):
    _draw(tmp_path, _1="cat", _4="dog")
    (tmp_path / "2.jpg").write_bytes(b"")
    (tmp_path / "3.jpg").write_text("<html>not found</html>")
    names = [str(tmp_path / f"{number}.jpg") for number in range(1, 6)]  # there is no fifth
    answers = list(answer_photos(ColourClassifier(), find_photos(names), Options(), batch_size=2))
    assert [answer.photo.name for answer in answers] == names
    assert [answer.prediction.label for answer in answers] == ["cat", "", "", "dog", ""]
    assert [answer.prediction.error for answer in answers] == [
        *("", "the file is empty", "not a picture in a format that can be read", ""),
        "No such file or directory",
    ]


def test_bytes_are_kept_only_for_those_who_ask(tmp_path):
    _draw(tmp_path, _1="cat")
    (plain,) = _answers(ColourClassifier(), tmp_path)
    (kept,) = _answers(ColourClassifier(), tmp_path, keep=True)
    assert plain.content == b""
    assert kept.content == (tmp_path / "1.jpg").read_bytes()


class _Instant(ColourClassifier):
    def _predict(self, *_) -> Prediction:
        return Prediction("cat", 0.9, 0.1, 0.5)


def test_of_twenty_thousand_photos_only_a_window_is_held(tmp_path, monkeypatch):
    taken = written = ahead = 0

    def names():
        nonlocal taken
        for taken in range(1, 20_001):
            yield Photo(f"{taken}.jpg")

    class Output(io.StringIO):
        def write(self, _):
            nonlocal written, ahead
            written += 1
            ahead = max(ahead, taken - written)

    monkeypatch.setattr(Photo, "read", lambda _: b"the same")
    answers = answer_photos(_Instant(window=16), names(), Options(), keep=True)
    sorter = Sorter(tmp_path, ())
    monkeypatch.setattr(sorter, "_copy", lambda _: None)
    rows = (to_row(answer.photo.name, answer.prediction) for answer in sorter.watch(answers))
    assert write_rows(rows, Output(), "jsonl").total == taken == written == 20_000
    assert ahead <= 16


def test_nothing_is_read_before_the_first_answer_is_asked_for():
    def names():
        raise AssertionError("read too early")
        yield

    answer_photos(ColourClassifier(), names(), Options())


def test_each_answer_is_explained_beside_it_and_no_picture_is_overwritten(tmp_path, monkeypatch):
    _draw(tmp_path / "a", _1="cat", _2="dog")
    _draw(tmp_path / "b", _1="dog")
    (tmp_path / "b" / "3.jpg").write_bytes(b"")
    saved = []

    def save(classifier, content, prediction, target):
        saved.append((target.name, prediction.label))
        target.write_bytes(content)

    monkeypatch.setitem(sys.modules, "catdog.inference.explain", types.SimpleNamespace(save=save))
    monkeypatch.setattr(
        "catdog.inference.explain", sys.modules["catdog.inference.explain"], raising=False
    )
    classifier = ColourClassifier()
    found = find_photos([str(tmp_path / "a"), str(tmp_path / "b")])
    answers = answer_photos(classifier, found, Options(), keep=True)
    explained = list(predict.explain(classifier, answers, tmp_path / "why"))
    assert [answer.prediction.label for answer in explained] == ["cat", "dog", "dog", ""]
    assert saved == [("1.png", "cat"), ("2.png", "dog"), ("1-2.png", "dog")]


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
        *(("1.jpg", "cat"), ("2.jpg", "dog"), ("10.jpg", "neither")),
    ]
    assert shown.err.splitlines() == [
        "3 of 3 photos labelled (1 cat, 1 dog, 1 neither) by models:/pets/1"
    ]


def test_a_photo_that_can_not_be_read_gives_status_1(tmp_path, labelled, capsys):
    _draw(tmp_path, _1="cat")
    assert _run(str(tmp_path / "1.jpg"), str(tmp_path / "gone.jpg")) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines()[2].endswith("gone.jpg: No such file or directory")
    assert "1 of 2 photos labelled" in shown.err


@pytest.mark.parametrize(
    ("flags", "label"),
    [
        ((), "neither"),
        (("--no-reject",), "cat"),
        (("--no_reject",), "cat"),
        (("--reject", "no"), "cat"),
        (("--no-reject", "--threshold", "0.2"), "dog"),
    ],
)
def test_flags_say_how_to_answer(tmp_path, labelled, capsys, flags, label):
    (tmp_path / "1.png").write_bytes(encoded(Image.new("RGB", (9, 9), (30, 99, 20)), "PNG"))
    assert _run(str(tmp_path), "--format", "json", *flags) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["label"] == label


@pytest.mark.parametrize(
    ("flags", "tta"), [((), False), (("--tta",), True), (("--tta", "no"), False)]
)
def test_the_mirror_image_is_asked_when_it_should_be(tmp_path, labelled, monkeypatch, flags, tta):
    _draw(tmp_path, _1="cat")
    seen = []
    stream = labelled.stream
    monkeypatch.setattr(
        labelled, "stream", lambda *given, **more: seen.append(given[2]) or stream(*given, **more)
    )
    assert _run(str(tmp_path), *flags) == 0
    assert [options.tta for options in seen] == [tta]


def test_photos_named_on_stdin_become_a_submission(tmp_path, labelled, monkeypatch):
    _draw(tmp_path, _1="cat", _2="dog")
    listed = io.TextIOWrapper(
        io.BytesIO(f"{tmp_path}/2.jpg\0{tmp_path}/1.jpg\0".encode()), encoding="utf-8"
    )
    monkeypatch.setattr(sys, "stdin", listed)
    output = tmp_path / "submission.csv"
    assert _run("-", "--format", "kaggle", "--output", str(output)) == 0
    assert output.read_text().splitlines() == ["id,label", "2,0.995000", "1,0.005000"]


def test_photos_are_sorted_into_folders(tmp_path, labelled, capsys):
    _draw(tmp_path / "holiday", _1="cat", _2="dog", _3="neither")
    before = {path: path.read_bytes() for path in (tmp_path / "holiday").iterdir()}
    assert _run(str(tmp_path / "holiday"), "--sort-into", str(tmp_path / "sorted")) == 0
    sorted_ = sorted(path for path in (tmp_path / "sorted").rglob("*.jpg"))
    assert [str(path.relative_to(tmp_path / "sorted")) for path in sorted_] == [
        *("cat/1.jpg", "dog/2.jpg", "neither/3.jpg"),
    ]
    assert {path: path.read_bytes() for path in (tmp_path / "holiday").iterdir()} == before
    capsys.readouterr()
    assert _run(str(tmp_path), "--sort-into", str(tmp_path / "sorted")) == 2
    shown = capsys.readouterr()
    assert "lies inside" in shown.err
    assert shown.out == ""


def test_a_photo_behind_an_address_is_labelled_and_sorted_and_read_once(tmp_path, labelled):
    _draw(tmp_path / "site", _1="dog")
    asked = []

    class Site(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    site = partial(Site, directory=tmp_path / "site")
    with ThreadingHTTPServer(("127.0.0.1", 0), site) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/1.jpg"
        status = _run(url, "--sort-into", "sorted", "--format", "json")
        server.shutdown()
        thread.join()
    assert status == 0
    assert Path("sorted/dog/1.jpg").read_bytes() == (tmp_path / "site" / "1.jpg").read_bytes()
    assert asked == ["/1.jpg"]


def test_a_reader_who_has_gone_gives_the_status_of_a_broken_pipe(
    tmp_path, labelled, monkeypatch, capfd
):
    _draw(tmp_path, _1="cat")

    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr("catdog.inference.output.write_rows", gone)
    with capfd.disabled(), Path("stdout").open("w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert _run(str(tmp_path)) == PIPE_CLOSED
    assert capfd.readouterr().err == ""


def test_a_saved_folder_can_be_named_in_place_of_a_registered_model(tmp_path):
    classifier = tiny_classifier()
    classifier.save(tmp_path / "model")
    loaded = load.load_classifier(str(tmp_path / "model"), device="cpu")
    assert loaded.about == classifier.about


def test_the_real_classifier_answers_photos_as_it_answers_their_bytes(tmp_path):
    classifier = tiny_classifier()
    contents = {f"{seed}.jpg": encoded(tiny_picture("cat", seed)) for seed in range(20)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "20.jpg").write_bytes(b"")
    photos = find_photos([str(tmp_path)])
    answers = list(answer_photos(classifier, photos, Options(), batch_size=3))
    expected = [classifier.predict([content])[0].label for content in contents.values()]
    assert [answer.prediction.label for answer in answers] == [*expected, ""]
    assert answers[-1].prediction.error == "the file is empty"


def test_labelling_a_photo_imports_nothing_that_only_training_needs(tmp_path):
    tiny_classifier().save(tmp_path / "model")
    (tmp_path / "a.jpg").write_bytes(encoded(tiny_picture("cat", 1)))
    code = (
        "import sys; from scripts import predict; from catdog import cli\n"
        "from catdog.config import PredictConfig\n"
        "arguments = ['--model-uri', sys.argv[1], sys.argv[2]]\n"
        "status = cli.run(predict.main, PredictConfig, arguments)\n"
        "heavy = {'mlflow', 'timm', 'sklearn', 'scipy', 'matplotlib', 'pandas', 'gradio'}\n"
        "print(status, sorted(heavy & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command_line = [sys.executable, "-c", code, str(tmp_path / "model"), str(tmp_path / "a.jpg")]
    ended = subprocess.run(
        command_line, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.stdout.splitlines()[-1] == "0 []", ended.stderr
