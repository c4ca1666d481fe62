from __future__ import annotations

import dataclasses
from itertools import count

import pytest
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.evaluation.comparison import Paired
from catdog.registry import history as succession
from catdog.registry import versions as registry
from catdog.registry.compare import Contest
from catdog.registry.history import (
    attest,
    crown,
    history,
    place,
    predecessor,
    promote_to,
    roll_back,
    settle,
    unfinished,
)
from catdog.registry.promotion import NO_STAGE, PRODUCTION, STAGING, Candidate, Decision

PHOTOS = Candidate(0.98, "abc", drawn=False, status="approved")
NUMBERS = Paired(400, 5, 1, 0.01, -0.002, 0.02, 0.2, -0.01, -0.02, -0.001)


@pytest.fixture
def add(logged_model):
    """A function that registers one more version."""

    def add(candidate: Candidate = PHOTOS):
        return registry.add(logged_model, "pets", candidate, digest="", card="# A card")

    return add


def _stages() -> dict[str, str]:
    return {str(one.version): one.current_stage for one in registry.versions("pets")}


def _aliases() -> dict[str, str]:
    aliases = MlflowClient().get_registered_model("pets").aliases
    return {alias: str(version) for alias, version in aliases.items()}


def test_stage_and_aliases_move_together_and_the_former_champion_is_previous(add):
    first, second, third = add(), add(), add()
    crown(first, "the first")
    assert _aliases() == {"production": "1", "champion": "1"}
    place(second, Decision(PRODUCTION, "better"), Contest(first, NUMBERS))
    place(third, Decision(STAGING, "not better"), Contest(second, "no photos"))
    assert _stages() == {"1": "Archived", "2": "Production", "3": "Staging"}
    assert _aliases() == {"production": "2", "champion": "2", "previous": "1"}


def test_the_version_says_why_it_stands_where_it_stands(add):
    add(), add()
    first, second = registry.versions("pets")
    crown(first, "the first")
    place(second, Decision(STAGING, "not surely better"), Contest(first, NUMBERS))
    place(registry.versions("pets")[1], Decision(STAGING, "still not"), Contest(first, NUMBERS))
    found = MlflowClient().get_model_version("pets", "2")
    assert found.tags["stage_reason"] == "still not"
    assert found.tags["compared_with"] == "1"
    assert found.tags["validation_status"] == "approved"
    numbers = {name: float(value) for name, value in found.tags.items() if name.startswith("vs_")}
    assert numbers == NUMBERS.to_dict("vs_champion_")
    assert found.description.startswith("# A card")
    assert found.description.endswith("Staging: still not.\n")
    assert found.description.count("Where it stands") == 1


def test_the_history_says_when_who_from_which_run_and_why(add, monkeypatch):
    monkeypatch.setenv("LOGNAME", "ada")
    first, second = add(), add()
    crown(first, "the first")
    crown(second, "it is better")
    crown(second, "said twice")
    told = history("pets")
    assert [(event.version, event.before, event.why) for event in told] == [
        ("1", "", "the first"),
        ("2", "1", "it is better"),
    ]
    assert told[1].who == "ada"
    assert told[1].run_id == first.run_id
    assert told[0].when < told[1].when
    assert history("nothing") == []


def test_rolling_back_goes_further_back_each_time_and_never_to_what_was_left(add):
    versions = [add(), add(), add()]
    with pytest.raises(CatdogError, match="no version of pets served before"):
        predecessor("pets")
    for version in versions:
        crown(version, "better")
    assert str(roll_back("pets", "it is slow")[0].version) == "2"
    assert _stages() == {"1": "Archived", "2": "Production", "3": "Archived"}
    assert str(roll_back("pets", "still slow")[0].version) == "1"
    with pytest.raises(CatdogError, match="no version of pets served before"):
        roll_back("pets", "again")
    left = registry.numbered("pets", "3")
    assert succession.was_rolled_back(left)
    assert left.description.endswith("Archived: rolled back to version 2: it is slow.\n")
    promote_to(left, "mended")
    assert not succession.was_rolled_back(registry.numbered("pets", "3"))


