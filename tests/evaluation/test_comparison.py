from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from catdog.evaluation.comparison import compare_answers, mcnemar

LABELS = np.repeat([0, 1], 100)
SIGNS = np.where(LABELS == 1, 1.0, -1.0)


@given(fixed=st.integers(0, 40), broken=st.integers(0, 40))
def test_mcnemar_is_the_exact_chance_of_a_split_at_least_as_uneven(fixed, broken):
    few, all_ = min(fixed, broken), fixed + broken
    expected = 1.0 if fixed == broken else 2 * binom.cdf(few, all_, 0.5)
    assert mcnemar(fixed, broken) == pytest.approx(expected)


def test_the_counts_are_of_photos_that_only_one_gets_right():
    champion, challenger = SIGNS.copy(), SIGNS.copy()
    champion[[0, 1, 150]] *= -1
    challenger[[1, 2]] *= -1
    found = compare_answers(LABELS, champion, challenger, seed=0)
    assert (found.count, found.fixed, found.broken) == (200, 2, 1)
    assert found.accuracy == pytest.approx(1 / 200)
    assert found.champion_accuracy == 197 / 200
    assert found.champion_log_loss == pytest.approx(np.log1p(np.exp(-1)) + 3 / 200)
    assert found.accuracy_ci_low < 0 < found.accuracy_ci_high
    assert not found.surely_better
    assert "2 of 200 photos put right and 1 made wrong" in found.summary()
    assert "accuracy +0.50 points (95 %" in found.summary()


def test_better_probabilities_count_though_no_answer_changes_and_the_other_way_round():
    surer = SIGNS * np.linspace(2.0, 3.0, 200)
    better = compare_answers(LABELS, SIGNS, surer, seed=0)
    worse = compare_answers(LABELS, surer, SIGNS, seed=0)
    assert better.surely_better
    assert not better.surely_worse
    assert worse.surely_worse
    assert (better.fixed, better.broken) == (0, 0)
    assert better.log_loss == pytest.approx(-worse.log_loss)


def test_equal_models_are_called_different_about_one_time_in_twenty():
    rng = np.random.default_rng(7)
    better = 0
    for trial in range(200):
        hard = rng.normal(2.5, 1.2, len(LABELS))
        one, other = (SIGNS * (hard + rng.normal(0, 0.8, len(LABELS))) for _ in range(2))
        found = compare_answers(LABELS, one, other, seed=trial)
        better += found.surely_better and not found.surely_worse
    assert better <= 20  # 4.4 % of 1,500 trials; more than 20 of 200 comes once in a thousand
