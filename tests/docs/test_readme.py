from __future__ import annotations

import ast
import inspect
import itertools
import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_type_hints

import pytest

from catdog import config
from catdog.config import MainConfig, ScoreConfig, SweepConfig
from catdog.sweep import SEARCHED
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _help(config_class: type) -> dict[str, str]:
    """What `--help` says of each parameter: the text below its field, else that in its type."""
    classes = {
        node.name: node.body
        for node in ast.parse(inspect.getsource(config)).body
        if isinstance(node, ast.ClassDef)
    }
    said = {
        name: extra.help
        for name, hint in get_type_hints(config_class, include_extras=True).items()
        for extra in getattr(hint, "__metadata__", ())
        if hasattr(extra, "help")
    }
    for parent in reversed(config_class.__mro__[:-1]):
        for field, text in itertools.pairwise(classes[parent.__name__]):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                said[field.target.id] = " ".join(text.value.value.split())
    return said


def _rows(config_class: type) -> list[str]:
    said = _help(config_class)
    return [
        f"| `{field.name}` | {'' if field.default is MISSING else f'`{field.default}`'} "
        f"| {said[field.name]} |"
        for field in fields(config_class)
    ]


@pytest.mark.parametrize(
    ("page", "config_class"),
    [("training", MainConfig), ("serving", ScoreConfig), ("training", SweepConfig)],
)
def test_the_table_of_parameters_is_the_one_of_the_code(page, config_class):
    table = _rows(config_class)
    if config_class is SweepConfig:  # its table has what the one above it lacks
        table = [row for row in table if row not in _rows(MainConfig)]
    text = (ROOT / "docs" / f"{page}.md").read_text()
    assert "\n".join(table) in text, "paste this into the page:\n" + "\n".join(table)


def test_what_the_sweep_does_not_take_of_the_main_job_is_told():
    missing = {field.name for field in fields(MainConfig)} - {
        field.name for field in fields(SweepConfig)
    }
    assert missing == {*SEARCHED, "processes"}
    training = (ROOT / "docs" / "training.md").read_text()
    section = training.partition("## A sweep")[2].partition("\n## ")[0]
    assert all(f"`{name}`" in section for name in missing)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_picture_and_script_of_a_page_is_there(page):
    text = page.read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        address, _, heading = link.partition("#")
        if ":" in address:
            continue
        target = page.parent / address if address else page
        assert target.is_file(), link
        assert not heading or heading in _anchors(target), link
    for name in re.findall(r"scripts/\w+\.py", text):
        assert (ROOT / name).is_file(), name


def test_the_readme_shows_pictures_and_leads_to_every_page():
    assert len(re.findall(r"!\[[^]]+\]\(docs/", README)) > 2
    for page in PAGES[1:]:
        assert f"](docs/{page.name})" in README, page.name


def test_the_readme_has_the_three_commands_and_stays_short():
    for command in (
        "mlflow run . -P epochs=10",
        "mlflow ui",
        "python scripts/predict.py --model-uri models:/catdog/Production",
    ):
        assert f"\n{command}\n" in README
    assert len(README.splitlines()) <= 170


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_of_a_page_exists(page):
    makefile = (ROOT / "Makefile").read_text()
    text = page.read_text()
    # In code alone: prose may make things, too.
    targets = set(re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE))
    if page.name == "README.md":
        assert {"train", "ui", "test", "test-all"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_rooms_stand_in_the_order_of_the_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [each["layers"] for each in contracts["contracts"] if each["type"] == "layers"]
    expected = [
        room.strip().removeprefix("catdog.") for layer in layers[::-1] for room in layer.split("|")
    ]
    table = ARCHITECTURE.partition("## The rooms")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
    rooms = [room for row in rows for room in re.findall(r"`(\w+)(?:/|\.py)`", row)]
    assert rooms == expected


def test_every_file_of_the_architecture_is_there_and_every_file_of_a_room_is_listed():
    for name in re.findall(r"catdog/[\w/]+\.py", ARCHITECTURE):
        assert (ROOT / name).is_file(), name
    rows = re.findall(r"^\| `(\w+)/` \| [^|]+ \| ([^|]*) \|$", ARCHITECTURE, re.MULTILINE)
    assert len(rows) > 9
    for room, listed in rows:
        files = {path.stem for path in (ROOT / "catdog" / room).glob("*.py")} - {"__init__"}
        assert set(re.findall(r"\w+", listed)) == files, room


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
