"""Runs that are not finished: what each was asked to do, on which pictures, and which goes on.

Each has a folder `<data_dir>/runs/<run id>/` with `run.json`, its checkpoints, and once it is
trained the best model in `model/`. A run that has finished leaves nothing there.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Self, TypeVar

from filelock import FileLock, Timeout

from catdog import CatdogError
from catdog.config import SweepConfig, TrainConfig
from catdog.data.dataset import PreparedDataset
from catdog.files import delete_folder, mend, write_json
from catdog.tracking import run, store
from catdog.tracking.log import Run, SilentRun
from catdog.tracking.notes import NOTE, RUNNING, Note, notes_in, read_note
from catdog.training import distributed

logger = logging.getLogger(__name__)

NONE, AUTO = "none", "auto"
INTERRUPTED = "interrupted"
LOCK = "lock"
LEFT_OPEN = ("resume", "data_dir", "processes")
"""Parameters that say which run, and not what it does."""

PATIENCE_S = 6
"""Worker processes outlive a killed run, and so its lock, for some seconds."""

Config = TypeVar("Config", bound=TrainConfig | SweepConfig)


class RunFolder:
    """The folder of a run that this process works on; no other process does meanwhile."""

    def __init__(self, path: Path, note: Note, lock: FileLock) -> None:
        """Take a lock that is held."""
        self.path, self.note, self._lock = path, note, lock

    @classmethod
    def begin(cls, config: TrainConfig | SweepConfig, run_id: str, entry_point: str) -> Self:
        """Make the folder of a new run.

        Raises:
            CatdogError: it can't be written.
        """
        home = Path(config.data_dir) / "runs"
        number = 1 + max((note.number for note in notes_in(home)), default=0)
        parameters = {k: v for k, v in asdict(config).items() if k not in LEFT_OPEN}
        path = home / run_id
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path / LOCK)
            lock.acquire()
            note = Note(
                *(run_id, number, entry_point, parameters),
                launch=distributed.launch_id(),
                processes=distributed.world_size(),
            )
            folder = cls(path, note, lock)
            folder.mark(RUNNING)
        except OSError as error:
            raise _unwritable(path, error) from error
        return folder

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """The folder of a run that was cut; None when a process still works on it."""
        lock = FileLock(path / LOCK)
        try:
            lock.acquire(timeout=PATIENCE_S)
        except Timeout:
            return None
        except OSError as error:
            raise _unwritable(path, error) from error
        mend(path / run.MODEL)
        return cls(path, read_note(path), lock)

    @property
    def model(self) -> Path:
        """Where the best model is saved."""
        return self.path / run.MODEL

    def mark(self, state: str, *, data_digest: str | None = None) -> None:
        """Write how far the run is, and of which data once that is known."""
        digest = self.note.data_digest if data_digest is None else data_digest
        self.note = replace(self.note, state=state, data_digest=digest)
        try:
            write_json(self.path / NOTE, asdict(self.note))
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def command(self) -> str:
        """The line that lets the run go on."""
        return run.resume_command(self.path, self.note.entry_point, self.note.processes)

    def _is_worth_keeping(self) -> bool:
        """Whether there is what a run could go on with, or what did not reach the server."""
        if distributed.may_restart():
            return True
        unsent = self.path / run.UNSENT
        return (
            self.model.is_dir()
            or any(self.path.glob("checkpoint-*"))
            or (unsent.is_dir() and any(unsent.iterdir()))
        )

    def release(self) -> None:
        """Let other processes work on the run."""
        self._lock.release()

    def remove(self) -> None:
        """Delete the folder; what can't be deleted, clear_cache deletes another time."""
        self.release()
        shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def cut_is_told(self, active: Run) -> Iterator[None]:
        """When what is done inside is cut, note it and say how to go on; then release."""
        try:
            yield
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            if interrupted or self._is_worth_keeping():
                with contextlib.suppress(CatdogError):  # a full disk; `running` serves as well
                    self.mark(INTERRUPTED)
                logger.info(
                    f"{'Go on' if interrupted else 'Once that is mended, go on'}: {self.command()}"
                )
                with contextlib.suppress(CatdogError):  # what cut the run is what is told
                    active.set_tags({"resume_with": self.command()})
            else:
                self.remove()
            raise
        finally:
            self.release()


