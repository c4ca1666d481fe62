from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog import NEITHER
from catdog.inference.prediction import About, Options, Prediction, says_positive, to_prediction

ABOUT = About("x", "pets", "", 1, 0.9, temperature=1.0, reject_below=0.01)
logits = st.floats(-60, 60)
shares = st.floats(0, 1)


@pytest.mark.parametrize(
    ("logit", "label", "p_dog"), [(2.0, "dog", 0.880797), (-2.0, "cat", 0.119203)]
)
def test_confidence_is_the_probability_of_the_label(logit, label, p_dog):
    answer = to_prediction(logit, 0.5, ABOUT)
    assert (answer.label, answer.familiarity, answer.error) == (label, 0.5, "")
    assert answer.p_positive == pytest.approx(p_dog, abs=1e-6)
    assert answer.confidence == pytest.approx(max(p_dog, 1 - p_dog), abs=1e-6)


@given(logit=logits, familiarity=shares, reject=st.booleans())
def test_neither_is_answered_below_the_threshold_where_it_may_be(logit, familiarity, reject):
    answer = to_prediction(logit, familiarity, ABOUT, Options(reject=reject))
    assert (answer.label == NEITHER) == (reject and familiarity < ABOUT.reject_below)
    assert np.isnan(answer.confidence) == (answer.label == NEITHER)


@given(logit=logits, threshold=shares)
def test_the_threshold_decides_from_which_probability_a_photo_is_a_dog(logit, threshold):
    answer = to_prediction(logit, 1.0, ABOUT, Options(threshold=threshold))
    assert (answer.label == "dog") == (answer.p_positive > threshold)


@pytest.mark.parametrize(
    ("label", "p_dog", "positive"),
    [
        *(("dog", 0.9, True), ("cat", 0.1, False), ("dog", 0.2, True)),
        ("cat", 0.8, False),  # under a threshold of 0.9
        *((NEITHER, 0.8, True), (NEITHER, 0.2, False)),
    ],
)
def test_an_answer_speaks_for_its_label_and_neither_for_what_is_likelier(label, p_dog, positive):
    assert says_positive(Prediction(label, 0.9, p_dog, 0.5), ABOUT.classes) is positive
