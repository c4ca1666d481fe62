from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catdog import CatdogError
from catdog.data.images import UnreadableImageError
from catdog.inference import inputs
from catdog.inference.inputs import Photo, find_photos
from tests.conftest import ROOT, encoded, tiny_picture


def _draw(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(tiny_picture("dog", number)))


def _names(folder: Path, *names: str) -> list[str]:
    found = find_photos([str(folder / name) for name in names])
    return [str(Path(photo.name).relative_to(folder)) for photo in found]


def _listed(content: bytes) -> list[str]:
    return [photo.name for photo in find_photos(["-"], stdin=io.BytesIO(content))]


def test_folders_are_searched_to_the_bottom_in_the_order_people_number_photos(tmp_path):
    _draw(tmp_path, "10.jpg", "2.jpg", "deep/er/1.jpg", "._2.jpg", "IMG_10.jpg", "IMG_9.jpg")
    _draw(tmp_path, "album 10/1.jpg", "album 9/1.jpg")
    (tmp_path / "notes.txt").write_text("no photo")
    assert _names(tmp_path, ".") == [
        *("2.jpg", "10.jpg", "IMG_9.jpg", "IMG_10.jpg"),
        *("album 9/1.jpg", "album 10/1.jpg", "deep/er/1.jpg"),
    ]


@given(st.lists(st.integers(0, 10**12), unique=True))
def test_numbers_in_names_are_sorted_as_numbers(numbers):
    names = [f"photo{number}.jpg" for number in numbers]
    inputs._sort(names)
    assert names == [f"photo{number}.jpg" for number in sorted(numbers)]


def test_files_folders_and_globs_can_be_mixed(tmp_path):
    _draw(tmp_path, "a.jpg", "b/1.jpg", "c/10.png", "c/9.png", "c/y.jpg", "c/d/1.png")
    assert _names(tmp_path, "a.jpg", "b", "c/*.png") == ["a.jpg", "b/1.jpg", "c/9.png", "c/10.png"]
    assert _names(tmp_path, "c/**/*.png") == ["c/9.png", "c/10.png", "c/d/1.png"]


def test_a_file_with_brackets_in_its_name_is_that_file(tmp_path):
    _draw(tmp_path, "me[1].jpg")
    assert _names(tmp_path, "me[1].jpg") == ["me[1].jpg"]


def test_a_file_that_is_named_is_tried_whatever_its_suffix(tmp_path):
    _draw(tmp_path, "upload")
    (photo,) = find_photos([str(tmp_path / "upload")])
    assert photo.read() == (tmp_path / "upload").read_bytes()


@pytest.mark.parametrize("name", ["missing.jpg", "x" * 5000])
def test_a_file_that_is_not_there_fails_only_when_it_is_read(tmp_path, name):
    (photo,) = find_photos([str(tmp_path / name)])
    with pytest.raises(OSError, match=r"No such file|too long"):
        photo.read()


@pytest.mark.parametrize("name", ["empty", "*.jpg"])
def test_a_folder_or_glob_without_a_photo_is_named_before_any_answer(tmp_path, name):
    _draw(tmp_path / "full", "1.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatdogError, match="holds no picture"):
        find_photos([str(tmp_path / "full"), str(tmp_path / name)])


def test_a_link_to_a_folder_above_is_not_followed_in_a_ring(tmp_path):
    _draw(tmp_path, "deep/1.jpg")
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "deep" / "again.jpg").symlink_to(tmp_path / "deep" / "1.jpg")
    assert _names(tmp_path, ".") == ["deep/1.jpg", "deep/again.jpg"]


def test_a_folder_that_can_not_be_searched_is_told_and_the_others_are(tmp_path, monkeypatch):
    _draw(tmp_path, "a/1.jpg", "b/1.jpg")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    closed, open_ = find_photos([str(tmp_path)])
    with pytest.raises(UnreadableImageError, match="can't be searched: Permission denied"):
        closed.read()
    assert closed.name == str(tmp_path / "a")
    assert open_.name == str(tmp_path / "b" / "1.jpg")


def test_only_the_directory_whose_turn_it_is_has_been_listed(tmp_path, monkeypatch):
    _draw(tmp_path, *(f"{number}/1.jpg" for number in range(50)))
    found = find_photos([str(tmp_path)])
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    assert next(found).name == str(tmp_path / "0" / "1.jpg")
    assert len(listed) == 2


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"a.jpg\nb c.jpg\n", ["a.jpg", "b c.jpg"]),
        (b"\n  \na.jpg\r\n\nb.jpg", ["a.jpg", "b.jpg"]),
        (b"a\nb.jpg\0c.jpg\0", ["a\nb.jpg", "c.jpg"]),
        (b"https://example.org/a.jpg\n[1].jpg\n", ["https://example.org/a.jpg", "[1].jpg"]),
        (b"", []),
    ],
)
def test_a_list_on_stdin_is_parted_by_lines_or_by_nul(content, names):
    assert _listed(content) == names


@settings(max_examples=50)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)))
def test_every_name_survives_a_list_parted_by_nul(names):
    names = [name for name in names if name.strip(" \t\r\n\v\f")]
    content = b"".join(name.encode() + b"\0" for name in names)
    assert list(inputs._lines(io.BytesIO(content))) == names


def test_a_name_that_is_no_text_is_found_on_stdin_and_in_folders(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    Path(os.fsdecode(raw)).write_bytes(b"bytes")
    (listed,) = find_photos(["-"], stdin=io.BytesIO(raw))
    (found,) = find_photos([str(tmp_path)])
    assert listed.read() == found.read() == b"bytes"


def test_the_first_name_of_a_pipe_does_not_wait_for_the_last(tmp_path):
    code = (
        "from catdog.inference.inputs import find_photos\n"
        "for photo in find_photos(['-']): print(photo.name, flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        for name in (b"a.jpg\n", b"b.jpg\n"):
            program.stdin.write(name)
            program.stdin.flush()
            assert program.stdout.readline() == name


def test_a_folder_in_a_list_is_an_error_and_not_searched_again(tmp_path):
    _draw(tmp_path, "1.jpg")
    (photo,) = find_photos(["-"], stdin=io.BytesIO(str(tmp_path).encode()))
    with pytest.raises(IsADirectoryError):
        photo.read()


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        ("holiday/a.jpg", "a.jpg"),
        ("https://example.org/a%20b.jpg?size=9", "a b.jpg"),
        ("https://example.org/x%2F..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("https://example.org/..", "photo"),
        ("https://example.org", "photo"),
        ("https://example.org/a%00b.jpg", "a_b.jpg"),
        ("https://example.org/12:30%3F.jpg", "12_30_.jpg"),
        ("https://example.org/con.jpg", "_con.jpg"),
    ],
)
def test_every_photo_has_a_name_that_a_file_can_have(name, file_name):
    assert Photo(name).file_name == file_name
