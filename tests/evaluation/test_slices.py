from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from catdog import CatdogError
from catdog.evaluation.slices import (
    Look,
    Slice,
    look_at,
    look_at_all,
    make_slices,
    slice_table,
    worst_slice,
)
from tests.conftest import encoded

RIGHT, WRONG = 3.0, -3.0


def _noise(light: float, spread: float = 40.0, size: tuple[int, int] = (300, 200)) -> Image.Image:
    grey = np.random.default_rng(0).normal(light, spread, (size[1], size[0]))
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")


def _look(brightness: float = 0.5) -> Look:
    return Look(brightness, 0.2, 0.5, np.zeros((16, 16), dtype=np.uint8))


def _row(label: str = "cat", width: int = 500, height: int = 400, **more: str) -> dict[str, str]:
    return {"path": "x", "label": label, "width": str(width), "height": str(height)} | more


def test_a_look_tells_light_from_dark_and_flat_from_strong():
    dark, bright = look_at(encoded(_noise(50, 20))), look_at(encoded(_noise(200, 20)))
    assert dark.brightness == pytest.approx(50 / 255, abs=0.03)
    assert bright.brightness == pytest.approx(200 / 255, abs=0.03)
    flat, strong = _noise(128, 5), Image.new("RGB", (300, 200), "black")
    strong.paste("white", (0, 0, 150, 200))
    assert look_at(encoded(flat)).contrast < 0.05
    assert look_at(encoded(strong)).contrast > 0.4


def test_a_look_tells_blurred_from_sharp_at_any_size():
    sharp = _noise(128).resize((1200, 800), Image.Resampling.NEAREST).filter(ImageFilter.SHARPEN)
    blurred = sharp.filter(ImageFilter.GaussianBlur(40))
    small = blurred.resize((150, 100))
    assert look_at(encoded(blurred)).sharpness < look_at(encoded(sharp)).sharpness / 3
    assert look_at(encoded(small)).sharpness < look_at(encoded(sharp)).sharpness / 3


def test_an_even_picture_and_a_strip_can_be_looked_at():
    even = look_at(encoded(Image.new("RGB", (40, 30), "grey"), "PNG"))
    assert (even.contrast, even.sharpness) == (0, 0)
    strip = look_at(encoded(Image.new("RGB", (3000, 2), "grey")))
    assert strip.thumbnail.shape == (16, 16)


def test_looks_come_in_the_order_of_the_paths_and_change_no_file(tmp_path):
    paths = [tmp_path / f"{light}.jpg" for light in (200, 50, 120)]
    for path in paths:
        path.write_bytes(encoded(_noise(float(path.stem))))
    before = [hashlib.sha256(path.read_bytes()).digest() for path in paths]
    found = [look.brightness * 255 for look in look_at_all(paths)]
    assert found == pytest.approx([200, 50, 120], abs=12)
    assert before == [hashlib.sha256(path.read_bytes()).digest() for path in paths]


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_a_picture_that_has_gone_is_one_sentence(tmp_path, content):
    if content:
        (tmp_path / "gone.jpg").write_bytes(content)
    with pytest.raises(CatdogError, match=r"gone.jpg can't be read .* run scripts/prepare.py"):
        look_at_all([tmp_path / "gone.jpg"])


def test_slices_have_names_that_people_understand():
    rows = [
        _row("cat", 500, 500),
        _row("dog", 200, 300),
        _row("dog", 900, 600),
    ]
    slices = make_slices(rows, [_look(0.1), _look(0.5), _look(0.9)])
    members = {slice_.name: slice_.members.tolist() for slice_ in slices}
    assert members["cat"] == [True, False, False]
    assert members["small: under 0.1 megapixel"] == [False, True, False]
    assert members["large: 0.3 megapixel and more"] == [False, False, True]
    assert members["upright"] == [False, True, False]
    assert members["square"] == [True, False, False]
    assert members["dark: brightness under 0.367"] == [True, False, False]
    assert members["bright: brightness over 0.633"] == [False, False, True]
    assert not any("contrast" in name for name in members)  # the same in all three


def test_columns_that_the_user_added_are_slices():
    rows = [_row(camera="phone", weight=str(n)) for n in range(30)]
    rows[3]["camera"] = ""
    members = {slice_.name: slice_.members for slice_ in make_slices(rows, [_look()] * 30)}
    assert members["camera = phone"].sum() == 29
    assert members["camera = (empty)"].tolist().index(True) == 3
    assert members["low: weight under 9.67"].sum() == 10
    assert members["high: weight over 19.3"].sum() == 10


def test_a_column_with_another_word_in_each_row_is_no_slice():
    rows = [_row(note=f"photo {n}") for n in range(30)]
    assert not any(slice_.group == "note" for slice_ in make_slices(rows, [_look()] * 30))


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 3000)), min_size=1, max_size=60))
def test_the_slices_of_a_group_never_overlap_and_are_never_empty_or_all(pairs):
    rows = [_row(width=side, height=400) for _, side in pairs]
    slices = make_slices(rows, [_look(light) for light, _ in pairs])
    for group in {slice_.group for slice_ in slices}:
        together = np.sum([slice_.members for slice_ in slices if slice_.group == group], axis=0)
        assert together.max() == 1
    assert all(0 < slice_.members.sum() < len(rows) for slice_ in slices)


