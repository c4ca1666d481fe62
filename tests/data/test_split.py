from __future__ import annotations

import hashlib
import io
import unicodedata
import warnings
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from catdog import CatdogError
from catdog.data import split as splitting
from catdog.data.dataset import load_dataset
from catdog.data.ingest import SourcePicture
from catdog.data.split import Exclusion
from catdog.files import alike, normal, portable
from tests.conftest import encoded, tiny_picture
from tests.sources import (
    exclude_file,
    fill,
    kaggle_source,
    pack,
    prepare_pictures,
    reasons_of,
    rows_of,
)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_each_class_gives_up_the_same_share(tmp_path, fraction):
    names = [f"cat/{n}.jpg" for n in range(20)] + [f"dog/{n}.jpg" for n in range(8)]
    source = fill(tmp_path / "raw", *names)
    counts = prepare_pictures(source, tmp_path / "data", val_fraction=fraction).counts
    assert counts["validation"] == {"cat": round(20 * fraction), "dog": max(1, round(8 * fraction))}
    assert counts["training"]["cat"] == 20 - counts["validation"]["cat"]


def _validation_digests(prepared) -> set[str]:
    return {row["sha256"] for row in rows_of(prepared) if row["split"] == "validation"}


def test_the_split_follows_the_seed_and_the_contents_but_not_the_names(tmp_path):
    source = kaggle_source(tmp_path / "raw", 12)
    first = prepare_pictures(source, tmp_path / "a")
    again = prepare_pictures(source, tmp_path / "b")
    other = prepare_pictures(source, tmp_path / "c", seed=1)
    assert _validation_digests(first) == _validation_digests(again)
    assert _validation_digests(first) != _validation_digests(other)
    for number, path in enumerate(sorted((source / "train").iterdir())):
        path.rename(path.with_name(f"{path.name[:3]}.renamed{number}.jpg"))
    renamed = prepare_pictures(source, tmp_path / "d")
    assert _validation_digests(renamed) == _validation_digests(first)
    assert renamed.validation_digest == first.validation_digest
    assert renamed.digest != first.digest
    assert other.validation_digest != first.validation_digest


def test_validation_pictures_of_the_source_are_taken_as_they_are(said, tmp_path):
    names = [f"train/{label}/{n}.jpg" for label in ("cat", "dog") for n in range(4)]
    names += [f"val/{label}/{n}.jpg" for label in ("cat", "dog") for n in range(3)]
    source = fill(tmp_path / "raw", *names)
    prepared = prepare_pictures(source, tmp_path / "data")
    assert prepared.counts["validation"] == {"cat": 3, "dog": 3}
    assert any("val_fraction is not used" in line for line in said)


def test_equal_bytes_never_stand_on_both_sides(tmp_path):
    source = kaggle_source(tmp_path / "raw", 6)
    for n in range(6):
        for copy in range(3):
            content = (source / "train" / f"dog.{n}.jpg").read_bytes()
            (source / "train" / f"dog.{n}{copy}0.jpg").write_bytes(content)
    prepared = prepare_pictures(source, tmp_path / "data", val_fraction=0.5)
    sides: dict[str, set[str]] = {}
    for row in rows_of(prepared):
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
    source = fill(tmp_path / "raw", *names)
    content = (source / "val" / "cat" / "0.jpg").read_bytes()
    (source / "train" / "cat" / "copy.jpg").write_bytes(content)
    reasons = reasons_of(prepare_pictures(source, tmp_path / "data"))
    assert reasons == {"train/cat/copy.jpg": "the same bytes stand among the validation pictures"}


def test_bytes_with_two_labels_are_left_out(tmp_path):
    source = kaggle_source(tmp_path / "raw")
    content = (source / "train" / "cat.0.jpg").read_bytes()
    (source / "train" / "dog.9.jpg").write_bytes(content)
    reasons = reasons_of(prepare_pictures(source, tmp_path / "data"))
    assert set(reasons) == {"train/cat.0.jpg", "train/dog.9.jpg"}
    assert set(reasons.values()) == {"the same bytes are labelled as cat and as dog"}


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
    prepared = prepare_pictures(tmp_path / "raw.zip", tmp_path / "data")
    paths = [row["path"] for row in rows_of(prepared)]
    assert len(paths) == len({alike(path) for path in paths}) == len(members)
    names = {PurePosixPath(path).name for path in paths}
    assert {"é.jpg", "_con.jpg"} < names
    assert names == set(map(normal, names))


