"""Who serves, who served before, and why: aliases, history, and the stage Production.

A promotion moves the aliases, adds a line to the history, says on the versions why, and moves the
stage last. Until then the version before serves, and the same promotion, made again, does all
that is left; afterwards nothing is.
"""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.config import Promote
from catdog.registry import versions
from catdog.registry.compare import NOT_COMPARED, Comparison, as_champion, judge
from catdog.registry.promotion import (
    ARCHIVED,
    PRODUCTION,
    STATUS_TAG,
    Candidate,
    Decision,
    refusal,
)
from catdog.registry.versions import ModelVersion, number_of

PREVIOUS = "previous"
"""The alias of who served before."""
ROLLED_BACK = "rolled_back"
"""The tag of a version from which somebody went back, with the time."""
KEY, KEY_TIME = re.compile(r"promotion_(\d{8}T\d+Z)"), "%Y%m%dT%H%M%S%fZ"
"""The tags of the registered model that are its history."""
LINE = re.compile(r"version (\d+)(?: after (\d+))?, by (.*?)(?:, of run (\w+))?: (.*)")
SECTION = "## Where it stands, and why"
"""The last section of a version's description."""
FORMER_TAGS = re.compile(r"vs_champion_\w+|compared_with|stage_reason")
"""What that section replaces, on versions that earlier commits have promoted."""
TRIES = 3


@dataclass(frozen=True)
class Event:
    """A promotion: when (UTC), by whom, which version after which, from which run, and why."""

    when: datetime
    who: str
    version: str
    before: str
    run_id: str
    why: str

    def to_tag(self) -> tuple[str, str]:
        """The key, and the value for people to read, of the tag that `from_tag` reads."""
        after = f" after {self.before}" if self.before else ""
        run = f", of run {self.run_id}" if self.run_id else ""
        line = f"version {self.version}{after}, by {self.who}{run}: {' '.join(self.why.split())}"
        return f"promotion_{self.when.strftime(KEY_TIME)}", line

    @classmethod
    def from_tag(cls, key: str, value: str) -> Event | None:
        """The promotion that a tag of the registered model tells of; None where it tells none."""
        found = KEY.fullmatch(key)
        if found is None:
            return None
        when = datetime.strptime(found[1], KEY_TIME).replace(tzinfo=UTC)
        if line := LINE.fullmatch(value):
            version, before, run_id = line[1], line[2] or "", line[4] or ""
            return cls(when, line[3], version, before, run_id, line[5])
        try:  # as earlier commits have written it
            return cls(**json.loads(value) | {"when": when})
        except (TypeError, ValueError):
            return None


def history(name: str) -> list[Event]:
    """All promotions of a registered model, the oldest first."""
    try:
        tags = MlflowClient().get_registered_model(name).tags
    except MlflowException:
        return []
    told = [Event.from_tag(key, value) for key, value in tags.items()]
    return sorted(filter(None, told), key=lambda event: event.when)


class ChampionChangedError(CatdogError):
    """Another version has become champion meanwhile."""

    def __init__(self, version: ModelVersion) -> None:
        super().__init__(
            f"another version of {version.name} became champion meanwhile, and serves: run "
            f"{versions.promoting(version.name)} --version {version.version} when the other "
            "promotions are done."
        )


def approve(version: ModelVersion, *, proven: bool) -> None:
    """Write down whether a fresh process was seen to answer as the training did.

    A version that is seen not to, and serves already, makes way for who served before it.

    Raises:
        MlflowException: the registry refused.
    """
    status = "approved" if proven else "rejected"
    MlflowClient().set_model_version_tag(version.name, version.version, STATUS_TAG, status)
    serving = versions.champion(version.name)
    if not proven and number_of(serving) == number_of(version):
        promote_to(predecessor(version.name), f"version {version.version} was rejected")


