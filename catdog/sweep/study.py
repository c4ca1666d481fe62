"""A study that several processes share, and that goes on where it was cut: Optuna's, in a storage.

The storage numbers the trials, so that each is run by one process. A trial that its process did
not finish is told by a heartbeat where the storage is a database; in a file, by its MLflow run.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import optuna
from optuna import Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import MedianPruner
from optuna.samplers import PartialFixedSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization.matplotlib import plot_parallel_coordinate, plot_param_importances

from catdog import CatdogError
from catdog.sweep.storage import Storage, quietly
from catdog.tracking.run import status_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

__all__ = ["RUN", "FrozenTrial", "Study", "Trial", "TrialPruned", "open_study"]


FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
RUN = "run"
"""The trial's attribute that names the MLflow run of the process that runs it."""

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
    storage: Storage
    run_id: str
    seed: int

    @property
    def name(self) -> str:
        """The study's name in its storage."""
        return self.study.study_name

    def finished(self) -> list[FrozenTrial]:
        """Trials that reached their end or were pruned, in the order of their numbers.

        Raises:
            CatdogError: the storage does not answer.
        """
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
        """The numbers of trials that were cut, or that came too late.

        Raises:
            CatdogError: the storage does not answer.
        """
        return [trial.number for trial in self._trials(TrialState.FAIL)]

    def work(
        self,
        objective: Callable[[Trial], float],
        count: int,
        *,
        first: dict[str, float] | None = None,
    ) -> None:
        """Run trials, with all processes that do, until `count` are finished.

        Args:
            objective: gives a trial's value, the lower the better.
            count: how many there shall be, those of earlier times among them.
            first: what the first of all trials tries.

        Raises:
            CatdogError: the storage does not answer, or MLflow's store does not when it is asked
                who has ended; and whatever `objective` raises.
        """
        with self.storage.answering():
            self._work(objective, count, first or {})

    def figures(self) -> dict[str, Figure]:
        """How values came with parameters, and which parameters mattered, by name.

        Empty where fewer than two trials came to their end.

        Raises:
            CatdogError: the storage does not answer.
        """
        ended = self._trials(TrialState.COMPLETE)
        if len(ended) < 2:
            return {}
        from matplotlib import pyplot

        pyplot.switch_backend("agg")  # no window
        names, told = sorted(ended[0].params), "search log-loss"
        with self.storage.answering(), quietly():
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

    def _work(
        self,
        objective: Callable[[Trial], float],
        count: int,
        first: dict[str, float],
    ) -> None:
        self._fail([trial for trial in self._running() if trial.user_attrs.get(RUN) == self.run_id])
        waiting_since = time.monotonic()
        while len(self.finished()) < count:
            with quietly():
                optuna.storages.fail_stale_trials(self.study)
            if len(self._counted()) < count:
                self._run_one(objective, count, first)
                waiting_since = time.monotonic()
                continue
            if time.monotonic() - waiting_since > PATIENCE_S:
                waiting_since = time.monotonic()
                self._fail([trial for trial in self._running() if _has_ended(trial)])
                self._tell_waiting()
            time.sleep(PAUSE_S)

    def _run_one(
        self,
        objective: Callable[[Trial], float],
        count: int,
        first: dict[str, float],
    ) -> None:
        failed: list[BaseException] = []

        def wanted(trial: Trial) -> float:
            trial.set_user_attr(RUN, self.run_id)
            place = sum(one.number < trial.number for one in self._counted())
            if place >= count:
                raise _EnoughError
            self.study.sampler = self._sampler(place, first if place == 0 else {})
            try:
                return objective(trial)
            except TrialPruned:
                raise
            except BaseException as error:
                failed.append(error)
                raise

        with quietly():
            try:
                self.study.optimize(wanted, n_trials=1, catch=(_EnoughError,))
            except Exception as error:
                # Others took this process for dead, after a laptop's sleep say, and the trial
                # for failed: it is one of the missing ones now.
                late = all(isinstance(one, UpdateFinishedTrialError) for one in failed)
                if isinstance(error, ValueError) and late:
                    return
                if not failed:
                    raise
        # What cut the trial is told, also where Optuna then failed to tell the storage.
        if failed:
            raise failed[0]

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
        with self.storage.answering():
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

    def _tell_waiting(self) -> None:
        for trial in self._running():
            logger.info(
                f"Waiting for trial {trial.number} of study {self.name}, which MLflow run "
                f"{trial.user_attrs.get(RUN, '(unknown)')} began at {trial.datetime_start:%H:%M}"
            )


def open_study(
    name: str, storage: Storage, *, run_id: str, seed: int, prunes: bool = True
) -> Study:
    """The study of this name in the storage, made where there is none.

    Args:
        name: the same name means the same study.
        storage: where it is kept, see `catdog.sweep.storage.open_storage`.
        run_id: of this process's MLflow run.
        seed: of what is drawn.
        prunes: whether trials that report worse values than half of the others are cut short.

    Raises:
        CatdogError: the storage does not answer.
    """
    pruner = MedianPruner(n_startup_trials=STARTUP_TRIALS // 2, n_warmup_steps=WARMUP_EPOCHS + 1)
    with storage.answering(), quietly():
        study = optuna.create_study(
            study_name=name,
            storage=storage.optuna,
            load_if_exists=True,
            direction="minimize",
            pruner=pruner if prunes else optuna.pruners.NopPruner(),
        )
    return Study(study, storage, run_id, seed)


def _has_ended(trial: FrozenTrial) -> bool:
    """Whether MLflow knows that the run of the process that began the trial has ended."""
    return status_of(trial.user_attrs.get(RUN, "")) in ("FINISHED", "FAILED", "KILLED")
