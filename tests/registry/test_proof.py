from __future__ import annotations

import math
import multiprocessing
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog import CatdogError
from catdog.inference.parity import LIMIT, LIMITS, PILLOW_LIMIT, Answer, Parity, compare
from catdog.registry.proof import FreshProcess, UnprovenError

NUMBER = st.floats(0, 1)
ANSWERS = st.lists(st.builds(Answer, NUMBER, NUMBER), min_size=1, max_size=8)


@given(ANSWERS, st.floats(0, 0.5), st.booleans(), st.data())
def test_one_photo_that_differs_is_enough(expected, difference, in_familiarity, data):
    place = data.draw(st.integers(0, len(expected) - 1))
    found = list(expected)
    p_dog, familiarity = found[place].p_positive, found[place].familiarity
    found[place] = (
        Answer(p_dog, familiarity + difference)
        if in_familiarity
        else Answer(p_dog - difference, familiarity)
    )
    differences = compare(expected, {"model": found, "http": expected}).differences
    assert differences["model"] == pytest.approx(difference, abs=1e-12)
    assert differences["http"] == 0.0


@given(ANSWERS, st.data())
def test_a_photo_without_a_number_never_proves_anything(expected, data):
    place = data.draw(st.integers(0, len(expected) - 1))
    for nothing in (math.nan, None):
        found = list(expected)
        found[place] = Answer(nothing, nothing)
        proof = compare(expected, {"model": expected, "http": found})
        assert not proof.holds
        assert math.isnan(proof.max_abs_diff)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_way_that_leaves_out_a_photo_is_an_error(count):
    answer = Answer(0.5, 0.5)
    with pytest.raises(ValueError, match=f"{count} answers for 2 photos"):
        compare([answer] * 2, {"model": [answer] * count})


@pytest.mark.parametrize("way", LIMITS)
def test_every_way_has_to_keep_its_limit(way):
    within = dict.fromkeys(LIMITS, LIMIT)
    assert Parity(within).holds
    assert Parity({**within, way: LIMITS[way]}).holds
    assert not Parity({**within, way: LIMITS[way] * 1.01}).holds


def test_what_pillow_rounds_otherwise_is_not_the_largest_difference():
    proof = Parity({"model": 1e-5, "onnx": 3e-4, "example": PILLOW_LIMIT})
    assert proof.max_abs_diff == 3e-4
    assert proof.holds


def test_a_process_that_was_killed_says_nothing_of_the_version(tracking_store):
    fresh = FreshProcess(tracking_store)
    fresh.start()
    fresh._process.kill()
    try:
        with pytest.raises(UnprovenError, match="was killed, most likely for want of memory"):
            fresh.answers("models:/pets/1", [], None, None)
    finally:
        fresh.close()


def test_a_model_that_is_not_there_is_one_sentence(tmp_path, tracking_store):
    fresh = FreshProcess(tracking_store)
    gone = str(tmp_path / "gone")
    try:
        with pytest.raises(CatdogError, match=r"gone can't be used in a fresh process: ") as told:
            fresh.answers(gone, [], None, None)
    finally:
        fresh.close()
    assert len(str(told.value).splitlines()) == 1


def test_an_answer_waits_for_no_process_that_was_forked_meanwhile(tmp_path, tracking_store):
    fresh = FreshProcess(tracking_store)
    fresh.start()
    # As a worker that decodes pictures does, it keeps the pipe to the fresh process open.
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    forked.start()
    try:
        with pytest.raises(CatdogError, match="can't be used in a fresh process"):
            fresh.answers(str(tmp_path / "gone"), [], None, None)
        assert forked.is_alive()
    finally:
        forked.kill()
        fresh.close()


def test_a_process_that_is_never_asked_ends_and_leaves_nothing(tracking_store):
    fresh = FreshProcess(tracking_store)
    fresh.start()
    process, folder = fresh._process, fresh._folder.name
    assert process.poll() is None
    fresh.close()
    assert process.poll() is not None
    assert not os.path.exists(folder)  # noqa: PTH110


def test_one_that_never_started_can_be_closed(tracking_store):
    fresh = FreshProcess(tracking_store)
    fresh.close()
    assert not os.path.exists(fresh._folder.name)  # noqa: PTH110
