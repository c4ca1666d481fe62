from __future__ import annotations

import re
from dataclasses import MISSING, fields
from typing import get_type_hints

from catdog.config import MainConfig, ScoreConfig, SweepConfig
from catdog.sweep.sweep import SEARCHED
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}


def test_the_table_of_parameters_is_the_one_of_the_code():
    hints = get_type_hints(MainConfig, include_extras=True)
    rows = []
    for field in fields(MainConfig):
        (told,) = [extra.help for extra in hints[field.name].__metadata__ if hasattr(extra, "help")]
        rows.append(f"| `{field.name}` | `{field.default}` | {told} |")
    table = "\n".join(rows)
    assert table in PAGES["training.md"], f"paste this into docs/training.md:\n{table}"


def test_the_table_of_scoring_is_the_one_of_the_code():
    hints = get_type_hints(ScoreConfig, include_extras=True)
    for field in fields(ScoreConfig):
        (told,) = [extra.help for extra in hints[field.name].__metadata__ if hasattr(extra, "help")]
        default = "" if field.default is MISSING else f"`{field.default}`"
        assert f"| `{field.name}` | {default} | {told} |" in PAGES["serving.md"]


def test_the_table_of_the_sweep_is_the_one_of_the_code():
    hints = get_type_hints(SweepConfig, include_extras=True)
    of_main = {(field.name, field.default) for field in fields(MainConfig)}
    for field in fields(SweepConfig):
        if (field.name, field.default) in of_main:
            continue
        (told,) = [extra.help for extra in hints[field.name].__metadata__ if hasattr(extra, "help")]
        assert f"| `{field.name}` | `{field.default}` | {told} |" in PAGES["training.md"]


def test_what_the_sweep_does_not_take_of_the_main_job_is_told():
    missing = {field.name for field in fields(MainConfig)} - {
        field.name for field in fields(SweepConfig)
    }
    assert missing == {*SEARCHED, "processes"}
    told = PAGES["training.md"].partition("## A sweep")[2].partition("\n## ")[0]
    assert all(f"`{name}`" in told for name in missing)
    assert "without the four that are searched and without `processes`" in told


def test_every_page_picture_and_script_that_is_named_is_there():
    named = [(ROOT, name) for name in re.findall(r"\]\(((?:docs|benchmarks)/[^)#]+)\)", README)]
    for text in PAGES.values():
        named += [(ROOT / "docs", name) for name in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text)]
    for text in (README, *PAGES.values()):
        named += [(ROOT, name) for name in re.findall(r"scripts/\w+\.py", text)]
    assert len(named) > 40
    assert [str(name) for folder, name in named if not (folder / name).is_file()] == []


def test_every_page_is_one_click_from_the_readme():
    linked = set(re.findall(r"\]\(docs/([^)#]+\.md)\)", README))
    assert linked == set(PAGES)


def test_every_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"make (\w[\w-]*)", README))
    assert {"train", "ui", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
