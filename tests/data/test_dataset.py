from __future__ import annotations

import shutil

import pytest

from catdog import CatdogError
from catdog.data.dataset import PreparedDataset, load_dataset
from tests.sources import (
    insect_source,
    kaggle_source,
    prepare_pictures,
    snapshot,
)


@pytest.fixture
def prepared(tmp_path) -> PreparedDataset:
    return prepare_pictures(kaggle_source(tmp_path / "raw"), tmp_path / "data")


def _again(prepared: PreparedDataset) -> PreparedDataset:
    return prepare_pictures(prepared.folder.parent / "raw", prepared.folder)


def test_an_edited_manifest_is_refused_and_made_anew_once_deleted(prepared):
    assert load_dataset(prepared.folder) == prepared
    prepared.manifest.write_text(prepared.manifest.read_text().replace("cat", "dog"))
    for use in (lambda: load_dataset(prepared.folder), lambda: _again(prepared)):
        with pytest.raises(CatdogError, match="was changed or deleted after it was prepared"):
            use()
    prepared.manifest.unlink()
    assert _again(prepared) == prepared


def test_pictures_that_vanished_are_named_and_made_anew(prepared):
    lost = prepared.pictures("training")[0].path
    lost.unlink()
    with pytest.raises(CatdogError, match=rf"{lost} is gone since it was prepared"):
        prepared.check()
    assert _again(prepared) == prepared
    for folder in (prepared.training, prepared.validation, prepared.test):
        shutil.rmtree(folder)
    _again(prepared).check()


def test_a_picture_that_was_edited_is_named_and_stays(prepared):
    edited, lost, *_ = (picture.path for picture in prepared.pictures("training"))
    edited.write_bytes(b"mine")
    lost.unlink()
    for use in (prepared.check, lambda: _again(prepared)):
        with pytest.raises(CatdogError, match=rf"{edited} is not the picture that was prepared"):
            use()
    assert edited.read_bytes() == b"mine"
    edited.unlink()
    assert _again(prepared) == prepared


def test_typed_classes_say_which_one_is_positive_and_are_remembered(tmp_path):
    source, folder = insect_source(tmp_path / "raw"), tmp_path / "data"
    prepared = prepare_pictures(source, folder, classes="Bee, ant")
    assert (prepared.classes, prepared.asked) == (("bee", "ant"), "bee,ant")
    before = snapshot(folder)
    assert prepare_pictures(source, folder, classes="bee,ant") == prepared
    assert snapshot(folder) == before
    assert prepare_pictures(source, folder).classes == ("ants", "bees")
    with pytest.raises(
        CatdogError, match="was prepared for ants and bees, not for classes=bee,ant"
    ):
        load_dataset(folder, classes="bee,ant")
