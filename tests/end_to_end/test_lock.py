from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = (ROOT / "requirements.lock").read_text().splitlines()
LOCKED = [Requirement(line) for line in LINES]


def _named(line: str) -> str:
    return re.sub(r"[-_.]+", "-", line).lower()


@pytest.mark.parametrize("group", ["", "app", "heic", "spark", "kubernetes", "dev"])
def test_the_lock_satisfies_what_is_declared(group):
    extras = DECLARED["optional-dependencies"]
    wanted = [Requirement(line) for line in (extras[group] if group else DECLARED["dependencies"])]
    for one in wanted:
        if one.name == "catdog":
            continue
        versions = [
            pin.version
            for locked in LOCKED
            if _named(locked.name) == _named(one.name)
            for pin in locked.specifier
        ]
        assert versions, f"{one.name} is not locked: make lock"
        assert all(one.specifier.contains(version) for version in versions), one.name


def test_every_line_of_the_lock_names_one_version_and_no_place():
    for line, locked in zip(LINES, LOCKED, strict=True):
        assert [pin.operator for pin in locked.specifier] == ["=="], line
        assert locked.url is None
