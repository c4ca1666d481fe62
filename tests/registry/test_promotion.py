from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.config import Promote
from catdog.evaluation.comparison import Paired
from catdog.registry.promotion import (
    GONE,
    NO_STAGE,
    PRODUCTION,
    STAGING,
    Candidate,
    Champion,
    decide,
)

PHOTOS = Candidate("abc", drawn=False, status="approved")
DRAWN = replace(PHOTOS, drawn=True)
EQUAL = Paired(400, 2, 2, 0.0, -0.01, 0.01, 1.0, 0.0, -0.001, 0.001, 0.9, 0.2)
BETTER = replace(EQUAL, log_loss=-0.01, log_loss_ci_low=-0.02, log_loss_ci_high=-0.001)
WORSE = replace(EQUAL, log_loss=0.01, log_loss_ci_low=0.001, log_loss_ci_high=0.02)
MORE_RIGHT = replace(EQUAL, fixed=12, broken=1, accuracy=0.0275, p_value=0.003)

evidences = st.sampled_from([EQUAL, BETTER, WORSE, MORE_RIGHT, "nothing is known"])
promotes = st.sampled_from(get_args(Promote))
candidates = st.builds(
    Candidate,
    st.sampled_from(["a", "b"]),
    drawn=st.booleans(),
    classes=st.sampled_from([("cat", "dog"), ("ant", "bee")]),
    status=st.sampled_from(["pending", "approved", "rejected"]),
)


def _decide(evidence=EQUAL, challenger=PHOTOS, champion=PHOTOS, **options):
    now = Champion("3", champion) if champion else None
    return decide(challenger, now, evidence, **{"margin": 0.005} | options)


def test_the_first_version_becomes_production():
    assert _decide(champion=None).stage == PRODUCTION
    assert _decide(champion=None, promote="never").stage == STAGING


@pytest.mark.parametrize(
    ("evidence", "stage", "reason"),
    [
        (BETTER, PRODUCTION, "surely better than version 3: 2 of 400"),
        (MORE_RIGHT, PRODUCTION, "surely better"),
        (EQUAL, STAGING, "not surely better"),
        (GONE, PRODUCTION, "the files of version 3 are gone"),
        (WORSE, STAGING, "surely worse than"),
        (
            replace(WORSE, fixed=12, broken=1, p_value=0.003),
            STAGING,
            "surely better in one way, and surely worse in another",
        ),
        (replace(BETTER, accuracy=-0.006), STAGING, "less accurate by more than the margin"),
        (replace(BETTER, accuracy=-0.005), PRODUCTION, "surely better"),
        ("too few photos", STAGING, "not comparable with version 3: too few photos"),
    ],
)
def test_the_evidence_and_the_margin_decide(evidence, stage, reason):
    decision = _decide(evidence)
    assert decision.stage == stage
    assert decision.summary.startswith(reason)


def test_the_user_s_margin_and_always_and_never_count():
    assert _decide(replace(BETTER, accuracy=-0.02), margin=0.03).stage == PRODUCTION
    assert _decide(WORSE, promote="always").stage == PRODUCTION
    assert _decide(BETTER, promote="never").stage == STAGING


@given(evidence=evidences, champion=candidates, promote=promotes)
def test_drawn_pictures_never_replace_photos(evidence, champion, promote):
    decision = _decide(evidence, DRAWN, replace(champion, drawn=False), promote=promote)
    assert decision.stage == STAGING


@given(evidence=evidences, challenger=candidates, champion=candidates, promote=promotes)
def test_what_tells_other_things_apart_or_was_not_proven_never_serves(
    evidence, challenger, champion, promote
):
    decision = _decide(evidence, challenger, champion, promote=promote)
    if challenger.status != "approved":
        assert decision.stage == NO_STAGE
    elif challenger.classes != champion.classes:
        assert decision.stage == STAGING


@given(evidence=evidences)
def test_photos_replace_drawn_pictures_without_a_comparison(evidence):
    assert _decide(evidence, champion=DRAWN).stage == PRODUCTION


def test_a_challenger_of_unknown_making_stays_and_a_champion_gives_way_to_photos_alone():
    assert _decide(BETTER, challenger=None).stage == STAGING
    unknown = Champion("3", None)
    assert decide(PHOTOS, unknown, BETTER, margin=0.0).stage == PRODUCTION
    assert decide(DRAWN, unknown, BETTER, promote="always", margin=0.0).stage == STAGING


@given(candidate=candidates)
def test_the_tags_of_a_version_hold_all_that_decides(candidate):
    assert Candidate.from_tags(candidate.to_tags()) == candidate


def test_foreign_tags_describe_no_candidate():
    assert Candidate.from_tags({"owner": "somebody"}) is None
    assert Candidate.from_tags(PHOTOS.to_tags() | {"classes": "cat"}) is None
    assert Candidate.from_tags(PHOTOS.to_tags() | {"validation_status": "perhaps"}) is None
