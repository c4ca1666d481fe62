from __future__ import annotations

from pathlib import Path

import pytest

from catdog.files import new_folder, portable


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