def promote_by_evidence(
    version: ModelVersion,
    candidate: Candidate | None,
    compare: Callable[[ModelVersion], Comparison],
    *,
    promote: Promote = "auto",
    margin: float,
) -> tuple[Decision, Comparison]:
    """Judge a version, and give it the stage that it earns.

    When another version has become champion meanwhile, as a run beside this one may bring it
    about, it is judged again, with that one. A version that serves already, as it may after a run
    was cut, is not compared with itself.

    Raises:
        CatdogError: the champion changed again and again.
        MlflowException: the registry refused.
    """
    for _ in range(TRIES):
        champion = versions.champion(version.name)
        known = versions.numbered(version.name, number_of(version))
        if number_of(champion) == number_of(version):
            return Decision(PRODUCTION, "it is in Production already"), NOT_COMPARED
        if known is not None and was_rolled_back(known):
            told = "it was rolled back: promote.py --to names it again"
            return Decision(ARCHIVED, told), Comparison(champion)
        decision, comparison = judge(candidate, champion, compare, promote=promote, margin=margin)
        try:
            place(version, decision, comparison)
        except ChampionChangedError:
            continue
        return decision, comparison
    raise ChampionChangedError(version)


def place(version: ModelVersion, decision: Decision, comparison: Comparison) -> None:
    """Give a version the stage that was decided on, and say why in its description.

    Raises:
        ChampionChangedError: who serves is not who it was compared with.
        MlflowException: the registry refused.
    """
    if number_of(versions.champion(version.name)) != number_of(comparison.champion):
        raise ChampionChangedError(version)
    if decision.stage == PRODUCTION:
        _make_champion(version, decision, comparison)
    else:
        _set_stage(version, decision.stage)
        _explain(version, decision, comparison)


def promote_to(version: ModelVersion, why: str) -> Decision:
    """Make a version the champion because somebody says so, unless it may never be.

    Raises:
        CatdogError: it is rejected, tells other things apart, was trained on drawings where
            photos are served, or says nothing of itself where another serves.
    """
    if forbidden := may_not_serve(version):
        raise CatdogError(
            f"version {version.version} of {version.name} can't serve: {forbidden.reason}. "
            "Name another version with --to."
        )
    decision = Decision(PRODUCTION, why)
    if was_rolled_back(version):  # cut after the move, it would serve and be marked
        MlflowClient().delete_model_version_tag(version.name, version.version, ROLLED_BACK)
    _make_champion(version, decision, NOT_COMPARED)
    return decision


def roll_back(name: str, why: str) -> tuple[ModelVersion, Decision]:
    """Let the version serve that did so before; the one that serves now is marked.

    A marked version serves again only when it is named.

    Raises:
        CatdogError: none served before.
    """
    leaving, back = versions.champion(name), predecessor(name)
    if leaving is not None and may_not_serve(back) is None:
        # Before the move: cut after it, the same command would lead back to this one.
        now = datetime.now(UTC).isoformat(timespec="seconds")
        MlflowClient().set_model_version_tag(name, leaving.version, ROLLED_BACK, now)
    return back, promote_to(back, why)


def predecessor(name: str) -> ModelVersion:
    """The version that served before the one that serves now.

    Raises:
        CatdogError: there is none.
    """
    now = number_of(versions.champion(name))
    known = {number_of(version): version for version in versions.versions(name)}
    marked = number_of(versions.aliased(name, PREVIOUS))
    for number in (marked, *(event.before for event in reversed(history(name)))):
        if number in known and number != now and not was_rolled_back(known[number]):
            return known[number]
    raise CatdogError(
        f"no version of {name} served before the one in Production: name one with --to VERSION, "
        f"of those that {versions.promoting(name)} --history lists."
    )


def unfinished(name: str) -> ModelVersion | None:
    """The version with the alias of the champion, where it is not the one that serves.

    A promotion was cut then, or somebody has moved alias or stage by hand.
    """
    named = versions.aliased(name, versions.ALIASES[-1])
    return named if number_of(named) != number_of(versions.champion(name)) else None


def was_rolled_back(version: ModelVersion) -> bool:
    """Whether somebody went back from this version to the one before."""
    return ROLLED_BACK in version.tags


def may_not_serve(version: ModelVersion) -> Decision | None:
    """Why a version may never take the place of the one that serves now; None when it may."""
    serving = versions.champion(version.name)
    candidate = Candidate.from_tags(version.tags)
    if candidate is None and not versions.is_rejected(version) and serving is None:
        return None  # of somebody who has registered it by hand, and names it
    return refusal(candidate, as_champion(serving))


