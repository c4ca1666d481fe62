"""Runs that are not finished: what each was asked to do, on which pictures, and which goes on.

Each has a folder `<data_dir>/runs/<run id>/` with `run.json`, its checkpoints, and once it is
trained the best model in `model/`. A run that has finished leaves nothing there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from catdog import CatdogError
from catdog.config import SweepConfig, TrainConfig
from catdog.data.dataset import PreparedDataset
from catdog.files import delete_folder, disk_errors, write_json
from catdog.tracking import store
from catdog.tracking.log import Run, SilentRun
from catdog.tracking.run import MODEL, RUNS, UNSENT, resume_command, start_run, status_of
from catdog.training import distributed

logger = logging.getLogger(__name__)

NONE, AUTO = "none", "auto"
NOTE, LOCK = "run.json", "lock"
LEFT_OPEN = ("resume", "data_dir", "processes")
"""Parameters that say which run, and not what it does."""

FORMAT = 4
"""Of the note and of what lies beside it."""

PATIENCE_S = 6
"""Worker processes outlive a killed run, and so its lock, for some seconds."""

Config = TypeVar("Config", bound=TrainConfig | SweepConfig)


@dataclass(frozen=True)
class Note:
    """What a run was asked to do. Runs are numbered as they begin: a clock may go backwards.

    `data_digest` is of the prepared manifest. `launch` is of the processes that torchrun restarts
    (see `catdog.training.distributed.launch_id`), and `processes` how many they are.
    """

    run_id: str
    number: int
    entry_point: str
    parameters: dict[str, Any]
    data_digest: str
    launch: str = ""
    processes: int = 1
    format: int = FORMAT


def find_runs_to_resume(
    new: Note, resume: str, notes: Sequence[Note], status_of: Callable[[str], str | None]
) -> list[Note]:
    """Unfinished runs that may go on in place of a new one, the best first.

    | `resume` | what goes on |
    |---|---|
    | none | a run of the same launch, where torchrun has restarted this process |
    | auto | the latest run of the same entry point, parameters and pictures |
    | a run's id | that run, begun with the same pictures |

    Args:
        new: what would be noted of a new run.
        resume: the parameter.
        notes: of all runs that are not finished, or look so.
        status_of: asks the store what became of a run; None where it has none of this id.

    Raises:
        CatdogError: the pictures are not those that the named run began with, or the store does
            not know it.
    """
    if resume not in (NONE, AUTO):
        found = [note for note in notes if note.run_id == resume]
        if any(note.data_digest != new.data_digest for note in found):
            raise CatdogError(
                f"resume={resume}: the pictures are no longer those that the run began with: "
                "begin a new run without resume."
            )
        if status_of(resume) is None:
            raise CatdogError(
                f"resume={resume}: the MLflow store {store.shown_uri()} has no such run, or it "
                "was deleted: restore it, or set MLFLOW_TRACKING_URI to the store that it is in."
            )
        return found
    if resume == NONE and not new.launch:
        return []

    def what(note: Note) -> tuple[object, ...]:
        launch = note.launch if resume == NONE else ""
        return note.entry_point, note.parameters, note.data_digest, launch

    alike = [note for note in notes if what(note) == what(new)]
    # The others are of another store, deleted, or were cut when all was done.
    unfinished = [note for note in alike if status_of(note.run_id) not in (None, "FINISHED")]
    return sorted(unfinished, key=lambda note: note.number, reverse=True)


@contextlib.contextmanager
def open_run(
    config: TrainConfig | SweepConfig, entry_point: str, name: str, dataset: PreparedDataset
) -> Iterator[Run]:
    """A new run, or the one that `config.resume` lets go on; both are noted in their folder.

    Of several processes that train together, the main one alone has the run.

    Raises:
        CatdogError: no such run can go on, or something has not arrived at the end.
    """
    if not distributed.is_main():
        yield SilentRun()
        return
    store.connect()
    home = Path(config.data_dir) / RUNS
    notes = _notes_in(home)
    new = Note(
        run_id="",
        number=1 + max((note.number for note in notes), default=0),
        entry_point=entry_point,
        parameters={k: v for k, v in asdict(config).items() if k not in LEFT_OPEN},
        data_digest=dataset.digest,
        launch=distributed.launch_id(),
        processes=distributed.world_size(),
    )
    with contextlib.ExitStack() as stack:
        found = find_runs_to_resume(new, config.resume, notes, status_of)
        resumed = next((note for note in found if _locked(home / note.run_id, stack)), None)
        _say_which(config.resume, resumed)
        run = stack.enter_context(
            start_run(
                name,
                Path(config.data_dir),
                resume=resumed.run_id if resumed else None,
                entry_point=entry_point,
                processes=new.processes,
            )
        )
        if resumed is None:
            _begin(run.folder, replace(new, run_id=run.id), stack)
        with _resumable(run):
            yield run
    shutil.rmtree(run.folder, ignore_errors=True)  # all of it has reached the server


def as_begun(config: Config, entry_point: str) -> Config:
    """The config with the parameters of the run that `resume` names; else as it is.

    Raises:
        CatdogError: the run can't go on, or another value of a parameter was typed.
    """
    if config.resume in (NONE, AUTO):
        return config
    home = Path(config.data_dir) / RUNS
    if not (home / config.resume / NOTE).is_file():
        unfinished = ", ".join(note.run_id for note in _notes_in(home)) or "none"
        raise CatdogError(
            f"resume={config.resume}: {home} holds no unfinished run of this id (those there: "
            f"{unfinished}). Name one of them, give the run's --data_dir, or begin a new run "
            "without resume."
        )
    note = _read_note(home / config.resume)
    if note.entry_point != entry_point:
        command = resume_command(home / note.run_id, note.entry_point, note.processes)
        raise CatdogError(
            f"resume={note.run_id} was begun by the entry point {note.entry_point}: go on with "
            f"{command}"
        )
    begun = {}
    for field in fields(config):
        if field.name in LEFT_OPEN:
            continue
        typed, stored = getattr(config, field.name), note.parameters.get(field.name, field.default)
        if typed not in (field.default, stored):
            raise CatdogError(
                f"{field.name}={typed} is not what run {note.run_id} was begun with "
                f"({field.name}={stored}): leave it out, or begin a new run without resume."
            )
        begun[field.name] = stored
    return replace(config, **begun)


def clear_runs(data_dir: Path, *, days: float) -> int:
    """Delete folders of runs that nobody went on with for `days` days; the bytes that freed."""
    freed = 0
    oldest = time.time() - days * 86_400
    for path in (data_dir / RUNS).glob("*/"):
        if path.stat().st_mtime > oldest:
            continue
        with contextlib.suppress(Timeout), FileLock(path / LOCK, timeout=0):  # else it goes on
            freed += delete_folder(path)
    return freed


def _read_note(folder: Path) -> Note:
    """The note in the folder of a run.

    Raises:
        CatdogError: it can't be read, or is of another format.
    """
    path = folder / NOTE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] == FORMAT:
            return Note(**content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CatdogError(
            f"{path} can't be read ({error}): begin a new run without resume."
        ) from error
    raise CatdogError(
        f"{path} is of format {content['format']}, this catdog reads {FORMAT}: use the catdog "
        "version that began the run, or begin a new one without resume."
    )


def _notes_in(home: Path) -> list[Note]:
    """The notes of all runs in `home` that this catdog can read."""
    found = []
    for path in home.glob(f"*/{NOTE}"):
        with contextlib.suppress(CatdogError):
            found.append(_read_note(path.parent))
    return found


def _begin(folder: Path, note: Note, stack: contextlib.ExitStack) -> None:
    """Note a new run in its folder, which no other process works on meanwhile."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _locked(folder, stack)
        write_json(folder / NOTE, asdict(note))


