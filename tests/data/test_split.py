from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from catdog import CLASSES, CatdogError
from catdog.data.ingest import SourcePicture
from catdog.data.split import (
    Exclusion,
    check_classes,
    choose_split,
    exclude,
    settle_duplicates,
    with_paths,
)
from catdog.files import alike, normal, portable

SHA = hashlib.sha256(b"a cat").hexdigest()


def _picture(source: str, split: str = "", *, content: str = "", path: str = "") -> SourcePicture:
    """A picture whose bytes are those of another one when their `content` is the same."""
    label = "dog" if "dog" in source else "cat" if "cat" in source else ""
    sha256 = hashlib.sha256((content or source).encode()).hexdigest()
    return SourcePicture(source, Path(), label, split, sha256, 1, 1, path)


def _labelled(cats: int, dogs: int) -> list[SourcePicture]:
    names = [f"cat.{n}.jpg" for n in range(cats)] + [f"dog.{n}.jpg" for n in range(dogs)]
    return [_picture(name) for name in names]


def _held_back(pictures: Iterable[SourcePicture]) -> set[str]:
    return {picture.sha256 for picture in pictures if picture.split == "validation"}


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5])
def test_each_class_gives_up_the_same_share(fraction):
    chosen = choose_split(_labelled(20, 8), fraction, 0)
    counts = Counter((picture.split, picture.label) for picture in chosen)
    assert counts["validation", "cat"] == max(1, round(20 * fraction))
    assert counts["validation", "dog"] == max(1, round(8 * fraction))


def test_the_split_follows_the_seed_and_the_contents_but_not_the_names():
    pictures = _labelled(12, 12)
    first = _held_back(choose_split(pictures, 0.4, 0))
    renamed = [replace(one, source=f"new/{n}.jpg") for n, one in enumerate(reversed(pictures))]
    assert _held_back(choose_split(renamed, 0.4, 0)) == first
    assert _held_back(choose_split(pictures, 0.4, 1)) != first


def test_validation_pictures_of_the_source_are_taken_as_they_are(said):
    pictures = [*_labelled(4, 4), *(_picture(f"val/{name}.jpg", "validation") for name in CLASSES)]
    chosen = choose_split([*pictures, _picture("1.jpg", "test")], 0.4, 0)
    assert Counter(one.split for one in chosen) == {"training": 8, "validation": 2, "test": 1}
    assert any("val_fraction is not used" in line for line in said)


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["a/cat.1.jpg", "b/cat.1.jpg"], "a/cat.1.jpg"),
        (["cat.1.jpg", "val/cat.1.jpg"], "val/cat.1.jpg"),
        (["test/cat.1.jpg", "cat.1.jpg"], "cat.1.jpg"),
        (["test/cat.1.jpg", "cat.1.jpg", "val/cat.1.jpg"], "val/cat.1.jpg"),
        (["test/cat.1.jpg", "test/cat.2.jpg"], "test/cat.1.jpg"),
        (["cat.1.jpg", "dog.1.jpg"], ""),
        (["cat.1.jpg", "test/dog.1.jpg"], ""),
    ],
)
def test_a_content_is_one_picture_on_one_side_and_its_copies_are_told(names, kept):
    sides = {"": "", "val": "validation", "test": "test"}
    pictures = [
        replace(_picture(name, content="same"), split=sides.get(name.split("/")[0], ""))
        for name in names
    ]
    asked = [_picture(f"test/{n}.jpg", "test", content="same") for n in (1, 2)]
    found, left_out = settle_duplicates([*pictures, *asked])
    assert [one.source for one in found] == [*filter(None, [kept]), *(one.source for one in asked)]
    reason = (
        f"the same bytes as {kept}" if kept else "the same bytes are labelled as cat and as dog"
    )
    assert left_out == [(name, reason) for name in names if name != kept]


@pytest.mark.parametrize(
    ("pictures", "left_out", "said"),
    [
        ([], [], "holds 0 different pictures of a cat, but .* add some in a folder named cat/"),
        ([], [("x", "it is empty")] * 3, "3 files were left out, 3 of them .*: it is empty"),
        (_labelled(2, 1), [], "holds 1 different pictures of a dog"),
        ([*_labelled(2, 2), _picture("v/cat", "validation")], [], "2 different pictures of a dog"),
    ],
)
def test_a_source_that_can_not_be_learned_from_is_one_sentence(pictures, left_out, said):
    with pytest.raises(CatdogError, match=f"^pets.zip .*{said}"):
        check_classes(pictures, left_out, Path("pets.zip"), CLASSES)


def test_names_that_collide_on_some_system_get_paths_of_their_own():
    names = ["a/cat/1.jpg", "b/cat/1.jpg", "b/cat/1.JPG", "dog/é.jpg", "dog/E:x.jpg", "dog/con.jpg"]
    names += ["a/dog/e\u0301.jpg", "b/dog/É.jpg"]
    paths = [picture.path for picture in with_paths(_picture(name, "training") for name in names)]
    assert len({alike(path) for path in paths}) == len(names)
    assert {"training/dog/é.jpg", "training/dog/_con.jpg", "training/cat/1-2.jpg"} < set(paths)
    assert paths == [normal(path) for path in paths]


