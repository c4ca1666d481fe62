"""A study that several processes share, and that goes on where it was cut: Optuna's, in a storage.

The storage numbers the trials, so that each is run by one process. A trial that its process did
not finish is told by a heartbeat where the storage is a database; in a file, by its MLflow run.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import optuna
from filelock import FileLock
from optuna import Trial, TrialPruned
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import MedianPruner
from optuna.samplers import PartialFixedSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization.matplotlib import plot_parallel_coordinate, plot_param_importances
from sqlalchemy import URL, create_engine, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError

from catdog import CatdogError, tracking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RUN", "FrozenTrial", "Study", "Trial", "TrialPruned", "open_storage", "open_study"]

Say = Callable[[str], None]

AUTO = "auto"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
RUN = "run"
"""The trial's attribute that names the MLflow run of the process that runs it."""

HEARTBEAT_S, DEAD_AFTER_S = 10, 60
PAUSE_S = 0.5
"""Between two looks at what other processes do."""

PATIENCE_S = 60.0
"""After which it is said again what is waited for."""

STARTUP_TRIALS = 10
"""Drawn at random before the sampler learns from them, and until it is known what is slow."""

WARMUP_EPOCHS = 2
"""In which no trial is pruned."""


class _EnoughError(Exception):
    """Others have begun as many trials as there shall be."""


@dataclass(frozen=True)
class Study:
    """A study with the process's part in it.

    `run_id` is of the MLflow run of this process, and `seed` decides with a trial's place in
    the study what is drawn for it, in whatever process.
    """

    study: optuna.Study
    storage: BaseStorage
    run_id: str
    seed: int

    @property
    def name(self) -> str:
        """The study's name in its storage."""
        return self.study.study_name

    def finished(self) -> list[FrozenTrial]:
        """Trials that reached their end or were pruned, in the order of their numbers."""
        return self._trials(*FINISHED)

    def best_of(self, trials: Sequence[FrozenTrial]) -> FrozenTrial:
        """The trial of the lowest value, of those that were not pruned.

        Raises:
            CatdogError: all were.
        """
        ended = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        if not ended:
            raise CatdogError(
                f"no trial of study {self.name} came to its end: give more of them, with trials=..."
            )
        return min(ended, key=lambda trial: (trial.value, trial.number))

    def failed(self) -> list[int]:
        """The numbers of trials that were cut, or that came too late."""
        return [trial.number for trial in self._trials(TrialState.FAIL)]

    def work(
        self,
        objective: Callable[[Trial], float],
        count: int,
        say: Say,
        *,
        first: dict[str, float] | None = None,
    ) -> None:
        """Run trials, with all processes that do, until `count` are finished.

        Args:
            objective: gives a trial's value, the lower the better.
            count: how many there shall be, those of earlier times among them.
            say: told what is waited for.
            first: what the first of all trials tries.
        """
        self._fail([trial for trial in self._running() if trial.user_attrs.get(RUN) == self.run_id])
        waiting_since = time.monotonic()
        while len(self.finished()) < count:
            with _quietly():
                optuna.storages.fail_stale_trials(self.study)
            if len(self._counted()) < count:
                self._run_one(objective, count, first or {})
                waiting_since = time.monotonic()
                continue
            if time.monotonic() - waiting_since > PATIENCE_S:
                waiting_since = time.monotonic()
                self._fail([trial for trial in self._running() if _has_ended(trial)])
                self._tell_waiting(say)
            time.sleep(PAUSE_S)

    def figures(self) -> dict[str, Figure]:
        """How values came with parameters, and which parameters mattered, by name.

        None where fewer than two trials came to their end.
        """
        ended = self._trials(TrialState.COMPLETE)
        if len(ended) < 2:
            return {}
        from matplotlib import pyplot

        pyplot.switch_backend("agg")  # no window
        names, told = sorted(ended[0].params), "search log-loss"
        with _quietly():
            warnings.simplefilter("ignore", UserWarning)  # that all have the same batch size, say
            drawn = {
                "parallel_coordinates": plot_parallel_coordinate(
                    self.study, names, target_name=told
                ),
                "parameter_importances": plot_param_importances(self.study, target_name=told),
            }
        figures = {name: cast("Figure", axes.figure) for name, axes in drawn.items()}
        for figure in figures.values():
            figure.set_size_inches(9, 5)
            figure.tight_layout()
            pyplot.close(figure)
        return figures

    def _run_one(
        self,
        objective: Callable[[Trial], float],
        count: int,
        first: dict[str, float],
    ) -> None:
        failed: list[Exception] = []

        def wanted(trial: Trial) -> float:
            trial.set_user_attr(RUN, self.run_id)
            place = sum(one.number < trial.number for one in self._counted())
            if place >= count:
                raise _EnoughError
            self.study.sampler = self._sampler(place, first if place == 0 else {})
            try:
                return objective(trial)
            except Exception as error:
                failed.append(error)
                raise

        with _quietly():
            try:
                self.study.optimize(wanted, n_trials=1, catch=(_EnoughError,))
            except ValueError:
                # Others took this process for dead, after a laptop's sleep say, and the trial
                # for failed: it is one of the missing ones now.
                if not all(isinstance(error, UpdateFinishedTrialError) for error in failed):
                    raise

    def _sampler(self, place: int, fixed: dict[str, float]) -> optuna.samplers.BaseSampler:
        """One whose draws only seed, place and the trials before decide.

        With one seed for all, two processes would draw the same, and one that goes on again.
        """
        digest = hashlib.sha256(f"{self.seed}/{place}".encode()).digest()
        learning = TPESampler(
            n_startup_trials=STARTUP_TRIALS,
            seed=int.from_bytes(digest[:4], "big"),
            constant_liar=True,  # others' running trials count, too
        )
        return PartialFixedSampler(fixed, learning) if fixed else learning

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _counted(self) -> list[FrozenTrial]:
        # In one look: a trial that ends between two would be in neither.
        return self._trials(*FINISHED, TrialState.RUNNING)

    def _running(self) -> list[FrozenTrial]:
        return self._trials(TrialState.RUNNING)

    def _fail(self, trials: list[FrozenTrial]) -> None:
        for trial in trials:
            with contextlib.suppress(ValueError):  # another process was faster
                self.study.tell(trial.number, state=TrialState.FAIL)

    def _tell_waiting(self, say: Say) -> None:
        for trial in self._running():
            say(
                f"Waiting for trial {trial.number} of study {self.name}, which MLflow run "
                f"{trial.user_attrs.get(RUN, '(unknown)')} began at {trial.datetime_start:%H:%M}"
            )


