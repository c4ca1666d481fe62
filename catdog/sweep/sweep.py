"""A sweep: trials until the study has enough, then training with the best, which is registered.

Several processes, on as many machines, may work on one study; one of them trains with the best.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from catdog.config import HeadConfig, MainConfig, SweepConfig
from catdog.data.dataset import PreparedDataset
from catdog.files import sha256_of
from catdog.pipeline import train_and_register
from catdog.sweep.storage import open_storage
from catdog.sweep.study import RUN, FrozenTrial, Study, Trial, open_study
from catdog.sweep.trials import (
    BATCH_SIZES,
    LEARNING_RATES,
    WEIGHT_DECAYS,
    in_words,
    prepare_ground,
    run_trial,
    told_of,
    view_counts,
)
from catdog.tracking import nested
from catdog.tracking.log import Run
from catdog.tracking.run import status_of

logger = logging.getLogger(__name__)


FORMAT = 1
"""Raised when a trial of the same parameters would give another value."""

SEARCHED = "learning_rate", "weight_decay", "batch_size", "views"

SHARED = "seed", "epochs", "patience", "min_delta", "search_fraction", "backbone"
"""Parameters that decide a trial's value, besides the weights and the space that is searched."""

LAST = (
    "unfreeze",
    "finetune_epochs",
    "finetune_rate",
    "keep_share",
    "registered_model_name",
    "promote",
    "promote_margin",
)
"""Parameters that decide what is trained and registered in the end, and no trial."""

VERSION = "version"
"""Attribute of the trial in which the best parameters are trained with: what was registered."""


def sweep_and_register(config: SweepConfig, prepared: PreparedDataset, run: Run) -> None:
    """Run the trials that are missing in the study, train with the best, and register.

    All of it in one MLflow run, where no other process is faster. The same parameters and
    pictures mean the same study, wherever its processes are.

    Raises:
        CatdogError: a parameter does not fit, the storage can't be opened or fails, the data has
            gone, or the registry refuses.
    """
    storage = open_storage(config.storage, Path(config.data_dir))
    name = study_name(config, prepared)
    study = open_study(name, storage, run_id=run.id, seed=config.seed)
    run.set_tags({nested.STUDY: name})
    own = ("trials", "most_views", "search_fraction", "storage")
    run.log_params({key: getattr(config, key) for key in own})
    found = len(study.finished())
    logger.info(f"Study {name}: {found:,} of {config.trials:,} trials are there")
    if found < config.trials:
        _run_trials(config, prepared, study)
    _finish(config, prepared, study, run)


def study_name(config: SweepConfig, prepared: PreparedDataset) -> str:
    """The name that a sweep of these pictures and parameters has on every machine."""
    weights = Path(config.weights)
    decisive = {
        "format": FORMAT,
        "pictures": prepared.digest,
        "space": [LEARNING_RATES, WEIGHT_DECAYS, BATCH_SIZES, view_counts(config.most_views)],
        "weights": sha256_of(weights) if weights.is_file() else config.weights,
    }
    decisive |= {key: getattr(config, key) for key in SHARED}
    data = re.sub(r"[^\w.-]", "_", prepared.folder.name)
    return f"{data}-{_digest(decisive)}"


def end_name(config: SweepConfig, prepared: PreparedDataset) -> str:
    """The name of the study whose one trial is training with the best, on every machine.

    Sweeps that share their trials and train with the best in other ways have ends of their own.
    """
    decisive = {key: getattr(config, key) for key in LAST} | {"classes": prepared.classes}
    name = study_name(config, prepared)
    return f"{name}-best-of-{config.trials}-{_digest(decisive)}"


def _run_trials(config: SweepConfig, prepared: PreparedDataset, study: Study) -> None:
    ground = prepare_ground(config, prepared)
    usual = HeadConfig()
    study.work(
        lambda trial: run_trial(config, ground, study.name, trial),
        config.trials,
        first={name: getattr(usual, name) for name in SEARCHED},
    )


def _finish(config: SweepConfig, prepared: PreparedDataset, study: Study, run: Run) -> None:
    """See that one process of all that work on the study trains with the best and registers.

    That is a trial, too, of a study of its own: so the storage says whose turn it is, also after
    the process whose turn it was has died.
    """
    name = end_name(config, prepared)
    end = open_study(name, study.storage, run_id=study.run_id, seed=config.seed, prunes=False)
    end.work(lambda trial: _train_with_best(config, prepared, study, trial, run), 1)
    done = end.finished()[0]
    registered_by = done.user_attrs[RUN]
    logger.info(
        f"Of this sweep MLflow run {registered_by} has registered {done.user_attrs[VERSION]}."
    )
    if registered_by != study.run_id and status_of(registered_by):
        run.set_tags({"mlflow.parentRunId": registered_by})


def _train_with_best(
    config: SweepConfig,
    prepared: PreparedDataset,
    study: Study,
    trial: Trial,
    run: Run,
) -> float:
    finished = study.finished()[: config.trials]
    best = study.best_of(finished)
    logger.info(f"Best of {len(finished):,} trials: {best.number}, {in_words(best.params)}")
    _log_study(study, finished, best, run)
    names = {field.name for field in fields(MainConfig)}
    fixed = {key: value for key, value in asdict(config).items() if key in names}
    chosen = MainConfig(**fixed, **best.params)
    version = train_and_register(chosen, prepared, run)
    assert version is not None  # a sweep trains in a process alone
    trial.set_user_attr(VERSION, f"{version.name} version {version.version}")
    return float(best.value or 0.0)


def _log_study(study: Study, finished: Sequence[FrozenTrial], best: FrozenTrial, run: Run) -> None:
    """Log what the trials gave in the run, and see that each has its run below it."""
    told = [
        told_of(study.name, trial, trial.state.name, trial.datetime_complete.timestamp())
        for trial in finished
        if trial.datetime_complete
    ]
    failed = study.failed()  # the storage is not what is asked for below
    with run.registering():
        nested.complete(study.name, told, failed=failed)
    pruned = sum(one.state == "PRUNED" for one in told)
    run.log_metrics(
        {
            "trials_finished": len(told),
            "trials_pruned": pruned,
            "best_search_loss": best.value or 0.0,
        }
    )
    run.set_tags({"best_trial": str(best.number)})
    for name, figure in study.figures().items():
        run.log_figure(figure, f"{name}.png")


def _digest(decisive: Mapping[str, object]) -> str:
    whole = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return whole[:12]
