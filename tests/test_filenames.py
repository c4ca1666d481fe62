from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.files import alike, normal, portable


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