def open_study(
    name: str, storage: BaseStorage, *, run_id: str, seed: int, prunes: bool = True
) -> Study:
    """The study of this name in the storage, made where there is none.

    Args:
        name: the same name means the same study.
        storage: where it is kept, see `open_storage`.
        run_id: of this process's MLflow run.
        seed: of what is drawn.
        prunes: whether trials that report worse values than half of the others are cut short.
    """
    pruner = MedianPruner(n_startup_trials=STARTUP_TRIALS // 2, n_warmup_steps=WARMUP_EPOCHS + 1)
    with _quietly():
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            load_if_exists=True,
            direction="minimize",
            pruner=pruner if prunes else optuna.pruners.NopPruner(),
        )
    return Study(study, storage, run_id, seed)


def open_storage(where: str, data_dir: Path) -> BaseStorage:
    """The storage that the parameter `storage` means; a file of its own in `data_dir` for auto.

    Raises:
        CatdogError: it can't be opened, or its URL holds a password.
    """
    if where == AUTO:
        where = f"sqlite:///{(data_dir / 'sweeps.db').resolve()}"
    try:
        return _database(where) if "://" in where else _file(Path(where))
    except (SQLAlchemyError, ImportError, OSError, RuntimeError) as error:
        reason = (str(getattr(error, "orig", None) or error).splitlines() or ["unknown"])[0]
        raise CatdogError(
            f"storage={where} can't be opened ({reason}): give a file on a disk that all machines "
            "share, or a database's URL, as sqlite:///sweeps.db or postgresql://USER@HOST/NAME."
        ) from error


def _file(path: Path) -> JournalStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def _database(url: str) -> RDBStorage:
    parsed = make_url(url)
    if parsed.password:
        raise CatdogError(
            f"storage={parsed.render_as_string()} holds a password, which MLflow shows with the "
            "run's parameters: leave it out, and let the database's client find it (PGPASSWORD or "
            "~/.pgpass for PostgreSQL, read_default_file in the URL for MySQL)."
        )
    alone: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    options: dict[str, Any] = {}
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        # Two processes that make the tables at once get into each other's way.
        alone = FileLock(f"{parsed.database}.lock")
        options = {"connect_args": {"timeout": 60}}
    with alone, _quietly():
        _check_not_of_mlflow(parsed)
        return RDBStorage(
            url,
            engine_kwargs=options,
            heartbeat_interval=HEARTBEAT_S,
            grace_period=DEAD_AFTER_S,
        )


def _check_not_of_mlflow(url: URL) -> None:
    """Refuse MLflow's own database: both count their tables' versions in a table of one name."""
    engine = create_engine(url)
    try:
        taken = inspect(engine).has_table("experiments")
    finally:
        engine.dispose()
    if taken:
        raise CatdogError(
            f"storage={url.render_as_string()} is a database of MLflow's: give the study one of "
            "its own."
        )


def _has_ended(trial: FrozenTrial) -> bool:
    """Whether MLflow knows that the run of the process that began the trial has ended."""
    return tracking.status_of(trial.user_attrs.get(RUN, "")) in ("FINISHED", "FAILED", "KILLED")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without Optuna's lines for each trial, and its warnings that a part of it may change."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
