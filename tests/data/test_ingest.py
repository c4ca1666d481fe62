from __future__ import annotations

from pathlib import Path

import pytest

from catdog import CatdogError
from catdog.data.archive import members
from tests.conftest import encoded, tiny_picture
from tests.data.test_archive import tarred
from tests.sources import (
    fill,
    insect_source,
    kaggle_source,
    pack,
    prepare_pictures,
    reasons_of,
    rows_of,
    snapshot,
)

LAYOUTS = {
    "kaggle": ["train/cat.{}.jpg", "train/dog.{}.jpg", "test/{}.jpg"],
    "kaggle twice": ["train/train/cat.{}.jpg", "train/train/dog.{}.jpg", "test1/test1/{}.jpg"],
    "folders": ["cat/{}.jpg", "dog/{}.jpg", "test/{}.jpg"],
    "microsoft": ["PetImages/Cat/{}.jpg", "PetImages/Dog/{}.jpg", "test/{}.jpg"],
    "plural": ["training_set/training_set/cats/cat.{}.jpg", "training_set/DOGS/{}.jpg"],
    "flat": ["cat.{}.jpg", "dog_{}.jpg"],
}


@pytest.mark.parametrize(
    ("layout", "packed"),
    [(layout, "folder") for layout in LAYOUTS]
    + [("kaggle", packed) for packed in ("zip", "tar.gz", "zip of zips")],
)
def test_every_layout_gives_the_same_folders(tmp_path, layout, packed):
    names = [name.format(n) for name in LAYOUTS[layout] for n in range(1, 6)]
    source = pack(fill(tmp_path / "raw", *names), packed)
    prepared = prepare_pictures(source, tmp_path / "data")
    tests = 5 if len(LAYOUTS[layout]) == 3 else 0
    assert prepared.counts == {
        "training": {"cat": 3, "dog": 3},
        "validation": {"cat": 2, "dog": 2},
        "test": {"": tests} if tests else {},
    }
    for split in ("training", "validation"):
        for label in ("cat", "dog"):
            count = prepared.counts[split][label]
            assert len(list((prepared.folder / split / label).iterdir())) == count
    assert len(list(prepared.test.iterdir())) == tests


NAMED = {
    "a split in other words": (
        "raw",
        ["Train/{}", "Test Set/{}", "Validation-Set/{}"],
        (10, 10, 10),
    ),
    "a source called test": ("test", ["{}"], (6, 4, 0)),
    "one top folder called test": ("raw", ["test/{}"], (6, 4, 0)),
    "one top folder called dogs": ("raw", ["dogs/{}"], (6, 4, 0)),
    "copies": ("raw", ["{}", "again/{}"], (6, 4, 0)),
    "labelled test": ("raw", ["train/{}", "test/{}"], (6, 4, 10)),
}


@pytest.mark.parametrize("packed", ["folder", "zip", "tar.gz"])
@pytest.mark.parametrize("kind", NAMED)
def test_names_say_what_people_mean_and_nothing_more(tmp_path, kind, packed):
    source, folders, counts = NAMED[kind]
    names = [f"{label}/{n}.jpg" for label in ("cat", "dog") for n in range(5)]
    if "dogs" in kind:
        names = [name.replace("/", ".") for name in names]
    for folder in folders:
        start = 0 if kind == "copies" else 100 * folders.index(folder)
        fill(tmp_path / source, *(folder.format(name) for name in names), start=start)
    made = pack(tmp_path / source, packed)
    if packed != "folder":
        made = made.rename(made.with_name(f"{source}.{packed}"))
    prepared = prepare_pictures(made, tmp_path / "data" / "pets")
    assert tuple(sum(prepared.counts[s].values()) for s in prepared.counts) == counts
    assert prepared.quarantined == (10 if kind == "copies" else 0)


def test_what_was_taken_for_a_split_and_what_was_passed_over_is_said(said, tmp_path):
    source = kaggle_source(tmp_path / "raw")
    for name in ("notes.txt", "film.mp4", "other.txt"):
        (source / name).write_bytes(b"x" * 40)
    prepare_pictures(source, tmp_path / "data")
    assert "Folders: test for test, train for training." in said
    assert "Passed over, by their names no pictures: 2 .txt, 1 .mp4." in said


