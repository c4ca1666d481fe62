"""Who serves, who served before, and why: stages, aliases and the history of promotions.

The stage Production and the aliases `champion` and `production` move together, and the former
champion becomes `previous`. Each move is written down as a tag of the registered model.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.evaluation.comparison import Paired
from catdog.registry import versions
from catdog.registry.compare import Contest
from catdog.registry.promotion import (
    ARCHIVED,
    PRODUCTION,
    STATUS_TAG,
    Candidate,
    Champion,
    Decision,
    refusal,
)

PREVIOUS = "previous"
EVENT = "promotion_"
"""How the tags of the registered model begin that tell of promotions; then comes the time."""
PAIRED = "vs_champion_"
"""How the tags and metrics begin that tell how a version compares with the champion."""
EVENT_KEY = re.compile(rf"{EVENT}\d{{8}}T\d+Z")
ROLLED_BACK = "rolled_back"
ANYONE = "anyone"
TRIES = 3
SECTION = "## Where it stands, and why"
"""The last section of a version's description."""


@dataclass(frozen=True)
class Event:
    """A promotion: when (UTC), by whom, which version after which, from which run, and why."""

    when: str
    who: str
    version: str
    before: str
    run_id: str
    why: str


def as_champion(version: ModelVersion | None) -> Champion | None:
    """What deciding needs to know of the version that serves."""
    if version is None:
        return None
    return Champion(str(version.version), Candidate.from_tags(version.tags))


class ChampionChangedError(Exception):
    """Another version has become champion since the one that was compared with."""


def attest(version: ModelVersion, *, proven: bool) -> None:
    """Write down whether a fresh process was seen to answer as the training did.

    A version that is seen not to, and serves already, makes way for who served before it.

    Raises:
        CatdogError: the registry refused.
    """
    status = "approved" if proven else "rejected"
    with _refusals_are_told(version):
        MlflowClient().set_model_version_tag(version.name, version.version, STATUS_TAG, status)
        serving = versions.champion(version.name)
    if not proven and _number(serving) == _number(version):
        promote_to(predecessor(version.name), f"version {version.version} was rejected")


def settle(
    version: ModelVersion,
    contest: Callable[[ModelVersion | None], Contest],
    decide: Callable[[Contest], Decision],
) -> tuple[Decision, Contest]:
    """Compare a version with the champion, and put it where it belongs.

    When another version has become champion meanwhile, as a run beside this one may bring it
    about, the comparison is made again, with that one. A version that serves already, as it may
    after a run was cut, is not compared with itself.

    Args:
        version: the challenger.
        contest: compares it with the champion.
        decide: where it belongs after that.

    Raises:
        CatdogError: the registry refused, or champions change faster than they are compared.
    """
    for _ in range(TRIES):
        champion = versions.champion(version.name)
        if champion is not None and _number(champion) == _number(version):
            crown(version, "")  # what was cut may be its aliases
            return Decision(PRODUCTION, "it is in Production already"), Contest(None)
        if was_rolled_back(versions.numbered(version.name, _number(version)) or version):
            told = "it was rolled back: promote.py --to names it again"
            return Decision(ARCHIVED, told), Contest(champion)
        held = contest(champion)
        decision = decide(held)
        with contextlib.suppress(ChampionChangedError):
            place(version, decision, held)
            return decision, held
    raise CatdogError(
        f"the version in Production of {version.name} changed {TRIES} times while version "
        f"{version.version} was compared: run {versions.promoting(version.name)} --version "
        f"{version.version} when the other runs are done."
    )


def place(version: ModelVersion, decision: Decision, contest: Contest) -> None:
    """Give a version the stage that was decided on, and write down why, on the version itself.

    Raises:
        ChampionChangedError: who serves is not who it was compared with.
        CatdogError: the registry refused.
    """
    if decision.stage == PRODUCTION:
        crown(version, decision.told, over=contest.champion)
    elif _number(versions.champion(version.name)) != _number(contest.champion):
        raise ChampionChangedError
    with _refusals_are_told(version):
        if decision.stage != PRODUCTION:
            _set_stage(MlflowClient(), version, decision.stage)
        _write_down(version, decision, contest)


