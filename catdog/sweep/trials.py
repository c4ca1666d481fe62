"""One trial: the head on a part of the training pictures, judged on the rest of them.

That rest is the search part. The validation pictures, on which the model is judged in the end,
are seen by no trial: else the best of many would be the one that suits them by luck.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from catdog import CatdogError
from catdog.config import HeadConfig, SweepConfig
from catdog.data.dataset import Picture, PreparedDataset
from catdog.models.device import pick_device
from catdog.models.engine import Features, pick_engine
from catdog.models.network import build_network
from catdog.parallel import ONE_CORE_EACH
from catdog.sweep.study import FrozenTrial, Trial, TrialPruned
from catdog.tracking import nested
from catdog.tracking.nested import Told
from catdog.training.early_stopping import EarlyStopping
from catdog.training.feature_cache import open_cache
from catdog.training.features import FeatureBatches, extract, labels_of
from catdog.training.loop import Epoch, Loaders, fit, seed_everything
from catdog.training.optim import make_optimizer, make_train_step

logger = logging.getLogger(__name__)


LEARNING_RATES = 1e-4, 1e-1
WEIGHT_DECAYS = 1e-4, 1.0
BATCH_SIZES = 16, 32, 64, 128, 256

EPOCHS, BEST_EPOCH, TROUBLE = "epochs", "best_epoch", "stopped_because"
"""Attributes of a trial: the metrics of each epoch, the best one's number, and why it diverged."""


@dataclass(frozen=True)
class Ground:
    """What all trials share: a head with its first weights, and the features of both parts.

    `learn` are features of the part to learn from, `(views, N, D)`, `search` those of the part
    that trials are judged on, `(1, M, D)`.
    """

    head: nn.Module
    learn: Features
    learn_pictures: Sequence[Picture]
    search: Features
    search_pictures: Sequence[Picture]


def prepare_ground(config: SweepConfig, prepared: PreparedDataset) -> Ground:
    """Compute the features of all views of the training pictures, or find them in the cache.

    Raises:
        CatdogError: a picture is gone, or the cache can't be written.
    """
    prepared.check()
    device, device_name = pick_device(config.device)
    logger.info(f"Device: {device_name}")
    seed_everything(config.seed)  # as training does: a trial begins with the same weights
    network = build_network(config.backbone, weights=config.weights).to(device)
    pictures = prepared.pictures("training")
    learn, search = split_off(pictures, config.search_fraction, config.seed)
    engine = pick_engine(network, cores=os.cpu_count() or 1)
    start = time.perf_counter()
    # What a process computes, the others beside it then find.
    with FileLock(Path(config.data_dir) / "sweep.lock"):
        cache = open_cache(Path(config.data_dir), network)
        features, computed = extract(pictures, network, engine, cache, views=config.most_views)
    logger.info(
        f"Features: {computed:,} computed by {engine.name} and "
        f"{config.most_views * len(pictures) - computed:,} found, in "
        f"{time.perf_counter() - start:.1f} s; trials learn from {len(learn):,} pictures and are "
        f"judged on {len(search):,}"
    )
    return Ground(
        network.head,
        features[:, learn],
        [pictures[place] for place in learn],
        features[:1, search],
        [pictures[place] for place in search],
    )


