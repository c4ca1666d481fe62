from __future__ import annotations

import pytest

from catdog import CatdogError
from tests.conftest import encoded, tiny_picture
from tests.data.test_archive import tarred
from tests.sources import (
    insect_source,
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
    [*((layout, "folder") for layout in LAYOUTS)]
    + [("kaggle", packed) for packed in ("zip", "tar.gz", "zip of zips")],
)
def test_every_layout_gives_the_same_folders(tmp_path, layout, packed):
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
    with pytest.raises(CatdogError, match=r"named cat/ and dog/.*-P classes=NEGATIVE,POSITIVE"):
        prepare_pictures(source, tmp_path / "data")
    prepared = prepare_pictures(source, tmp_path / "data", classes="ant,bee")
    assert reasons_of(prepared) == {
        "train/wasp/1.jpg": "neither ant nor bee in its folder's or its own name"
    }
    with pytest.raises(CatdogError, match="5 pictures of a bee and none of an elk"):
        prepare_pictures(source, tmp_path / "data", classes="elk,bee")