@contextlib.contextmanager
def open_run(
    config: TrainConfig | SweepConfig,
    entry_point: str,
    name: str,
    prepare: Callable[[], PreparedDataset],
) -> Iterator[tuple[PreparedDataset, Run]]:
    """A new run, or the one that `config.resume` lets go on, with its pictures.

    Pictures of a run that goes on are looked at first: what does not fit leaves it as it is. Of
    several processes that train together, the main one alone has the run.

    Raises:
        CatdogError: no such run can go on, or the pictures can't be had.
    """
    if not distributed.is_main():
        yield prepare(), SilentRun("", Path())
        return
    home = Path(config.data_dir) / "runs"
    restarted = config.resume == NONE and _is_restarted(home)
    prepared = prepare() if restarted or config.resume != NONE else None
    found = _found(config, entry_point, prepared) if prepared else None
    resumed = found.note.run_id if found else None
    with run.start_run(
        name,
        Path(config.data_dir),
        resume=resumed,
        entry_point=entry_point,
        processes=distributed.world_size(),
    ) as active:
        folder = found or RunFolder.begin(config, active.id, entry_point)
        with folder.cut_is_told(active):
            prepared = prepared or prepare()
            folder.mark(RUNNING, data_digest=prepared.digest)
            yield prepared, active
    folder.remove()  # all of it has reached the server


def as_begun(config: Config, entry_point: str) -> Config:
    """The config with the parameters of the run that `resume` names; else as it is.

    Raises:
        CatdogError: the run can't go on, or another value of a parameter was typed.
    """
    if config.resume in (NONE, AUTO):
        return config
    home = Path(config.data_dir) / "runs"
    note = _named(home, config.resume)
    if note.entry_point != entry_point:
        raise CatdogError(
            f"resume={note.run_id} was begun by the entry point {note.entry_point}: go on with "
            f"{run.resume_command(home / note.run_id, note.entry_point, note.processes)}"
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
    for path in (data_dir / "runs").glob("*/"):
        if path.stat().st_mtime > oldest:
            continue
        lock = FileLock(path / LOCK)
        with contextlib.suppress(Timeout):  # a run that goes on
            lock.acquire(timeout=0)
            lock.release()
            freed += delete_folder(path)
    return freed


def _is_restarted(home: Path) -> bool:
    """Whether torchrun has started this process in place of one that had begun a run.

    How often torchrun says it has restarted does not tell: where another machine fails, or one
    joins in its place, all processes are started anew and none counts it.
    """
    ours = distributed.launch_id()
    return bool(ours) and any(note.launch == ours for note in notes_in(home))


def _found(
    config: TrainConfig | SweepConfig, entry_point: str, prepared: PreparedDataset
) -> RunFolder | None:
    home = Path(config.data_dir) / "runs"
    if config.resume in (NONE, AUTO):
        return _latest(home, config, entry_point, prepared)
    note = _named(home, config.resume)
    if note.data_digest not in ("", prepared.digest):
        raise CatdogError(
            f"resume={note.run_id}: the pictures in {prepared.folder} are no longer those that "
            "the run began with: begin a new run without resume."
        )
    folder = RunFolder.take(home / note.run_id)
    if folder is None:
        raise CatdogError(
            f"resume={note.run_id}: another process still works on that run; end it first."
        )
    logger.info(f"Resuming run {note.run_id}")
    return folder


def _latest(
    home: Path, config: TrainConfig | SweepConfig, entry_point: str, prepared: PreparedDataset
) -> RunFolder | None:
    """The latest run that may go on; None, which is said, when there is none."""
    wanted = {k: v for k, v in asdict(config).items() if k not in LEFT_OPEN}
    for note in sorted(notes_in(home), key=lambda note: note.number, reverse=True):
        alike = note.parameters == wanted and note.entry_point == entry_point
        if config.resume == NONE and note.launch != distributed.launch_id():
            continue
        if not alike or note.data_digest not in ("", prepared.digest):
            continue
        if run.status_of(note.run_id) in (None, "FINISHED"):
            continue  # of another store, deleted, or cut when all was done
        folder = RunFolder.take(home / note.run_id)
        if folder is not None:
            logger.info(
                f"Resuming run {note.run_id}, the latest unfinished one of these parameters"
            )
            return folder
    logger.info("No unfinished run has these parameters and pictures: a new one begins")
    return None


def _named(home: Path, run_id: str) -> Note:
    if re.fullmatch(r"[\w-]+", run_id) and (home / run_id / NOTE).is_file():
        note = read_note(home / run_id)
        if run.status_of(run_id) is None:
            raise CatdogError(
                f"resume={run_id}: the MLflow store {store.shown_uri()} has no such run, or it "
                "was deleted: restore it, or set MLFLOW_TRACKING_URI to the store that it is in."
            )
        return note
    if run.status_of(run_id) == "FINISHED":
        raise CatdogError(f"resume={run_id}: that run has finished, there is nothing left to do.")
    others = ", ".join(note.run_id for note in notes_in(home)) or "none"
    raise CatdogError(
        f"resume={run_id}: {home} holds no such run (unfinished ones there: {others}). "
        "Name one of them, give the run's --data_dir, or begin a new run without resume."
    )


def _unwritable(path: Path, error: OSError) -> CatdogError:
    return CatdogError(
        f"{path} can't be written ({error.strerror or error}): choose another folder "
        "with --data_dir."
    )
