from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catdog.evaluation.novelty import REFERENCES, STEEPEST, Familiarity, PetClassifier

WIDTH = 8


def _cloud(seed: int, count: int, where: float = 1.0) -> np.ndarray:
    """Features around one direction, `where` of it, `(count, WIDTH) float32`."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 0.2, (count, WIDTH))
    features[:, 0] += where
    return features.astype(np.float32)


def _pets(seed: int = 3) -> PetClassifier:
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 1, (1000, WIDTH)).astype(np.float16).astype(np.float32)
    return PetClassifier(weight, rng.normal(0, 1, 1000).astype(np.float32), np.arange(1000) < 100)


FITTED = {
    "neighbours alone": Familiarity.fit(_cloud(0, 60), _cloud(1, 40)),
    "with ImageNet's classes": Familiarity.fit(_cloud(0, 60), _cloud(1, 40), _pets()),
    "one validation photo": Familiarity.fit(_cloud(0, 60), _cloud(1, 1)),
    "two training photos": Familiarity.fit(_cloud(0, 2), _cloud(1, 40)),
}


@pytest.fixture(params=FITTED.values(), ids=FITTED.keys())
def fitted(request) -> Familiarity:
    return request.param


@settings(deadline=None)
@given(st.sampled_from(sorted(FITTED)), st.integers(0, 10_000), st.floats(-3, 3))
def test_familiarity_is_a_share_that_grows_with_the_raw_score(which, seed, where):
    fitted, features = FITTED[which], _cloud(seed, 30, where)
    raw, score = fitted.raw(features), fitted.score(features)
    assert score.shape == (30,)
    assert ((score >= 0) & (score < 1)).all()
    order = np.argsort(raw)
    assert (np.diff(score[order]) >= 0).all()


def test_familiarity_is_the_share_of_validation_photos_that_are_less_familiar():
    validation = _cloud(1, 99)
    fitted = Familiarity.fit(_cloud(0, 60), validation)
    raw = fitted.raw(validation)
    less = (raw[:, None] > raw[None]).mean(1)
    assert fitted.score(validation) == pytest.approx(less, abs=0.03)


def test_beyond_all_validation_photos_what_is_farther_has_less_of_it():
    fitted = FITTED["neighbours alone"]
    angles = np.linspace(1.2, 3.0, 12)
    features = np.zeros((12, WIDTH), np.float32)
    features[:, 0], features[:, 1] = np.cos(angles), np.sin(angles)
    raw, score = fitted.raw(features), fitted.score(features)
    assert (raw < fitted.levels[0]).all()
    assert (np.diff(score) < 0).all()
    assert score[0] < 1 / len(fitted.levels)


def test_features_as_long_as_one_likes_are_equally_familiar():
    fitted = FITTED["neighbours alone"]
    features = _cloud(5, 10)
    assert fitted.score(features * 100) == pytest.approx(fitted.score(features), abs=1e-3)
    assert np.isfinite(fitted.score(np.zeros((1, WIDTH), np.float32))).all()


def test_what_imagenet_takes_for_no_pet_is_less_familiar():
    pets = _pets()
    fitted = Familiarity.fit(_cloud(0, 60), _cloud(1, 40), pets)
    features = _cloud(2, 10)
    strange = PetClassifier(pets.weight, pets.bias - 20 * pets.pets, pets.pets)
    other = Familiarity(fitted.references, strange, fitted.centre, fitted.spread, fitted.levels)
    assert (other.score(features) < fitted.score(features)).all()


@given(st.integers(0, 10_000))
def test_belief_is_the_log_of_the_share_of_the_probability_on_pets(seed):
    pets, features = _pets(seed), _cloud(seed, 4)
    logits = features.astype(np.float64) @ pets.weight.T.astype(np.float64) + pets.bias
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert pets.belief(features) == pytest.approx(np.log(shares[:, :100].sum(1)), abs=1e-4)
    assert (pets.belief(features) <= 0).all()


def test_it_survives_a_round_trip_through_arrays_to_the_last_bit(fitted):
    twin = Familiarity.from_arrays(fitted.to_arrays())
    features = _cloud(7, 30, 0.3)
    assert np.array_equal(twin.score(features), fitted.score(features))


@pytest.mark.parametrize("missing", ["references", "centre", "levels", "pets.bias"])
def test_a_missing_array_is_an_error(missing):
    arrays = FITTED["with ImageNet's classes"].to_arrays()
    del arrays[f"familiarity.{missing}"]
    with pytest.raises(KeyError, match=missing):
        Familiarity.from_arrays(arrays)


def test_no_more_training_features_are_kept_than_need_be_and_always_the_same():
    training, validation = _cloud(0, REFERENCES + 50), _cloud(1, 20)
    first, second = (Familiarity.fit(training, validation) for _ in range(2))
    assert first.references.shape == (REFERENCES, WIDTH)
    assert np.array_equal(first.references, second.references)


@given(st.integers(2, 30), st.integers(1, 5))
def test_the_same_photo_twice_makes_no_jump_that_rounding_could_decide(count, times):
    validation = np.repeat(_cloud(1, count), times, axis=0)
    fitted = Familiarity.fit(_cloud(0, 30), validation)
    steps = np.diff(fitted.levels)
    assert (steps * (len(validation) + 1) * STEEPEST > 1 - 1e-6).all()
