from __future__ import annotations

import pytest

from catdog import CatdogError
from catdog.data.dataset import load_dataset
from tests.conftest import encoded, tiny_picture
from tests.sources import fill, insect_source, kaggle_source, pack, prepare_pictures, reasons_of

LAYOUTS = {
    "kaggle": ["train/cat.{}.jpg", "train/dog.{}.jpg", "test/{}.jpg"],
    "kaggle twice": ["train/train/cat.{}.jpg", "train/train/dog.{}.jpg", "test1/test1/{}.jpg"],
    "folders": ["cat/{}.jpg", "dog/{}.jpg", "test/{}.jpg"],
    "microsoft": ["PetImages/Cat/{}.jpg", "PetImages/Dog/{}.jpg", "test/{}.jpg"],
    "plural": ["training_set/training_set/cats/cat.{}.jpg", "training_set/DOGS/{}.jpg"],
    "flat": ["cat.{}.jpg", "dog_{}.jpg"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("packed", ["folder", "zip", "tar.gz", "zip of zips"])
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


@pytest.mark.parametrize("packed", ["folder", "zip", "zip of zips"])
def test_a_source_of_two_other_folders_is_told_apart_by_their_names(said, tmp_path, packed):
    source = pack(insect_source(tmp_path / "raw"), packed)
    prepared = prepare_pictures(source, tmp_path / "data")
    assert prepared.classes == ("ants", "bees")
    assert prepared.counts["training"] == {"ants": 3, "bees": 3}
    assert load_dataset(prepared.folder).classes == ("ants", "bees")
    assert sum("Classes: ants (negative) and bees (positive)" in line for line in said) == 1
    assert {path.name for path in prepared.training.iterdir()} == {"ants", "bees"}


def test_kaggles_way_to_name_files_holds_for_any_classes(tmp_path):
    source = tmp_path / "raw"
    insect_source(source)
    (source / "flat").mkdir()
    for place, path in enumerate(sorted(source.rglob("*.jpg"))):
        label = "ant" if "Ants" in path.parts else "bee"
        path.rename(source / "flat" / f"{label}.{place}.jpg")
    assert prepare_pictures(source, tmp_path / "data", classes="ant,bee").counts["training"] == {
        "ant": 3,
        "bee": 3,
    }


def test_of_more_than_two_kinds_two_are_named_or_it_is_one_sentence(tmp_path):
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