def split_off(
    pictures: Sequence[Picture], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """The places of the pictures to learn from, and of those of the search part.

    A picture's content and the seed decide, so that copies stand on one side, and names and
    order do not matter.

    Raises:
        CatdogError: a class has too few different pictures for both sides.
    """
    searched: set[str] = set()
    for label in sorted({picture.label for picture in pictures}):
        digests = {picture.sha256 for picture in pictures if picture.label == label}
        if len(digests) < 2:
            raise CatdogError(
                "a sweep needs at least two different training pictures of each class, one to "
                "learn from and one to judge trials on: add pictures."
            )
        order = sorted(digests, key=lambda digest: _drawn(seed, digest))
        searched |= set(order[: min(max(1, round(len(order) * fraction)), len(order) - 1)])
    places = range(len(pictures))
    return (
        [place for place in places if pictures[place].sha256 not in searched],
        [place for place in places if pictures[place].sha256 in searched],
    )


def suggest(trial: Trial, most_views: int) -> dict[str, Any]:
    """Parameters of the head for a trial, by the names that they have in `HeadConfig`."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", *LEARNING_RATES, log=True),
        "weight_decay": trial.suggest_float("weight_decay", *WEIGHT_DECAYS, log=True),
        "batch_size": trial.suggest_categorical("batch_size", BATCH_SIZES),
        "views": trial.suggest_categorical("views", view_counts(most_views)),
    }


def view_counts(most: int) -> list[int]:
    """The numbers of views that a trial may choose from: 1, 2, 4, and so on up to `most`."""
    return sorted({1 << power for power in range(most.bit_length())} | {most})


def run_trial(config: SweepConfig, ground: Ground, study: str, trial: Trial) -> float:
    """The log-loss on the search part in the best epoch.

    Raises:
        TrialPruned: others are better by now, or it diverged.
        StorageInternalError: the study's storage fails, which `Study.work` turns into a sentence.
    """
    head = HeadConfig(**suggest(trial, config.most_views))
    epochs: list[Epoch] = []

    def on_epoch(epoch: Epoch) -> None:
        epochs.append(epoch)
        trial.report(epoch.val.loss, epoch.number)
        if trial.should_prune():
            raise TrialPruned

    try:
        stopping = learn(config, ground, head, on_epoch)
    except (TrialPruned, CatdogError) as error:
        if isinstance(error, CatdogError):
            trial.set_user_attr(TROUBLE, str(error))
        _keep(study, trial, epochs, "PRUNED")
        raise TrialPruned from error
    _keep(study, trial, epochs, "COMPLETE")
    return stopping.best_loss


def learn(
    config: SweepConfig,
    ground: Ground,
    head: HeadConfig,
    on_epoch: Callable[[Epoch], None],
) -> EarlyStopping:
    """Train a head of its own, as training would with these parameters, judged on the search part.

    Raises:
        CatdogError: it diverged in its first epoch.
    """
    model = copy.deepcopy(ground.head).cpu()
    learned = FeatureBatches(
        ground.learn[: head.views],
        ground.learn_pictures,
        batch_size=head.batch_size,
        seed=config.seed,
    )
    judged = [(torch.from_numpy(ground.search[0]), labels_of(ground.search_pictures))]
    optimizer = make_optimizer((model, head.learning_rate), weight_decay=head.weight_decay)
    stopping = EarlyStopping(config.patience, config.min_delta)
    with ONE_CORE_EACH:
        fit(
            model,
            Loaders(learned, judged),
            make_train_step(model, optimizer, nn.BCEWithLogitsLoss()),
            epochs=range(1, config.epochs + 1),
            stopping=stopping,
            on_epoch=on_epoch,
        )
    return stopping


def _keep(study: str, trial: Trial, epochs: list[Epoch], state: str) -> None:
    """Keep what a trial gave, before the study counts it as finished."""
    told = [
        {
            "train_loss": epoch.train.loss,
            "search_loss": epoch.val.loss,
            "search_accuracy": epoch.val.accuracy,
        }
        for epoch in epochs
    ]
    trial.set_user_attr(EPOCHS, told)
    trial.set_user_attr(BEST_EPOCH, max((e.number for e in epochs if e.is_best), default=0))
    whole = told_of(study, trial, state, time.time())
    nested.log(whole)  # where it can't be sent, the end of the sweep makes up for it
    loss = whole.metrics.get("best_search_loss")
    logger.info(
        f"trial {trial.number:3}: "
        f"{'diverged' if loss is None else f'search loss {loss:.4f}'}, "
        f"{len(epochs)} epochs{', pruned' if state == 'PRUNED' else ''}, "
        f"{(whole.ended_ms - whole.began_ms) / 1000:.1f} s ({in_words(trial.params)})"
    )


def told_of(study: str, trial: Trial | FrozenTrial, state: str, ended: float) -> Told:
    """What its MLflow run tells of a trial that ended in this state, `ended` seconds after 1970."""
    began = trial.datetime_start.timestamp() if trial.datetime_start else ended
    epochs, best = trial.user_attrs.get(EPOCHS, []), trial.user_attrs.get(BEST_EPOCH, 0)
    metrics = {}
    if best:
        names = ("search_loss", "search_accuracy")
        metrics = {f"best_{name}": epochs[best - 1][name] for name in names}
        metrics["best_epoch"] = best
    return Told(
        study,
        trial.number,
        state,
        round(began * 1000),
        round(ended * 1000),
        trial.params,
        epochs,
        metrics,
    )


def in_words(params: Mapping[str, Any]) -> str:
    """Parameters with their values, to be read."""
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in params.items()
    )


def _drawn(seed: int, digest: str) -> bytes:
    return hashlib.sha256(f"search/{seed}/{digest}".encode()).digest()