def crown(version: ModelVersion, why: str, *, over: ModelVersion | str | None = ANYONE) -> None:
    """Make a version the champion; what a cut left undone of that is done.

    The stage comes last: until it is moved, the one before serves, and the history says that
    a move has begun. Of who serves now, what the history alone knows is written down first.

    Args:
        version: who shall serve.
        why: for the history.
        over: who has to serve now; without, whoever does.

    Raises:
        ChampionChangedError: another one serves.
        CatdogError: the registry refused.
    """
    client = MlflowClient()
    with _refusals_are_told(version):
        standing = versions.champion(version.name)
        if not isinstance(over, str) and _number(standing) != _number(over):
            raise ChampionChangedError
        if standing is not None:
            _make_up_for_reasons(standing)
        event = _begun(version, standing, why)
        before = versions.numbered(version.name, event.before)
        if before is not None:
            client.set_registered_model_alias(version.name, PREVIOUS, before.version)
            gone = Decision(ARCHIVED, f"version {version.version} took its place")
            _describe(before, gone)
        for alias in versions.ALIASES:
            client.set_registered_model_alias(version.name, alias, version.version)
        _set_stage(client, version, PRODUCTION)


def unfinished(name: str) -> Event | None:
    """The last promotion, where it is not of the version that serves.

    A move was cut then, or somebody has moved the stage by hand.
    """
    events = history(name)
    serving = versions.champion(name)
    if not events or events[-1].version == _number(serving):
        return None
    return events[-1]


def _begun(version: ModelVersion, standing: ModelVersion | None, why: str) -> Event:
    """The event of a promotion: the one that was written when it began, if it was cut."""
    events = history(version.name)
    now, before = datetime.now(UTC), _number(standing)
    begun = bool(events) and events[-1].version == _number(version)
    if begun and before in (events[-1].before, _number(version)):
        return events[-1]
    if events:  # clocks differ, and go backwards; the order of events does not
        now = max(now, datetime.fromisoformat(events[-1].when) + timedelta(microseconds=1))
    if before == _number(version):  # its stage was moved by hand
        before = events[-1].version if events else ""
    event = Event(
        when=now.isoformat(timespec="microseconds"),
        who=_who(),
        version=_number(version),
        before=before,
        run_id=version.run_id or "",
        why=why or "its stage was moved by hand",
    )
    key = EVENT + event.when.translate(str.maketrans("", "", "-:.")).replace("+0000", "Z")
    MlflowClient().set_registered_model_tag(version.name, key, json.dumps(asdict(event)))
    return event


def promote_to(version: ModelVersion, why: str) -> Decision:
    """Make a version the champion because somebody says so, unless it may never be.

    Raises:
        CatdogError: it is rejected, tells other things apart, was trained on drawings where
            photos are served, or says nothing of itself where another serves; or the registry
            refused.
    """
    refused = may_not(version)
    if refused:
        raise CatdogError(
            f"version {version.version} of {version.name} can't serve: {refused.reason}. "
            "Name another version with --to."
        )
    decision = Decision(PRODUCTION, why)
    with _refusals_are_told(version):
        if ROLLED_BACK in version.tags:  # cut after the move, it would serve and be marked
            MlflowClient().delete_model_version_tag(version.name, version.version, ROLLED_BACK)
    crown(version, why)
    with _refusals_are_told(version):
        _write_down(version, decision, Contest(None))
    return decision


def roll_back(name: str, why: str) -> tuple[ModelVersion, Decision]:
    """Let the version serve that did so before; the one that serves now is marked.

    A marked version serves again only when it is named.

    Raises:
        CatdogError: none served before, or the registry refused.
    """
    leaving, back = versions.champion(name), predecessor(name)
    refused = may_not(back)
    if leaving is not None and refused is None:
        with _refusals_are_told(leaving):
            # Before the move: cut after it, the same command would lead back to this one.
            now = datetime.now(UTC).isoformat(timespec="seconds")
            MlflowClient().set_model_version_tag(name, leaving.version, ROLLED_BACK, now)
    decision = promote_to(back, why)
    if leaving is not None:
        with _refusals_are_told(leaving):
            _describe(leaving, Decision(ARCHIVED, f"rolled back to version {back.version}: {why}"))
    return back, decision


def was_rolled_back(version: ModelVersion) -> bool:
    """Whether somebody went back from this version to the one before."""
    return ROLLED_BACK in version.tags


