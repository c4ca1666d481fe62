from __future__ import annotations

import hashlib
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.files import (
    alike,
    atomic_write,
    new_folder,
    normal,
    portable,
    sha256_of,
    write_json,
)


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
