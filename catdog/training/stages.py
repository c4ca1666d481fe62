"""What is learned from, and how: features that are computed once, or pictures in each epoch.

In: prepared pictures and a network. Out: a `Lesson` for `catdog.training.loop.fit`, and fine-tuning
after it. Features come from the cache or go into it.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from catdog.config import TrainConfig
from catdog.data.batches import Batches, EpochBatches
from catdog.data.dataset import Picture, PreparedDataset
from catdog.data.folder import LabelledFolder
from catdog.data.transforms import evaluation_transform, training_transform
from catdog.evaluation.calibration import Logits
from catdog.evaluation.metrics import Scores, score
from catdog.models.engine import Engine, Features, pick_engine
from catdog.models.network import Network
from catdog.parallel import cores
from catdog.training.distributed import SOLO, Team
from catdog.training.features import FeatureCache, as_batches, extract, features_folder, open_cache
from catdog.training.loaders import make_batches, pick_workers
from catdog.training.loop import (
    Fit,
    TrainStep,
    fit,
    make_optimizer,
    make_train_step,
    warmup_and_cosine,
)
from catdog.training.pixels import PixelBatches, decode_all
from catdog.training.state import EarlyStopping, Epoch, Keeper, Resumable

logger = logging.getLogger(__name__)

Thing = TypeVar("Thing")

CLIP_NORM = 1.0
"""Of the gradient while fine-tuning: one odd batch shall not undo the pretraining."""

FEATURES = "features"
"""Beside the stages of training, what process 0 tells the others to do."""


@dataclass(frozen=True)
class Pass:
    """The one pass through the frozen backbone: by which engine, and what it cost."""

    engine: Engine
    computed: int
    found: int
    seconds: float


@dataclass(frozen=True)
class Lesson:
    """What is trained, on which batches; `baseline` is what ImageNet's classes know untrained.

    `baseline_logits` are what it was scored on: of the validation pictures, `(N,)`.
    `features` tells of the pass, where it was features that are learned from. `pretrained`
    are those of the plain training and validation pictures, each `(N, D)`, by the backbone as
    it came: kept where fine-tuning would change them.
    """

    model: nn.Module
    train_batches: Batches
    val_batches: Batches
    features: Pass | None = None
    baseline: Scores | None = None
    baseline_logits: Logits | None = None
    pretrained: tuple[Features, Features] | None = None


@dataclass(frozen=True)
class Practice:
    """How a model learns: from which batches, by which steps."""

    model: nn.Module
    train_batches: EpochBatches
    val_batches: EpochBatches
    optimizer: Optimizer
    train_step: TrainStep
    schedule: LRScheduler | None = None


def on_features(
    config: TrainConfig, prepared: PreparedDataset, network: Network, team: Team = SOLO
) -> Lesson:
    """The head alone, on features that are computed once or found in the cache.

    Raises:
        CatdogError: a picture is gone, or the cache can't be written.
    """
    start = time.perf_counter()
    engine = pick_engine(network, cores=cores())
    cache = open_cache(Path(config.data_dir), network)
    pictures = {split: prepared.pictures(split) for split in ("training", "validation")}
    cache, computed = share_pass(prepared, network, engine, cache, team, views=config.views)
    features = {}
    for split, views in (("validation", 1), ("training", config.views)):
        features[split], new = extract(
            pictures[split], network, engine, cache, views=views, watch=progress
        )
        computed += new
    seconds = time.perf_counter() - start
    total = len(pictures["validation"]) + config.views * len(pictures["training"])
    logger.info(
        f"Features: {computed:,} computed by {engine.name} and {total - computed:,} found, in "
        f"{seconds:.1f} s; the cache holds {cache.bytes_used / 1e6:.0f} MB in "
        f"{features_folder(Path(config.data_dir))} (python scripts/clear_cache.py clears it)"
    )
    device = next(network.head.parameters()).device
    train, val = pictures["training"], pictures["validation"]
    baseline_logits = _baseline_logits(network, features["validation"][0])
    return Lesson(
        model=network.head,
        train_batches=as_batches(
            features["training"], train, device, batch_size=config.batch_size, seed=config.seed
        ),
        val_batches=as_batches(features["validation"], val, device, batch_size=4096, seed=None),
        features=Pass(engine, computed, total - computed, seconds),
        baseline=_baseline(baseline_logits, val),
        baseline_logits=baseline_logits,
        pretrained=(features["training"][0], features["validation"][0]),
    )


def share_pass(
    prepared: PreparedDataset,
    network: Network,
    engine: Engine,
    cache: FeatureCache,
    team: Team,
    *,
    views: int = 1,
) -> tuple[FeatureCache, int]:
    """Compute this process's share of the training and validation features that are not known.

    Every process of the team calls it.

    Returns:
        The cache with what all have computed, and how many features that is; a process alone
        computes nothing yet.
    """
    if team.size == 1:
        return cache, 0
    mine = 0
    for split, count in (("validation", 1), ("training", views)):
        pictures = prepared.pictures(split)[team.rank :: team.size]
        if pictures:
            _, new = extract(pictures, network, engine, cache, views=count, watch=progress)
            mine += new
    computed = team.total(mine)  # which waits for all
    cache.reread()
    return cache, computed


def on_pictures(
    config: TrainConfig, prepared: PreparedDataset, network: Network, team: Team = SOLO
) -> Lesson:
    """The whole network, on pictures that are augmented anew in each epoch.

    Raises:
        CatdogError: a picture is gone, or the cache can't be written.
    """
    train, val = _picture_batches(config, prepared, network, team)
    return Lesson(
        model=network,
        train_batches=train,
        val_batches=val,
        pretrained=None
        if config.unfreeze == "none"
        else _plain_features(config, prepared, network, team),
    )


def practise_on_pictures(
    config: TrainConfig, prepared: PreparedDataset, network: Network, team: Team
) -> Practice:
    """How the others of a team learn what `on_pictures` gives process 0 to learn."""
    train, val = _picture_batches(config, prepared, network, team)
    optimizer = make_optimizer((network, config.learning_rate), weight_decay=config.weight_decay)
    step = make_train_step(network, optimizer, nn.BCEWithLogitsLoss(), team=team)
    return Practice(network, train, val, optimizer, step)


def _picture_batches(
    config: TrainConfig, prepared: PreparedDataset, network: Network, team: Team
) -> tuple[EpochBatches, EpochBatches]:
    device = next(network.parameters()).device
    folder = functools.partial(LabelledFolder, classes=prepared.classes)
    train = folder(prepared.training, training_transform(network.preprocessing))
    val = folder(prepared.validation, evaluation_transform(network.preprocessing))
    batches_of = functools.partial(
        make_batches,
        batch_size=config.batch_size,
        seed=config.seed,
        workers=pick_workers(device),
        pin_memory=device.type == "cuda",
        team=team,
    )
    return batches_of(train, shuffle=True), batches_of(val, shuffle=False)


def _plain_features(
    config: TrainConfig, prepared: PreparedDataset, network: Network, team: Team
) -> tuple[Features, Features]:
    engine = pick_engine(network, cores=cores())
    cache = open_cache(Path(config.data_dir), network)
    cache, _ = share_pass(prepared, network, engine, cache, team)
    training, validation = (
        extract(prepared.pictures(split), network, engine, cache, watch=progress)[0][0]
        for split in ("training", "validation")
    )
    return training, validation


def finetune(
    config: TrainConfig,
    prepared: PreparedDataset,
    network: Network,
    settled: Fit,
    *,
    on_epoch: Callable[[Epoch], None],
    keeper: Keeper,
    team: Team = SOLO,
) -> Fit:
    """Train head and backbone together, from the settled head on, and keep the best of both."""
    practice = practise_finetuning(config, prepared, network, team)
    stopping = EarlyStopping(config.patience, config.min_delta, started=settled.epochs[-1].number)
    stopping.offer(settled.best.number, settled.best.val.loss, network)
    return fit(
        network,
        practice.train_batches,
        practice.val_batches,
        optimizer=practice.optimizer,
        epochs=config.finetune_epochs,
        stopping=stopping,
        train_step=practice.train_step,
        on_epoch=on_epoch,
        watch=progress,
        resumable=Resumable(keeper, practice.schedule, settled.epochs, team),
    )


def practise_finetuning(
    config: TrainConfig, prepared: PreparedDataset, network: Network, team: Team
) -> Practice:
    """How head and backbone learn together; lets the backbone's blocks learn from now on."""
    network.unfreeze(config.unfreeze)
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)
    logger.info(f"Fine-tuning unfreeze={config.unfreeze}: {learning:,} weights learn")
    train, val = (
        _pixel_batches(config, prepared, network, split, team)
        for split in ("training", "validation")
    )
    optimizer = make_optimizer(
        (network.head, config.learning_rate),
        (network.backbone, config.finetune_rate),
        weight_decay=config.weight_decay,
    )
    steps = len(train) * config.finetune_epochs
    schedule = warmup_and_cosine(optimizer, steps=steps, warmup=steps // 10)
    step = make_train_step(
        network,
        optimizer,
        nn.BCEWithLogitsLoss(),
        schedule=schedule,
        clip_norm=CLIP_NORM,
        team=team,
    )
    return Practice(network, train, val, optimizer, step, schedule)


def _pixel_batches(
    config: TrainConfig, prepared: PreparedDataset, network: Network, split: str, team: Team
) -> PixelBatches:
    wanted = network.preprocessing
    learns = split == "training"
    pictures = prepared.pictures(split)
    # What is augmented needs the margin that evaluation cuts off.
    stored = replace(wanted, crop_px=wanted.resize_px) if learns else wanted
    with team.first():  # the others find them decoded
        pixels = decode_all(pictures, stored, Path(config.data_dir), watch=progress)
    return PixelBatches(
        pixels,
        torch.tensor([picture.label for picture in pictures]),
        next(network.parameters()).device,
        crop_px=wanted.crop_px,
        batch_size=config.batch_size,
        seed=config.seed if learns else None,
        team=team,
    )


def _baseline_logits(network: Network, features: Features) -> Logits | None:
    """What the classes that the backbone learned elsewhere make of each picture, `(N,)`."""
    if network.imagenet is None:
        return None
    return network.imagenet.dog_logits(torch.from_numpy(features)).double().numpy()


def _baseline(logits: Logits | None, pictures: list[Picture]) -> Scores | None:
    """How well these tell cats from dogs."""
    if logits is None:
        return None
    return score(np.array([picture.label for picture in pictures]), logits)


def progress(batches: Iterable[Thing], what: str) -> Iterable[Thing]:
    """The same batches, with a bar for people who watch."""
    # disable=None: a bar on a terminal, nothing in a log file.
    return tqdm(batches, desc=what, leave=False, disable=None, unit="batch")