def may_not(version: ModelVersion) -> Decision | None:
    """Why a version may never take the place of the one that serves now; None when it may."""
    serving = versions.champion(version.name)
    candidate = Candidate.from_tags(version.tags)
    if candidate is None and not versions.is_rejected(version) and serving is None:
        return None  # of somebody who has registered it by hand, and names it
    return refusal(candidate, as_champion(serving))


def predecessor(name: str) -> ModelVersion:
    """The version that served before the one that serves now.

    Raises:
        CatdogError: there is none.
    """
    now = _number(versions.champion(name))
    known = {_number(version): version for version in versions.versions(name)}
    marked = versions.aliased(name, PREVIOUS)
    numbers = [_number(marked), *(event.before for event in reversed(history(name)))]
    for number in numbers:
        if number in known and number != now and not was_rolled_back(known[number]):
            return known[number]
    raise CatdogError(
        f"no version of {name} served before the one in Production: name one with --to VERSION, "
        f"of those that {versions.promoting(name)} --history lists."
    )


def history(name: str) -> list[Event]:
    """All promotions of a registered model, the oldest first."""
    try:
        tags = MlflowClient().get_registered_model(name).tags
    except MlflowException:
        return []
    # A tag of somebody else's may begin like ours, but not go on with a time.
    told = (json.loads(value) for key, value in tags.items() if EVENT_KEY.fullmatch(key))
    return sorted((Event(**event) for event in told), key=lambda event: event.when)


def _set_stage(client: MlflowClient, version: ModelVersion, stage: str) -> None:
    """Put a version into a stage, the former ones of Production into Archived.

    The one place where a stage is set: where MLflow has none any more, aliases carry on.
    """
    if not hasattr(client, "transition_model_version_stage"):
        return
    if versions.stage_of(client.get_model_version(version.name, version.version)) == stage:
        return
    with versions.stages_are_fine():
        client.transition_model_version_stage(
            version.name, version.version, stage, archive_existing_versions=stage == PRODUCTION
        )


def _write_down(version: ModelVersion, decision: Decision, contest: Contest) -> None:
    """Tags and description of a version that say what was decided, on what evidence."""
    client = MlflowClient()
    tags = {"stage_reason": decision.told}
    if contest.champion is not None:
        tags["compared_with"] = _number(contest.champion)
    if isinstance(contest.evidence, Paired):
        tags |= {name: repr(value) for name, value in contest.evidence.to_dict(PAIRED).items()}
    known = client.get_model_version(version.name, version.version).tags
    ours = {key for key in known if key.startswith(PAIRED) or key == "compared_with"}
    for key in ours - tags.keys():
        client.delete_model_version_tag(version.name, version.version, key)
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
    _describe(version, decision)


def _make_up_for_reasons(serving: ModelVersion) -> None:
    """Write down why a version serves, as the history tells it, where a cut left that out.

    The description is what `_write_down` writes last. The figures of a comparison are in the
    history in words only; those that were written before the cut stay.
    """
    events, reason = history(serving.name), serving.tags.get("stage_reason", "")
    written = (serving.description or "").endswith(_standing(Decision(PRODUCTION, reason)))
    if written or not events or events[-1].version != _number(serving):
        return
    decision = Decision(PRODUCTION, events[-1].why)
    if reason == decision.told:
        _describe(serving, decision)
    else:
        _write_down(serving, decision, Contest(None))


def _describe(version: ModelVersion, decision: Decision) -> None:
    """Say in a version's description what was decided, as its last section."""
    client = MlflowClient()
    known = client.get_model_version(version.name, version.version).description or ""
    told = f"{known.split(SECTION)[0].rstrip()}\n\n{_standing(decision)}"
    client.update_model_version(version.name, version.version, description=told)


def _standing(decision: Decision) -> str:
    """The section of a description that says where a version stands, and why."""
    return f"{SECTION}\n\n{decision.stage}: {decision.told}.\n"


@contextlib.contextmanager
def _refusals_are_told(version: ModelVersion) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        uri = f"models:/{version.name}/{version.version}"
        raise versions.refused(version.name, uri, error) from error


def _number(version: ModelVersion | None) -> str:
    return str(version.version) if version is not None else ""


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"  # a container whose user has no name
