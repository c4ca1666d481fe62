from __future__ import annotations

import os
from pathlib import Path

import pytest

from catdog import CatdogError
from catdog.inference import sorting
from catdog.inference.inputs import Photo
from catdog.inference.output import Answer
from catdog.inference.prediction import Prediction
from catdog.inference.sorting import Sorter, short_name
from tests.fake_classifier import failed

CAT = Prediction("cat", 0.9, 0.1, 0.5)
DOG = Prediction("dog", 0.9, 0.9, 0.5)
NEITHER = Prediction("neither", 0.9, 0.5, 0.0)


def _sort(target: Path, *answers: Answer) -> list[str]:
    assert list(Sorter(target, ()).watch(answers)) == list(answers)
    return sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())


def test_photos_are_copied_into_the_folder_of_their_label(tmp_path):
    source = tmp_path / "a.jpg"
    source.write_bytes(b"cat")
    os.utime(source, (1_000_000, 1_000_000))
    found = _sort(
        tmp_path / "sorted",
        Answer(Photo(str(source)), CAT, b"cat"),
        Answer(Photo("https://example.org/b%20c.jpg?size=9"), DOG, b"dog"),
        Answer(Photo("x.jpg"), NEITHER, b"house"),
        Answer(Photo("broken.jpg"), failed("the file is empty"), b""),
    )
    assert found == ["cat/a.jpg", "dog/b c.jpg", "neither/x.jpg"]
    copy = tmp_path / "sorted" / "cat" / "a.jpg"
    assert copy.read_bytes() == source.read_bytes() == b"cat"
    assert copy.stat().st_mtime == 1_000_000


def test_another_photo_of_the_same_name_gets_a_number_and_the_same_photo_nothing(tmp_path):
    answers = [
        Answer(Photo("a/1.jpg"), CAT, b"one"),
        Answer(Photo("b/1.jpg"), CAT, b"two"),
        Answer(Photo("c/1.jpg"), CAT, b"one"),
        Answer(Photo("d/1.jpg"), CAT, b"three"),
    ]
    expected = ["cat/1-2.jpg", "cat/1-3.jpg", "cat/1.jpg"]
    assert _sort(tmp_path / "sorted", *answers) == expected
    assert _sort(tmp_path / "sorted", *answers) == expected
    held = [(tmp_path / "sorted" / name).read_bytes() for name in expected]
    assert held == [b"two", b"three", b"one"]


def test_what_lies_there_is_never_overwritten_even_when_it_appears_meanwhile(tmp_path, monkeypatch):
    folder = tmp_path / "cat"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(b"mine")
    (folder / "2.jpg").symlink_to(folder / "nowhere")
    # As if the check had come a moment before the file.
    monkeypatch.setattr(sorting, "_holds", lambda *_: False)
    found = _sort(tmp_path, Answer(Photo("1.jpg"), CAT, b"x"), Answer(Photo("2.jpg"), CAT, b"y"))
    assert found == ["cat/1-2.jpg", "cat/1.jpg", "cat/2-2.jpg"]
    assert (folder / "1.jpg").read_bytes() == b"mine"
    assert (folder / "2.jpg").is_symlink()


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    sorter = Sorter(tmp_path, ())
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CatdogError, match=r"sort_into=.* No space left on device"):
        list(sorter.watch([Answer(Photo("1.jpg"), CAT, b"x")]))
    assert list((tmp_path / "cat").iterdir()) == []


def test_a_folder_that_can_not_be_made_is_told_before_any_answer(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CatdogError, match=r"sort_into=.* can't be written"):
        Sorter(tmp_path / "file" / "sorted", ())


@pytest.mark.parametrize("inside", [".", "sorted", "a/../b/sorted"])
def test_a_target_inside_a_folder_that_is_labelled_is_refused(tmp_path, inside):
    source = tmp_path / "holiday"
    (source / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(source)
    for named in (source, tmp_path / "link"):
        with pytest.raises(CatdogError, match=r"lies inside .*Name a folder outside"):
            Sorter(source / inside, ["photo.jpg", str(named)])
    assert [path.name for path in source.iterdir()] == ["a"]


def test_a_target_beside_the_photos_is_taken(tmp_path):
    (tmp_path / "holiday").mkdir()
    Sorter(tmp_path / "holiday-sorted", [str(tmp_path / "holiday"), str(tmp_path / "*.jpg"), "-"])
    assert (tmp_path / "holiday-sorted" / "neither").is_dir()


@pytest.mark.parametrize("name", ["a" * 400 + ".jpg", "é" * 200 + ".jpg", "a." + "b" * 400])
def test_a_name_of_an_address_is_cut_to_what_a_file_can_have(tmp_path, name):
    short = short_name(name)
    assert len(os.fsencode(short)) <= 200
    (tmp_path / short).write_bytes(b"")
    assert short_name("a.jpg") == "a.jpg"