names = st.text(st.characters(), min_size=1, max_size=100)


@settings(max_examples=100, deadline=None)
@given(given=st.lists(names, min_size=1, max_size=8))
@example(given=[" "])
@example(given=["..", "."])
@example(given=[f"{'a' * 79} b", f"{' ' * 80}b", "con".ljust(90) + "b"])
def test_every_name_becomes_one_that_any_system_keeps_apart(given):
    made = [one.path for one in with_paths(_picture(f"cat/{name}", "training") for name in given)]
    assert len({alike(path) for path in made}) == len(made)
    for path in made:
        name = PurePosixPath(path).name
        assert portable(name) == name
        assert Path("x", path).resolve().parent == Path("x/training/cat").resolve()


def test_the_lines_of_an_exclude_file_may_hold_comments_blanks_and_repetitions(tmp_path):
    path = tmp_path / "exclude.txt"
    lines = ["\ufeff# mine", "", "a/cat.1.jpg  # a fox", ".\\b\\cat#2.jpg", "./a/cat.1.jpg", SHA]
    path.write_text("\r\n".join(lines), encoding="utf-8")
    exclusion = Exclusion.read(str(path))
    assert exclusion.lines == ("a/cat.1.jpg", "b/cat#2.jpg", SHA)
    assert exclusion.digest == Exclusion(exclusion.lines[::-1]).digest
    assert exclusion.digest != Exclusion(exclusion.lines[1:]).digest
    assert (Exclusion.read("none"), Exclusion().digest) == (Exclusion(), None)


def _chosen(line: str, pictures: Sequence[SourcePicture], archive: str = "") -> set[str]:
    chosen, unmatched = Exclusion((line,)).choose(pictures, archive)
    assert unmatched == ([] if chosen else [line])
    return chosen


@pytest.mark.parametrize(
    "line",
    [
        *("training/cat/1.jpg", "excluded/training/cat/1.jpg"),
        *("raw.zip/other/café.jpg", "other/café.jpg"),
    ],
)
def test_a_line_is_a_path_of_the_manifest_and_else_of_the_source(line):
    macos_spelling = unicodedata.normalize("NFD", "raw.zip/other/café.jpg")
    pictures = [
        _picture(macos_spelling, path="training/cat/1.jpg"),
        _picture("raw.zip/training/cat/1.jpg", path="validation/cat/1.jpg"),
    ]
    assert _chosen(line, pictures, "raw.zip") == {"training/cat/1.jpg"}


@given(st.integers(0, 64), st.booleans())
def test_twelve_digits_of_a_digest_name_a_picture_and_fewer_do_not(digits, upper):
    line = SHA[:digits].upper() if upper else SHA[:digits]
    picture = _picture("s", content="a cat", path="p")
    assert _chosen(line, [picture]) == ({"p"} if digits >= 12 else set())


@given(
    wanted=st.sets(st.integers(0, 19), max_size=6),
    by=st.sampled_from(["path", "source", "sha256"]),
)
def test_what_is_excluded_stands_on_no_side_and_nothing_else_moves(wanted, by):
    names = [f"{part}/{label}/{n}.jpg" for part in "abcde" for label in CLASSES for n in (1, 2)]
    whole = with_paths(choose_split([_picture(name) for name in names], 0.4, 0))
    left = {(one.split, one.label) for place, one in enumerate(whole) if place not in wanted}
    assume(len(left) == 4)
    lines = tuple(getattr(whole[place], by) for place in wanted)
    for place, (before, after) in enumerate(
        zip(whole, exclude(whole, Exclusion(lines), ""), strict=True)
    ):
        moved = {"split": f"excluded-{before.split}", "path": f"excluded/{before.path}"}
        assert after == (replace(before, **moved) if place in wanted else before)


def test_a_line_that_names_nothing_is_logged_and_test_pictures_stay(said):
    pictures = with_paths([*choose_split(_labelled(3, 3), 0.4, 0), _picture("test/1.jpg", "test")])
    lines = ("training/cat/nobody.jpg", "0123456789ab", "test/1.jpg")
    assert exclude(pictures, Exclusion(lines), "") == pictures
    for line in lines:
        assert any(repr(line) in logged and "names no" in logged for logged in said), line


def test_excluding_all_of_a_class_on_one_side_is_one_sentence():
    pictures = with_paths(choose_split(_labelled(3, 3), 0.4, 0))
    lines = [one.path for one in pictures if (one.split, one.label) == ("validation", "dog")]
    with pytest.raises(CatdogError, match="leaves no validation picture of a dog"):
        exclude(pictures, Exclusion(tuple(lines)), "")