@pytest.mark.parametrize("table", ["file_name", "id", "id with a suffix"])
def test_a_table_says_the_class_where_names_do_not(tmp_path, table):
    names = [f"train/{n}{label}.jpg" for n in range(3) for label in ("cat", "dog")]
    source = fill(tmp_path / "raw", *names, "test/0cat.jpg")
    key, file = ("file_name", "metadata.csv") if table == "file_name" else ("id", "train.csv")
    lines = [f"{key},label"]
    for name in names:
        spelled = {"id": Path(name).stem, "file_name": name}.get(table, Path(name).name)
        lines.append(f"{spelled},{'Cats' if 'cat' in name else 'dog'}")
    (source / file).write_text("\n".join(lines))
    prepared = prepare_pictures(source, tmp_path / "data")
    assert prepared.counts["training"] == {"cat": 2, "dog": 2}
    assert prepared.counts["test"] == {"": 1}


def test_of_a_file_that_is_too_large_only_so_much_is_read_as_shows_it(tmp_path, monkeypatch):
    monkeypatch.setattr("catdog.data.archive.MAX_BYTES", 10)
    (tmp_path / "huge.jpg").write_bytes(bytes(1000))
    ((name, read),) = members(tmp_path)
    assert (name, len(read())) == ("huge.jpg", 11)


def test_what_can_not_be_read_is_left_out(tmp_path):
    source = kaggle_source(tmp_path / "raw")
    (source / "train" / "cat.gone.jpg").symlink_to(tmp_path / "nowhere")
    prepared = prepare_pictures(source, tmp_path / "data")
    assert reasons_of(prepared) == {"train/cat.gone.jpg": "No such file or directory"}


def test_what_does_not_decode_is_listed_with_the_reason_and_the_rest_is_kept(tmp_path):
    source = kaggle_source(tmp_path / "raw")
    (source / "train" / "cat.6.jpg").write_bytes(b"")
    (source / "train" / "cat.7.jpg").write_text("<html>sign in</html>")
    (source / "train" / "dog.6.jpg").write_bytes(encoded(tiny_picture("dog", 1))[:-200])
    (source / "train" / "bird.jpg").write_bytes(encoded(tiny_picture("dog", 77)))
    prepared = prepare_pictures(source, tmp_path / "data")
    reasons = reasons_of(prepared)
    assert reasons["train/cat.6.jpg"] == "the file is empty"
    assert reasons["train/cat.7.jpg"].startswith("not a picture")
    assert reasons["train/dog.6.jpg"].startswith("does not decode")
    assert reasons["train/bird.jpg"].startswith("neither cat nor dog")
    assert prepared.quarantined == len(reasons) == 4
    assert sum(prepared.counts["training"].values()) == 6


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_name_in_an_archive_decides_where_its_picture_lands(tmp_path):
    used = ["/etc/cat.1.jpg", "C:/cat.2.jpg", "cat/a.jpg", "cat/a.jpg", "cat/A.JPG"]
    used += ["cat/\\\\host\\b.jpg", b"cat/\xff\xe9.jpg".decode("utf-8", "surrogateescape")]
    passed_over = ["../cat.mine.jpg", "cat/../../mine.jpg", "..\\mine.jpg"]
    members = [(f"dog/{n}.jpg", encoded(tiny_picture("dog", n))) for n in range(3)]
    for number, name in enumerate(used + passed_over):
        members.append((name, encoded(tiny_picture("cat", number))))
    given = tmp_path / "given"
    given.mkdir()
    (given / "mine.jpg").write_bytes(b"mine")
    (given / "pets.tar.gz").write_bytes(tarred(members))
    before = snapshot(given)
    prepared = prepare_pictures(given / "pets.tar.gz", tmp_path / "data" / "pets")
    rows = rows_of(prepared)
    assert sum(row["label"] == "cat" for row in rows) == len(used)
    assert len({row["path"].casefold() for row in rows}) == len(rows)
    below = {path.resolve() for path in tmp_path.rglob("*.[jJ][pP][gG]")} - {given / "mine.jpg"}
    assert below == {(prepared.folder / row["path"]).resolve() for row in rows}
    assert snapshot(given) == before


def test_of_more_than_two_kinds_two_must_be_named(tmp_path):
    source = insect_source(tmp_path / "raw")
    (source / "train" / "wasp").mkdir()
    (source / "train" / "wasp" / "1.jpg").write_bytes(encoded(tiny_picture("cat", 1)))
    with pytest.raises(CatdogError, match=r"folder named cat/.*-P classes=NEGATIVE,POSITIVE"):
        prepare_pictures(source, tmp_path / "data")
    prepared = prepare_pictures(source, tmp_path / "data", classes="ant,bee")
    assert reasons_of(prepared) == {
        "train/wasp/1.jpg": "neither ant nor bee in its folder's or its own name"
    }
    with pytest.raises(CatdogError, match="0 different pictures of an elk"):
        prepare_pictures(source, tmp_path / "data", classes="elk,bee")
