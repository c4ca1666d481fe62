"""Pictures"""

from __future__ import annotations

import csv
import io
import json
import shutil
import zlib
from pathlib import Path

import pytest
from PIL import Image

from catdog.data.dataset import load_dataset
from tests.conftest import encoded, tiny_picture
from tests.faults.conftest import TINY

PHOTO = encoded(Image.effect_noise((200, 160), 80).convert("RGB"))


def _huge_jpeg() -> bytes:
    content = bytearray(PHOTO)
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = (65_000).to_bytes(2, "big") * 2
    return bytes(content)


def _huge_png() -> bytes:
    content = bytearray(encoded(tiny_picture("cat", 1), "PNG"))
    content[16:24] = (65_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


UNREADABLE = [
    ("half.jpg", PHOTO[: len(PHOTO) // 2], "does not decode"),
    ("empty.jpg", b"", "the file is empty"),
    ("page.jpg", b"<html><body>sign in</body></html>", "not a picture in a format"),
    ("huge.jpg", _huge_jpeg(), "too large|65000 x 65000"),
    ("huge.png", _huge_png(), "too large|65000 x 65000"),
]


@pytest.mark.parametrize(("name", "content", "reason"), UNREADABLE)
def test_a_picture_that_can_not_be_read_is_told_and_the_others_are_used(
    run, tmp_path, draw_folder, untouched, saved_model, name, content, reason
):
    source = draw_folder(tmp_path / "pets")
    (source / "cat" / name).write_bytes(content)
    untouched(source)
    ended = run("prepare", "--dataset", source, "--data_dir", tmp_path / "data")
    assert ended.status == 0
    prepared = load_dataset(tmp_path / "data" / "pets")
    with prepared.quarantine.open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["path"] == f"cat/{name}"
    assert any(words in row["reason"] for words in reason.split("|"))
    assert len(prepared.rows("training") + prepared.rows("validation")) == 12
    _labelled_but_one(run, source / "cat", name, saved_model, reason)


def _labelled_but_one(run, folder: Path, bad: str, model: Path, reason: str) -> None:
    ended = run("predict", folder, "--model_uri", model, "--format", "json", "--no-reject")
    assert ended.status == 1
    rows = {Path(row["path"]).name: row for row in json.loads(ended.out)}
    failed = rows.pop(bad)
    assert any(words in failed["error"] for words in reason.split("|"))
    assert len(rows) == 6
    assert {row["label"] for row in rows.values()} == {"cat"}


def _animated() -> bytes:
    stream = io.BytesIO()
    frames = [tiny_picture("cat", number) for number in range(3)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return stream.getvalue()


def _sixteen_bit() -> bytes:
    grey = tiny_picture("cat", 5).convert("L").convert("I").point(lambda value: value * 256)
    return encoded(grey.convert("I;16"), "PNG")


UNUSUAL = [
    ("cmyk.jpg", encoded(tiny_picture("cat", 5).convert("CMYK"))),
    ("palette.png", encoded(tiny_picture("cat", 5).quantize(16), "PNG")),
    ("sixteen.png", _sixteen_bit()),
    ("animated.gif", _animated()),
]


@pytest.mark.parametrize(("name", "content"), UNUSUAL)
def test_an_unusual_picture_is_used(
    run, tmp_path, draw_folder, untouched, saved_model, name, content
):
    source = draw_folder(tmp_path / "pets")
    (source / "cat" / name).write_bytes(content)
    untouched(source)
    assert run("prepare", "--dataset", source, "--data_dir", tmp_path / "data").status == 0
    prepared = load_dataset(tmp_path / "data" / "pets")
    assert prepared.left_out() == []
    ended = run("predict", source / "cat" / name, "--model_uri", saved_model, "--format", "json")
    assert ended.status == 0
    assert json.loads(ended.out)[0]["label"] in ("cat", "dog", "neither")


@pytest.fixture
def prepared(run, pets, tmp_path):
    """The arguments that name a prepared data set, and its folder."""
    where = ("--dataset", pets, "--data_dir", tmp_path / "data")
    assert run("prepare", *where).status == 0
    return where, tmp_path / "data" / "pets"


def _first(folder: Path) -> Path:
    return folder / load_dataset(folder).rows("training")[0]["path"]


def _mended_by_preparing_again(run, where, folder: Path) -> None:
    assert run("prepare", *where).status == 0
    load_dataset(folder).check()


def test_a_picture_that_vanished_is_told_and_made_anew(run, prepared):
    where, folder = prepared
    lost = _first(folder)
    lost.unlink()
    ended = run("train", *where, *TINY)
    assert ended.status == 2
    assert ended.sentence.startswith(f"{lost} is gone since it was prepared")
    _mended_by_preparing_again(run, where, folder)
    assert lost.exists()


def test_a_picture_that_was_edited_is_told(run, prepared):
    where, folder = prepared
    edited = _first(folder)
    edited.write_bytes(PHOTO)
    ended = run("train", *where, *TINY)
    assert ended.status == 2
    assert ended.sentence.startswith(f"{edited} is not the picture that was prepared")
    assert edited.read_bytes() == PHOTO
    edited.unlink()
    _mended_by_preparing_again(run, where, folder)


def test_a_picture_that_was_added_is_told(run, prepared):
    where, folder = prepared
    added = folder / "training" / "cat" / "mine.jpg"
    added.write_bytes(PHOTO)
    ended = run("train", *where, *TINY, "--views", "0")
    assert ended.status == 2
    assert ended.sentence.startswith(f"{added} was put there after the folder was prepared")
    assert added.read_bytes() == PHOTO


def test_preparing_again_keeps_what_was_edited(run, prepared):
    where, folder = prepared
    first, second = (folder / row["path"] for row in load_dataset(folder).rows("training")[:2])
    first.write_bytes(PHOTO)
    second.unlink()
    ended = run("prepare", *where)
    assert ended.status == 2
    assert ended.sentence.startswith(f"{first} is not the picture that was prepared")
    assert first.read_bytes() == PHOTO


def test_an_edited_manifest_is_told(run, prepared):
    where, folder = prepared
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",cat,", ",dog,"))
    for script, options in (("train", TINY), ("prepare", ())):
        ended = run(script, *where, *options)
        assert ended.status == 2
        assert ended.sentence.startswith(f"{manifest} was changed or deleted")
    manifest.unlink()
    _mended_by_preparing_again(run, where, folder)


def test_prepared_pictures_that_were_deleted_are_made_anew(run, prepared):
    where, folder = prepared
    for name in ("training", "validation", "test"):
        shutil.rmtree(folder / name)
    _mended_by_preparing_again(run, where, folder)
