"""Fit a model to batches: pure PyTorch, no MLflow, no files, no printing.

A batch is pictures for a whole network, or precomputed features for its head alone:
`fit` sees inputs, labels, and a module that turns the one into logits.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from catdog import CatdogError
from catdog.data.batches import Batches, of_epoch
from catdog.evaluation.calibration import Labels, Logits
from catdog.evaluation.metrics import score
from catdog.models.device import mixed_precision
from catdog.training.distributed import SOLO, Order, Team
from catdog.training.named import match
from catdog.training.state import (
    ALONE,
    Course,
    EarlyStopping,
    Epoch,
    Resumable,
    Underway,
    gather,
)

logger = logging.getLogger(__name__)

TrainStep = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

DONE: Order = {"epoch": None}
"""Said to those that train along, when there is no epoch more."""


@dataclass(frozen=True)
class Fit:
    """How a training went: every epoch, and which one the model now holds.

    `trouble` says why it had to be stopped, where it had to be.
    """

    epochs: tuple[Epoch, ...]
    best: Epoch
    stopped_early: bool
    trouble: str = ""


def make_train_step(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: nn.Module,
    *,
    schedule: LRScheduler | None = None,
    clip_norm: float | None = None,
    team: Team = SOLO,
) -> TrainStep:
    """A function that learns from one batch.

    It takes inputs `(N, ...)` and labels `(N,) int64`, makes one optimizer step, and returns
    the mean loss `()` and the logits `(N,)` from before the step, both detached. In a team it
    takes the inputs of the process's part of the batch; all make the step of the whole batch.

    On a GPU it computes in bfloat16, which needs no scaling of the loss. When the GPU's
    memory is too small for a batch, the batch is halved from then on, its parts' gradients are
    summed to the same step, and a line is logged.

    Args:
        model: turns inputs into logits `(N,)`.
        optimizer: of the parameters that shall learn.
        loss_fn: the mean loss of logits and labels.
        schedule: of the learning rate, moved on by each step.
        clip_norm: the largest norm of the gradient that is let pass.
        team: who learns from the batch together.
    """
    limit: list[int] = []  # pictures at once, after memory has run out

    def accumulate(inputs: Tensor, labels: Tensor, total: int) -> tuple[Tensor, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        if not len(labels):
            return torch.zeros((), device=labels.device), torch.zeros(0, device=labels.device)
        size = min([len(inputs), *limit])
        losses, seen = [], []
        for part, wanted in zip(inputs.split(size), labels.split(size), strict=True):
            with mixed_precision(part.device):
                logits = model(part).float()
            loss = loss_fn(logits, wanted.to(logits.dtype)) * (len(part) / total)
            loss.backward()
            losses.append(loss.detach())
            seen.append(logits.detach())
        return torch.stack(losses).sum(), torch.cat(seen)

    def train_step(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        mine = labels[team.part(len(labels))]
        while True:
            try:
                loss, logits = accumulate(inputs, mine, len(labels))
                break
            except torch.OutOfMemoryError:
                size = min([len(inputs), *limit])
                if size == 1:
                    raise
            # Outside of the handler, which would keep the failed pass's memory alive.
            limit.append(size // 2)
            torch.cuda.empty_cache()
            logger.info(
                f"Out of GPU memory: {size // 2} pictures at once now, {len(inputs)} in a step"
            )
        learning = [p for group in optimizer.param_groups for p in group["params"]]
        loss = team.add_up(loss, learning)
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(learning, clip_norm)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        return loss, team.whole(logits, len(labels))

    return train_step


def fit(
    model: nn.Module,
    train_batches: Batches,
    val_batches: Batches,
    *,
    optimizer: Optimizer,
    epochs: int,
    stopping: EarlyStopping,
    train_step: TrainStep | None = None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    watch: Callable[[Batches, str], Batches] = lambda batches, _: batches,
    resumable: Resumable = ALONE,
) -> Fit:
    """Train until the validation loss stops improving, and leave the best weights in `model`.

    Args:
        model: turns a batch's inputs into logits `(N,)`; on the device to use.
        train_batches: gone through once an epoch.
        val_batches: gone through once an epoch, without learning.
        optimizer: of the parameters that shall learn.
        epochs: the most to train.
        stopping: decides which epoch is best and when to stop; it has been offered the best of
            the epochs before, where there are any.
        train_step: how to learn from a batch; without, `make_train_step`'s with BCE.
        on_epoch: told of each epoch as it ends.
        watch: wraps batches to show progress, given what they are for.
        resumable: what went before, who keeps the state, and who trains along; those call
            `fit_along`.

    Raises:
        CatdogError: a logit of the first epoch is not finite. In a later one the training stops,
            with the best weights, and says why in `trouble`.
        KeyboardInterrupt: the keeper said stop, and has been given the state.
    """
    team = resumable.team
    train_step = train_step or make_train_step(model, optimizer, nn.BCEWithLogitsLoss(), team=team)
    course = Course(model, optimizer, stopping, resumable)
    match(team, model, optimizer, resumable.schedule)
    last, trouble = len(resumable.before) + epochs, ""
    with resumable.keeper.watching():
        for number in range(len(course.epochs) + 1, last + 1):
            if stopping.out_of_patience(number - 1):
                break
            underway = course.begin_epoch()
            start = time.perf_counter() - underway.seconds

            def after_batch(underway: Underway = underway, start: float = start) -> None:
                underway.seconds = time.perf_counter() - start
                course.after_batch()

            team.tell({"epoch": number, "skip": underway.batches})
            batches = of_epoch(train_batches, number, skip=underway.batches)
            labels, logits = train_epoch(
                model,
                team.in_step(watch(batches, f"epoch {number}")),
                train_step,
                underway=underway,
                after_batch=after_batch,
            )
            trained = time.perf_counter()
            batches = watch(val_batches, f"epoch {number}, validation")
            val_labels, val_logits = predict(
                model, team.in_step(batches), after_batch=after_batch, team=team
            )
            learning_rate = underway.learning_rate
            if not (np.isfinite(logits).all() and np.isfinite(val_logits).all()):
                trouble = _divergence(number, learning_rate)
                break
            val = score(val_labels, val_logits)
            epoch = Epoch(
                number=number,
                train=score(labels, logits),
                val=val,
                val_labels=val_labels,
                val_logits=val_logits,
                learning_rate=learning_rate,
                seconds=time.perf_counter() - start,
                images_per_second=len(labels) / (trained - start),
                is_best=stopping.offer(number, val.loss, model),
            )
            course.end_epoch(epoch)
            on_epoch(epoch)
            course.after_epoch()
        team.tell(DONE)
        if not stopping.best_epoch:
            raise CatdogError(trouble)
        course.finish()
    stopping.restore(model)
    best = course.epochs[stopping.best_epoch - 1]
    return Fit(tuple(course.epochs), best, stopped_early=len(course.epochs) < last, trouble=trouble)


def fit_along(
    model: nn.Module,
    train_batches: Batches,
    val_batches: Batches,
    *,
    optimizer: Optimizer,
    train_step: TrainStep,
    schedule: LRScheduler | None,
    team: Team,
) -> None:
    """Do this process's part of what process 0 does in `fit`, for as long as that goes on.

    Raises:
        Ended: process 0 has stopped.
    """
    match(team, model, optimizer, schedule)
    while (order := team.hear()) != DONE:
        batches = of_epoch(train_batches, order["epoch"], skip=order["skip"])
        train_epoch(model, team.in_step(batches), train_step)
        predict(model, team.in_step(val_batches), team=team)


def train_epoch(
    model: nn.Module,
    batches: Batches,
    train_step: TrainStep,
    *,
    underway: Underway | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> tuple[Labels, Logits]:
    """Learn from every batch once; the labels and the logits `(N,)` met on the way.

    Those that `underway` has met before are among them; it is told of each batch, and then
    `after_batch` is called.
    """
    underway = underway or Underway()
    model.train()
    device = next(model.parameters()).device
    for inputs, labels in batches:
        on_device = labels.to(device, non_blocking=True)
        _, logits = train_step(inputs.to(device, non_blocking=True), on_device)
        underway.add(labels, logits)
        after_batch()
    return gather(underway.seen)


def predict(
    model: nn.Module,
    batches: Batches,
    *,
    after_batch: Callable[[], None] = lambda: None,
    team: Team = SOLO,
) -> tuple[Labels, Logits]:
    """The labels `(N,)` of the batches and the model's logits `(N,)`, in their order."""
    model.eval()
    device = next(model.parameters()).device
    seen: list[tuple[Tensor, Tensor]] = []
    for inputs, labels in batches:
        with torch.inference_mode():
            shown = inputs.to(device, non_blocking=True)
            logits = model(shown) if len(shown) else torch.zeros(0, device=device)
            seen.append((labels, team.whole(logits, len(labels))))
        after_batch()
    return gather(seen)


def make_optimizer(*parts: tuple[nn.Module, float], weight_decay: float) -> Optimizer:
    """AdamW over the parameters that may learn, a learning rate for each part of the model.

    Biases, and the scales of normalising layers, do not decay.
    """
    groups = []
    for part, learning_rate in parts:
        learning = [parameter for parameter in part.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in learning if parameter.ndim > 1]
        vectors = [parameter for parameter in learning if parameter.ndim <= 1]
        groups += [
            {"params": matrices, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": vectors, "lr": learning_rate, "weight_decay": 0.0},
        ]
    return torch.optim.AdamW(groups, fused=True)


def warmup_and_cosine(optimizer: Optimizer, *, steps: int, warmup: int) -> LRScheduler:
    """Learning rates that rise over `warmup` steps and fall along a cosine to nearly zero."""

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))

    return LambdaLR(optimizer, share)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators: weights, shuffling, augmentation."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _divergence(epoch: int, learning_rate: float) -> str:
    return (
        f"training diverged in epoch {epoch}: a logit is no longer a finite number. "
        f"Try a learning_rate below {learning_rate:g}."
    )
