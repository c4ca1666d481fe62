"""Promotions in a real registry: who serves, what is written down, and what a cut leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.evaluation.comparison import Paired
from catdog.registry import history, register, versions
from catdog.registry.compare import NOT_COMPARED, Comparison
from catdog.registry.history import (
    ChampionChangedError,
    place,
    promote_by_evidence,
    promote_to,
    roll_back,
)
from catdog.registry.promotion import PRODUCTION, STAGING, Candidate, Decision
from catdog.registry.versions import ModelVersion

PHOTOS = Candidate("abc", drawn=False, status="approved")
NUMBERS = Paired(400, 5, 1, 0.01, -0.002, 0.02, 0.2, -0.01, -0.02, -0.001, 0.9, 0.2)
WRITES = (
    "set_registered_model_alias",
    "set_registered_model_tag",
    "set_model_version_tag",
    "delete_model_version_tag",
    "update_model_version",
    "transition_model_version_stage",
)
"""What a promotion changes in the registry, and how."""


@pytest.fixture
def add(logged_model) -> Callable[..., ModelVersion]:
    """A function that registers one more version."""

    def add(candidate: Candidate = PHOTOS) -> ModelVersion:
        return register.add(logged_model, "pets", candidate, digest="", card="# A card")

    return add


def _stages() -> dict[str, str]:
    return {str(one.version): one.current_stage for one in versions.versions("pets")}


def _aliases() -> dict[str, str]:
    aliases = MlflowClient().get_registered_model("pets").aliases
    return {alias: str(version) for alias, version in aliases.items()}


def _promote_by_evidence(version: ModelVersion, compare: Callable[..., Comparison]):
    return promote_by_evidence(version, compare, margin=0.0)


def test_the_description_says_why_a_version_stands_where_it_stands(add):
    first, second = add(), add()
    promote_to(first, "the first")
    compared = Decision(STAGING, "not comparable with version 1", "the reason")
    place(second, compared, Comparison(first, "the reason"))
    assert _stages() == {"1": "Production", "2": "Staging"}
    assert versions.numbered("pets", "2").description == (
        "# A card\n\n## Where it stands, and why\n\n"
        "Staging: not comparable with version 1: the reason.\n"
    )
    promote_to(second, "Ada asked")
    sections = [one.description.split("\n\n")[-1] for one in versions.versions("pets")]
    assert sections == ["Archived: version 2 took its place.\n", "Production: Ada asked.\n"]
    assert len(versions.numbered("pets", "2").tags) <= 6


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (NUMBERS, "Production: surely better than version 1."),
        (replace(NUMBERS, log_loss_ci_high=0.001), "Staging: not surely better than version 1."),
    ],
)
def test_the_description_has_the_comparison_as_a_small_table(add, evidence, verdict):
    first, second = add(), add()
    promote_to(first, "the first")
    _promote_by_evidence(second, lambda now: Comparison(now, evidence))
    described = versions.numbered("pets", "2").description
    high = f"{evidence.log_loss_ci_high:+.4f}"
    assert described.split("## Where it stands, and why\n\n")[1] == (
        f"{verdict}\n\n"
        "| 400 photos that neither learned from | version 1 | this version "
        "| difference (95 % interval) |\n|---|---|---|---|\n"
        "| accuracy | 90.00% | 91.00% | +1.00% (-0.20% to +2.00%) |\n"
        f"| log-loss | 0.2000 | 0.1900 | -0.0100 (-0.0200 to {high}) |\n"
    )


def test_the_history_is_a_line_for_each_promotion(add, monkeypatch):
    monkeypatch.setenv("LOGNAME", "ada")
    first, second = add(), add()
    promote_to(first, "the first")
    promote_to(second, "it is\nbetter")
    promote_to(versions.numbered("pets", "2"), "said twice")
    lines = MlflowClient().get_registered_model("pets").tags.values()
    assert sorted(lines) == [
        f"version 1, by ada, of run {first.run_id}: the first",
        f"version 2 after 1, by ada, of run {first.run_id}: it is better",
    ]
    earlier, later = history.history("pets")
    assert (later.version, later.before, later.why) == ("2", "1", "it is better")
    assert (later.who, later.run_id) == ("ada", first.run_id)
    assert earlier.when < later.when
    assert history.history("nothing") == []


def test_the_history_that_an_earlier_commit_wrote_goes_on(add):
    first, _, third = add(), add(), add()
    promote_to(first, "the first")
    old = {"who": "ada", "version": "2", "before": "1", "run_id": "0a", "why": "it was better"}
    when = "2036-05-04T10:20:30.123456+00:00"
    client, key = MlflowClient(), "promotion_20360504T102030123456Z"
    client.set_registered_model_tag("pets", key, json.dumps(old | {"when": when}))
    client.set_registered_model_tag("pets", "owner", "Ann")  # somebody else's: no promotion
    client.transition_model_version_stage("pets", "2", "Production", archive_existing_versions=True)
    event = history.history("pets")[-1]
    assert (event.version, event.who, event.when.isoformat()) == ("2", "ada", when)
    promote_to(third, "better still")
    roll_back("pets", "it is slow")
    assert [one.version for one in history.history("pets")] == ["1", "2", "3", "2"]


def test_rolling_back_goes_further_back_each_time_and_never_to_what_was_left(add):
    with pytest.raises(CatdogError, match="no version of pets served before"):
        roll_back(add().name, "it is slow")
    for version in (versions.numbered("pets", "1"), add(), add()):
        promote_to(version, "better")
    assert str(roll_back("pets", "it is slow")[0].version) == "2"
    assert _stages() == {"1": "Archived", "2": "Production", "3": "Archived"}
    assert str(roll_back("pets", "still slow")[0].version) == "1"
    with pytest.raises(CatdogError, match="no version of pets served before"):
        roll_back("pets", "again")
    left = versions.numbered("pets", "3")
    assert history.was_rolled_back(left)
    assert left.description.endswith("Archived: rolled back to version 2: it is slow.\n")
    assert len(left.tags) <= 6
    promote_to(left, "mended")
    assert not history.was_rolled_back(versions.numbered("pets", "3"))


class Killed(BaseException):
    """What no part of the program catches."""


def _run_until_write(count: int, action: Callable[[], object]) -> bool:
    """Run, and die in place of the write after `count`; False where there is none."""
    left = iter(range(count))

    def counted(write):
        def write_or_die(*args, **options):
            if next(left, None) is None:
                raise Killed
            return write(*args, **options)

        return write_or_die

    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(MlflowClient, name, counted(getattr(MlflowClient, name)))
        try:
            action()
        except Killed:
            return True
    return False


def test_a_promotion_killed_at_any_write_is_completed_by_the_same_promotion(add):
    champion, challenger = add(), add()
    promote_to(champion, "the first")
    for kill in range(100):

        def promote(challenger=challenger) -> None:
            _promote_by_evidence(challenger, lambda now: Comparison(now, NUMBERS))

        if not _run_until_write(kill, promote):
            break
        assert _stages()[str(challenger.version)] != "Production"
        promote()
        _check_promoted(challenger, champion, count=kill + 2)
        champion, challenger = challenger, champion
    assert kill > 6  # after all of them it serves


def test_a_rollback_killed_at_any_write_is_completed_by_the_same_rollback(add):
    first, second = add(), add()
    promote_to(first, "the first")
    for kill in range(100):
        promote_to(versions.numbered("pets", str(second.version)), "tried again")
        if not _run_until_write(kill, lambda: roll_back("pets", "it is slow")):
            break
        assert _stages()[str(first.version)] != "Production"
        assert str(roll_back("pets", "it is slow")[0].version) == str(first.version)
        _check_promoted(first, second, count=2 * kill + 3)
    assert kill > 6


def _check_promoted(champion: ModelVersion, former: ModelVersion, count: int) -> None:
    now, before = str(champion.version), str(former.version)
    assert _stages() == {now: "Production", before: "Archived"}
    assert _aliases() == {"production": now, "champion": now, "previous": before}
    events = history.history("pets")
    assert (events[-1].version, events[-1].before, len(events)) == (now, before, count)
    sections = {str(one.version): one.description for one in versions.versions("pets")}
    assert "\n\nProduction: " in sections[now]
    assert "\n\nArchived: " in sections[before]


@pytest.mark.parametrize(
    ("moment", "serving", "left"), [("_add_to_history", "2", "3"), ("_set_stage", "3", "2")]
)
def test_two_promotions_at_once_end_in_one_of_both(add, monkeypatch, moment, serving, left):
    first, second, third = add(), add(), add()
    promote_to(first, "the first")
    real = getattr(history, moment)

    def beside(*args: object) -> None:
        monkeypatch.setattr(history, moment, real)
        real(*args)
        promote_to(third, "meanwhile")

    monkeypatch.setattr(history, moment, beside)
    if serving == "3":
        with pytest.raises(ChampionChangedError, match=r"promote.py --name pets --version 2 when"):
            promote_to(second, "better")
    else:
        promote_to(second, "better")
    assert _stages() == {"1": "Archived", serving: "Production", left: "Archived"}
    assert "\n\nArchived: " in versions.numbered("pets", left).description
    assert _aliases()["champion"] == _aliases()["production"] == serving


def test_a_version_whose_proof_fails_while_it_serves_leaves_production(add):
    first, second = add(), add()
    promote_to(first, "the first")
    promote_to(second, "better")
    history.approve(second, proven=False)  # in a run that was cut here and resumed
    decision, _ = _promote_by_evidence(second, pytest.fail)
    assert (decision.stage, _stages()) == ("None", {"1": "Archived", "2": "None"})
    assert "\n\nNone: a fresh process does not" in versions.numbered("pets", "2").description
    assert str(roll_back("pets", "its proof failed")[0].version) == "1"
    assert (_stages()["1"], _aliases()["champion"]) == ("Production", "1")


def test_what_serves_or_was_rolled_back_is_not_compared(add):
    first, second = add(), add()
    promote_to(first, "the first")
    already = Decision(PRODUCTION, "it is in Production already")
    assert _promote_by_evidence(first, pytest.fail) == (already, NOT_COMPARED)
    promote_to(second, "better")
    roll_back("pets", "it is slow")
    decision, _ = _promote_by_evidence(second, pytest.fail)
    assert decision.reason == "it was rolled back: promote.py --to names it again"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"status": "rejected"}, "does not answer"),
        ({"drawn": True}, "drawn pictures"),
        ({"status": "unheard of"}, "does not say what it was made of"),
    ],
)
def test_a_version_that_may_never_serve_is_not_promoted_by_hand_either(add, fields, reason):
    promote_to(add(), "")
    with pytest.raises(CatdogError, match=reason):
        promote_to(add(replace(PHOTOS, **fields)), "by hand")
    assert _aliases()["champion"] == "1"


def test_a_user_without_a_name_can_promote(add, monkeypatch):
    def nobody():
        raise KeyError("uid not found")

    monkeypatch.setattr(history.getpass, "getuser", nobody)
    promote_to(add(), "")
    assert history.history("pets")[0].who == "unknown"
