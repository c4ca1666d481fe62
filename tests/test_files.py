from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.files import (
    alike,
    atomic_write,
    beside,
    mend,
    new_folder,
    normal,
    portable,
    put_in_place,
    sha256_of,
    write_json,
)


def _write(text: str) -> None:
    new = beside(Path("model"))
    new.mkdir()
    (new / "weights").write_text(text)
    put_in_place(new, Path("model"))


def test_the_new_folder_takes_the_place_of_the_old_one():
    _write("old")
    _write("new")
    assert Path("model/weights").read_text(encoding="utf-8") == "new"
    assert list(Path().iterdir()) == [Path("model")]


@pytest.mark.parametrize("rename", [0, 1])
def test_a_kill_at_either_step_of_the_exchange_leaves_a_whole_folder(rename, monkeypatch):
    _write("old")
    done, real = iter(range(9)), Path.rename

    def killed(path: Path, target: Path) -> Path:
        if next(done) == rename:
            os._exit(9)  # nothing that stands in an `except` or a `finally` happens
        return real(path, target)

    if (child := os.fork()) == 0:
        monkeypatch.setattr(Path, "rename", killed)
        _write("new")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    mend(Path("model"))
    assert Path("model/weights").read_text(encoding="utf-8") == "old"
    _write("newer")
    assert Path("model/weights").read_text(encoding="utf-8") == "newer"
    assert list(Path().iterdir()) == [Path("model")]


def test_an_old_folder_that_a_kill_left_beside_the_new_one_goes():
    _write("new")
    before = Path(".model.before")
    before.mkdir()
    mend(Path("model"))
    assert Path("model/weights").read_text(encoding="utf-8") == "new"
    assert not before.exists()


def test_a_folder_is_filled_whole_or_not_at_all():
    for content in ("old", "new"):
        with new_folder(Path("drawn")) as new:
            (new / content).touch()
    Path(".drawn.part").mkdir()  # a kill left it
    Path(".drawn.part/half").touch()
    with pytest.raises(KeyboardInterrupt), new_folder(Path("drawn")) as new:
        assert list(new.iterdir()) == []
        raise KeyboardInterrupt
    assert list(Path().rglob("*")) == [Path("drawn"), Path("drawn/new")]


def test_what_can_not_be_written_whole_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "note.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_written_whole_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "table.csv"
    for content in (b"old", b"new"):
        with atomic_write(path) as part:
            part.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(b"new").hexdigest()
    assert list(tmp_path.iterdir()) == [path]


@given(st.text(max_size=20))
def test_an_accent_apart_from_its_letter_makes_no_other_name(name):
    apart = unicodedata.normalize("NFD", name)
    assert normal(apart) == normal(name)
    assert alike(apart) == alike(name)


@pytest.mark.parametrize(
    ("one", "other"), [("Cat.JPG", "cat.jpg"), ("Straße", "STRASSE"), ("É", "e\u0301")]
)
def test_names_that_are_one_file_on_windows_or_macos_are_alike(one, other):
    assert alike(one) == alike(other)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("rex.jpg", "rex.jpg"),
        ("12:30 <what?>.jpg", "12_30 _what__.jpg"),
        ("..\\up/x|y.jpg", ".._up_x_y.jpg"),
        ("photo. . ", "photo"),
        ("..", ""),
        ("CON.jpg", "_CON.jpg"),
        ("lpt1", "_lpt1"),
        ("nul .tar.gz", "_nul .tar.gz"),
        ("contest.jpg", "contest.jpg"),
    ],
)
def test_a_portable_name_can_be_a_files_on_any_system(name, safe):
    assert portable(name) == safe
    assert portable(safe) == safe