def test_who_is_named_and_who_leaves_say_so_in_their_descriptions(add):
    first, second = add(), add()
    place(first, Decision(PRODUCTION, "the first"), Contest(None))
    place(second, Decision(STAGING, "not better"), Contest(first, NUMBERS))
    promote_to(second, "Ada asked")
    told = [version.description.split("\n\n")[-1] for version in registry.versions("pets")]
    assert told == ["Archived: version 2 took its place.\n", "Production: Ada asked.\n"]
    tags = registry.numbered("pets", "2").tags
    assert tags["stage_reason"] == "Ada asked"
    assert not [name for name in tags if name.startswith(("vs_champion_", "compared_with"))]


@pytest.mark.parametrize("step", ["set_registered_model_alias", "transition_model_version_stage"])
def test_a_promotion_that_was_cut_is_told_and_finished_by_the_next(add, monkeypatch, step):
    first, second, third = add(), add(), add()
    crown(first, "the first")
    crown(second, "better")

    def cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, step, cut)
        with pytest.raises(KeyboardInterrupt):
            crown(third, "better still")
    assert registry.exact("models:/pets/Production") == "models:/pets/2"
    assert unfinished("pets").version == "3"
    crown(third, "better still")
    assert unfinished("pets") is None
    assert _aliases() == {"production": "3", "champion": "3", "previous": "2"}
    assert [event.version for event in history("pets")] == ["1", "2", "3"]
    assert str(predecessor("pets").version) == "2"


@pytest.mark.parametrize("step", ["_write_down", "_describe"])
def test_reasons_that_a_cut_left_to_the_history_are_written_by_the_next_promotion(
    add, monkeypatch, step
):
    first, second = add(), add()
    better = Decision(PRODUCTION, "surely better", "5 of 6 answers")

    def cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(succession, step, cut)
        with pytest.raises(KeyboardInterrupt):
            place(first, better, Contest(None, NUMBERS))
    assert _stages()["1"] == "Production"
    crown(first, "")
    left = registry.numbered("pets", "1")
    assert left.tags["stage_reason"] == "surely better: 5 of 6 answers"
    assert left.description.startswith("# A card")
    assert left.description.endswith("Production: surely better: 5 of 6 answers.\n")
    assert ("vs_champion_count" in left.tags) is (step == "_describe")
    crown(second, "better still")
    left = registry.numbered("pets", "1")
    assert left.tags["stage_reason"] == "surely better: 5 of 6 answers"
    assert left.description.endswith("Archived: version 2 took its place.\n")


def test_reasons_that_were_written_stay_as_they_are(add):
    first, second = add(), add()
    place(first, Decision(PRODUCTION, "the first"), Contest(None))
    MlflowClient().set_model_version_tag("pets", "1", "stage_reason", "Ada says so")
    told = "# A card\n\n## Where it stands, and why\n\nProduction: Ada says so.\n"
    MlflowClient().update_model_version("pets", "1", description=told)
    crown(second, "better")
    assert registry.numbered("pets", "1").tags["stage_reason"] == "Ada says so"


def test_a_version_that_serves_already_is_not_compared_with_itself(add):
    version = add()
    crown(version, "the first")
    decision, held = settle(version, pytest.fail, pytest.fail)
    assert decision == Decision(PRODUCTION, "it is in Production already")
    assert held.champion is None


def test_a_version_that_is_rejected_while_it_serves_makes_way(add):
    first, second = add(), add()
    crown(first, "the first")
    crown(second, "better")
    attest(second, proven=False)
    assert registry.exact("models:/pets/Production") == "models:/pets/1"
    assert registry.is_rejected(registry.numbered("pets", "2"))


def test_rolling_back_again_after_a_cut_leads_to_the_same_version(add, monkeypatch):
    versions = [add(), add(), add()]
    for version in versions:
        crown(version, "better")

    def cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "transition_model_version_stage", cut)
        with pytest.raises(KeyboardInterrupt):
            roll_back("pets", "it is slow")
    assert str(roll_back("pets", "it is slow")[0].version) == "2"
    assert registry.exact("models:/pets/Production") == "models:/pets/2"


def test_a_version_that_was_rolled_back_is_not_compared_when_its_run_goes_on(add):
    first, second = add(), add()
    crown(first, "the first")
    crown(second, "better")
    roll_back("pets", "it is slow")
    decision, _ = settle(second, pytest.fail, pytest.fail)
    assert decision.reason == "it was rolled back: promote.py --to names it again"
    assert registry.exact("models:/pets/Production") == "models:/pets/1"


