from __future__ import annotations

import re
from dataclasses import MISSING, fields
from typing import get_type_hints

from catdog.config import MainConfig, ScoreConfig, SweepConfig
from catdog.sweep.sweep import SEARCHED
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_the_table_of_parameters_is_the_one_of_the_code():
    hints = get_type_hints(MainConfig, include_extras=True)
    rows = []
    for field in fields(MainConfig):
        (told,) = [extra.help for extra in hints[field.name].__metadata__ if hasattr(extra, "help")]
        rows.append(f"| `{field.name}` | `{field.default}` | {told} |")
    table = "\n".join(rows)
    assert table in README, f"paste this into the README:\n{table}"


def test_the_table_of_scoring_is_the_one_of_the_code():
    hints = get_type_hints(ScoreConfig, include_extras=True)
    for field in fields(ScoreConfig):
        (told,) = [extra.help for extra in hints[field.name].__metadata__ if hasattr(extra, "help")]
        default = "" if field.default is MISSING else f"`{field.default}`"
        assert f"| `{field.name}` | {default} | {told} |" in README


def test_the_table_of_the_sweep_is_the_one_of_the_code():
    hints = get_type_hints(SweepConfig, include_extras=True)
    of_main = {(field.name, field.default) for field in fields(MainConfig)}
    for field in fields(SweepConfig):
        if (field.name, field.default) in of_main:
            continue
        (told,) = [extra.help for extra in hints[field.name].__metadata__ if hasattr(extra, "help")]
        assert f"| `{field.name}` | `{field.default}` | {told} |" in README


def test_what_the_sweep_does_not_take_of_the_main_job_is_told():
    missing = {field.name for field in fields(MainConfig)} - {
        field.name for field in fields(SweepConfig)
    }
    assert missing == {*SEARCHED, "processes"}
    told = README.partition("### A sweep")[2].partition("###")[0]
    assert all(f"`{name}`" in told for name in missing)
    assert "without the four that are searched and without `processes`" in told


def test_every_picture_and_script_of_the_readme_is_there():
    named = re.findall(r"\]\((docs/[^)]+)\)", README) + re.findall(r"scripts/\w+\.py", README)
    assert len(named) > 4
    for name in named:
        assert (ROOT / name).is_file(), name


def test_every_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"make (\w+)", README))
    assert {"train", "ui", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
