"""The modules can be read in the order in which `catdog/__init__.py` names them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import catdog

FOLDER = Path(catdog.__file__).parent
ORDER = catdog.__doc__.partition("above it:\n")[2].rstrip(".\n").replace("\n", " ").split(", ")


def _imported(tree: ast.AST) -> Iterator[str]:
    """The modules of catdog that are imported anywhere in it, within functions also."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                package, _, module = name.name.partition(".")
                if package == "catdog" and module:
                    yield module
        elif isinstance(node, ast.ImportFrom) and node.module == "catdog":
            yield from (name.name for name in node.names if name.name in ORDER)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("catdog."):
            yield node.module.removeprefix("catdog.")


def test_every_module_has_its_place():
    there = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert sorted(ORDER) == sorted(there)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_from_those_above_it(module):
    tree = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))
    above = ORDER[: ORDER.index(module)]
    assert [name for name in _imported(tree) if name not in above] == []
