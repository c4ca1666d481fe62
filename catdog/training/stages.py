"""The two stages of training: first the head, on features or pictures, then the backbone with it.

In: a network, a prepared data set, and where the checkpoints lie. Out: the best weights in the
network, and a `Fit` that says how it went.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from catdog.config import TrainConfig
from catdog.data.dataset import TRAINING, VALIDATION, PreparedDataset
from catdog.data.loaders import EvaluationBatches, LabelledFolder, PictureBatches
from catdog.data.transforms import evaluation_transform
from catdog.models.network import Network
from catdog.parallel import ONE_CORE_EACH
from catdog.training import distributed
from catdog.training.checkpoint import Checkpoint, CheckpointFolder, epochs_of
from catdog.training.early_stopping import EarlyStopping
from catdog.training.features import FeatureBatches, FeatureSet, labels_of
from catdog.training.loop import Epoch, Fit, Loaders, fit
from catdog.training.optim import (
    TrainStep,
    largest_micro_batch,
    make_optimizer,
    make_train_step,
    warmup_and_cosine,
)

logger = logging.getLogger(__name__)

HEAD, FINETUNE = "head", "finetune"

CLIP_NORM = 1.0
"""Of the gradient while fine-tuning: one odd batch shall not undo the pretraining."""

EVALUATION_BATCH = 128
"""Validation pictures at once on a GPU, which needs no memory for gradients of them."""


def train_head(
    network: Network,
    features: FeatureSet,
    dataset: PreparedDataset,
    config: TrainConfig,
    checkpoints: CheckpointFolder,
    on_epoch: Callable[[Epoch], None],
) -> Fit:
    """Train the head: on the features, or with `views=0` on pictures that are augmented anew.

    On features it takes less than a second: every rank does the same, on its CPU.

    Raises:
        CatdogError: the training diverged in its first epoch, or a picture can't be read.
    """
    begun = checkpoints.newest
    if begun is not None and begun["stage"] == FINETUNE:
        return _head_before(begun)
    device = next(network.backbone.parameters()).device
    if config.views:
        model: nn.Module = network.head.cpu()
        loaders = feature_loaders(features, dataset, config)
        micro_batch, parallel = None, model
    else:
        model, loaders = network, picture_loaders(network, dataset, config)
        micro_batch, parallel = _micro_batch(network, config), distributed.data_parallel(network)
    optimizer = make_optimizer(
        (network.head, config.learning_rate), weight_decay=config.weight_decay
    )
    step = make_train_step(parallel, optimizer, nn.BCEWithLogitsLoss(), micro_batch=micro_batch)
    stopping = EarlyStopping(config.patience, config.min_delta)
    checkpoint = Checkpoint(HEAD, model, optimizer, stopping)
    # On features a step is too small to share: cores that wait for each other take four times
    # as long when others are busy, too.
    with ONE_CORE_EACH if config.views else contextlib.nullcontext():
        fitted = _train(checkpoint, loaders, step, config.epochs, checkpoints, on_epoch)
    network.head.to(device)
    return fitted


def finetune(
    network: Network,
    dataset: PreparedDataset,
    config: TrainConfig,
    head: Fit,
    checkpoints: CheckpointFolder,
    on_epoch: Callable[[Epoch], None],
) -> Fit:
    """Train head and backbone together, from the trained head on, and keep the best of both.

    Raises:
        CatdogError: a picture can't be read, or the GPU has no memory for one.
    """
    network.unfreeze(config.unfreeze)
    count = sum(p.numel() for p in network.parameters())
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)
    logger.info(
        f"Fine-tuning unfreeze={config.unfreeze}: {learning:,} of {count:,} weights learn "
        f"({learning / count:.0%})"
    )
    loaders = picture_loaders(network, dataset, config)
    micro_batch = _micro_batch(network, config)
    parallel = distributed.data_parallel(network)
    optimizer = make_optimizer(
        (network.head, config.learning_rate),
        (network.backbone, config.finetune_rate),
        weight_decay=config.weight_decay,
    )
    steps = len(loaders.train) * config.finetune_epochs
    schedule = warmup_and_cosine(optimizer, steps=steps, warmup=steps // 10)
    step = make_train_step(
        parallel,
        optimizer,
        nn.BCEWithLogitsLoss(),
        schedule=schedule,
        clip_norm=CLIP_NORM,
        micro_batch=micro_batch,
    )
    before = len(head.epochs)
    stopping = EarlyStopping(
        config.patience, config.min_delta, started=before, trouble=head.trouble
    )
    stopping.offer(head.best.number, head.best.val.loss, network)
    checkpoint = Checkpoint(FINETUNE, network, optimizer, stopping, schedule, list(head.epochs))
    last = before + config.finetune_epochs
    return _train(checkpoint, loaders, step, last, checkpoints, on_epoch)


def feature_loaders(features: FeatureSet, dataset: PreparedDataset, config: TrainConfig) -> Loaders:
    """Batches of features; those of validation are few, and the same in each epoch."""
    train = FeatureBatches(
        features.training[: config.views],
        dataset.pictures(TRAINING),
        batch_size=config.batch_size,
        seed=config.seed,
    )
    labels = labels_of(dataset.pictures(VALIDATION))
    return Loaders(train, [(torch.from_numpy(features.validation), labels)])


def picture_loaders(network: Network, dataset: PreparedDataset, config: TrainConfig) -> Loaders:
    """Batches of pictures, of which each rank decodes its part."""
    device, share = next(network.parameters()).device, distributed.share()
    plain = evaluation_transform(network.preprocessing)
    train = PictureBatches(
        LabelledFolder(dataset.training, classes=dataset.classes),
        network.preprocessing,
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
        share=share,
    )
    val = EvaluationBatches(
        LabelledFolder(dataset.validation, plain, classes=dataset.classes),
        batch_size=EVALUATION_BATCH if device.type == "cuda" else config.batch_size,
        device=device,
        share=share,
    )
    return Loaders(train, val, sharded=distributed.world_size() > 1)


def _train(
    checkpoint: Checkpoint,
    loaders: Loaders,
    train_step: TrainStep,
    last: int,
    checkpoints: CheckpointFolder,
    on_epoch: Callable[[Epoch], None],
) -> Fit:
    """Go on from the newest checkpoint up to epoch `last`, with a checkpoint after each epoch."""
    checkpoints.restore(checkpoint)

    def after_epoch(epoch: Epoch) -> None:
        checkpoint.epochs.append(epoch)
        on_epoch(epoch)
        checkpoints.save(checkpoint)

    epochs = range(len(checkpoint.epochs) + 1, last + 1)
    stopping = checkpoint.stopping
    fit(
        checkpoint.model,
        loaders,
        train_step,
        epochs=epochs,
        stopping=stopping,
        on_epoch=after_epoch,
    )
    trained = tuple(checkpoint.epochs)
    best = trained[stopping.best_epoch - 1]
    return Fit(trained, best, stopped_early=len(trained) < last, trouble=stopping.trouble)


def _head_before(finetuning: dict[str, Any]) -> Fit:
    """How the head was trained, when a checkpoint of fine-tuning shows that it was."""
    stopping = finetuning["stopping"]
    before = epochs_of(finetuning)[: stopping["started"]]
    best = [epoch for epoch in before if epoch.is_best][-1]
    return Fit(tuple(before), best, stopped_early=False, trouble=stopping["trouble"])


def _micro_batch(network: Network, config: TrainConfig) -> int:
    """How many pictures of this rank's part of a batch are computed at once."""
    mine = -(-config.batch_size // distributed.world_size())
    side = network.preprocessing.crop_px
    return largest_micro_batch(network, mine, torch.zeros(3, side, side, dtype=torch.uint8))
