from __future__ import annotations

import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from catdog.parallel import AHEAD, in_order


@pytest.fixture(autouse=True)
def two_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(), max_size=40), st.integers(1, 5))
def test_each_answer_comes_once_and_in_the_order_of_the_items(items, threads):
    def work(item):
        time.sleep(item % 3 / 5_000)
        return item, item * 2

    assert list(in_order(work, items, threads=threads)) == [(item, item * 2) for item in items]


def test_items_are_worked_on_side_by_side():
    meeting = threading.Barrier(3, timeout=20)  # breaks unless three are at work at once
    assert len(list(in_order(lambda _: meeting.wait(), range(3), threads=3))) == 3


def test_an_exception_is_raised_where_its_answer_was_due_and_the_rest_is_dropped():
    done = []
    broken = threading.Event()

    def work(item):
        if item == 3:
            broken.set()
            raise ValueError("three")
        if item > 3:
            broken.wait(20)
            time.sleep(0.02)
        done.append(item)
        return item

    answers = in_order(work, range(50), threads=1)
    assert [next(answers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(answers)
    assert torch.get_num_threads() == 2
    assert len(done) < 3 + AHEAD
    assert next(answers, None) is None
