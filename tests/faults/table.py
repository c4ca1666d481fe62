"""docs/faults.md: a row for each `@pytest.mark.fault` of this folder, and what came of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

HERE = Path(__file__).parent
DOC = ROOT / "docs" / "faults.md"
HEADING = """\
# What can go wrong, and what catdog does then

Each row is a test that makes the fault happen for real: a server that hangs up, a disk that is
full, a process that is killed. It checks the sentence, the exit status (2 for what you can put
right, 1 where some photos could not be read) and that your own files are as they were.

Made by `python -m pytest tests/faults --write-fault-table`.
"""


@dataclass(frozen=True)
class Row:
    """What goes wrong, and what catdog says or does."""

    fault: str
    answer: str


def marked(path: Path) -> list[Row]:
    """The faults that the tests of a file are marked with, in its order."""
    calls = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if _is_mark(node)
    ]
    calls.sort(key=lambda call: call.lineno)
    return [Row(*map(ast.literal_eval, call.args)) for call in calls]


def families() -> Iterator[tuple[str, list[Row]]]:
    """Each file's docstring, without its full stop, and its rows."""
    for path in sorted(HERE.glob("test_*.py")):
        if rows := marked(path):
            told = ast.get_docstring(ast.parse(path.read_text())) or path.name
            yield told.splitlines()[0].rstrip("."), rows


def written(outcomes: Mapping[Row, list[str]]) -> str:
    """The text of docs/faults.md; what was not run now keeps the result that stands there."""
    before = _results() if DOC.exists() else {}
    parts = [HEADING]
    for title, rows in families():
        results = {
            row: _result(outcomes.get(row, [])) or before.get(row, "not run") for row in rows
        }
        lines = [f"| {row.fault} | {row.answer} | {results[row]} |" for row in rows]
        parts.append(
            "\n".join(
                [f"## {title}", "", "| fault | answer | result |", "|---|---|---|", *lines, ""]
            )
        )
    return "\n".join(parts)


def listed() -> list[Row]:
    """The rows of docs/faults.md as it stands."""
    return list(_results())


def _results() -> dict[Row, str]:
    lines = [line for line in DOC.read_text().splitlines() if line.startswith("| ")]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return {Row(*row[:2]): row[2] for row in cells if row[0] != "fault"}


def _is_mark(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault"


def _result(outcomes: list[str]) -> str:
    counts = {outcome: outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)
