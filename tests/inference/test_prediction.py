from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog import NEITHER
from catdog.inference.prediction import About, Options, Seen, to_prediction

ABOUT = About("x", "pets", "", 1, 0.9, temperature=1.0, reject_below=0.01)
logits = st.floats(-60, 60)
shares = st.floats(0, 1)


@pytest.mark.parametrize(
    ("logit", "label", "p_dog"), [(2.0, "dog", 0.880797), (-2.0, "cat", 0.119203)]
)
def test_confidence_is_the_probability_of_the_label(logit, label, p_dog):
    answer = to_prediction(Seen(logit, 0.5), ABOUT)
    assert answer.label == label
    assert answer.p_positive == pytest.approx(p_dog, abs=1e-6)
    assert answer.confidence == pytest.approx(max(p_dog, 1 - p_dog), abs=1e-6)
    assert answer.error == ""


@given(logit=logits, familiarity=shares)
def test_neither_is_answered_below_the_threshold_and_only_there(logit, familiarity):
    answer = to_prediction(Seen(logit, familiarity), ABOUT)
    assert (answer.label == NEITHER) == (familiarity < ABOUT.reject_below)
    assert np.isnan(answer.confidence) == (answer.label == NEITHER)


@given(logit=logits, familiarity=shares)
def test_neither_is_never_answered_when_it_may_not_be(logit, familiarity):
    answer = to_prediction(Seen(logit, familiarity), ABOUT, Options(reject=False))
    assert answer.label in ABOUT.classes
    assert 0 <= answer.confidence <= 1


@given(logit=logits, threshold=shares)
def test_the_threshold_decides_from_which_probability_a_photo_is_a_dog(logit, threshold):
    answer = to_prediction(Seen(logit, 1.0), ABOUT, Options(threshold=threshold))
    assert (answer.label == "dog") == (answer.p_positive > threshold)
