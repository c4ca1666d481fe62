"""What is written of a run that is not finished, and the command that lets it go on."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catdog import CatdogError

FORMAT = 1
"""Of the note and of the checkpoints beside it."""

NOTE = "run.json"
"""Of the file, in the run's folder."""

RUNNING = "running"


@dataclass(frozen=True)
class Note:
    """What is written of a run. Runs are numbered as they begin: a clock may go backwards.

    `data_digest` is of the prepared manifest, empty until it is known. `launch` is that of the
    processes that torchrun restarts (see `catdog.training.distributed.launch_id`), and
    `processes` how many they are.
    """

    run_id: str
    number: int
    entry_point: str
    parameters: dict[str, Any]
    data_digest: str = ""
    state: str = RUNNING
    format: int = FORMAT
    launch: str = ""
    processes: int = 1


def read_note(folder: Path) -> Note:
    """The note in the folder of a run.

    Raises:
        CatdogError: there is none, or it is of another format.
    """
    try:
        told = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        stored = told["format"]
        note = Note(**told) if stored == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CatdogError(
            f"{folder / NOTE} can't be read ({error}): begin a new run without resume."
        ) from error
    if note is None:
        raise CatdogError(
            f"{folder / NOTE} is of format {stored}, this catdog reads {FORMAT}: use the catdog "
            "version that began the run, or begin a new one without resume."
        )
    return note


def notes_in(home: Path) -> list[Note]:
    """The notes of all runs in `home` that this catdog can read."""
    found = []
    for path in home.glob(f"*/{NOTE}"):
        with contextlib.suppress(CatdogError):
            found.append(read_note(path.parent))
    return found