def _make_champion(version: ModelVersion, decision: Decision, comparison: Comparison) -> None:
    """Move aliases, history and stage to a version, in this order; see above."""
    events, name = history(version.name), version.name
    before = number_of(versions.champion(name))
    if before == number_of(version):  # a stage that was moved by hand tells of nobody before
        before = events[-1].version if events else ""
    former = versions.numbered(name, before) if before != number_of(version) else None
    _move_aliases(version, former)
    _add_to_history(version, before, decision, events)
    _explain(version, decision, comparison)
    leaving = versions.champion(name)  # by now perhaps another one
    leaving = former if number_of(leaving) == number_of(version) else leaving
    if leaving is not None:
        left = f"version {version.version} took its place"
        if was_rolled_back(leaving):
            left = f"rolled back to version {version.version}: {decision.reason}"
        _explain(leaving, Decision(ARCHIVED, left))
    _set_stage(version, PRODUCTION)
    _check_aliases(version)


def _check_aliases(version: ModelVersion) -> None:
    """See that stage and aliases agree, as two promotions at once may each have set some.

    The newest version whose stage stands serves.

    Raises:
        ChampionChangedError: that is another one.
    """
    serving = versions.champion(version.name)
    while number_of(serving) == number_of(version):
        if not _move_aliases(version, None):
            return
        serving = versions.champion(version.name)
    _set_stage(version, ARCHIVED)
    told = f"version {number_of(serving)} was promoted at the same time"
    _explain(version, Decision(ARCHIVED, told))
    if serving is not None:
        _move_aliases(serving, None)
    raise ChampionChangedError(version)


def _move_aliases(version: ModelVersion, former: ModelVersion | None) -> bool:
    """Give a version the aliases of who serves, and `former` its own; whether any was elsewhere."""
    client, wanted = MlflowClient(), dict.fromkeys(versions.ALIASES, number_of(version))
    if former is not None:
        wanted[PREVIOUS] = number_of(former)
    known = client.get_registered_model(version.name).aliases
    moved = {alias: one for alias, one in wanted.items() if str(known.get(alias)) != one}
    for alias, number in moved.items():
        client.set_registered_model_alias(version.name, alias, number)
    return bool(moved)


def _add_to_history(
    version: ModelVersion, before: str, decision: Decision, events: list[Event]
) -> None:
    """Add a promotion to the history, unless it is the last one, made again."""
    number, now = number_of(version), datetime.now(UTC)
    if events and events[-1].version == number and before in (events[-1].before, number):
        return
    if events:  # clocks differ, and go backwards; the order of promotions does not
        now = max(now, events[-1].when + timedelta(microseconds=1))
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = "unknown"  # a container whose user has no name
    event = Event(now, who, number, before, version.run_id or "", decision.told)
    MlflowClient().set_registered_model_tag(version.name, *event.to_tag())


def _set_stage(version: ModelVersion, stage: str) -> None:
    """Put a version into a stage, the former ones of Production into Archived.

    The one place where a stage is set: where MLflow has none any more, aliases carry on.
    """
    client = MlflowClient()
    if not hasattr(client, "transition_model_version_stage"):
        return
    with versions.stages_are_fine():
        client.transition_model_version_stage(
            version.name, version.version, stage, archive_existing_versions=stage == PRODUCTION
        )


def _explain(
    version: ModelVersion, decision: Decision, comparison: Comparison = NOT_COMPARED
) -> None:
    """Say in the last section of a version's description where it stands, and why."""
    client = MlflowClient()
    known = client.get_model_version(version.name, version.version)
    for key in filter(FORMER_TAGS.fullmatch, known.tags):
        client.delete_model_version_tag(version.name, version.version, key)
    card, table = (known.description or "").split(SECTION)[0].rstrip(), comparison.table()
    told = f"{decision.reason}.\n\n{table}" if table else f"{decision.told}.\n"
    text = f"{card}\n\n{SECTION}\n\n{decision.stage}: {told}"
    client.update_model_version(version.name, version.version, description=text)
