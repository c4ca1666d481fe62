"""A search of the head's parameters by Optuna, then a training with the best, in one MLflow run.

Trials learn from one part of the training pictures and are judged on the rest of them, from
features that are computed once. The study is in a database: the same command goes on with it, and
several machines share it by its URL.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from itertools import compress
from pathlib import Path

import numpy as np
import optuna
import torch
from filelock import FileLock
from optuna import Study, Trial, TrialPruned
from optuna.exceptions import ExperimentalWarning, OptunaError, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from torch import nn

from catdog import AUTO, CatdogError, Classes
from catdog.config import MainConfig, OptimConfig, SweepConfig
from catdog.data.dataset import PreparedDataset
from catdog.data.split import split_off
from catdog.files import sha256_of
from catdog.models.device import pick_device
from catdog.models.engine import pick_engine
from catdog.models.network import build_network
from catdog.parallel import ONE_CORE_EACH, cores
from catdog.pipeline import train_and_register
from catdog.reporting.plots import study_figures
from catdog.tracking.log import Run
from catdog.tracking.run import status_of
from catdog.tracking.store import without_login
from catdog.tracking.trials import log_trial
from catdog.training.early_stopping import EarlyStopping
from catdog.training.feature_cache import open_cache
from catdog.training.features import FeatureBatches, extract, labels_of
from catdog.training.loop import Epoch, Loaders, fit, seed_everything
from catdog.training.optim import make_optimizer, make_train_step

logger = logging.getLogger(__name__)

FORMAT = 2
"""Raised when a trial of the same parameters would give another value, or others are searched."""

SEARCHED = "learning_rate", "weight_decay", "batch_size", "views"
DECISIVE = "seed", "epochs", "patience", "min_delta", "backbone", "search_fraction", "most_views"
"""Parameters that decide what a trial gives, besides the pictures and the weights."""

INDIFFERENT = (
    *("dataset", "classes", "val_fraction", "exclude", "weights"),  # the study's name knows them
    *("data_dir", "device", "resume", "storage"),
)
"""Parameters that make no other last training within a study."""

PAUSE_S = 2.0
HEARTBEAT_S = 30  # after twice as long a silence a trial is tried again
LOCK = "sweep.lock"  # for what processes that share a data folder do one after the other
FINISHED = TrialState.COMPLETE, TrialState.PRUNED

TrainHead = Callable[[OptimConfig, Callable[[Epoch], None]], float]
"""Trains a head with these parameters, and tells of each epoch; the loss of the best one."""


def sweep_and_register(config: SweepConfig, prepared: PreparedDataset, run: Run) -> None:
    """Run the trials that are missing in the study, train with the best, and register.

    All of it in one MLflow run. The same parameters and pictures mean the same study,
    wherever its processes are; the first of them that is done trains with the best.

    Raises:
        CatdogError: a parameter does not fit, the storage can't be opened or fails, the data has
            gone, or the registry refuses.
    """
    name, storage = study_name(config, prepared), _url(config)
    study = open_study(storage, name, Path(config.data_dir))
    run.set_tags({"study": name})
    own = {key: getattr(config, key) for key in ("trials", "most_views", "search_fraction")}
    run.log_params(own | {"storage": without_login(config.storage)})
    with storage_errors(storage):
        found = len(study.get_trials(deepcopy=False, states=FINISHED))
    logger.info(f"Study {name}: {found:,} of {config.trials:,} trials are there")
    if found < config.trials:
        train_head = prepare_trials(config, prepared)
        with storage_errors(storage):
            run_trials(config, study, run, train_head)
    train_with_best(config, prepared, study, run)


def study_name(config: SweepConfig, prepared: PreparedDataset) -> str:
    """The name that a sweep of these pictures and parameters has on every machine."""
    weights = Path(config.weights)
    decisive = {key: getattr(config, key) for key in DECISIVE} | {
        "format": FORMAT,
        "pictures": prepared.digest,
        "weights": sha256_of(weights) if weights.is_file() else config.weights,
    }
    return re.sub(r"[^\w.-]", "_", prepared.folder.name) + f"-{_digest(decisive)}"


def open_study(storage: str, name: str, data_dir: Path) -> Study:
    """The study of this name in the database at the URL `storage`, made where there is none.

    Raises:
        CatdogError: the storage can't be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a line for each trial is ours
    # How long SQLite waits while another process writes; others have no such setting.
    options = {"timeout": 60} if storage.startswith("sqlite") else {}
    # Processes that make the tables at once get into each other's way.
    with storage_errors(storage), FileLock(data_dir / LOCK):
        # Optuna would make its tables in whatever database, and refuse it then.
        if inspect(create_engine(storage, connect_args=options)).has_table("experiments"):
            raise StorageInternalError("it is MLflow's own")
        try:
            database = _database(storage, options)
        except DBAPIError:  # another machine may have made the tables at the same moment
            time.sleep(PAUSE_S)
            database = _database(storage, options)
        return optuna.create_study(
            storage=database,
            study_name=name,
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_warmup_steps=3),
        )


