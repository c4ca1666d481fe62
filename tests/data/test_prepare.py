from __future__ import annotations

import errno
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from catdog import CatdogError
from catdog.data import prepare as module
from catdog.data.dataset import load_dataset
from tests.sources import (
    exclude_file,
    fill,
    kaggle_source,
    pack,
    prepare_pictures,
    rows_of,
    snapshot,
)


def test_the_manifest_tells_the_truth_about_every_file(tmp_path):
    source = kaggle_source(tmp_path / "raw")
    before = {hashlib.sha256(path.read_bytes()).hexdigest() for path in source.rglob("*.jpg")}
    prepared = prepare_pictures(source, tmp_path / "data")
    rows = rows_of(prepared)
    assert {row["sha256"] for row in rows} == before
    found = {
        path.relative_to(prepared.folder).as_posix()
        for split in ("training", "validation", "test")
        for path in (prepared.folder / split).rglob("*")
        if path.is_file()
    }
    assert {row["path"] for row in rows} == found
    for row in rows:
        content = (prepared.folder / row["path"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        assert (row["width"], row["height"]) == ("48", "40")
        assert row["path"].startswith(row["split"])
        assert row["label"] == ("" if row["split"] == "test" else row["path"].split("/")[1])


def test_running_again_does_nothing_until_source_or_parameters_change(said, tmp_path):
    source, folder = kaggle_source(tmp_path / "raw"), tmp_path / "data"
    given = snapshot(source)
    first = prepare_pictures(source, folder)
    assert snapshot(source) == given
    before = snapshot(folder)
    assert prepare_pictures(source, folder) == first
    assert snapshot(folder) == before
    assert said[-1].startswith("Already prepared")
    assert prepare_pictures(source, folder, val_fraction=0.2).digest != first.digest
    assert prepare_pictures(source, folder) == first
    fill(source, *(f"train/{n}/cat.jpg" for n in range(20)))
    assert prepare_pictures(source, folder).digest != first.digest


@pytest.mark.parametrize("name", ["training/mine.txt", "manifest.csv", "test/holiday.jpg"])
def test_what_the_user_keeps_in_the_folder_is_left_alone(tmp_path, name):
    folder = tmp_path / "data"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("mine")
    with pytest.raises(CatdogError, match="was not made by catdog and is left alone"):
        prepare_pictures(kaggle_source(tmp_path / "raw"), folder)
    assert (folder / name).read_text() == "mine"


@pytest.mark.parametrize(("source", "folder"), [("pets", "pets"), ("pets", "pets/data")])
def test_source_and_folder_may_not_lie_in_each_other(tmp_path, source, folder):
    kaggle_source(tmp_path / source)
    before = snapshot(tmp_path / source)
    with pytest.raises(CatdogError, match="one lies in the other"):
        prepare_pictures(tmp_path / source, tmp_path / folder)
    assert snapshot(tmp_path / source) == before


@pytest.mark.parametrize("where", ["_place", "_write_csv", "_validation_digest"])
def test_a_full_disk_leaves_nothing_that_looks_finished(tmp_path, monkeypatch, where):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    source, folder = kaggle_source(tmp_path / "raw"), tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(module, where, full)
        with pytest.raises(CatdogError, match=r"No space left on device\): free some space"):
            prepare_pictures(source, folder)
    with pytest.raises(CatdogError, match="holds no prepared data set"):
        load_dataset(folder)
    assert prepare_pictures(source, folder).counts["test"] == {"": 2}


def test_a_changed_exclude_file_counts_and_an_equal_one_does_not(tmp_path):
    source, folder = kaggle_source(tmp_path / "raw"), tmp_path / "data"
    whole = prepare_pictures(source, folder)
    path = whole.rows("training")[0]["path"]
    prepared = prepare_pictures(source, folder, exclude=exclude_file(tmp_path, path))
    assert prepared.digest != whole.digest
    before = snapshot(folder)
    same = exclude_file(tmp_path, "# looked at in May", "", f"  ./{path}   # a fox", path)
    assert prepare_pictures(source, folder, exclude=same) == prepared
    assert snapshot(folder) == before
    elsewhere = Path(same).rename(tmp_path / "renamed.txt")
    renamed = prepare_pictures(source, folder, exclude=str(elsewhere))
    assert renamed == replace(prepared, exclude=str(elsewhere))
    assert prepare_pictures(source, folder) == whole
    assert not (folder / "excluded").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.txt", "can't be read"),
        ("binary.txt", "it is not UTF-8 text"),
        ("data/excluded/mine.txt", "lies among the prepared pictures"),
    ],
)
def test_an_exclude_file_that_can_not_be_used_is_named_and_left_alone(tmp_path, name, said):
    source, folder = kaggle_source(tmp_path / "raw"), tmp_path / "data"
    before = prepare_pictures(source, folder)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfec\x00")
    (folder / "excluded").mkdir()
    (folder / "excluded" / "mine.txt").write_text("cat.1.jpg")
    with pytest.raises(CatdogError, match=said):
        prepare_pictures(source, folder, exclude=str(tmp_path / name))
    assert load_dataset(folder) == before
    assert (folder / "excluded" / "mine.txt").read_text() == "cat.1.jpg"


DIGEST = "4c88eaf1e2bb8fccd199bbacb22fc01e3d1bdbecbede13b70401c178c3eb563b"
"""Of the manifest of the real photos, as every version has split them."""


def test_real_photos_are_all_prepared(tmp_path, photos):
    prepared = prepare_pictures(photos, tmp_path / "data", val_fraction=0.2)
    assert prepared.counts["training"] == {"cat": 801, "dog": 801}
    assert prepared.counts["validation"] == {"cat": 200, "dog": 200}
    assert prepared.counts["test"] == {"": 1001}
    assert prepared.quarantined == 0
    assert prepared.digest == DIGEST


def test_what_the_user_knows_of_pictures_stands_in_the_manifest(said, tmp_path):
    source = kaggle_source(tmp_path / "raw")
    bare = prepare_pictures(source, tmp_path / "data")
    lines = ["file_name,camera,number", "train/cat.0.jpg,old,01", "test/1.jpg,new,2", "no.jpg,x"]
    (source / "metadata.csv").write_text("\n".join(lines))
    prepared = prepare_pictures(pack(source, "zip"), tmp_path / "data")
    assert prepared.digest != bare.digest
    assert prepared.validation_digest == bare.validation_digest
    known = {Path(row["path"]).name: (row["camera"], row["number"]) for row in rows_of(prepared)}
    assert (known.pop("cat.0.jpg"), known.pop("1.jpg")) == (("old", "01"), ("new", "2"))
    assert set(known.values()) == {("", "")}
    assert any("name no picture: 1, the first of them raw.zip/no.jpg" in line for line in said)
