from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import tarfile
import unicodedata
import warnings
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from catdog import CatdogError
from catdog import prepare as module
from catdog.filenames import alike, normal, portable
from catdog.prepare import load_prepared, prepare
from tests.conftest import encoded, tiny_picture


def _fill(folder: Path, *names: str) -> Path:
    """Draw a picture for each name, of the class in it; every picture has other bytes."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        label = "dog" if "dog" in name.lower() else "cat"
        path.write_bytes(encoded(tiny_picture(label, number)))
    return folder


def _kaggle(folder: Path, count: int = 5) -> Path:
    names = [f"train/{label}.{n}.jpg" for label in ("cat", "dog") for n in range(count)]
    return _fill(folder, *names, "test/1.jpg", "test/2.jpg")


def _prepare(source: Path, folder: Path, **options):
    options = {"origin": "here", "val_fraction": 0.4, "seed": 0} | options
    return prepare(source, folder, **options)


def _rows(prepared) -> list[dict[str, str]]:
    with prepared.manifest.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _reasons(prepared) -> dict[str, str]:
    with prepared.quarantine.open(newline="", encoding="utf-8") as stream:
        return {row["path"]: row["reason"] for row in csv.DictReader(stream)}


def _snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


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
    source = _pack(_fill(tmp_path / "raw", *names), packed)
    prepared = _prepare(source, tmp_path / "data")
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


def _pack(folder: Path, packed: str) -> Path:
    if packed == "folder":
        return folder
    target = folder.parent / f"raw.{packed.split(maxsplit=1)[0]}"
    if packed == "tar.gz":
        with tarfile.open(target, "w:gz") as opened:
            for path in sorted(folder.iterdir()):
                opened.add(path, path.name)
        return target
    with zipfile.ZipFile(target, "w") as opened:
        for part in sorted(folder.iterdir()):
            if packed == "zip" or part.is_file():
                for path in [part, *sorted(part.rglob("*"))]:
                    opened.write(path, path.relative_to(folder))
            else:
                opened.writestr(f"{part.name}.zip", _zipped(part, folder))
    return target


def _zipped(part: Path, base: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as inner:
        for path in sorted(part.rglob("*")):
            inner.write(path, path.relative_to(base))
    return stream.getvalue()


def test_the_manifest_tells_the_truth_about_every_file(tmp_path):
    prepared = _prepare(_kaggle(tmp_path / "raw"), tmp_path / "data")
    rows = _rows(prepared)
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


def test_the_bytes_of_the_pictures_are_kept(tmp_path):
    source = _kaggle(tmp_path / "raw")
    before = {hashlib.sha256(path.read_bytes()).hexdigest() for path in source.rglob("*.jpg")}
    assert {row["sha256"] for row in _rows(_prepare(source, tmp_path / "data"))} == before


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_each_class_gives_up_the_same_share(tmp_path, fraction):
    names = [f"cat/{n}.jpg" for n in range(20)] + [f"dog/{n}.jpg" for n in range(8)]
    source = _fill(tmp_path / "raw", *names)
    counts = _prepare(source, tmp_path / "data", val_fraction=fraction).counts
    assert counts["validation"] == {"cat": round(20 * fraction), "dog": max(1, round(8 * fraction))}
    assert counts["training"]["cat"] == 20 - counts["validation"]["cat"]


def _validation_digests(prepared) -> set[str]:
    return {row["sha256"] for row in _rows(prepared) if row["split"] == "validation"}


def test_the_split_follows_the_seed_and_the_contents_but_not_the_names(tmp_path):
    source = _kaggle(tmp_path / "raw", 12)
    first = _prepare(source, tmp_path / "a")
    again = _prepare(source, tmp_path / "b")
    other = _prepare(source, tmp_path / "c", seed=1)
    assert _validation_digests(first) == _validation_digests(again)
    assert _validation_digests(first) != _validation_digests(other)
    for number, path in enumerate(sorted((source / "train").iterdir())):
        path.rename(path.with_name(f"{path.name[:3]}.renamed{number}.jpg"))
    renamed = _prepare(source, tmp_path / "d")
    assert _validation_digests(renamed) == _validation_digests(first)
    assert renamed.validation_digest == first.validation_digest
    assert renamed.digest != first.digest
    assert other.validation_digest != first.validation_digest


def test_validation_pictures_of_the_source_are_taken_as_they_are(tmp_path):
    names = [f"train/{label}/{n}.jpg" for label in ("cat", "dog") for n in range(4)]
    names += [f"val/{label}/{n}.jpg" for label in ("cat", "dog") for n in range(3)]
    said: list[str] = []
    source = _fill(tmp_path / "raw", *names)
    prepared = _prepare(source, tmp_path / "data", say=said.append)
    assert prepared.counts["validation"] == {"cat": 3, "dog": 3}
    assert any("val_fraction is not used" in line for line in said)


def test_equal_bytes_never_stand_on_both_sides(tmp_path):
    source = _kaggle(tmp_path / "raw", 6)
    for n in range(6):
        for copy in range(3):
            content = (source / "train" / f"dog.{n}.jpg").read_bytes()
            (source / "train" / f"dog.{n}{copy}0.jpg").write_bytes(content)
    prepared = _prepare(source, tmp_path / "data", val_fraction=0.5)
    sides: dict[str, set[str]] = {}
    for row in _rows(prepared):
        sides.setdefault(row["sha256"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in sides.values())
    assert prepared.counts["training"]["dog"] + prepared.counts["validation"]["dog"] == 24


def test_a_training_copy_of_a_validation_picture_is_left_out(tmp_path):
    names = [
        f"{split}/{label}/{n}.jpg"
        for split in ("train", "val")
        for label in ("cat", "dog")
        for n in range(3)
    ]
    source = _fill(tmp_path / "raw", *names)
    content = (source / "val" / "cat" / "0.jpg").read_bytes()
    (source / "train" / "cat" / "copy.jpg").write_bytes(content)
    reasons = _reasons(_prepare(source, tmp_path / "data"))
    assert reasons == {"train/cat/copy.jpg": "the same bytes stand among the validation pictures"}


def test_bytes_with_two_labels_are_left_out(tmp_path):
    source = _kaggle(tmp_path / "raw")
    content = (source / "train" / "cat.0.jpg").read_bytes()
    (source / "train" / "dog.9.jpg").write_bytes(content)
    reasons = _reasons(_prepare(source, tmp_path / "data"))
    assert set(reasons) == {"train/cat.0.jpg", "train/dog.9.jpg"}
    assert set(reasons.values()) == {"the same bytes are labelled as cat and as dog"}


def test_what_does_not_decode_is_listed_with_the_reason_and_the_rest_is_kept(tmp_path):
    source = _kaggle(tmp_path / "raw")
    (source / "train" / "cat.6.jpg").write_bytes(b"")
    (source / "train" / "cat.7.jpg").write_text("<html>sign in</html>")
    (source / "train" / "dog.6.jpg").write_bytes(encoded(tiny_picture("dog", 1))[:-200])
    (source / "train" / "bird.jpg").write_bytes(encoded(tiny_picture("dog", 77)))
    prepared = _prepare(source, tmp_path / "data")
    reasons = _reasons(prepared)
    assert reasons["train/cat.6.jpg"] == "the file is empty"
    assert reasons["train/cat.7.jpg"].startswith("not a picture")
    assert reasons["train/dog.6.jpg"].startswith("does not decode")
    assert reasons["train/bird.jpg"].startswith("neither cat nor dog")
    assert prepared.quarantined == len(reasons) == 4
    assert sum(prepared.counts["training"].values()) == 6


def test_names_that_collide_on_some_system_do_not_overwrite_each_other(tmp_path):
    stream = io.BytesIO()
    members = ["a/cat/1.jpg", "b/cat/1.jpg", "b/cat/1.JPG", "c/cat/1.jpg", "c/cat/1.jpg"]
    members += ["dog/é.jpg", "dog/E:x.jpg", "dog/\udcff.jpg".encode("utf-8", "replace").decode()]
    members += ["a/dog/e\u0301.jpg", "b/dog/É.jpg", "dog/con.jpg"]
    with zipfile.ZipFile(stream, "w") as opened:
        for number, name in enumerate(members):
            content = encoded(tiny_picture("dog" if "dog" in name else "cat", number))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a name stands in the archive twice
                opened.writestr(name, content)
    (tmp_path / "raw.zip").write_bytes(stream.getvalue())
    prepared = _prepare(tmp_path / "raw.zip", tmp_path / "data")
    paths = [row["path"] for row in _rows(prepared)]
    assert len(paths) == len({alike(path) for path in paths}) == len(members)
    names = {PurePosixPath(path).name for path in paths}
    assert {"é.jpg", "_con.jpg"} < names
    assert names == set(map(normal, names))


def test_running_again_does_nothing_until_source_or_parameters_change(tmp_path):
    source, folder = _kaggle(tmp_path / "raw"), tmp_path / "data"
    first = _prepare(source, folder)
    before = _snapshot(folder)
    said: list[str] = []
    assert _prepare(source, folder, say=said.append) == first
    assert _snapshot(folder) == before
    assert said[-1].startswith("Already prepared")
    assert _prepare(source, folder, val_fraction=0.2).digest != first.digest
    assert _prepare(source, folder) == first
    _fill(source, "train/cat.99.jpg")
    assert _prepare(source, folder).digest != first.digest


def test_the_source_is_never_changed(tmp_path):
    source = _kaggle(tmp_path / "raw")
    (source / "train" / "cat.6.jpg").write_bytes(b"broken")
    before = _snapshot(source)
    _prepare(source, tmp_path / "data")
    assert _snapshot(source) == before


@pytest.mark.parametrize("name", ["training/mine.txt", "manifest.csv", "test/holiday.jpg"])
def test_what_the_user_keeps_in_the_folder_is_left_alone(tmp_path, name):
    folder = tmp_path / "data"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("mine")
    with pytest.raises(CatdogError, match="was not made by catdog and is left alone"):
        _prepare(_kaggle(tmp_path / "raw"), folder)
    assert (folder / name).read_text() == "mine"


@pytest.mark.parametrize(("source", "folder"), [("pets", "pets"), ("pets", "pets/data")])
def test_source_and_folder_may_not_lie_in_each_other(tmp_path, source, folder):
    _kaggle(tmp_path / source)
    before = _snapshot(tmp_path / source)
    with pytest.raises(CatdogError, match="one lies in the other"):
        _prepare(tmp_path / source, tmp_path / folder)
    assert _snapshot(tmp_path / source) == before


@pytest.mark.parametrize("where", ["_place", "_write_csv", "_validation_digest"])
def test_a_full_disk_leaves_nothing_that_looks_finished(tmp_path, monkeypatch, where):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    source, folder = _kaggle(tmp_path / "raw"), tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(module, where, full)
        with pytest.raises(CatdogError, match="the disk is full, nothing was prepared"):
            _prepare(source, folder)
    with pytest.raises(CatdogError, match="holds no prepared data set"):
        load_prepared(folder)
    assert _prepare(source, folder).counts["test"] == {"": 2}


def test_a_folder_that_spells_accents_apart_holds_no_picture_more(tmp_path):
    source = _fill(
        tmp_path / "raw", *(f"{name}/café{n}.jpg" for name in ("cat", "dog") for n in "12")
    )
    prepared = _prepare(source, tmp_path / "data")
    for path in prepared.training.rglob("*.jpg"):
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))
    # What was renamed is gone here, where macOS finds it; that it is no new one is all there is.
    with pytest.raises(CatdogError, match="is gone since it was prepared"):
        prepared.check()


def test_an_edited_manifest_is_told(tmp_path):
    prepared = _prepare(_kaggle(tmp_path / "raw"), tmp_path / "data")
    assert load_prepared(prepared.folder) == prepared
    prepared.manifest.write_text(prepared.manifest.read_text().replace("cat", "dog"))
    with pytest.raises(CatdogError, match="was changed or deleted after it was prepared"):
        load_prepared(prepared.folder)


def _exclude_file(folder: Path, *lines: str) -> str:
    path = folder / "exclude.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def _without_excluded(prepared) -> dict[str, tuple[str, str]]:
    return {
        row["path"]: (row["split"], row["sha256"])
        for row in _rows(prepared)
        if not row["split"].startswith("excluded")
    }


def _both_classes_stay(labelled: list[dict[str, str]], gone: list[dict[str, str]]) -> bool:
    left = {(row["split"], row["label"]) for row in labelled if row not in gone}
    return len(left) == 4


@given(
    wanted=st.lists(st.integers(0, 19), unique=True, max_size=6),
    by=st.sampled_from(["path", "source", "sha256"]),
    names=st.sampled_from(["kaggle", "colliding"]),
)
@settings(max_examples=12, deadline=None)
def test_what_is_excluded_stands_on_no_side_and_nothing_else_moves(wanted, by, names):
    with TemporaryDirectory() as scratch:
        place = Path(scratch)
        if names == "kaggle":
            source = _kaggle(place / "raw", 10)
        else:
            folders = [f"{part}/{label}" for part in "abcde" for label in ("cat", "dog")]
            source = _fill(place / "raw", *(f"{name}/{n}.jpg" for name in folders for n in (1, 2)))
        whole = _prepare(source, place / "whole")
        sources = {
            hashlib.sha256(path.read_bytes()).hexdigest(): path.relative_to(source).as_posix()
            for path in source.rglob("*.jpg")
        }
        labelled = [row for row in _rows(whole) if row["label"]]
        chosen = [labelled[n] for n in wanted]
        assume(_both_classes_stay(labelled, chosen))
        line = {
            "path": lambda row: row["path"],
            "source": lambda row: sources[row["sha256"]],
            "sha256": lambda row: row["sha256"][:12],
        }[by]
        prepared = _prepare(
            source, place / "data", exclude=_exclude_file(place, *map(line, chosen))
        )
        gone = {row["path"] for row in chosen}
        expected = {
            path: value for path, value in _without_excluded(whole).items() if path not in gone
        }
        assert _without_excluded(prepared) == expected
        assert prepared.excluded == len(gone)
        left = {
            path.relative_to(prepared.folder).as_posix()
            for split in ("training", "validation", "test")
            for path in (prepared.folder / split).rglob("*.jpg")
        }
        assert left == set(expected)


def test_excluded_validation_pictures_are_kept_for_raw_figures(tmp_path):
    source = _kaggle(tmp_path / "raw")
    whole = _prepare(source, tmp_path / "data")
    first, *others = whole.rows("validation")
    prepared = _prepare(source, tmp_path / "data", exclude=_exclude_file(tmp_path, first["path"]))
    (kept,) = prepared.rows("excluded-validation")
    assert (kept["path"], kept["label"]) == (f"excluded/{first['path']}", first["label"])
    content = (prepared.folder / kept["path"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == first["sha256"]
    assert prepared.rows("validation") == others
    assert prepared.validation_digest != whole.validation_digest
    assert prepared.counts["validation"][first["label"]] == 1


def test_a_changed_exclude_file_is_noticed_and_an_equal_one_is_not(tmp_path):
    source, folder = _kaggle(tmp_path / "raw"), tmp_path / "data"
    whole = _prepare(source, folder)
    path = whole.rows("training")[0]["path"]
    prepared = _prepare(source, folder, exclude=_exclude_file(tmp_path, path))
    assert prepared.digest != whole.digest
    before = _snapshot(folder)
    same = _exclude_file(tmp_path, "# looked at in May", "", f"  ./{path}   # a fox", path)
    assert _prepare(source, folder, exclude=same) == prepared
    assert _snapshot(folder) == before
    assert _prepare(source, folder) == whole
    assert not (folder / "excluded").exists()


def test_the_path_of_an_excluded_picture_excludes_it_again(tmp_path):
    source, folder = _kaggle(tmp_path / "raw"), tmp_path / "data"
    path = _prepare(source, folder).rows("training")[0]["path"]
    prepared = _prepare(source, folder, exclude=_exclude_file(tmp_path, f"excluded/{path}"))
    assert [row["path"] for row in prepared.rows("excluded-training")] == [f"excluded/{path}"]


@pytest.mark.parametrize("packed", ["zip", "tar.gz"])
@pytest.mark.parametrize("line", ["train/cat.1.jpg", "raw.{}/train/cat.1.jpg"])
def test_a_member_of_an_archive_is_excluded_by_its_name_in_it(tmp_path, packed, line):
    content = (_kaggle(tmp_path / "raw") / "train" / "cat.1.jpg").read_bytes()
    source = _pack(tmp_path / "raw", packed)
    path = _exclude_file(tmp_path, line.format(packed))
    prepared = _prepare(source, tmp_path / "data", exclude=path)
    (row,) = prepared.rows("excluded-training") + prepared.rows("excluded-validation")
    assert row["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_line_that_names_nothing_is_told_and_test_pictures_stay(tmp_path):
    source = _kaggle(tmp_path / "raw")
    said: list[str] = []
    lines = ("training/cat/nobody.jpg", "0123456789ab", "test/1.jpg")
    prepared = _prepare(
        source, tmp_path / "data", exclude=_exclude_file(tmp_path, *lines), say=said.append
    )
    for line in lines:
        assert any(repr(line) in told and "names no" in told for told in said), line
    assert prepared.excluded == 0
    assert prepared.counts["test"] == {"": 2}


def test_excluding_all_of_a_class_on_one_side_is_one_sentence(tmp_path):
    source = _kaggle(tmp_path / "raw")
    rows = _prepare(source, tmp_path / "data").rows("validation")
    lines = [row["path"] for row in rows if row["label"] == "dog"]
    with pytest.raises(CatdogError, match="leaves no validation picture of a dog"):
        _prepare(source, tmp_path / "data", exclude=_exclude_file(tmp_path, *lines))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.txt", "can't be read"),
        ("binary.txt", "it is not UTF-8 text"),
        ("data/excluded/mine.txt", "lies among the prepared pictures"),
    ],
)
def test_an_exclude_file_that_can_not_be_used_is_told_and_left_alone(tmp_path, name, said):
    source, folder = _kaggle(tmp_path / "raw"), tmp_path / "data"
    before = _prepare(source, folder)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfec\x00")
    (folder / "excluded").mkdir()
    (folder / "excluded" / "mine.txt").write_text("cat.1.jpg")
    with pytest.raises(CatdogError, match=said):
        _prepare(source, folder, exclude=str(tmp_path / name))
    assert load_prepared(folder) == before
    assert (folder / "excluded" / "mine.txt").read_text() == "cat.1.jpg"


def _one_class(folder: Path) -> None:
    _fill(folder, "cat/1.jpg", "cat/2.jpg")


def _one_dog(folder: Path) -> None:
    _fill(folder, "cat/1.jpg", "cat/2.jpg", "dog/1.jpg")


def _all_corrupt(folder: Path) -> None:
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder.mkdir(), "holds no picture to learn from. Give pictures"),
        (_one_class, "holds 2 pictures of a cat and none of a dog"),
        (_one_dog, "too few different pictures of a dog"),
        (_all_corrupt, "3 were left out, 3 of them because of: the file is empty"),
    ],
)
def test_a_source_that_can_not_be_learned_from_is_one_sentence(tmp_path, make, said):
    make(tmp_path / "raw")
    with pytest.raises(CatdogError, match=said):
        _prepare(tmp_path / "raw", tmp_path / "data")
    with pytest.raises(CatdogError, match="holds no prepared data set"):
        load_prepared(tmp_path / "data")


def test_a_folder_that_can_not_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CatdogError, match="choose another folder with --data_dir"):
        _prepare(_kaggle(tmp_path / "raw"), tmp_path / "file" / "data")


@given(
    sizes=st.dictionaries(
        st.text("abcdef0123456789", min_size=4, max_size=4),
        st.integers(1, 4),
        min_size=2,
        max_size=30,
    ),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 9),
)
def test_validation_takes_its_share_and_never_all_or_nothing(sizes, fraction, seed):
    chosen = module._choose_validation(Counter(sizes), fraction, seed)
    taken, total = sum(sizes[digest] for digest in chosen), sum(sizes.values())
    assert 0 < len(chosen) < len(sizes)
    target = max(1, round(total * fraction))
    assert taken < target + max(sizes.values())
    assert taken >= min(target, total - max(sizes.values()))


def test_real_photos_are_all_prepared(tmp_path, photos):
    prepared = _prepare(photos, tmp_path / "data", val_fraction=0.2)
    assert prepared.counts["training"] == {"cat": 801, "dog": 801}
    assert prepared.counts["validation"] == {"cat": 200, "dog": 200}
    assert prepared.counts["test"] == {"": 1001}
    assert prepared.quarantined == 0


@pytest.mark.parametrize("packed", ["folder", "zip"])
def test_what_the_user_knows_of_pictures_stands_in_the_manifest(tmp_path, packed):
    source = _kaggle(tmp_path / "raw")
    (source / "train" / "broken.cat.jpg").write_bytes(b"")
    lines = ["train/cat.0.jpg,old,01", "train/broken.cat.jpg,new,", "test/1.jpg,new,2", "no.jpg,x,"]
    table = "\n".join(["file_name,camera,number", *lines])
    (source / "metadata.csv").write_text(table)
    if packed == "zip":
        with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
            for path in source.rglob("*.*"):
                archive.write(path, path.relative_to(source))
        source = tmp_path / "raw.zip"
    said: list[str] = []
    prepared = _prepare(source, tmp_path / "data", say=said.append)
    rows = {Path(row["path"]).name: row for row in _rows(prepared)}
    assert list(rows["cat.0.jpg"])[6:] == ["camera", "number"]
    known = {name: (row["camera"], row["number"]) for name, row in rows.items()}
    assert known.pop("cat.0.jpg") == ("old", "01")
    assert known.pop("1.jpg") == ("new", "2")
    assert set(known.values()) == {("", "")}
    (told,) = [line for line in said if "metadata.csv" in line]
    assert told.startswith("Rows of metadata.csv that name no picture: 1,")
    assert told.count("no.jpg") == 1


def test_another_word_of_the_user_is_another_data_set_with_the_same_validation(tmp_path):
    source, folder = _kaggle(tmp_path / "raw"), tmp_path / "data"
    bare = _prepare(source, folder)
    (source / "metadata.csv").write_text("file_name,camera\ntrain/cat.0.jpg,old\n")
    known = _prepare(source, folder)
    assert known.digest != bare.digest
    assert known.validation_digest == bare.validation_digest


def test_a_label_in_the_users_table_is_said_not_to_count(tmp_path):
    source = _kaggle(tmp_path / "raw")
    (source / "metadata.csv").write_text("file_name,label,camera\ntrain/cat.0.jpg,dog,old\n")
    said: list[str] = []
    prepared = _prepare(source, tmp_path / "data", say=said.append)
    row = next(row for row in _rows(prepared) if row["path"].endswith("/cat.0.jpg"))
    assert (row["label"], row["camera"]) == ("cat", "old")
    assert any("label is not used" in line for line in said)


def test_a_table_that_is_refused_leaves_nothing_behind(tmp_path):
    source = _kaggle(tmp_path / "raw")
    (source / "metadata.csv").write_text("file_name,camera,camera\n")
    with pytest.raises(CatdogError, match="'camera' twice"):
        _prepare(source, tmp_path / "data")
    assert not [path for path in (tmp_path / "data").iterdir() if path.name != ".lock"]


def test_what_it_was_prepared_with_is_remembered(tmp_path):
    source, folder = _kaggle(tmp_path / "raw"), tmp_path / "data"
    plain = _prepare(source, folder)
    assert (plain.val_fraction, plain.seed, plain.exclude) == (0.4, 0, "none")
    assert plain.exclude_digest is None
    assert not plain.exclude_lines.exists()
    path = plain.rows("training")[0]["path"]
    prepared = _prepare(source, folder, seed=0, exclude=_exclude_file(tmp_path, f"{path}  # a fox"))
    assert prepared.exclude == str(tmp_path / "exclude.txt")
    assert len(prepared.exclude_digest) == 64
    assert prepared.exclude_lines.read_text() == f"{path}\n"
    (tmp_path / "exclude.txt").rename(tmp_path / "moved.txt")
    moved = _prepare(source, folder, exclude=str(tmp_path / "moved.txt"))
    assert load_prepared(folder).exclude == moved.exclude == str(tmp_path / "moved.txt")
    assert moved.digest == prepared.digest


def _insects(folder: Path) -> Path:
    for place, (name, parent) in enumerate(
        (name, parent)
        for name, parent in (("ant", "train/Ants"), ("bee", "train/bees"))
        for _ in range(5)
    ):
        path = folder / parent / f"{place}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(tiny_picture(name, place)))
    return folder


@pytest.mark.parametrize("packed", ["folder", "zip", "zip of zips"])
def test_a_source_of_two_other_folders_is_told_apart_by_their_names(tmp_path, packed):
    source = _pack(_insects(tmp_path / "raw"), packed)
    said: list[str] = []
    prepared = _prepare(source, tmp_path / "data", say=said.append)
    assert prepared.classes == ("ant", "bee")
    assert prepared.counts["training"] == {"ant": 3, "bee": 3}
    assert load_prepared(prepared.folder).classes == ("ant", "bee")
    assert sum("Classes: ant (negative) and bee (positive)" in line for line in said) == 1
    assert {path.name for path in prepared.training.iterdir()} == {"ant", "bee"}


def test_typed_classes_say_which_one_is_positive_and_are_remembered(tmp_path):
    source, folder = _insects(tmp_path / "raw"), tmp_path / "data"
    prepared = _prepare(source, folder, classes="Bee, ant")
    assert (prepared.classes, prepared.asked) == (("bee", "ant"), "bee,ant")
    before = _snapshot(folder)
    assert _prepare(source, folder, classes="bee,ant") == prepared
    assert _snapshot(folder) == before
    assert _prepare(source, folder).classes == ("ant", "bee")
    with pytest.raises(CatdogError, match="was prepared for ant and bee, not for classes=bee,ant"):
        load_prepared(folder, classes="bee,ant")


def test_kaggles_way_to_name_files_holds_for_any_classes(tmp_path):
    source = tmp_path / "raw"
    _insects(source)
    (source / "flat").mkdir()
    for place, path in enumerate(sorted(source.rglob("*.jpg"))):
        label = "ant" if "Ants" in path.parts else "bee"
        path.rename(source / "flat" / f"{label}.{place}.jpg")
    assert _prepare(source, tmp_path / "data", classes="ant,bee").counts["training"] == {
        "ant": 3,
        "bee": 3,
    }


def test_of_more_than_two_kinds_two_are_named_or_it_is_one_sentence(tmp_path):
    source = _insects(tmp_path / "raw")
    (source / "train" / "wasp").mkdir()
    (source / "train" / "wasp" / "1.jpg").write_bytes(encoded(tiny_picture("cat", 1)))
    with pytest.raises(CatdogError, match=r"named cat/ and dog/.*-P classes=NEGATIVE,POSITIVE"):
        _prepare(source, tmp_path / "data")
    prepared = _prepare(source, tmp_path / "data", classes="ant,bee")
    assert _reasons(prepared) == {
        "train/wasp/1.jpg": "neither ant nor bee in its folder's or its own name"
    }
    with pytest.raises(CatdogError, match="5 pictures of a bee and none of an elk"):
        _prepare(source, tmp_path / "data", classes="elk,bee")


def test_a_folder_from_before_there_were_other_classes_is_still_prepared(tmp_path):
    source, folder = _kaggle(tmp_path / "raw"), tmp_path / "data"
    prepared = _prepare(source, folder)
    marker = json.loads((folder / "prepared.json").read_text())
    old = {name: it for name, it in marker.items() if name not in ("classes", "told_apart")}
    (folder / "prepared.json").write_text(json.dumps(old))
    before = _snapshot(folder)
    assert _prepare(source, folder) == prepared
    assert _snapshot(folder) == before


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=20)


@settings(max_examples=100, deadline=None)
@given(paths=st.lists(cells, max_size=8), split=st.sampled_from(["training", "validation", "test"]))
def test_the_manifest_gives_back_what_was_written(paths, split):
    header = ("path", "label", "split", "sha256", "width", "height")
    with TemporaryDirectory() as folder:
        rows = [(path, "cat", split, "00", number, 1) for number, path in enumerate(paths)]
        rows.append(("other", "dog", "elsewhere", "11", 1, 1))
        module._write_csv(Path(folder, "manifest.csv"), header, rows)
        read = module.Prepared(Path(folder), "", "", "", {}, 0).rows(split)
    assert [(row["path"], int(row["width"])) for row in read] == list(
        zip(paths, range(len(paths)), strict=True)
    )


names = st.text(st.characters(), min_size=1, max_size=100)


@settings(max_examples=100, deadline=None)
@given(given=st.lists(names, min_size=1, max_size=8))
def test_every_name_becomes_one_that_any_system_keeps_apart(given):
    taken: set[str] = set()
    made = [module._free_name("training/cat", name, taken) for name in given]
    assert len({alike(path) for path in made}) == len(made)
    for path in made:
        name = PurePosixPath(path).name
        assert portable(name) == name
        assert Path("x", path).resolve().parent == Path("x/training/cat").resolve()
