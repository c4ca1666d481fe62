from __future__ import annotations

import io
import re

import pytest
from PIL import Image

from catdog import CLASSES
from catdog.data import ood_images
from catdog.data.ood_images import neither_folder, neither_pictures


@pytest.fixture(scope="module")
def pictures() -> list[tuple[str, bytes]]:
    return neither_pictures()


@pytest.fixture
def few(monkeypatch) -> list[tuple[str, bytes]]:
    drawn = [("one", b"1"), ("two", b"2"), ("three", b"3")]
    monkeypatch.setattr(ood_images, "neither_pictures", lambda: drawn)
    return drawn


def test_the_pictures_are_many_different_ones_that_can_be_read(pictures):
    assert len(pictures) == ood_images.SCENES + ood_images.TEXTURES + 22 * (1 + ood_images.CROPS)
    assert len({name for name, _ in pictures}) == len(pictures)
    assert len({content for _, content in pictures}) == len(pictures)
    assert not {"cat", "chelsea"} & {name.split("-")[0] for name, _ in pictures}
    for name, content in pictures:
        assert re.fullmatch(r"[\w-]+", name), f"{name} is no file's name"
        with Image.open(io.BytesIO(content)) as picture:
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
            assert min(picture.size) >= 32


def test_they_are_the_same_each_time_to_the_last_byte(pictures):
    assert neither_pictures() == pictures


def test_the_folder_holds_each_picture_as_a_file_and_is_filled_once(tmp_path, few, monkeypatch):
    paths = neither_folder(tmp_path / "data", CLASSES)
    assert [(path.stem, path.read_bytes()) for path in paths] == sorted(few)
    monkeypatch.setattr(ood_images, "neither_pictures", pytest.fail)
    assert neither_folder(tmp_path / "data", CLASSES) == paths


def test_what_shows_one_of_the_classes_is_left_out(tmp_path, monkeypatch):
    names = ("flower-0", "flower-whole", "horse-1", "brick-0")
    monkeypatch.setattr(ood_images, "neither_pictures", lambda: [(name, b"") for name in names])
    assert len(neither_folder(tmp_path, CLASSES)) == 4
    left = neither_folder(tmp_path, ("flower", "tree"))
    assert [path.stem for path in left] == ["brick-0", "horse-1"]
