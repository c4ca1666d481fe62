from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit

from catdog.evaluation.calibration import (
    COLDEST,
    cross_fitted,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    probability,
    reliability,
)

LOGITS = arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e3, 1e3))


def _synthetic(temperature: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits that are `temperature` times what they should be."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, count)
    labels = (rng.random(count) < probability(honest)).astype(np.int64)
    return labels, honest * temperature


@given(LOGITS)
def test_a_probability_is_that_of_the_logistic_function_and_grows_with_its_logit(logits):
    found = probability(np.sort(logits))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= 0).all()
    assert found == pytest.approx(expit(np.sort(logits)), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 4.0])
def test_a_known_temperature_is_found_again(temperature):
    assert fit_temperature(*_synthetic(temperature)) == pytest.approx(temperature, rel=0.05)


def test_without_a_mistake_more_photos_make_surer_but_never_certain():
    labels, logits = np.array([0, 0, 1, 1]), np.array([-3.0, -2.0, 2.0, 3.0])
    copies = (1, 5, 25)
    found = [fit_temperature(np.tile(labels, n), np.tile(logits, n)) for n in copies]
    assert found[0] > 1 > found[2] > COLDEST
    assert found == sorted(found, reverse=True)
    surest = probability(3.0 / found[2])
    assert 0.95 < surest < 0.999


def test_log_loss_is_exact_where_a_probability_would_be_rounded_to_1():
    assert log_loss(np.array([0]), np.array([800.0])) == 800.0
    assert log_loss(np.array([1, 0]), np.array([0.0, 0.0])) == pytest.approx(math.log(2))


def test_no_photo_has_a_say_in_its_own_temperature():
    labels, logits = _synthetic(3.0, 200)
    before = cross_fitted(labels, logits)
    for place in (0, 7, 99):
        # A wrong logit instead of a right one changes what fits it, and all others but its fold.
        bent = logits.copy()
        bent[place] = -60.0 if labels[place] else 60.0
        after = cross_fitted(labels, bent)
        assert after[place] / bent[place] == before[place] / logits[place]
        assert np.mean(after != before) > 0.7


def test_cross_fitted_logits_are_calibrated_unless_a_class_has_too_few_photos():
    labels, logits = _synthetic(3.0, 2_000)
    calibrated = cross_fitted(labels, logits)
    assert np.allclose(calibrated, logits / 3, rtol=0.15)
    assert log_loss(labels, calibrated) < log_loss(labels, logits)
    labels, logits = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1]), np.linspace(1, -1, 9)
    assert np.array_equal(cross_fitted(labels, logits), logits)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    p_dog = np.array([0.9] * 10 + [0.2] * 10)
    labels = np.array([1] * 6 + [0] * 4 + [0] * 8 + [1] * 2)  # 60 % right, then 80 % right
    assert expected_calibration_error(labels, p_dog) == pytest.approx((0.3 + 0.0) / 2)


@settings(deadline=None)
@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1)), st.randoms())
def test_reliability_counts_every_photo_once(p_dog, random):
    labels = np.array([random.randint(0, 1) for _ in p_dog])
    predicted, observed, count = reliability(labels, p_dog)
    assert (count > 0).all()
    assert count.sum() == len(p_dog)
    assert predicted @ count == pytest.approx(p_dog.sum())
    assert observed @ count == pytest.approx(labels.sum())