def _half(count: int, of: int) -> Slice:
    return Slice("light", f"first {count}", np.arange(of) < count)


def test_a_slice_is_scored_on_its_own_pictures():
    labels, logits = np.ones(10, dtype=int), np.array([WRONG] * 2 + [RIGHT] * 8)
    everything, first = slice_table([_half(4, 10)], labels, logits)
    assert (everything.name, everything.count, everything.errors) == ("all", 10, 2)
    assert (first.count, first.errors, first.accuracy) == (4, 2, 0.5)
    assert 0 < first.low < 0.5 < first.high < 1


def test_of_a_column_with_many_words_the_commonest_are_slices_and_the_rest_is_one():
    cameras = [f"model {number % 10}" for number in range(100)] + [f"odd {n}" for n in range(20)]
    rows = [_row(camera=camera) for camera in cameras]
    found = [slice_ for slice_ in make_slices(rows, [_look()] * 120) if slice_.group == "camera"]
    counts = {slice_.name: int(slice_.members.sum()) for slice_ in found}
    assert counts.pop("camera = (other)") == 20
    assert counts == {f"camera = model {number}": 10 for number in range(10)}


def test_a_slice_that_is_surely_worse_is_called_worst_before_one_that_may_be_chance():
    labels = np.zeros(1000, dtype=np.int64)
    logits = np.full(1000, WRONG)  # below zero: a cat, as they all are
    members = np.arange(1000)
    many, few = members < 150, (members >= 150) & (members < 170)
    logits[[*range(12), 150, 151]] = RIGHT
    table = slice_table([Slice("a", "many", many), Slice("b", "few", few)], labels, logits)
    assert [row.surely_worse for row in table[1:]] == [True, False]
    assert table[2].accuracy < table[1].accuracy
    assert worst_slice(table).name == "many"


def test_the_worst_slice_is_that_of_the_lowest_accuracy_if_it_holds_enough_pictures():
    labels = np.ones(400, dtype=int)
    logits = np.array([WRONG] * 20 + [RIGHT] * 380)
    slices = [_half(3, 400), _half(60, 400), _half(300, 400)]
    table = slice_table(slices, labels, logits)
    assert worst_slice(table).name == "first 60"
    assert worst_slice(table, at_least=3).name == "first 3"  # which is no finding
    assert worst_slice(table[:2]) is None


def test_a_worst_slice_says_whether_it_may_be_chance():
    labels = np.ones(400, dtype=int)
    logits = np.full(400, RIGHT)
    logits[[0, 1, 200, 300]] = WRONG
    slightly = worst_slice(slice_table([_half(100, 400)], labels, logits))
    assert (slightly.errors, slightly.verdict) == (2, "may be chance")
    logits[2:12] = WRONG
    clearly = worst_slice(slice_table([_half(100, 400)], labels, logits))
    assert (clearly.errors, clearly.verdict) == (12, "surely worse")


def test_of_many_slices_one_that_is_a_little_worse_is_no_surprise():
    labels, logits = np.ones(400, dtype=int), np.full(400, RIGHT)
    logits[[0, 1, 2, 3, 4, 5, 200, 300]] = WRONG
    one = [_half(100, 400)]
    others = [Slice("light", str(n), np.arange(400) % 40 == n) for n in range(40)]
    assert worst_slice(slice_table(one, labels, logits)).surely_worse
    (row,) = slice_table([*one, *others], labels, logits)[1:2]
    assert not row.surely_worse


def test_photos_of_one_size_class_are_sliced_into_thirds():
    rows = [_row(width=1000 + 10 * n, height=1000) for n in range(30)]
    sizes = [s for s in make_slices(rows, [_look()] * 30) if s.group == "size"]
    assert [s.name.split(":")[0] for s in sizes] == ["small", "medium", "large"]
    assert [int(s.members.sum()) for s in sizes] == [10, 10, 10]
    assert "megapixels under 1.1" in sizes[0].name


def test_no_slice_is_called_worst_where_nothing_is_wrong():
    table = slice_table([_half(30, 60)], np.ones(60, dtype=int), np.full(60, RIGHT))
    assert worst_slice(table) is None


def test_looks_of_other_pictures_are_refused():
    with pytest.raises(ValueError, match="don't belong together"):
        make_slices([_row()], [])


def test_pictures_of_which_a_number_is_not_known_are_a_slice_of_their_own():
    ages = ["", *(str(age) for age in range(30)), ""]
    rows = [_row(age=age) for age in ages]
    found = {
        s.name: int(s.members.sum()) for s in make_slices(rows, [_look()] * 32) if s.group == "age"
    }
    assert found == {
        "low: age under 9.67": 10,
        "medium: age 9.67 to 19.3": 10,
        "high: age over 19.3": 10,
        "age = (empty)": 2,
    }


def test_a_column_may_have_any_name():
    rows = [_row(**{"{x} %s": word}) for word in "aabb"]
    names = {s.name for s in make_slices(rows, [_look()] * 4) if s.group == "{x} %s"}
    assert names == {"{x} %s = a", "{x} %s = b"}
