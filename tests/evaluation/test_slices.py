from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from catdog.evaluation.slices import (
    Look,
    Slice,
    look_at,
    make_slices,
    slice_table,
    worst_slice,
)
from tests.conftest import encoded

RIGHT, WRONG = 3.0, -3.0


def _noise(light: float, spread: float = 40.0, size: tuple[int, int] = (300, 200)) -> Image.Image:
    grey = np.random.default_rng(0).normal(light, spread, (size[1], size[0]))
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")


def _row(label: str = "cat", width: int = 500, height: int = 400, **more: str) -> dict[str, str]:
    return {"path": "x", "label": label, "width": str(width), "height": str(height)} | more


def _slices(rows: list[dict[str, str]], lights: list[float] | None = None) -> list[Slice]:
    thumbnail = np.zeros((16, 16), dtype=np.uint8)
    return make_slices(
        rows, [Look(light, 0.2, 0.5, thumbnail) for light in lights or [0.5] * len(rows)]
    )


def _counts(group: str, rows: list[dict[str, str]]) -> dict[str, int]:
    """How many of the rows are in each slice of a group."""
    return {it.name: int(it.members.sum()) for it in _slices(rows) if it.group == group}


def test_a_look_tells_light_from_dark_and_flat_from_strong():
    dark, bright = look_at(encoded(_noise(50, 20))), look_at(encoded(_noise(200, 20)))
    assert dark.brightness == pytest.approx(50 / 255, abs=0.03)
    assert bright.brightness == pytest.approx(200 / 255, abs=0.03)
    strong = Image.new("RGB", (300, 200), "black")
    strong.paste("white", (0, 0, 150, 200))
    assert look_at(encoded(_noise(128, 5))).contrast < 0.05
    assert look_at(encoded(strong)).contrast > 0.4


def test_a_look_tells_blurred_from_sharp_at_any_size():
    sharp = _noise(128).resize((1200, 800), Image.Resampling.NEAREST).filter(ImageFilter.SHARPEN)
    blurred = sharp.filter(ImageFilter.GaussianBlur(40))
    for picture in (blurred, blurred.resize((150, 100))):
        assert look_at(encoded(picture)).sharpness < look_at(encoded(sharp)).sharpness / 3


def test_slices_have_names_that_people_understand():
    rows = [_row("cat", 500, 500), _row("dog", 200, 300), _row("dog", 900, 600)]
    members = {it.name: it.members.tolist() for it in _slices(rows, [0.1, 0.5, 0.9])}
    assert members["cat"] == [True, False, False]
    assert members["small: megapixels under 0.187"] == [False, True, False]
    assert members["large: megapixels over 0.347"] == [False, False, True]
    assert members["upright"] == [False, True, False]
    assert members["square"] == [True, False, False]
    assert members["dark: brightness under 0.367"] == [True, False, False]
    assert members["bright: brightness over 0.633"] == [False, False, True]
    assert not any("contrast" in name for name in members)  # the same in all three


@pytest.mark.parametrize(
    ("words", "slices"),
    [
        (["phone"] * 29 + [""], {"{x} %s = phone": 29, "{x} %s = (empty)": 1}),
        (
            ["", *map(str, range(30)), ""],
            {
                "low: {x} %s under 9.67": 10,
                "medium: {x} %s 9.67 to 19.3": 10,
                "high: {x} %s over 19.3": 10,
                "{x} %s = (empty)": 2,
            },
        ),
        (
            [f"model {n % 10}" for n in range(100)] + [f"odd {n}" for n in range(20)],
            {f"{{x}} %s = model {n}": 10 for n in range(10)} | {"{x} %s = (other)": 20},
        ),
    ],
    ids=["words", "numbers", "many words"],
)
def test_a_column_of_the_user_is_sliced_whatever_it_is_called(words, slices):
    assert _counts("{x} %s", [_row(**{"{x} %s": word}) for word in words]) == slices


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 3000)), min_size=1, max_size=60))
def test_the_slices_of_a_group_never_overlap_and_are_never_empty_or_all(pairs):
    lights, widths = zip(*pairs, strict=True)
    slices = _slices([_row(width=width, height=400) for width in widths], list(lights))
    for group in {it.group for it in slices}:
        assert np.sum([it.members for it in slices if it.group == group], axis=0).max() == 1
    assert all(0 < it.members.sum() < len(pairs) for it in slices)


def _first(count: int, of: int) -> Slice:
    return Slice("light", f"first {count}", np.arange(of) < count)


def _table(slices: list[Slice], wrong: list[int], of: int = 400):
    """The scores of `of` pictures, of which some are called wrong."""
    logits = np.full(of, RIGHT)
    logits[wrong] = WRONG
    return slice_table(slices, np.ones(of, dtype=int), logits)


def test_a_slice_is_scored_on_its_own_pictures():
    everything, first = _table([_first(4, 10)], [0, 1], of=10)
    assert (everything.name, everything.count, everything.errors) == ("all", 10, 2)
    assert (first.count, first.errors, first.accuracy) == (4, 2, 0.5)
    assert 0 < first.low < 0.5 < first.high < 1


def test_the_worst_slice_is_that_of_the_lowest_accuracy_if_it_holds_enough_pictures():
    table = _table([_first(3, 400), _first(60, 400), _first(300, 400)], list(range(20)))
    assert worst_slice(table).name == "first 60"
    assert worst_slice(table[:2]) is None
    assert worst_slice(_table([_first(100, 400)], [])) is None  # nothing is wrong


def test_a_slice_that_is_surely_worse_is_called_worst_before_one_that_may_be_chance():
    members = np.arange(1000)
    many, few = members < 150, (members >= 150) & (members < 170)
    slices = [Slice("a", "many", many), Slice("b", "few", few)]
    table = _table(slices, [*range(12), 150, 151], of=1000)
    assert table[2].accuracy < table[1].accuracy
    assert worst_slice(table).name == "many"
    assert [row.verdict for row in table[1:]] == ["surely worse", "may be chance"]


def test_of_many_slices_one_that_is_a_little_worse_is_no_surprise():
    wrong, one = [0, 1, 2, 3, 4, 5, 200, 300], _first(100, 400)
    others = [Slice("light", str(n), np.arange(400) % 40 == n) for n in range(40)]
    assert _table([one], wrong)[1].surely_worse
    assert not _table([one, *others], wrong)[1].surely_worse