def _database(url: str, options: Mapping[str, int]) -> RDBStorage:
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return RDBStorage(
            url,
            engine_kwargs={"connect_args": options},
            heartbeat_interval=HEARTBEAT_S,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=3),
        )


@contextlib.contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Raise what a study's database gives as one sentence.

    Raises:
        CatdogError: it can't be opened, does not answer, or is damaged.
    """
    try:
        yield
    except Exception as error:
        # When the storage fails, Optuna may end with an error of its own making above it.
        cause: BaseException | None = error
        while cause and not isinstance(cause, OptunaError | SQLAlchemyError | ImportError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        # What the driver says, without the statement and its values.
        reason = str(getattr(cause.__cause__ or cause, "orig", None) or cause).partition("\n")[0]
        raise CatdogError(
            f"storage={without_login(storage)} does not answer ({reason}): give the URL of a "
            "database of the study's own that can be reached, as sqlite:///sweeps.db or "
            "postgresql://USER@HOST/NAME. The same command goes on with the trials that are there."
        ) from error


def prepare_trials(config: SweepConfig, prepared: PreparedDataset) -> TrainHead:
    """Compute the features of all views of the training pictures, or find them in the cache.

    Returns:
        What trains a head of its own, as training would, on the part to learn from, judged on the
        search part. It raises a CatdogError when its first epoch diverges.

    Raises:
        CatdogError: a picture is gone, or the cache can't be written.
    """
    prepared.check()
    device, _ = pick_device(config.device)
    seed_everything(config.seed)  # as training does: a trial begins with the same weights
    network = build_network(config.backbone, weights=config.weights).to(device)
    pictures = prepared.pictures("training")
    search = split_off(pictures, config.search_fraction, config.seed)
    learn, judged = list(compress(pictures, ~search)), list(compress(pictures, search))
    engine = pick_engine(network, cores=cores())
    # What a process computes, the others beside it then find.
    with FileLock(Path(config.data_dir) / LOCK):
        cache = open_cache(Path(config.data_dir), network)
        features, computed = extract(pictures, network, engine, cache, views=config.most_views)
    logger.info(
        f"Features: {computed:,} computed by {engine.name}, the others found; trials learn from "
        f"{len(learn):,} pictures and are judged on {len(judged):,}"
    )
    val_batches = [(torch.from_numpy(features[0, search]), labels_of(judged))]
    learned = features[:, ~search]

    def train_head(head: OptimConfig, on_epoch: Callable[[Epoch], None]) -> float:
        model = copy.deepcopy(network.head).cpu()
        train_batches = FeatureBatches(
            learned[: head.views], learn, batch_size=head.batch_size, seed=config.seed
        )
        optimizer = make_optimizer((model, head.learning_rate), weight_decay=head.weight_decay)
        stopping = EarlyStopping(config.patience, config.min_delta)
        with ONE_CORE_EACH:
            fit(
                model,
                Loaders(train_batches, val_batches),
                make_train_step(model, optimizer, nn.BCEWithLogitsLoss()),
                epochs=range(1, config.epochs + 1),
                stopping=stopping,
                on_epoch=on_epoch,
            )
        return stopping.best_loss

    return train_head


def run_trials(config: SweepConfig, study: Study, run: Run, train_head: TrainHead) -> None:
    """Run the trials that are missing, or fewer where others do; the first has the defaults."""
    begun = *FINISHED, TrialState.RUNNING, TrialState.WAITING
    if not study.get_trials(deepcopy=False, states=begun):
        study.enqueue_trial({name: getattr(OptimConfig(), name) for name in SEARCHED})

    def objective(trial: Trial) -> float:
        # With one seed for all, two processes would draw the same, and one that goes on again.
        (seed,) = np.random.SeedSequence([config.seed, trial.number]).generate_state(1)
        study.sampler = optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)
        return run_trial(trial, run, config.most_views, train_head)

    missing = config.trials - len(study.get_trials(deepcopy=False, states=FINISHED))
    enough = optuna.study.MaxTrialsCallback(config.trials, states=FINISHED)
    study.optimize(objective, n_trials=missing, callbacks=[enough])


def run_trial(trial: Trial, run: Run, most_views: int, train_head: TrainHead) -> float:
    """The log-loss on the search part in the best epoch; logged as a run below `run`.

    Raises:
        TrialPruned: others are better by now, or it diverged.
        OptunaError: the study's storage fails.
    """
    views = {1 << power for power in range(most_views.bit_length())} | {most_views}
    head = OptimConfig(
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-4, 1.0, log=True),
        batch_size=trial.suggest_categorical("batch_size", (16, 32, 64, 128, 256)),
        views=trial.suggest_categorical("views", sorted(views)),
    )
    epochs: list[Epoch] = []

    def on_epoch(epoch: Epoch) -> None:
        epochs.append(epoch)
        trial.report(epoch.val.loss, epoch.number)
        if trial.should_prune():
            raise TrialPruned

    loss = None
    with contextlib.suppress(TrialPruned, CatdogError):  # the second says that it diverged
        loss = train_head(head, on_epoch)
    state = "PRUNED" if loss is None else "COMPLETE"
    log_trial(run, trial, epochs, state)
    best = min((epoch.val.loss for epoch in epochs), default=None)
    logger.info(
        f"trial {trial.number:>3}: {state.lower()} after {len(epochs)} epochs, "
        f"{'diverged' if best is None else f'search loss {best:.4f}'} ({_in_words(trial.params)})"
    )
    if loss is None:
        raise TrialPruned
    return loss


def train_with_best(config: SweepConfig, prepared: PreparedDataset, study: Study, run: Run) -> None:
    """Train with the best parameters and register, unless another run of this sweep does.

    Raises:
        CatdogError: no trial came to its end, the storage fails, or the registry refuses.
    """
    key = last_training(config, prepared.classes)
    with storage_errors(_url(config)), FileLock(Path(config.data_dir) / LOCK):
        trains = study.user_attrs.get(key, run.id)
        if trains != run.id and status_of(trains) not in ("RUNNING", "FINISHED"):
            trains = run.id  # the other was cut
        study.set_user_attr(key, trains)
    if trains == run.id:
        train_and_register(_best(config, study, run), prepared, run)
    else:
        run.set_tags({"mlflow.parentRunId": trains})
        logger.info(
            f"MLflow run {trains} of this sweep trains with the best, or has done so. If it was "
            "killed: type the same command where it ran, or delete that run and type it here."
        )


def last_training(config: SweepConfig, classes: Classes) -> str:
    """The name, within a study, of the training with the best that these parameters mean."""
    decisive = {k: v for k, v in asdict(config).items() if k not in INDIFFERENT}
    return f"trained-{_digest(decisive | {'classes': classes})}"


def _best(config: SweepConfig, study: Study, run: Run) -> MainConfig:
    """The parameters of the best trial, beside what the sweep leaves as it is; logs the study."""
    with storage_errors(_url(config)):
        trials = study.get_trials(deepcopy=False, states=FINISHED)
        ended = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        if not ended:
            raise CatdogError("no trial came to its end: give more of them, with trials=...")
        best = study.best_trial
        figures = study_figures(study) if len(ended) > 1 else {}
    logger.info(f"Best of {len(trials):,} trials: {best.number}, {_in_words(best.params)}")
    counts = {"trials_finished": len(trials), "trials_pruned": len(trials) - len(ended)}
    run.log_metrics(counts | {"best_search_loss": best.value or 0.0})
    run.set_tags({"best_trial": str(best.number)})
    for name, figure in figures.items():
        run.log_figure(figure, f"{name}.png")
    fixed = {f.name: getattr(config, f.name) for f in fields(MainConfig) if hasattr(config, f.name)}
    return MainConfig(**fixed, **best.params)


def _in_words(params: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in params.items())


def _url(config: SweepConfig) -> str:
    home = Path(config.data_dir).resolve()
    return f"sqlite:///{home / 'sweeps.db'}" if config.storage == AUTO else config.storage


def _digest(decisive: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]