def test_the_order_of_the_history_does_not_hang_on_clocks(add, monkeypatch):
    first, second = add(), add()
    crown(first, "the first")

    class Behind(succession.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2001, 1, 1, tzinfo=tz)

    monkeypatch.setattr(succession, "datetime", Behind)
    crown(second, "better")
    assert [event.version for event in history("pets")] == ["1", "2"]
    crown(first, "back")
    assert [(event.version, event.before) for event in history("pets")][-1] == ("1", "2")
    assert unfinished("pets") is None


def test_a_tag_of_somebody_elses_is_no_promotion(add):
    crown(add(), "the first")
    MlflowClient().set_registered_model_tag("pets", "promotion_policy", "ask Ann")
    assert len(history("pets")) == 1


def test_the_predecessor_of_the_predecessor_stands_in_for_one_that_was_deleted(add):
    versions = [add(), add(), add()]
    for version in versions:
        crown(version, "")
    MlflowClient().delete_model_version("pets", "2")
    assert str(predecessor("pets").version) == "1"


def test_a_version_that_may_never_serve_is_not_promoted_by_hand_either(add):
    crown(add(), "")
    others = {
        "never seen to answer": dataclasses.replace(PHOTOS, status="pending"),
        "does not answer": dataclasses.replace(PHOTOS, status="rejected"),
        "tells ant and bee": dataclasses.replace(PHOTOS, classes=("ant", "bee")),
        "drawn pictures": dataclasses.replace(PHOTOS, drawn=True),
        "does not say what it was made of": dataclasses.replace(PHOTOS, status="unheard of"),
    }
    for reason, candidate in others.items():
        with pytest.raises(CatdogError, match=reason):
            promote_to(add(candidate), "by hand")
    assert _aliases()["champion"] == "1"


def test_a_rejected_version_has_no_stage_even_where_there_is_no_other(add):
    version = add()
    attest(version, proven=False)
    place(version, Decision(NO_STAGE, "it answers otherwise"), Contest(None))
    assert _stages() == {"1": "None"}
    assert registry.champion("pets") is None
    assert registry.is_rejected(registry.versions("pets")[0])


def test_a_champion_that_came_meanwhile_is_compared_with_too(add):
    first, beside, challenger = add(), add(), add()
    crown(first, "")
    seen = []

    def contest(champion):
        seen.append(str(champion.version))
        if len(seen) == 1:
            crown(beside, "another run was faster")
        return Contest(champion, NUMBERS)

    decision, held = settle(challenger, contest, lambda _: Decision(STAGING, "not better"))
    assert seen == ["1", "2"]
    assert str(held.champion.version) == "2"
    assert decision.stage == STAGING
    assert MlflowClient().get_model_version("pets", "3").tags["compared_with"] == "2"


def test_champions_that_never_stay_are_an_error_with_the_command_for_later(add):
    challenger, *others = (add() for _ in range(6))
    numbers = count()

    def contest(champion):
        crown(others[next(numbers)], "")
        return Contest(champion)

    with pytest.raises(CatdogError, match=r"promote.py --name pets --version 1 when"):
        settle(challenger, contest, lambda _: Decision(PRODUCTION, ""))


def test_aliases_carry_on_where_mlflow_has_no_stages(add, monkeypatch):
    first, second = add(), add()
    monkeypatch.delattr(MlflowClient, "transition_model_version_stage")
    monkeypatch.setattr(registry, "stage_of", lambda _: "")
    crown(first, "the first")
    crown(second, "better")
    assert _aliases() == {"production": "2", "champion": "2", "previous": "1"}
    assert str(registry.champion("pets").version) == "2"
    assert registry.exact("models:/pets/Production") == "models:/pets/2"
    assert registry.fetch("models:/pets/Production").is_dir()


def test_a_user_without_a_name_can_promote(add, monkeypatch):
    def nobody():
        raise KeyError("uid not found")

    monkeypatch.setattr(succession.getpass, "getuser", nobody)
    crown(add(), "")
    assert history("pets")[0].who == "unknown"