def _without_excluded(prepared) -> dict[str, tuple[str, str]]:
    return {
        row["path"]: (row["split"], row["sha256"])
        for row in rows_of(prepared)
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
            source = kaggle_source(place / "raw", 10)
        else:
            folders = [f"{part}/{label}" for part in "abcde" for label in ("cat", "dog")]
            source = fill(place / "raw", *(f"{name}/{n}.jpg" for name in folders for n in (1, 2)))
        whole = prepare_pictures(source, place / "whole")
        sources = {
            hashlib.sha256(path.read_bytes()).hexdigest(): path.relative_to(source).as_posix()
            for path in source.rglob("*.jpg")
        }
        labelled = [row for row in rows_of(whole) if row["label"]]
        chosen = [labelled[n] for n in wanted]
        assume(_both_classes_stay(labelled, chosen))
        line = {
            "path": lambda row: row["path"],
            "source": lambda row: sources[row["sha256"]],
            "sha256": lambda row: row["sha256"][:12],
        }[by]
        prepared = prepare_pictures(
            source, place / "data", exclude=exclude_file(place, *map(line, chosen))
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


SHA = hashlib.sha256(b"a cat").hexdigest()


def _picture(path: str, source: str, sha256: str = SHA) -> SourcePicture:
    return SourcePicture(source, Path(), "cat", "training", sha256, 1, 1, path)


def test_the_lines_of_an_exclude_file_may_hold_comments_blanks_and_repetitions(tmp_path):
    path = tmp_path / "exclude.txt"
    lines = ["\ufeff# mine", "", "a/cat.1.jpg  # a fox", ".\\b\\cat#2.jpg", "./a/cat.1.jpg", SHA]
    path.write_text("\r\n".join(lines), encoding="utf-8")
    exclusion = Exclusion.read(str(path))
    assert exclusion.lines == ("a/cat.1.jpg", "b/cat#2.jpg", SHA)
    assert exclusion.digest == Exclusion(exclusion.lines[::-1]).digest
    assert exclusion.digest != Exclusion(exclusion.lines[1:]).digest
    assert Exclusion.read("none") == Exclusion()
    assert Exclusion().digest is None


def test_a_path_of_the_manifest_wins_over_the_same_path_of_the_source():
    pictures = [
        _picture("training/cat/1.jpg", "other/cat/1.jpg"),
        _picture("validation/cat/1.jpg", "training/cat/1.jpg"),
    ]
    for line in ("training/cat/1.jpg", "other/cat/1.jpg", "excluded/training/cat/1.jpg"):
        assert Exclusion((line,)).choose(pictures) == ({"training/cat/1.jpg"}, [])


def test_a_line_names_what_macos_spells_with_its_accents_apart():
    apart = unicodedata.normalize("NFD", "cat/café.jpg")
    pictures = [_picture("training/cat/1.jpg", apart)]
    assert Exclusion(("cat/café.jpg",)).choose(pictures) == ({"training/cat/1.jpg"}, [])
    pictures.append(_picture("training/cat/2.jpg", "cat/café.jpg"))
    assert Exclusion(("cat/café.jpg",)).choose(pictures) == ({"training/cat/2.jpg"}, [])


@given(st.integers(0, 64), st.booleans())
def test_twelve_digits_of_a_digest_name_a_picture_and_fewer_do_not(digits, upper):
    line = SHA[:digits].upper() if upper else SHA[:digits]
    chosen, unmatched = Exclusion((line,)).choose([_picture("p", "s")])
    assert (chosen, unmatched) == (({"p"}, []) if digits >= 12 else (set(), [line]))


@pytest.mark.parametrize("line", ["train/cat.1.jpg", "raw.zip/train/cat.1.jpg"])
def test_a_member_of_an_archive_is_excluded_by_its_name_in_it(tmp_path, line):
    content = (kaggle_source(tmp_path / "raw") / "train" / "cat.1.jpg").read_bytes()
    source = pack(tmp_path / "raw", "zip")
    path = exclude_file(tmp_path, line)
    prepared = prepare_pictures(source, tmp_path / "data", exclude=path)
    (row,) = prepared.rows("excluded-training") + prepared.rows("excluded-validation")
    assert row["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_line_that_names_nothing_is_logged_and_test_pictures_stay(said, tmp_path):
    source = kaggle_source(tmp_path / "raw")
    lines = ("training/cat/nobody.jpg", "0123456789ab", "test/1.jpg")
    prepared = prepare_pictures(source, tmp_path / "data", exclude=exclude_file(tmp_path, *lines))
    for line in lines:
        assert any(repr(line) in told and "names no" in told for told in said), line
    assert prepared.excluded == 0
    assert prepared.counts["test"] == {"": 2}


def test_excluding_all_of_a_class_on_one_side_is_one_sentence(tmp_path):
    source = kaggle_source(tmp_path / "raw")
    rows = prepare_pictures(source, tmp_path / "data").rows("validation")
    lines = [row["path"] for row in rows if row["label"] == "dog"]
    with pytest.raises(CatdogError, match="leaves no validation picture of a dog"):
        prepare_pictures(source, tmp_path / "data", exclude=exclude_file(tmp_path, *lines))


def _one_class(folder: Path) -> None:
    fill(folder, "cat/1.jpg", "cat/2.jpg")


def _one_dog(folder: Path) -> None:
    fill(folder, "cat/1.jpg", "cat/2.jpg", "dog/1.jpg")


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
        prepare_pictures(tmp_path / "raw", tmp_path / "data")
    with pytest.raises(CatdogError, match="holds no prepared data set"):
        load_dataset(tmp_path / "data")


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
    chosen = splitting._choose_by_content(Counter(sizes), fraction, seed)
    taken, total = sum(sizes[digest] for digest in chosen), sum(sizes.values())
    assert 0 < len(chosen) < len(sizes)
    target = max(1, round(total * fraction))
    assert taken < target + max(sizes.values())
    assert taken >= min(target, total - max(sizes.values()))


names = st.text(st.characters(), min_size=1, max_size=100)


@settings(max_examples=100, deadline=None)
@given(given=st.lists(names, min_size=1, max_size=8))
@example(given=[" "])
@example(given=["..", "."])
@example(given=[f"{'a' * 79} b", f"{' ' * 80}b", "con".ljust(90) + "b"])
def test_every_name_becomes_one_that_any_system_keeps_apart(given):
    taken: set[str] = set()
    made = [splitting._free_name("training/cat", name, taken) for name in given]
    assert len({alike(path) for path in made}) == len(made)
    for path in made:
        name = PurePosixPath(path).name
        assert portable(name) == name
        assert Path("x", path).resolve().parent == Path("x/training/cat").resolve()
