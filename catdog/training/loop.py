"""Fit a model to batches: pure PyTorch, no MLflow, no files, no printing.

A batch is pictures for a whole network, or precomputed features for its head alone:
`fit` sees inputs, labels, and a module that turns the one into logits.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from catdog import CatdogError
from catdog.data.loaders import Batch, TrainingBatches
from catdog.evaluation.calibration import Labels, Logits
from catdog.evaluation.metrics import Confusion, Scores, score
from catdog.training.distributed import all_gather
from catdog.training.early_stopping import EarlyStopping
from catdog.training.optim import TrainStep


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave. Numbers count from 1; speed counts the training pictures."""

    number: int
    train: Scores
    val: Scores
    learning_rate: float
    seconds: float
    images_per_second: float
    is_best: bool

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Epoch:
        """The epoch of which `dataclasses.asdict` made `state`."""
        return cls(**state | {split: _scores(state[split]) for split in ("train", "val")})


@dataclass(frozen=True)
class Fit:
    """How a training went: every epoch, and which one the model now holds.

    `trouble` says why it had to be stopped, where it had to be.
    """

    epochs: tuple[Epoch, ...]
    best: Epoch
    stopped_early: bool
    trouble: str = ""


@dataclass(frozen=True)
class Loaders:
    """What is learned from, and what each epoch is judged on.

    `sharded` says that each of several ranks has a part of each.
    """

    train: TrainingBatches
    val: Iterable[tuple[Tensor, Tensor]]
    sharded: bool = False

    def gather(self, labels: Labels, logits: Logits) -> tuple[Labels, Logits]:
        """The labels and logits `(N,)` of all ranks, where this one has those of its parts."""
        return (all_gather(labels), all_gather(logits)) if self.sharded else (labels, logits)


def fit(
    model: nn.Module,
    loaders: Loaders,
    train_step: TrainStep,
    *,
    epochs: range,
    stopping: EarlyStopping,
    on_epoch: Callable[[Epoch], None],
) -> None:
    """Train until the validation loss stops improving, and leave the best weights in `model`.

    Args:
        model: turns a batch's inputs into logits `(N,)`; on the device to use.
        loaders: the batches of both splits.
        train_step: makes one optimizer step; see `catdog.training.optim.make_train_step`.
        epochs: the numbers of the epochs to train, from 1 for a new model.
        stopping: decides which epoch is best and when to stop.
        on_epoch: told of each epoch as it ends.

    Raises:
        CatdogError: a logit of the first epoch is not finite. In a later one training stops,
            with the best weights, and `stopping.trouble` says why.
    """
    for number in epochs:
        if stopping.out_of_patience(number - 1):
            break
        learning_rate, start = train_step.learning_rate, time.perf_counter()
        met = train_epoch(model, loaders.train.epoch(number), train_step)
        labels, logits = loaders.gather(*met)
        trained = time.perf_counter()
        val_labels, val_logits = loaders.gather(*predict(model, loaders.val))
        if not (np.isfinite(logits).all() and np.isfinite(val_logits).all()):
            trouble = _divergence(number, learning_rate)
            stopping.trouble = f"{stopping.trouble} {trouble}".strip()
            break
        train, val = score(labels, logits), score(val_labels, val_logits)
        best = stopping.offer(number, val.loss, model)
        seconds, speed = time.perf_counter() - start, len(labels) / (trained - start)
        on_epoch(Epoch(number, train, val, learning_rate, seconds, speed, best))
    if not stopping.best_epoch:
        raise CatdogError(stopping.trouble)
    stopping.restore(model)


def train_epoch(
    model: nn.Module, batches: Iterable[Batch], train_step: TrainStep
) -> tuple[Labels, Logits]:
    """Learn from every batch once; this rank's labels and logits `(N,)`, met on the way."""
    model.train()
    device, seen = next(model.parameters()).device, []
    for inputs, labels, weight in batches:
        there = inputs.to(device, non_blocking=True)
        logits = train_step(there, labels.to(device, non_blocking=True), weight)
        if weight:  # else it was there for the other ranks' sake
            seen.append((labels, logits))
    return _as_arrays(seen)


@torch.inference_mode()
def predict(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Labels, Logits]:
    """The labels `(N,)` of the batches and the model's logits `(N,)`, in their order."""
    model.eval()
    device = next(model.parameters()).device
    return _as_arrays(
        [(labels, model(inputs.to(device, non_blocking=True))) for inputs, labels in batches]
    )


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators, which draw the head's first weights."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _as_arrays(seen: list[tuple[Tensor, Tensor]]) -> tuple[Labels, Logits]:
    """Labels and logits of some batches, which may be none, as two arrays `(N,)`."""
    # Logits stay on the device until here: a copy for each batch would wait each time.
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(labels for labels, _ in seen)])
    logits = torch.cat([logits for _, logits in seen]) if seen else torch.zeros(0)
    return labels.numpy(), logits.cpu().double().numpy()


def _scores(state: dict[str, Any]) -> Scores:
    return Scores(**state | {"confusion": Confusion(**state["confusion"])})


def _divergence(epoch: int, learning_rate: float) -> str:
    return (
        f"training diverged in epoch {epoch}: a logit is no longer a finite number. "
        f"Try a learning_rate below {learning_rate:g}."
    )