def _locked(folder: Path, stack: contextlib.ExitStack) -> bool:
    """Lock a run's folder until the stack is left; False when a process still works on it."""
    with contextlib.suppress(Timeout):
        stack.enter_context(FileLock(folder / LOCK).acquire(timeout=PATIENCE_S))
        return True
    return False


def _say_which(resume: str, resumed: Note | None) -> None:
    if resumed:
        latest = ", the latest unfinished one of these parameters" if resume == AUTO else ""
        logger.info(f"Resuming run {resumed.run_id}{latest}")
    elif resume == AUTO:
        logger.info("No unfinished run has these parameters and pictures: a new one begins")
    elif resume != NONE:
        raise CatdogError(
            f"resume={resume}: another process still works on that run; end it first."
        )


@contextlib.contextmanager
def _resumable(run: Run) -> Iterator[None]:
    """When what is done inside is cut, say how to go on; without anything to go on with, clear."""
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        there = any((run.folder / name).exists() for name in (MODEL, UNSENT))
        learned = there or any(run.folder.glob("checkpoint-*"))
        if interrupted or learned or distributed.may_restart():
            when = "Go on" if interrupted else "Once that is mended, go on"
            logger.info(f"{when}: {run.resume_command}")
            run.set_tags({"resume_with": run.resume_command})
        else:
            shutil.rmtree(run.folder, ignore_errors=True)
        raise
